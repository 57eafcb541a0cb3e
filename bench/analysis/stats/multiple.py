"""Decisions over a family of comparisons: corrected p-values, equivalence, tiers of systems that tie."""

from collections.abc import Callable, Sequence

import numpy as np


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Adjusted p-values, in the order given: those at or below 0.05 are shown with an error of 5 % for all together.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics 6. Raises ValueError for what is no probability.
    """
    given = np.asarray(p_values, dtype=float)
    if given.size and not ((given >= 0) & (given <= 1)).all():
        raise ValueError(f"p-values lie between 0 and 1, got {given.tolist()}")
    order = np.argsort(given, kind="stable")
    raised = np.maximum.accumulate(given[order] * np.arange(len(given), 0, -1)) if given.size else given
    adjusted = np.empty_like(given)
    adjusted[order] = np.minimum(raised, 1.0)
    return adjusted


def equivalence_confidence(comparisons: int, alpha: float = 0.05) -> float:
    """The confidence at which an interval inside the margin shows equivalence: 90 % for one comparison.

    Two one-sided tests at level alpha, divided by the number of comparisons (Bonferroni). Source: Schuirmann 1987,
    "A comparison of the two one-sided tests procedure and the power approach for assessing the equivalence of
    average bioavailability", Journal of Pharmacokinetics and Biopharmaceutics 15.
    """
    return 1 - 2 * alpha / max(comparisons, 1)


def is_equivalent(low: float, high: float, margin: float) -> bool:
    """Whether the whole interval lies within the margin: the difference is smaller, in either direction.

    An interval without a width shows nothing: where nothing varied, nobody knows what other examples would do.
    """
    return -margin < low < high < margin


def tiers(ranked: Sequence[str], differ: Callable[[str, str], bool]) -> list[list[str]]:
    """Groups systems that can't be told from the best of their group; `ranked` is best first.

    The best system, and every one that is not shown to differ from it, make the first tier, wherever they stand;
    of the others the best begins the next tier. Two systems of one tier may well differ from one another: that
    each ties with the best does not make them equal.
    """
    left, found = list(ranked), []
    while left:
        best = left[0]
        found.append([name for name in left if name == best or not differ(best, name)])
        left = [name for name in left if name not in found[-1]]
    return found
