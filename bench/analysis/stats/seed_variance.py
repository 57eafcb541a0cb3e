"""Differences between systems of several seeds each; seeds and test examples are both random samples.

Resampling three to five seeds gives intervals that are too short: the variance of k drawn seeds is (k - 1) / k of
the true one, and percentiles ignore degrees of freedom. So the variance is estimated from its components, as in
multi-reader multi-case studies in radiology, with seeds as readers and examples as cases; seeds are nested in systems.
The interval is Student's, with Satterthwaite's degrees of freedom.

Two or three seeds may agree by chance, which makes their variance estimate too small; among many pairs this is common
(scripts/benchmarks/coverage.py counts it). So a difference must be significant by three standard errors: from the seed
variance of both systems, from the seed variance pooled over all systems, and over examples for these very runs. The
widest interval and the largest p-value count.

Sources: Obuchowski 1995, "Multireader receiver operating characteristic studies", Academic Radiology 2 (readers nested
in tests, the same cases); Hillis 2007, "A comparison of denominator degrees of freedom methods for multiple observer
ROC analysis", Statistics in Medicine 26; Satterthwaite 1946, "An approximate distribution of estimates of variance
components", Biometrics Bulletin 2.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

# Degrees of freedom from which Student's distribution equals the normal to all reported digits.
LARGE = 10_000
# Sums of equal fractions differ in their last bits.
ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class SeedScores:
    """scores: [seeds] of one system. jackknife: [examples, seeds], with each example left out in turn."""

    scores: np.ndarray
    jackknife: np.ndarray

    def influences(self) -> np.ndarray:
        """Return the influence of each example on each score, [examples, seeds]; for a mean, value minus mean."""
        influences: np.ndarray = (len(self.jackknife) - 1) * (self.jackknife.mean(0) - self.jackknife)
        return influences


@dataclass(frozen=True, kw_only=True)
class StandardError:
    """A standard error with its degrees of freedom; infinite for the normal distribution."""

    value: float
    degrees_of_freedom: float


@dataclass(frozen=True, kw_only=True)
class DifferenceEstimate:
    """A difference between mean scores, with all standard errors by which it must be significant."""

    difference: float
    standard_errors: tuple[StandardError, ...]
    examples: int

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return the widest Student's interval (low, high)."""
        halves = (
            student_quantile((1 + confidence) / 2, error.degrees_of_freedom) * error.value
            for error in self.standard_errors
        )
        half = max(halves)
        return self.difference - half, self.difference + half

    def p_value(self) -> float:
        """Return the largest two-sided p-value; without variance that of the sign test, as all examples agree."""
        from scipy.special import stdtr

        if self.difference == 0:
            return 1.0
        p_values = (
            2 * float(stdtr(error.degrees_of_freedom, -abs(self.difference) / error.value))
            for error in self.standard_errors
            if error.value > 0
        )
        return min(1.0, max(p_values, default=2.0 ** (1 - self.examples)))

    def detectable(self, power: float = 0.8, alpha: float = 0.05) -> float:
        """Return the minimum detectable difference at this power; NaN without variance."""
        differences = [
            minimal_detectable(error.value, error.degrees_of_freedom, power, alpha) for error in self.standard_errors
        ]
        return max((value for value in differences if not math.isnan(value)), default=math.nan)


def over_examples(first: SeedScores, second: SeedScores) -> DifferenceEstimate:
    """Estimate the difference of these runs' mean scores, with its standard error over examples, seeds fixed."""
    pulls = first.influences().mean(1) - second.influences().mean(1)
    examples = len(pulls)
    variance = float((pulls**2).sum()) / (examples * max(examples - 1, 1))
    if variance <= (ROUNDING * max(1.0, float(np.abs(first.scores).max()), float(np.abs(second.scores).max()))) ** 2:
        variance = 0.0  # rounding errors only: no example differs from another
    return DifferenceEstimate(
        difference=float(first.scores.mean() - second.scores.mean()),
        standard_errors=(StandardError(value=math.sqrt(variance), degrees_of_freedom=max(examples - 1, 1)),),
        examples=examples,
    )


