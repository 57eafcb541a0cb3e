"""Base of scores that are functions of weighted examples, not of sums: ranks and bins are made anew in each draw."""

import abc

import numpy as np


class WeightedValue(abc.ABC):
    """A score of weighted examples. A bootstrap's draw gives each example a weight: how often it was drawn."""

    @abc.abstractmethod
    def weighted(self, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the score [draws] of rows [examples, columns] by weights [draws, examples]; NaN where undefined."""

    def score(self, rows: np.ndarray) -> float:
        """Return the score of all examples."""
        return float(self.weighted(rows.astype(float), np.ones((1, len(rows))))[0])


def groups(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Group equal values [examples]: return (group of each, an order by group, the last place of each group in it)."""
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    return group, order, np.flatnonzero(np.diff(group[order], append=group.max(initial=0) + 1))


def through(amounts: np.ndarray, order: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return the sum of amounts [draws, examples] up to and with each group, [draws, groups]."""
    sums: np.ndarray = np.cumsum(amounts[:, order], axis=1)[:, ends]
    return sums


def before(sums: np.ndarray) -> np.ndarray:
    """Return the sums of all groups before each one, from those `through` it."""
    return np.concatenate([np.zeros((len(sums), 1)), sums[:, :-1]], axis=1)


def ratio(total: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Return total / number [draws]; NaN where the number is 0."""
    quotient: np.ndarray = np.divide(total, number, out=np.full(len(total), np.nan), where=number > 0)
    return quotient
