"""Paired tests and intervals: runs that were scored on the same examples, resampled together.

A score is a function of sums over examples. All runs share each draw: one product of the drawn weights with the
statistics of all runs gives the sums of every run, so that many systems cost little more than two.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from bench.analysis.stats import intervals

Value = Callable[[np.ndarray], np.ndarray]
"""Sums [..., columns] -> scores [...]."""

# Weights of one block of draws; what is made of them is smaller for all but a few wide tables.
BLOCK_BYTES = 16 * 2**20
MOST_THREADS = 8
# A binomial draw costs as much as about 40 drawn indices, so repeated rows are drawn by their number below this share.
DISTINCT_SHARE = 1 / 40
# Single precision adds whole numbers exactly up to here.
EXACT_IN_SINGLE = 2**24
# One-hot columns of many labels are nearly all 0; from here on a sparse product is faster.
SPARSE_COLUMNS, SPARSE_SHARE = 100, 0.1
# Swapped scores that are equal in fractions may differ in their last bits.
TIE = 1e-9


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value of McNemar's test: two systems are right equally often.

    Examples that only the first, and only the second, has right. Under the null hypothesis each of these is as
    likely to be either; without any p is 1. Source: McNemar 1947, "Note on the sampling error of the difference
    between correlated proportions or percentages", Psychometrika 12; exact by the binomial distribution.
    """
    from scipy.special import bdtr

    if min(only_first, only_second) < 0:
        raise ValueError(f"numbers of examples can't be negative, got {only_first} and {only_second}")
    discordant = only_first + only_second
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), discordant, 0.5))) if discordant else 1.0


def matched_interval(only_first: int, only_second: int, examples: int, confidence: float = 0.95) -> tuple[float, float]:
    """The interval (low, high) of the difference of two shares of right examples, on the same examples.

    Wald's with half an example added to each of the four kinds (both right, either, none), which covers where
    resampling is too short: with few examples, or few that differ; where none differs it has a width too. Source:
    Agresti and Min 2005, "Simple improved confidence intervals for comparing matched proportions", Statistics in
    Medicine 24. Raises ValueError for more differing examples than there are.
    """
    if min(only_first, only_second) < 0 or only_first + only_second > examples:
        raise ValueError(f"{only_first} and {only_second} examples differ, of {examples}")
    differ, number = only_first + only_second + 1, examples + 2
    middle = (only_first - only_second) / number
    half = NormalDist().inv_cdf((1 + confidence) / 2) * ((differ - number * middle**2) ** 0.5) / number
    return max(-1.0, middle - half), min(1.0, middle + half)


def matched_score(only_first: int, only_second: int, examples: int, difference: float) -> float:
    """The score statistic, normal for many examples, of two shares on the same examples that differ by `difference`.

    Above 0 where they are seen to differ by more. difference: between -1 and 1, not 0. Source: Tango 1998, "Equivalence
    test and confidence interval for the difference in proportions for the paired-sample design", Statistics in
    Medicine 17.
    """
    one = -only_first - only_second + (2 * examples - only_first + only_second) * difference
    # The likeliest share that only the second has right, if the shares differ by so much.
    root = (one**2 + 8 * examples * only_second * difference * (1 - difference)) ** 0.5
    share = max(0.0, root - one) / (4 * examples)
    variance = examples * (2 * share + difference * (1 - difference))
    return float((only_first - only_second - examples * difference) / variance**0.5)


