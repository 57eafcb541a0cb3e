"""Differences between systems of several seeds each: seeds and test examples are both samples of something larger.

Resampling three to five seeds gives intervals that are too short: the variance of k drawn seeds is (k - 1) / k of
what it should be, and a percentile knows nothing of degrees of freedom. So the variance is built from its components,
as in studies of several readers and several cases in radiology, with seeds for readers and examples for cases; the
seeds of one system are not those of another. The interval is Student's, with Satterthwaite's degrees of freedom.

Two or three seeds may be alike by luck: their variance is then taken for nothing, and in a family of many pairs such
luck is common (scripts/benchmarks/coverage.py counts it). So nothing is shown by that estimate alone: a difference must
also be one with the seeds at hand, over examples, and with the spread that seeds have in all systems on average. The
widest of the three intervals holds, and the largest p-value.

Sources: Obuchowski 1995, "Multireader receiver operating characteristic studies", Academic Radiology 2 (readers nested
in tests, the same cases); Hillis 2007, "A comparison of denominator degrees of freedom methods for multiple observer
ROC analysis", Statistics in Medicine 26; Satterthwaite 1946, "An approximate distribution of estimates of variance
components", Biometrics Bulletin 2.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

# Degrees of freedom from which Student's distribution is the normal, to all digits that are shown.
LARGE = 10_000
# Sums of equal fractions differ in their last bits.
ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class System:
    """Scores [seeds] of one system's runs, and [examples, seeds] with each example left out in turn."""

    scores: np.ndarray
    jackknife: np.ndarray

    def influences(self) -> np.ndarray:
        """[examples, seeds]: how far each example moves each score; for a mean its distance from the mean."""
        influences: np.ndarray = (len(self.jackknife) - 1) * (self.jackknife.mean(0) - self.jackknife)
        return influences


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A standard error with its degrees of freedom; infinite ones stand for the normal."""

    standard_error: float
    freedom: float


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A difference, and how far it may be off, in all ways that must be allowed for."""

    difference: float
    spreads: tuple[Spread, ...]
    examples: int

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Student's interval (low, high), the widest."""
        halves = (student_quantile((1 + confidence) / 2, one.freedom) * one.standard_error for one in self.spreads)
        half = max(halves)
        return self.difference - half, self.difference + half

    def p_value(self) -> float:
        """Two-sided, the largest. Where nothing varies, by the sign test: all examples agree."""
        from scipy.special import stdtr

        if self.difference == 0:
            return 1.0
        known = [one for one in self.spreads if one.standard_error > 0]
        found = (2 * float(stdtr(one.freedom, -abs(self.difference) / one.standard_error)) for one in known)
        return min(1.0, max(found, default=2.0 ** (1 - self.examples)))

    def detectable(self, power: float = 0.8, alpha: float = 0.05) -> float:
        """The smallest true difference that such data show with this power; NaN where nothing varies."""
        found = [minimal_detectable(one.standard_error, one.freedom, power, alpha) for one in self.spreads]
        return max((value for value in found if not math.isnan(value)), default=math.nan)


def over_examples(first: System, second: System) -> Estimate:
    """The difference of the mean scores of these very runs: other examples, the same seeds."""
    pulls = first.influences().mean(1) - second.influences().mean(1)
    examples = len(pulls)
    variance = float((pulls**2).sum()) / (examples * max(examples - 1, 1))
    if variance <= (ROUNDING * max(1.0, float(np.abs(first.scores).max()), float(np.abs(second.scores).max()))) ** 2:
        variance = 0.0  # what rounding leaves where no example differs from another
    return Estimate(
        difference=float(first.scores.mean() - second.scores.mean()),
        spreads=(Spread(standard_error=math.sqrt(variance), freedom=max(examples - 1, 1)),),
        examples=examples,
    )


