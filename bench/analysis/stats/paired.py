"""Paired tests and intervals for runs that were scored on the same examples.

A score is a function of sums over examples. All runs share each draw: one product of the drawn weights with the
statistics of all runs gives the sums of every run, so many systems cost little more than two.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from bench.analysis.stats import tables
from bench.analysis.stats.sums import LabelValue, Value
from bench.analysis.stats.tables import Table
from bench.analysis.stats.weighted import WeightedValue

# Size of the weights of one block of draws; results computed from them are smaller except for few wide tables.
BLOCK_BYTES = 16 * 2**20
MOST_THREADS = 8
# A binomial draw costs about as much as 40 drawn indices: below this share of distinct rows, draw counts instead.
DISTINCT_SHARE = 1 / 40
# Single precision adds integers exactly up to here.
EXACT_IN_SINGLE = 2**24
# One-hot columns of many labels are mostly 0; from here on a sparse product is faster.
SPARSE_COLUMNS, SPARSE_SHARE = 100, 0.1
# Scores that are equal in exact arithmetic may differ in their last bits.
TIE = 1e-9
# Where a statistic is not defined at a point, it is taken beside it.
NEAR = 1e-9


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p-value of McNemar's test that two systems are equally accurate.

    only_first, only_second: numbers of examples that only this system answers correctly. Under the null hypothesis both
    are equally likely; without any, p is 1. Source: McNemar 1947, "Note on the sampling error of the difference
    between correlated proportions or percentages", Psychometrika 12; exact by the binomial distribution.
    """
    from scipy.special import bdtr

    if min(only_first, only_second) < 0:
        raise ValueError(f"numbers of examples must not be negative, got {only_first} and {only_second}")
    discordant = only_first + only_second
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), discordant, 0.5))) if discordant else 1.0


