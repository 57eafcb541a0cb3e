"""Correlations of predicted numbers with their references: Pearson's from sums, Spearman's from ranks in each draw."""

from collections.abc import Sequence
from typing import Any

import numpy as np

# Of a variance that is 0 in exact arithmetic, sums of squares leave a share of this size.
ROUNDING = 1e-13


def filled(predictions: Sequence[float | None] | np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return predictions [examples] as float64; one that is missing (None or NaN) is the mean of the references.

    So a missing number is neither left out, which would reward to say nothing, nor an error of arbitrary size.
    """
    values = np.array([np.nan if value is None else value for value in predictions], dtype=float)
    missing = np.isnan(values)
    return np.where(missing, references.mean(), values) if missing.any() else values


def pearson_rows(predictions: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return [examples, 6]: 1, prediction, reference, both squares, product; of differences from the mean reference.

    The shift changes no correlation, and keeps digits where numbers are far from 0. It is the same for all systems.
    """
    middle = references.mean() if len(references) else 0.0
    first, second = predictions - middle, references - middle
    return np.stack([np.ones_like(first), first, second, first**2, second**2, first * second], axis=1)


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


class RankValue:
    """Spearman's correlation of weighted examples: of a draw of a bootstrap, ranks are taken anew, ties share theirs.

    It is no function of sums. rows: [examples, 2], predictions and references. Equal to scipy's `spearmanr` of each
    example repeated as often as its weight says.
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

    def score(self, rows: np.ndarray) -> float:
        """Return the correlation of all examples."""
        return float(self.weighted(rows.astype(float), np.ones((1, len(rows))))[0])


def _ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean rank [draws, examples] of each example's copies, from 1 on."""
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    ends = np.flatnonzero(np.diff(group[order], append=group.max(initial=0) + 1))
    through = np.cumsum(weights[:, order], axis=1)[:, ends]  # [draws, distinct values]
    before = np.concatenate([np.zeros((len(weights), 1)), through[:, :-1]], axis=1)
    middle: np.ndarray = before + (through - before + 1) / 2
    return middle[:, group]


def number_pairs(lines: Sequence[Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return predictions and references [examples] of the lines of a prediction file; None if these are no numbers."""
    numbers = [line.reference for line in lines]
    if not all(_is_number(value) for value in numbers):
        return None
    if not all(line.prediction is None or _is_number(line.prediction) for line in lines):
        return None
    references = np.array(numbers, dtype=float)
    return filled([line.prediction for line in lines], references), references


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