def common_variance(systems: Sequence[System]) -> tuple[float, float]:
    """(variance, degrees of freedom) of one seed's score, without what examples add to it, as if all systems had one.

    Those of one seed do not count; without any other the variance is 0.
    """
    several = [system for system in systems if len(system.scores) > 1]
    freedom = sum(len(system.scores) - 1 for system in several)
    if not freedom:
        return 0.0, 1.0
    found = 0.0
    for system in several:
        count = len(system.scores)
        found += (count - 1) * (float(system.scores.var(ddof=1)) - count * _interaction(system.influences()))
    return max(found / freedom, 0.0), float(freedom)


def over_seeds_and_examples(first: System, second: System, common: tuple[float, float] = (0.0, 1.0)) -> Estimate:
    """The difference that other seeds and other examples would show on average.

    Variance = seeds of the first + seeds of the second + examples, where the part that one seed shares with one
    example, which both of the former hold, is taken off the last. common: the family's `common_variance`. Raises
    ValueError for a single seed.
    """
    if min(len(first.scores), len(second.scores)) < 2:
        raise ValueError("the spread of seeds needs two of each system at least")
    plain = over_examples(first, second)
    shared = sum(_interaction(system.influences()) for system in (first, second))
    (alone,) = plain.spreads
    # Seeds that answer contrary to one another may make no example differ from the mean, which then proves nothing.
    examples = replace(alone, standard_error=max(alone.standard_error, math.sqrt(shared)))
    parts = [
        (float(first.scores.var(ddof=1)) / len(first.scores), len(first.scores) - 1),
        (float(second.scores.var(ddof=1)) / len(second.scores), len(second.scores) - 1),
        (max(alone.standard_error**2 - shared, 0.0), alone.freedom),
    ]
    by_all = common[0] * (1 / len(first.scores) + 1 / len(second.scores))
    spreads = (
        _added(parts, examples),
        _added([(by_all, common[1]), (examples.standard_error**2, examples.freedom)], examples),
        examples,
    )
    return Estimate(difference=plain.difference, spreads=spreads, examples=plain.examples)


def _added(parts: list[tuple[float, float]], otherwise: Spread) -> Spread:
    """Of (variance, degrees of freedom), by Satterthwaite. otherwise: has the degrees of freedom if all are 0."""
    variance = sum(part for part, _ in parts)
    spread = sum(part**2 / freedom for part, freedom in parts)
    freedom = variance**2 / spread if spread > 0 else otherwise.freedom
    return Spread(standard_error=math.sqrt(variance), freedom=freedom)


def _interaction(influences: np.ndarray) -> float:
    """What belongs to one seed and one example together, as a part of the variance of the mean over both."""
    examples, seeds = influences.shape
    left = influences - influences.mean(1, keepdims=True)
    variance: float = float((left**2).sum()) / ((seeds - 1) * max(examples - 1, 1)) / (seeds * examples)
    return variance


def student_quantile(share: float, freedom: float) -> float:
    """The quantile of Student's distribution; of the normal for infinite degrees of freedom."""
    from scipy.special import ndtri, stdtrit

    return float(ndtri(share) if math.isinf(freedom) else stdtrit(freedom, share))


def minimal_detectable(
    standard_error: float, freedom: float = math.inf, power: float = 0.8, alpha: float = 0.05
) -> float:
    """The smallest true difference that a study like this one shows with this power, two-sided at level alpha.

    The standard error times that shift of Student's noncentral distribution which puts `power` of it above t at
    1 - alpha / 2; 2.80 x standard error in large samples. NaN where nothing varies: such data don't tell. Source:
    Bloom 1995, "Minimum detectable effects: a simple way to report the statistical power of experimental designs",
    Evaluation Review 19; Cohen 1988, "Statistical power analysis for the behavioral sciences", chapter 2.
    """
    from scipy.special import nctdtrinc

    if standard_error <= 0:
        return math.nan
    least = student_quantile(1 - alpha / 2, freedom)
    if math.isinf(freedom) or freedom > LARGE:
        return (least + student_quantile(power, math.inf)) * standard_error
    return float(nctdtrinc(freedom, 1 - power, least)) * standard_error
