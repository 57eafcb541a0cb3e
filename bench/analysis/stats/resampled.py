"""Mean scores and differences over resampled training and test sets, whose runs are not independent.

Folds of one data set share most of their training examples, so that the variance of a mean over J of them is larger
than 1 / J of the variance between them, and Student's usual test finds differences that are none. Nadeau and Bengio
2003, "Inference for the generalization error", Machine Learning 52, put (1 / J + n_test / n_train) in the place of
1 / J: their corrected resampled t-test (section 4). For k folds with several seeds, which deal the folds anew, see
Bouckaert and Frank 2004, "Evaluating the replicability of significance tests for comparing learning algorithms", PAKDD.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.analysis.stats import seed_variance


@dataclass(frozen=True, kw_only=True)
class ResampledMean:
    """A mean over resampled sets with its corrected standard error, and its degrees of freedom."""

    mean: float
    standard_error: float
    degrees_of_freedom: int

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return Student's interval (low, high)."""
        half = seed_variance.student_quantile((1 + confidence) / 2, self.degrees_of_freedom) * self.standard_error
        return self.mean - half, self.mean + half

    def p_value(self) -> float:
        """Return the two-sided p-value of a mean of 0; without variance that of the sign test, as all sets agree."""
        from scipy.special import stdtr

        if self.mean == 0:
            return 1.0
        if self.standard_error == 0:
            return float(2.0**-self.degrees_of_freedom)
        return 2 * float(stdtr(self.degrees_of_freedom, -abs(self.mean) / self.standard_error))


def corrected(values: Sequence[float], test_to_train: float) -> ResampledMean:
    """Return the mean of values of J resampled sets, with the corrected standard error.

    test_to_train: number of test examples over number of training examples, 1 / (k - 1) of k folds. Raises ValueError
    for fewer than two values, and for a ratio that is not positive.
    """
    if len(values) < 2:
        raise ValueError("the variance between resampled sets needs at least two")
    if not test_to_train > 0:
        raise ValueError(f"the ratio of test to training examples must be positive, got {test_to_train}")
    scores = np.asarray(values, dtype=float)
    variance = float(scores.var(ddof=1))
    if variance <= (seed_variance.ROUNDING * max(1.0, float(np.abs(scores).max()))) ** 2:
        variance = 0.0  # rounding errors only
    return ResampledMean(
        mean=float(scores.mean()),
        standard_error=math.sqrt((1 / len(scores) + test_to_train) * variance),
        degrees_of_freedom=len(scores) - 1,
    )
