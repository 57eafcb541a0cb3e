"""Intervals for scores: Wilson's for proportions, the percentile bootstrap over examples for everything else."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike

from bench.analysis.stats import tables
from bench.analysis.stats.tables import Table

# Drawn counts and their product with the statistics are in memory at once; 64 MB of both is small on any machine that
# can hold the scored model.
CHUNK_BYTES = 64 * 2**20
# Bounds that are equal in exact arithmetic may differ in their last bits.
ROUNDING = 1e-9
# Of so many distinct rows, drawing examples one by one takes a tenth of the time of drawing counts.
MOST_COUNTS = 2**14

Interval = tuple[np.ndarray, np.ndarray]


@overload
def wilson(successes: float, trials: float, confidence: float = 0.95) -> tuple[float, float]: ...


@overload
def wilson(successes: np.ndarray, trials: ArrayLike, confidence: float = 0.95) -> Interval: ...


def wilson(successes: Any, trials: Any, confidence: float = 0.95) -> tuple[Any, Any]:
    """Return Wilson's score interval (low, high) of a proportion: two floats, or two arrays of the broadcast shape.

    (nan, nan) without trials. Source: Wilson 1927, "Probable inference, the law of succession, and
    statistical inference", Journal of the American Statistical Association 22. Raises ValueError
    where successes are not between 0 and trials.
    """
    count, total = np.broadcast_arrays(np.asarray(successes, dtype=float), np.asarray(trials, dtype=float))
    if ((count < 0) | (count > total)).any():
        raise ValueError(f"successes must lie between 0 and trials, got {successes} of {trials}")
    squared = NormalDist().inv_cdf(1 - _tail(confidence)) ** 2
    defined = total > 0
    number = np.where(defined, total, 1.0)
    share = count / number
    centre = share + squared / (2 * number)
    half = np.sqrt(squared * (share * (1 - share) / number + squared / (4 * number**2)))
    # At 0 and at all successes the formula gives exactly 0 and 1, but rounding leaves something like 1e-17.
    low = np.where(count == 0, 0.0, (centre - half) / (1 + squared / number))
    high = np.where(count == total, 1.0, (centre + half) / (1 + squared / number))
    low, high = np.where(defined, low, np.nan), np.where(defined, high, np.nan)
    return (float(low), float(high)) if low.ndim == 0 else (low, high)


def bootstrap(
    statistics: Table,
    values: Callable[[np.ndarray], Mapping[str, np.ndarray]],
    draws: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """Return percentile bootstrap intervals of scores that are functions of sums over examples.

    `statistics` is [examples, columns], dense or sparse; `values` maps sums [..., columns] to arrays [...] or
    [..., labels] by name. Returns name -> (low, high), each a NumPy scalar or [labels]. A draw in which a value is NaN
    (undefined) is skipped for that value. The interval is NaN for a value that is NaN in all draws, without examples,
    and where all draws agree, since a width of 0 would claim certainty. The results of `values` are kept for all draws,
    so it should not return anything as large as a confusion matrix. The same seed gives the same interval; NumPy's
    global generator is not used. Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
    """
    rows, counts = tables.distinct_rows(statistics.astype(float))
    examples, distinct = int(counts.sum()), len(counts)
    if not examples:
        undefined = values(np.zeros((1, statistics.shape[1])))
        return {name: _no_interval(np.shape(value)[1:]) for name, value in undefined.items()}
    row_of_example = np.repeat(np.arange(distinct), counts)
    transposed = rows.T.tocsr() if tables.is_sparse(rows) else None
    generator = np.random.default_rng(seed)
    drawn: dict[str, list[np.ndarray]] = {}
    for size in _chunks(draws, bytes_per_draw=8 * (2 * distinct + statistics.shape[1])):
        weights = _drawn_counts(generator, size, counts, row_of_example)
        # Contiguous, as NumPy's sums over labels depend on the layout in their last bits.
        sums = weights @ rows if transposed is None else np.ascontiguousarray((transposed @ weights.T).T)
        for name, value in values(sums).items():
            drawn.setdefault(name, []).append(np.asarray(value, dtype=float))
    return {name: percentiles(np.concatenate(parts), confidence) for name, parts in drawn.items()}


def _drawn_counts(
    generator: np.random.Generator, size: int, counts: np.ndarray, row_of_example: np.ndarray
) -> np.ndarray:
    """Return how often each distinct row occurs among examples drawn with replacement, float [size, distinct]."""
    examples, distinct = len(row_of_example), len(counts)
    if distinct <= MOST_COUNTS:
        # They follow a multinomial distribution.
        return generator.multinomial(examples, counts / examples, size=size).astype(float)
    weights = np.empty((size, distinct))
    for row in weights:
        row[:] = np.bincount(row_of_example[generator.integers(examples, size=examples)], minlength=distinct)
    return weights


def bootstrap_weights(
    examples: int, values: Callable[[np.ndarray], Mapping[str, np.ndarray]], draws: int = 2000, seed: int = 0
) -> dict[str, np.ndarray]:
    """Return bootstrap draws [draws, ...] by name of scores of weighted examples; none without examples.

    `values` maps weights [draws, examples], how often each was drawn, to arrays [draws, ...]. Source as for
    `bootstrap`.
    """
    generator, drawn = np.random.default_rng(seed), dict[str, list[np.ndarray]]()
    counts, numbers = np.ones(examples, dtype=np.int64), np.arange(examples)
    # Values sort, sum and compare weights: several arrays of their size are in memory at once.
    for size in _chunks(draws, bytes_per_draw=8 * 8 * examples) if examples else []:
        for name, value in values(_drawn_counts(generator, size, counts, numbers)).items():
            drawn.setdefault(name, []).append(value)
    return {name: np.concatenate(parts) for name, parts in drawn.items()}


def bootstrap_examples(
    compute: Callable[..., Mapping[str, Any] | None],
    predictions: Sequence[Any],
    references: Sequence[Any],
    draws: int = 200,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """Return percentile bootstrap intervals of any metric, by one call of `compute` per draw; slow.

    `compute` takes `predictions` and `references` by keyword, as `evaluate.Metric.compute` does, and returns
    values by name. Values that are not single numbers are skipped. Returns {} without examples, NaN for equal bounds.
    Source as for `bootstrap`.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    generator = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {}
    for _ in range(draws if len(references) else 0):
        indices = generator.integers(len(references), size=len(references))
        computed = compute(
            predictions=[predictions[index] for index in indices],
            references=[references[index] for index in indices],
        )
        for name, value in (computed or {}).items():
            if isinstance(value, int | float | np.number) and not isinstance(value, bool):
                drawn.setdefault(name, []).append(float(value))
    values = {name: np.array(value) for name, value in drawn.items()}
    finite = {name: np.where(np.isfinite(value), value, np.nan) for name, value in values.items()}
    return {name: percentiles(value, confidence) for name, value in finite.items()}


def _tail(confidence: float) -> float:
    """Return the probability of each tail: 0.025 for 0.95."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    return (1 - confidence) / 2


def _chunks(draws: int, bytes_per_draw: int) -> list[int]:
    """Return chunk sizes that add up to `draws`, each as large as fits into CHUNK_BYTES (at least one)."""
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    size = max(1, min(draws, CHUNK_BYTES // bytes_per_draw))
    full, rest = divmod(draws, size)
    return [size] * full + [rest] * (rest > 0)


def percentiles(drawn: np.ndarray, confidence: float) -> Interval:
    """Return the central `confidence` interval of [draws, ...] along the first axis, ignoring NaN; NaN if equal."""
    ends = [100 * _tail(confidence), 100 * (1 - _tail(confidence))]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        quantiles = np.nanpercentile if np.isnan(drawn).any() else np.percentile
        low, high = quantiles(drawn, ends, axis=0)
    varies = high - low > ROUNDING * np.maximum(np.abs(low), np.abs(high))
    return np.where(varies, low, np.nan)[()], np.where(varies, high, np.nan)[()]


def _no_interval(shape: tuple[int, ...]) -> Interval:
    return np.full(shape, np.nan), np.full(shape, np.nan)