def matched_interval(only_first: int, only_second: int, examples: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval (low, high) of the difference of two accuracies on the same examples.

    Wald's interval with half an example added to each of the four cells (both right, only one, none). It keeps its
    coverage where bootstrap intervals are too short: few examples, or few discordant ones. Source: Agresti and Min
    2005, "Simple improved confidence intervals for comparing matched proportions", Statistics in Medicine 24. Raises
    ValueError for more differing examples than there are.
    """
    if min(only_first, only_second) < 0 or only_first + only_second > examples:
        raise ValueError(f"{only_first} and {only_second} discordant examples, but only {examples} in total")
    differ, number = only_first + only_second + 1, examples + 2
    middle = (only_first - only_second) / number
    half = NormalDist().inv_cdf((1 + confidence) / 2) * ((differ - number * middle**2) ** 0.5) / number
    return max(-1.0, middle - half), min(1.0, middle + half)


def matched_score(only_first: int, only_second: int, examples: int, difference: float) -> float:
    """Return the score statistic for a difference of two accuracies on the same examples; asymptotically normal.

    Positive where the observed difference is larger than `difference`, which lies between -1 and 1 and is not 0.
    Source: Tango 1998, "Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design", Statistics in Medicine 17.
    """
    one = -only_first - only_second + (2 * examples - only_first + only_second) * difference
    # Maximum likelihood estimate of the share that only the second has right, under this difference.
    root = (one**2 + 8 * examples * only_second * difference * (1 - difference)) ** 0.5
    share = max(0.0, root - one) / (4 * examples)
    variance = examples * (2 * share + difference * (1 - difference))
    return float((only_first - only_second - examples * difference) / variance**0.5)


def matched_equivalent(only_first: int, only_second: int, examples: int, margin: float, confidence: float) -> bool:
    """Test whether two accuracies differ by less than the margin, by two one-sided score tests.

    Agresti and Min's interval is shrunk towards 0 and would accept too often. confidence: of the interval equivalent to
    these tests, see `multiple.equivalence_confidence`.
    """
    if margin >= 1:
        return True
    least = NormalDist().inv_cdf((1 + confidence) / 2)
    above, below = (matched_score(only_first, only_second, examples, side * margin) for side in (-1, 1))
    return above > least and below < -least


def matched_score_interval(
    only_first: int, only_second: int, examples: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the interval (low, high) of all differences of two accuracies that Tango's score test does not reject.

    An interval of `multiple.equivalence_confidence` lies within a margin just where `matched_equivalent` says so; with
    no discordant example it still has a width, z² / (n + z²) on each side. Source: Tango 1998, as `matched_score`.
    Raises ValueError for more differing examples than there are.
    """
    from scipy.optimize import brentq

    if min(only_first, only_second) < 0 or only_first + only_second > examples or not examples:
        raise ValueError(f"{only_first} and {only_second} discordant examples, but only {examples} in total")
    least = NormalDist().inv_cdf((1 + confidence) / 2)
    observed = (only_first - only_second) / examples

    def _excess(difference: float, side: int) -> float:
        return matched_score(only_first, only_second, examples, difference) + side * least

    def _end(side: int) -> float:
        # The statistic falls as the difference rises, and is 0 at the observed one, where it may not be defined.
        near, far = observed + side * NEAR, side * (1 - NEAR)
        if side * (far - near) <= 0 or _excess(near, side) * _excess(far, side) >= 0:
            return float(side)
        return float(brentq(_excess, near, far, args=(side,)))

    return _end(-1), _end(1)


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Statistics of several runs side by side, each distinct row and column stored once.

    rows: [distinct rows, distinct columns]. counts: how often each row occurs. places: [runs x columns], index of the
    distinct column; reference columns are the same for all runs. totals: [runs, columns], sums over all examples.
    """

    rows: Table
    counts: np.ndarray
    places: np.ndarray
    totals: np.ndarray
    dtype: type

    @property
    def examples(self) -> int:
        """The number of examples."""
        return int(self.counts.sum())

    def runs_of(self) -> list[np.ndarray]:
        """Return the statistics of each run, [distinct rows, columns]."""
        rows = self.rows if isinstance(self.rows, np.ndarray) else self.rows.toarray().T
        parts: list[np.ndarray] = np.split(rows[:, self.places].astype(float), len(self.totals), axis=1)
        return parts

    def sums(self, weights: np.ndarray) -> np.ndarray:
        """Return sums [draws, runs, columns] in double precision, from weights [draws, distinct rows]."""
        sums = weights @ self.rows if isinstance(self.rows, np.ndarray) else (self.rows @ weights.T).T
        return sums[:, self.places].astype(float).reshape(len(weights), *self.totals.shape)

    def blocks(self, draws: int) -> Iterator[int]:
        """Yield block sizes that add up to `draws`, each within BLOCK_BYTES."""
        if draws < 1:
            raise ValueError(f"draws must be at least 1, got {draws}")
        # A drawn index takes 8 bytes.
        size = max(1, BLOCK_BYTES // (8 * (len(self.counts) + self.totals.size)))
        for start in range(0, draws, size):
            yield min(size, draws - start)


def stack(runs: Sequence[Table]) -> Stack:
    """Stack the statistics of runs, each [examples, columns] for the same examples.

    Raises ValueError for different shapes or no examples.
    """
    if len({run.shape for run in runs}) != 1 or not runs[0].shape[0]:
        raise ValueError(f"expected non-empty statistics of equal shape, got {[run.shape for run in runs]}")
    together = tables.beside(runs)
    totals = together.sum(0, dtype=float).reshape(len(runs), -1)
    together, places = tables.distinct_columns(together)
    rows, counts = tables.distinct_rows(together)
    if len(counts) > DISTINCT_SHARE * together.shape[0]:
        rows, counts = together, np.ones(together.shape[0], dtype=np.int64)
    whole = together.dtype.kind in "biu" and abs(together).sum(0, dtype=np.int64).max(initial=0) < EXACT_IN_SINGLE
    dtype = np.float32 if whole else np.float64
    return Stack(rows=_packed(rows, dtype), counts=counts, places=places, totals=totals, dtype=dtype)


def _packed(rows: Table, dtype: type) -> Table:
    """Return rows as they are multiplied fastest: dense, or sparse and transposed."""
    entries = rows.nnz if tables.is_sparse(rows) else np.count_nonzero(rows)
    if rows.shape[1] < SPARSE_COLUMNS or entries > SPARSE_SHARE * rows.shape[0] * rows.shape[1]:
        return tables.dense(rows).astype(dtype)
    from scipy.sparse import csr_array

    return csr_array(rows.T, dtype=dtype)


def bootstrap_values(runs: Stack, value: Value | WeightedValue, draws: int, seed: int) -> np.ndarray:
    """Return bootstrap scores [draws, runs] on examples drawn with replacement, the same for all runs.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 8 (paired data).
    """

    def _values(size: int, generator: np.random.Generator) -> np.ndarray:
        weights = _drawn(runs, size, generator)
        if isinstance(value, WeightedValue):
            return np.stack([value.weighted(rows, weights.astype(float)) for rows in runs.runs_of()], axis=1)
        return value(runs.sums(weights))

    return np.concatenate(_of_blocks(runs, draws, seed, _values))


def _of_blocks(
    runs: Stack, draws: int, seed: int, work: Callable[[int, np.random.Generator], np.ndarray]
) -> list[np.ndarray]:
    """Return the results of `work` for all blocks of draws, in order; the same on any number of cores.

    Each block has its own random stream.
    """
    from threadpoolctl import threadpool_limits

    sizes = list(runs.blocks(draws))
    streams = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(len(sizes)))
    # NumPy and SciPy release the GIL in long operations; BLAS threads would oversubscribe the cores.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(_threads()) as pool:
        return list(pool.map(work, sizes, streams))


def _threads() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST_THREADS, cores)


def _drawn(runs: Stack, size: int, generator: np.random.Generator) -> np.ndarray:
    """Return how often each distinct row occurs in each draw, [size, distinct rows]."""
    examples = runs.examples
    if examples > len(runs.counts):
        return generator.multinomial(examples, runs.counts / examples, size=size).astype(runs.dtype)
    weights: np.ndarray = np.empty((size, examples), dtype=runs.dtype)
    for row in weights:
        row[:] = np.bincount(generator.integers(examples, size=examples), minlength=examples)
    return weights


def randomisation_test(
    runs: Stack, value: Value | WeightedValue, pairs: Sequence[tuple[int, int]], draws: int, seed: int
) -> np.ndarray:
    """Return two-sided p-values [pairs] of approximate randomisation, which swaps outputs of two runs per example.

    p = (1 + number of draws with at least the observed difference) / (1 + draws), never 0. Source: Noreen 1989,
    "Computer-Intensive Methods for Testing Hypotheses", chapter 2; Yeh 2000, "More accurate tests for the
    statistical significance of result differences", C00-2137.
    """
    if isinstance(value, WeightedValue):
        return _swapped_ranks(runs, value, pairs, draws, seed)
    middles = [(runs.totals[first] + runs.totals[second]) / 2 for first, second in pairs]
    observed = [abs(float(value(runs.totals[first]) - value(runs.totals[second]))) for first, second in pairs]

    def _reached(size: int, generator: np.random.Generator) -> np.ndarray:
        signed = 2 * runs.sums(_unswapped(runs, size, generator)) - runs.totals
        reached: np.ndarray = np.zeros(len(pairs), dtype=np.int64)
        for number, (first, second) in enumerate(pairs):
            half = (signed[:, first] - signed[:, second]) / 2
            differences = value(middles[number] + half) - value(middles[number] - half)
            reached[number] = np.count_nonzero(np.abs(differences) >= observed[number] - TIE)
        return reached

    p_values: np.ndarray = (1 + np.sum(_of_blocks(runs, draws, seed, _reached), axis=0)) / (1 + draws)
    return p_values


def _swapped_ranks(
    runs: Stack, value: WeightedValue, pairs: Sequence[tuple[int, int]], draws: int, seed: int
) -> np.ndarray:
    """Return the p-values of `randomisation_test` where ranks are taken anew after each swap."""
    rows, counts = runs.runs_of(), runs.counts.astype(float)
    whole = counts[None]
    observed = [abs(float((value.weighted(rows[a], whole) - value.weighted(rows[b], whole))[0])) for a, b in pairs]

    def _reached(size: int, generator: np.random.Generator) -> np.ndarray:
        kept = _unswapped(runs, size, generator).astype(float)
        first, second = np.concatenate([kept, counts - kept], axis=1), np.concatenate([counts - kept, kept], axis=1)
        reached: np.ndarray = np.zeros(len(pairs), dtype=np.int64)
        for number, (one, other) in enumerate(pairs):
            both = np.concatenate([rows[one], rows[other]])
            differences = value.weighted(both, first) - value.weighted(both, second)
            reached[number] = np.count_nonzero(np.abs(differences) >= observed[number] - TIE)
        return reached

    p_values: np.ndarray = (1 + np.sum(_of_blocks(runs, draws, seed, _reached), axis=0)) / (1 + draws)
    return p_values


def _unswapped(runs: Stack, size: int, generator: np.random.Generator) -> np.ndarray:
    """Return the number of examples of each distinct row that are not swapped, [size, distinct rows]."""
    if runs.examples > len(runs.counts):
        return generator.binomial(runs.counts, 0.5, size=(size, len(runs.counts))).astype(runs.dtype)
    drawn = np.frombuffer(generator.bytes((size * runs.examples + 7) // 8), dtype=np.uint8)
    return np.unpackbits(drawn, count=size * runs.examples).reshape(size, runs.examples).astype(runs.dtype)


def jackknife_values(run: Table, value: Value | WeightedValue) -> np.ndarray:
    """Return scores [examples] of one run with each example left out in turn. run: [examples, columns]."""
    if isinstance(value, WeightedValue):
        return _ranks_without_each(run, value)
    if tables.is_sparse(run) and isinstance(value, LabelValue):
        return value.without_each(run)
    total = run.sum(0, dtype=float)
    size = max(1, BLOCK_BYTES // (8 * run.shape[1]))
    parts = (tables.dense(run[start : start + size]) for start in range(0, run.shape[0], size))
    return np.concatenate([value(total - part) for part in parts])


def _ranks_without_each(run: Table, value: WeightedValue) -> np.ndarray:
    examples = run.shape[0]
    size, parts = max(1, BLOCK_BYTES // (8 * examples)), []
    for start in range(0, examples, size):
        numbers = np.arange(start, min(start + size, examples))
        weights = np.ones((len(numbers), examples))
        weights[np.arange(len(numbers)), numbers] = 0
        parts.append(value.weighted(run, weights))
    return np.concatenate(parts)


def percentile_interval(drawn: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Return the central `confidence` interval of drawn values [draws]. Source: Efron and Tibshirani, chapter 13."""
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def bca_interval(
    drawn: np.ndarray, observed: float, jackknife: np.ndarray, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the BCa bootstrap interval: percentiles corrected for bias and acceleration.

    drawn: [draws]; jackknife: [examples], the value without each example. Without variance, (observed, observed).
    Source: Efron 1987, "Better bootstrap confidence intervals", Journal of the American Statistical
    Association 82, equations 2.3 and 6.6; drawn values equal to the observed one count half.
    """
    if np.ptp(drawn) <= TIE:
        return observed, observed
    normal = NormalDist()
    below = (np.mean(drawn < observed - TIE) + np.mean(drawn <= observed + TIE)) / 2
    # An observed value outside all draws would give infinite bias; half a draw is the resolution.
    bias = normal.inv_cdf(float(np.clip(below, 0.5 / len(drawn), 1 - 0.5 / len(drawn))))
    pulls = jackknife.mean() - jackknife
    spread = float((pulls**2).sum())
    acceleration = float((pulls**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    shares = []
    for tail in ((1 - confidence) / 2, (1 + confidence) / 2):
        shifted = bias + normal.inv_cdf(tail)
        shares.append(normal.cdf(bias + shifted / (1 - acceleration * shifted)))
    low, high = np.quantile(drawn, shares)
    return float(low), float(high)
