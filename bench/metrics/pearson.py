"""Pearson's correlation of predicted numbers with their references."""

from typing import Any, ClassVar

import numpy as np

from bench.analysis.stats import correlations
from bench.metrics import _base


class Pearson(_base.AdditiveMetric):
    """Pearson's product-moment correlation of regression.

    Covariance / product of the standard deviations. It follows from sums over examples, so that bootstrap draws are
    cheap, and equals scipy's `pearsonr`.

    Predictions and references are numbers. A missing prediction (None or NaN) counts as the median of the others, which
    lowers the correlation by as much as is missing: see `correlations.median_filled`. NaN where predictions or
    references are all the same, for no prediction that is a number, and for no examples.
    """

    source = "Pearson 1895, Note on regression and inheritance in the case of two parents, Proc. R. Soc. London 58."
    reads = "numbers"
    configs = ("default",)
    higher_is_better: ClassVar[dict[str, bool]] = {"pearson": True}
    settings: ClassVar[dict[str, str]] = {"pearson": "constant:undefined|no_answer:median_of_predictions|v2"}

    def checked(self, predictions: Any, references: Any, num_labels: int) -> tuple[np.ndarray, np.ndarray]:
        """Return both as float64 [examples], a missing prediction filled in. Raises ValueError for other inputs."""
        return _base.checked_numbers(predictions, references, correlations.median_filled)

    def example_statistics(self, predictions: np.ndarray, references: np.ndarray, num_labels: int) -> np.ndarray:
        """Return [examples, 6]: 1, z-scores of both numbers among these examples, their squares and their product."""
        return correlations.pearson_rows(predictions, references)

    def values(self, sums: np.ndarray, num_labels: int = 0) -> dict[str, np.ndarray]:
        """Return pearson [...] from sums [..., 6]."""
        return {"pearson": correlations.pearson_value(sums)}