def common_variance(systems: Sequence[SeedScores]) -> tuple[float, float]:
    """Return (variance, degrees of freedom) of a score over seeds, pooled over systems, without the examples' part.

    Systems of one seed do not count; without any other the variance is 0.
    """
    several = [system for system in systems if len(system.scores) > 1]
    freedom = sum(len(system.scores) - 1 for system in several)
    if not freedom:
        return 0.0, 1.0
    pooled = 0.0
    for system in several:
        count = len(system.scores)
        pooled += (count - 1) * (float(system.scores.var(ddof=1)) - count * _interaction(system.influences()))
    return max(pooled / freedom, 0.0), float(freedom)


def over_seeds_and_examples(
    first: SeedScores, second: SeedScores, common: tuple[float, float] = (0.0, 1.0)
) -> DifferenceEstimate:
    """Estimate the difference of two methods over other seeds and other examples.

    Variance = seeds of the first + seeds of the second + examples. The seed-example interaction is part of the seed
    variances, so it is subtracted from the variance over examples. common: `common_variance` of all systems. Raises
    ValueError for a single seed.
    """
    if min(len(first.scores), len(second.scores)) < 2:
        raise ValueError("variance over seeds needs at least two seeds of each system")
    plain = over_examples(first, second)
    shared = sum(_interaction(system.influences()) for system in (first, second))
    (alone,) = plain.standard_errors
    # Seeds with opposite errors can cancel in the mean over seeds; the variance over examples is then too small.
    examples = replace(alone, value=max(alone.value, math.sqrt(shared)))
    parts = [
        (float(first.scores.var(ddof=1)) / len(first.scores), len(first.scores) - 1),
        (float(second.scores.var(ddof=1)) / len(second.scores), len(second.scores) - 1),
        (max(alone.value**2 - shared, 0.0), alone.degrees_of_freedom),
    ]
    by_all = common[0] * (1 / len(first.scores) + 1 / len(second.scores))
    standard_errors = (
        _added(parts, examples),
        _added([(by_all, common[1]), (examples.value**2, examples.degrees_of_freedom)], examples),
        examples,
    )
    return DifferenceEstimate(difference=plain.difference, standard_errors=standard_errors, examples=plain.examples)


def _added(parts: list[tuple[float, float]], otherwise: StandardError) -> StandardError:
    """Add (variance, degrees of freedom) by Satterthwaite. otherwise: degrees of freedom if all are 0."""
    variance = sum(part for part, _ in parts)
    denominator = sum(part**2 / freedom for part, freedom in parts)
    freedom = variance**2 / denominator if denominator > 0 else otherwise.degrees_of_freedom
    return StandardError(value=math.sqrt(variance), degrees_of_freedom=freedom)


def _interaction(influences: np.ndarray) -> float:
    """Return the interaction part of the variance of the mean over both. influences: [examples, seeds]."""
    examples, seeds = influences.shape
    left = influences - influences.mean(1, keepdims=True)
    variance: float = float((left**2).sum()) / ((seeds - 1) * max(examples - 1, 1)) / (seeds * examples)
    return variance


def student_quantile(share: float, freedom: float) -> float:
    """Return a quantile of Student's distribution; of the normal for infinite degrees of freedom."""
    from scipy.special import ndtri, stdtrit

    return float(ndtri(share) if math.isinf(freedom) else stdtrit(freedom, share))


def minimal_detectable(
    standard_error: float, freedom: float = math.inf, power: float = 0.8, alpha: float = 0.05
) -> float:
    """Return the minimum detectable difference: detected with this power by a two-sided test at level alpha.

    The standard error times the noncentrality at which Student's noncentral distribution exceeds t at 1 - alpha / 2
    with probability `power`; 2.80 x standard error in large samples. NaN without variance. Source: Bloom 1995, "Minimum
    detectable effects: a simple way to report the statistical power of experimental designs", Evaluation Review 19;
    Cohen 1988, "Statistical power analysis for the behavioral sciences", chapter 2.
    """
    from scipy.special import nctdtrinc

    if standard_error <= 0:
        return math.nan
    least = student_quantile(1 - alpha / 2, freedom)
    if math.isinf(freedom) or freedom > LARGE:
        return (least + student_quantile(power, math.inf)) * standard_error
    return float(nctdtrinc(freedom, 1 - power, least)) * standard_error
