"""Differences between systems of several seeds each: seeds and test examples are both samples of something larger.

Resampling three to five seeds gives intervals that are too short: the variance of k drawn seeds is (k - 1) / k of
what it should be, and a percentile knows nothing of degrees of freedom. So the variance is built from its components,
as in studies of several readers and several cases in radiology, with seeds for readers and examples for cases; the
seeds of one system are not those of another. The interval is Student's, with Satterthwaite's degrees of freedom.

Sources: Obuchowski 1995, "Multireader receiver operating characteristic studies", Academic Radiology 2 (readers nested
in tests, the same cases); Hillis 2007, "A comparison of denominator degrees of freedom methods for multiple observer
ROC analysis", Statistics in Medicine 26; Satterthwaite 1946, "An approximate distribution of estimates of variance
components", Biometrics Bulletin 2.
"""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class System:
    """Scores [seeds] of one system's runs, and [examples, seeds] with each example left out in turn."""

    scores: np.ndarray
    jackknife: np.ndarray

    def influences(self) -> np.ndarray:
        """[examples, seeds]: how far each example moves each score; for a mean its distance from the mean."""
        return (len(self.jackknife) - 1) * (self.jackknife.mean(0) - self.jackknife)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A difference with its standard error and degrees of freedom; infinite ones stand for the normal."""

    difference: float
    standard_error: float
    freedom: float
    examples: int

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Student's interval (low, high)."""
        half = student_quantile((1 + confidence) / 2, self.freedom) * self.standard_error
        return self.difference - half, self.difference + half

    def p_value(self) -> float:
        """Two-sided. Where nothing varies, by the sign test: all examples agree."""
        from scipy.special import stdtr

        if self.difference == 0:
            return 1.0
        if self.standard_error == 0:
            return 2.0 ** (1 - self.examples)
        return min(1.0, 2 * float(stdtr(self.freedom, -abs(self.difference) / self.standard_error)))


def over_examples(first: System, second: System) -> Estimate:
    """The difference of the mean scores of these very runs: other examples, the same seeds."""
    pulls = first.influences().mean(1) - second.influences().mean(1)
    examples = len(pulls)
    variance = float((pulls**2).sum()) / (examples * max(examples - 1, 1))
    return Estimate(
        difference=float(first.scores.mean() - second.scores.mean()),
        standard_error=math.sqrt(variance),
        freedom=max(examples - 1, 1),
        examples=examples,
    )


def over_seeds_and_examples(first: System, second: System) -> Estimate:
    """The difference that other seeds and other examples would show on average.

    Variance = seeds of the first + seeds of the second + examples, where the part that one seed shares with one
    example, which both of the former hold, is taken off the last. Raises ValueError for a single seed.
    """
    if min(len(first.scores), len(second.scores)) < 2:
        raise ValueError("the spread of seeds needs two of each system at least")
    plain = over_examples(first, second)
    shared = sum(_interaction(system.influences()) for system in (first, second))
    parts = [
        (float(first.scores.var(ddof=1)) / len(first.scores), len(first.scores) - 1),
        (float(second.scores.var(ddof=1)) / len(second.scores), len(second.scores) - 1),
        (max(plain.standard_error**2 - shared, 0.0), plain.freedom),
    ]
    variance = sum(part for part, _ in parts)
    spread = sum(part**2 / freedom for part, freedom in parts)
    return Estimate(
        difference=plain.difference,
        standard_error=math.sqrt(variance),
        freedom=variance**2 / spread if spread > 0 else plain.freedom,
        examples=plain.examples,
    )


def _interaction(influences: np.ndarray) -> float:
    """What belongs to one seed and one example together, as a part of the variance of the mean over both."""
    examples, seeds = influences.shape
    left = influences - influences.mean(1, keepdims=True)
    return float((left**2).sum()) / ((seeds - 1) * max(examples - 1, 1)) / (seeds * examples)


def student_quantile(share: float, freedom: float) -> float:
    """The quantile of Student's distribution; of the normal for infinite degrees of freedom."""
    from scipy.special import ndtri, stdtrit

    return float(ndtri(share) if math.isinf(freedom) else stdtrit(freedom, share))


def minimal_detectable(
    standard_error: float, freedom: float = math.inf, power: float = 0.8, alpha: float = 0.05
) -> float:
    """The smallest true difference that a study like this one shows with this power, two-sided at level alpha.

    (t at 1 - alpha / 2 + t at power) x standard error, 2.80 x standard error in large samples. NaN where nothing
    varies: such data don't tell. Source: Bloom 1995, "Minimum detectable effects: a simple way to report the
    statistical power of experimental designs", Evaluation Review 19.
    """
    multiple = student_quantile(1 - alpha / 2, freedom) + student_quantile(power, freedom)
    return multiple * standard_error if standard_error > 0 else math.nan
