"""Multiple comparisons: Holm's correction, equivalence tests, tiers of systems without significant differences."""

from collections.abc import Callable, Sequence

import numpy as np


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Return adjusted p-values in the given order; rejecting at 0.05 keeps the family-wise error rate at 5 %.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics 6. Raises ValueError for values outside [0, 1].
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
    """Return the confidence level of the interval for an equivalence test: 90 % for one comparison.

    Two one-sided tests at level alpha, divided by the number of comparisons (Bonferroni). Source: Schuirmann 1987,
    "A comparison of the two one-sided tests procedure and the power approach for assessing the equivalence of
    average bioavailability", Journal of Pharmacokinetics and Biopharmaceutics 15.
    """
    return 1 - 2 * alpha / max(comparisons, 1)


def is_equivalent(low: float, high: float, margin: float) -> bool:
    """Return whether the whole interval lies within ±margin.

    An interval of width 0 is not equivalent: without variance, nothing is known about other examples.
    """
    return -margin < low < high < margin


def tiers(ranked: Sequence[str], differ: Callable[[str, str], bool]) -> list[list[str]]:
    """Split systems into tiers; `ranked` is best first, `differ` tells whether two differ significantly.

    The best system and all that do not differ significantly from it form the first tier; the best of the others starts
    the next tier. Two systems of one tier may still differ from one another.
    """
    left, groups = list(ranked), []
    while left:
        best = left[0]
        groups.append([name for name in left if name == best or not differ(best, name)])
        left = [name for name in left if name not in groups[-1]]
    return groups
