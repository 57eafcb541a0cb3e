"""Correlations of predicted numbers with their references: Pearson's from sums, Spearman's from ranks in each draw.

Both are of standardised numbers, z-scores and ranks: a correlation has no unit, and a paired test that swaps two
systems' predictions must not depend on theirs. Also: as what a missing number counts.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bench.analysis.stats.weighted import WeightedValue, before, groups, through

# Of a variance that is 0 in exact arithmetic, sums of squares leave a share of this size.
ROUNDING = 1e-12
# Numbers that differ by a smaller share than this of their mean differ by rounding; scipy's `pearsonr` warns from here.
NEARLY_CONSTANT = 1e-13
# (predictions with NaN where missing, references) -> predictions, all [examples].
Fill = Callable[[np.ndarray, np.ndarray], np.ndarray]


def as_numbers(predictions: Sequence[float | None] | np.ndarray) -> np.ndarray:
    """Return predictions [examples] as float64, NaN for one that is missing (None or NaN)."""
    return np.array([np.nan if value is None else value for value in predictions], dtype=float)


def farthest_filled(predictions: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return predictions; a missing one is the end of the references' range that is farther from its own reference.

    For errors. It is the worst answer within the range, as a wrong label is for accuracy. The mean of the references
    would have the least squared error of all constants, so that a model which writes no number would look good. Where
    all references are the same they have no range, and it stays NaN: an error of 0 would be wrong.
    """
    missing = np.isnan(predictions)
    if not missing.any() or np.ptp(references) == 0:
        return predictions
    low, high = references.min(), references.max()
    return np.where(missing, np.where(references - low > high - references, low, high), predictions)


def median_filled(predictions: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return predictions; a missing one is the median of the given ones.

    For correlations. A constant amid the system's own numbers says nothing of the reference and has no unit of its own:
    it takes from the correlation as much as is missing, and with no number at all that is not defined. An end of the
    references' range, taken against each reference, would make silence a strong negative correlation.
    """
    missing = np.isnan(predictions)
    if not missing.any():
        return predictions
    return np.where(missing, 0.0 if missing.all() else np.median(predictions[~missing]), predictions)


def pearson_rows(predictions: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return [examples, 6]: 1, z-scores of prediction and reference, both squares, product.

    Each side is standardised by its own mean and standard deviation. This changes no correlation, nor one of a part of
    the rows, and keeps digits wherever the numbers lie.
    """
    first, second = _standardised(predictions), _standardised(references)
    return np.stack([np.ones_like(first), first, second, first**2, second**2, first * second], axis=1)


def _standardised(values: np.ndarray) -> np.ndarray:
    """Return z-scores [examples]; 0 where numbers are all the same but for rounding."""
    if not len(values):
        return np.zeros(0)
    # A power of two changes no digit, and keeps squares of any finite number from overflow.
    scaled = np.ldexp(values, -np.frexp(np.abs(values).max())[1])
    middle = scaled.mean()
    centred = scaled - middle
    centred -= centred.mean()  # what rounding left in the mean
    size = np.abs(centred).max()
    if np.ptp(scaled) == 0 or size <= NEARLY_CONSTANT * abs(middle):
        return np.zeros(len(values))
    centred /= size
    return np.asarray(centred / np.sqrt((centred**2).mean()))


def rank_rows(predictions: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return [examples, 2]: ranks of predictions and of references, equal numbers share the mean of theirs."""
    whole = np.ones((1, len(references)))
    return np.stack([_ranks(values, whole)[0] for values in (predictions, references)], axis=1)


def pearson_value(sums: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation [...] from sums [..., 6] of `pearson_rows`; NaN where one side does not vary."""
    number, first, second, first_squares, second_squares, products = np.moveaxis(sums, -1, 0)
    number = np.maximum(number, 1)
    variances = []
    for total, squares in ((first, first_squares), (second, second_squares)):
        variance = squares - total**2 / number
        variances.append(np.where(variance > ROUNDING * squares, variance, np.nan))
    correlation = (products - first * second / number) / np.sqrt(variances[0] * variances[1])
    value: np.ndarray = np.clip(correlation, -1.0, 1.0)
    return value


class RankValue(WeightedValue):
    """Spearman's correlation of weighted examples: of a draw of a bootstrap, ranks are taken anew, ties share theirs.

    It is no function of sums. rows: [examples, 2], predictions and references, or `rank_rows` of them. Equal to scipy's
    `spearmanr` of each example repeated as often as its weight says.
    """

    def weighted(self, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the correlation [draws] by weights [draws, examples]; NaN where one side does not vary."""
        total = weights.sum(axis=1, keepdims=True)
        first, second = (_ranks(rows[:, column], weights) - (total + 1) / 2 for column in (0, 1))
        products = [(weights * one * other).sum(axis=1) for one, other in ((first, second), (first, first))]
        products.append((weights * second**2).sum(axis=1))
        scale = np.sqrt(products[1] * products[2])
        value: np.ndarray = np.divide(products[0], scale, out=np.full(len(scale), np.nan), where=scale > 0)
        return value


def _ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean rank [draws, examples] of each example's copies, from 1 on."""
    group, order, ends = groups(values)
    last = through(weights, order, ends)  # [draws, distinct values]
    first = before(last)
    middle: np.ndarray = first + (last - first + 1) / 2
    return middle[:, group]


def number_pairs(lines: Sequence[Any], fill: Fill) -> tuple[np.ndarray, np.ndarray] | None:
    """Return predictions and references [examples] of the lines of a prediction file; None if these are no numbers.

    fill: see `farthest_filled` and `median_filled`.
    """
    numbers = [line.reference for line in lines]
    if not all(_is_number(value) for value in numbers):
        return None
    if not all(line.prediction is None or _is_number(line.prediction) for line in lines):
        return None
    references = np.array(numbers, dtype=float)
    return fill(as_numbers([line.prediction for line in lines]), references), references


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