def matched_equivalent(only_first: int, only_second: int, examples: int, margin: float, confidence: float) -> bool:
    """Whether two shares of right examples are shown to differ by less than the margin, by two one-sided score tests.

    Agresti and Min's interval is drawn towards 0, and would find too many equivalent. confidence: of the interval that
    such tests amount to, see `families.equivalence_confidence`.
    """
    if margin >= 1:
        return True
    least = NormalDist().inv_cdf((1 + confidence) / 2)
    above, below = (matched_score(only_first, only_second, examples, side * margin) for side in (-1, 1))
    return above > least and below < -least


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Statistics of several runs side by side: rows [distinct, different], each as often as `counts` says.

    places: [runs x columns], which of the different columns each one is; the references are the same for all runs.
    totals: [runs, columns], sums over all examples.
    """

    rows: Any
    counts: np.ndarray
    places: np.ndarray
    totals: np.ndarray
    dtype: type

    @property
    def examples(self) -> int:
        """How many examples there are."""
        return int(self.counts.sum())

    def sums(self, weights: np.ndarray) -> np.ndarray:
        """[draws, runs, columns] in double precision, from weights [draws, distinct]."""
        found = weights @ self.rows if isinstance(self.rows, np.ndarray) else (self.rows @ weights.T).T
        return found[:, self.places].astype(float).reshape(len(weights), *self.totals.shape)

    def blocks(self, draws: int) -> Iterator[int]:
        """Numbers of draws that add up to `draws`, each small enough for memory."""
        if draws < 1:
            raise ValueError(f"draws must be at least 1, got {draws}")
        # Indices as they are drawn take 8 bytes.
        size = max(1, BLOCK_BYTES // (8 * (len(self.counts) + self.totals.size)))
        for start in range(0, draws, size):
            yield min(size, draws - start)


def stack(runs: Sequence[np.ndarray]) -> Stack:
    """Puts the statistics of runs, each [examples, columns] of the same examples, side by side.

    Raises ValueError for different shapes or no examples.
    """
    if len({run.shape for run in runs}) != 1 or not len(runs[0]):
        raise ValueError(f"runs must have the same examples and columns, and some, got {[run.shape for run in runs]}")
    together = np.concatenate(runs, axis=1)
    totals = together.sum(0, dtype=float).reshape(len(runs), -1)
    first_of: dict[bytes, int] = {}
    places = np.array([first_of.setdefault(column.tobytes(), len(first_of)) for column in together.T])
    together = np.ascontiguousarray(together[:, np.unique(places, return_index=True)[1]])
    rows, counts = intervals.distinct_rows(together)
    if len(rows) > DISTINCT_SHARE * len(together):
        rows, counts = together, np.ones(len(together), dtype=np.int64)
    whole = together.dtype.kind in "biu" and np.abs(together).sum(0, dtype=np.int64).max(initial=0) < EXACT_IN_SINGLE
    dtype = np.float32 if whole else np.float64
    return Stack(rows=_packed(rows, dtype), counts=counts, places=places, totals=totals, dtype=dtype)


def _packed(rows: np.ndarray, dtype: type) -> Any:
    if rows.shape[1] < SPARSE_COLUMNS or np.count_nonzero(rows) > SPARSE_SHARE * rows.size:
        return rows.astype(dtype)
    from scipy.sparse import csr_array

    return csr_array(rows.T, dtype=dtype)


def bootstrap_values(runs: Stack, value: Value, draws: int, seed: int) -> np.ndarray:
    """Scores [draws, runs] on examples drawn with replacement, the same ones for all runs.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 8 (paired data).
    """

    def _values(size: int, generator: np.random.Generator) -> np.ndarray:
        return value(runs.sums(_drawn(runs, size, generator)))

    return np.concatenate(_of_blocks(runs, draws, seed, _values))


def _of_blocks(
    runs: Stack, draws: int, seed: int, work: Callable[[int, np.random.Generator], np.ndarray]
) -> list[np.ndarray]:
    """What `work` makes of each block of draws, in order; each with a stream of its own, so on any number of cores."""
    from threadpoolctl import threadpool_limits

    sizes = list(runs.blocks(draws))
    streams = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(len(sizes)))
    # NumPy and SciPy let go of the interpreter where they take long; the products' own threads would be in the way.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(_threads()) as pool:
        return list(pool.map(work, sizes, streams))


def _threads() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST_THREADS, cores)


def _drawn(runs: Stack, size: int, generator: np.random.Generator) -> np.ndarray:
    """How often each row turns up in each draw, [size, distinct]."""
    examples = runs.examples
    if examples > len(runs.counts):
        return generator.multinomial(examples, runs.counts / examples, size=size).astype(runs.dtype)
    weights: np.ndarray = np.empty((size, examples), dtype=runs.dtype)
    for row in weights:
        row[:] = np.bincount(generator.integers(examples, size=examples), minlength=examples)
    return weights


def randomisation_test(
    runs: Stack, value: Value, pairs: Sequence[tuple[int, int]], draws: int, seed: int
) -> np.ndarray:
    """Two-sided p-values [pairs] of approximate randomisation: outputs of two runs are swapped example by example.

    p = (1 + draws whose difference is at least as large) / (1 + draws), which is never 0. Source: Noreen 1989,
    "Computer-Intensive Methods for Testing Hypotheses", chapter 2; Yeh 2000, "More accurate tests for the
    statistical significance of result differences", C00-2137.
    """
    middles = [(runs.totals[first] + runs.totals[second]) / 2 for first, second in pairs]
    observed = [abs(float(value(runs.totals[first]) - value(runs.totals[second]))) for first, second in pairs]

    def _reached(size: int, generator: np.random.Generator) -> np.ndarray:
        signed = 2 * runs.sums(_unswapped(runs, size, generator)) - runs.totals
        found: np.ndarray = np.zeros(len(pairs), dtype=np.int64)
        for number, (first, second) in enumerate(pairs):
            half = (signed[:, first] - signed[:, second]) / 2
            differences = value(middles[number] + half) - value(middles[number] - half)
            found[number] = np.count_nonzero(np.abs(differences) >= observed[number] - TIE)
        return found

    p_values: np.ndarray = (1 + np.sum(_of_blocks(runs, draws, seed, _reached), axis=0)) / (1 + draws)
    return p_values


def _unswapped(runs: Stack, size: int, generator: np.random.Generator) -> np.ndarray:
    """How many of the examples of each row are not swapped, [size, distinct]."""
    if runs.examples > len(runs.counts):
        return generator.binomial(runs.counts, 0.5, size=(size, len(runs.counts))).astype(runs.dtype)
    drawn = np.frombuffer(generator.bytes((size * runs.examples + 7) // 8), dtype=np.uint8)
    return np.unpackbits(drawn, count=size * runs.examples).reshape(size, runs.examples).astype(runs.dtype)


def jackknife_values(run: np.ndarray, value: Value) -> np.ndarray:
    """Scores [examples] of one run with each example left out in turn, from statistics [examples, columns]."""
    total = run.sum(0, dtype=float)
    size = max(1, BLOCK_BYTES // (8 * run.shape[1]))
    return np.concatenate([value(total - run[start : start + size]) for start in range(0, len(run), size)])


def percentile_interval(drawn: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """The ends of the central `confidence` of the drawn values [draws]. Source: Efron and Tibshirani, chapter 13."""
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def bca_interval(
    drawn: np.ndarray, observed: float, jackknife: np.ndarray, confidence: float = 0.95
) -> tuple[float, float]:
    """The percentile interval, corrected for bias and for a spread that changes with the value.

    drawn: [draws]; jackknife: [examples], the value without each. Values that never vary give (observed,
    observed). Source: Efron 1987, "Better bootstrap confidence intervals", Journal of the American Statistical
    Association 82, equations 2.3 and 6.6; ties of drawn values with the observed one count half.
    """
    if np.ptp(drawn) <= TIE:
        return observed, observed
    normal = NormalDist()
    below = (np.mean(drawn < observed - TIE) + np.mean(drawn <= observed + TIE)) / 2
    # A value outside all draws would be infinitely biased; half a draw is the least that is known.
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
