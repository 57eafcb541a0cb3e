"""Dividing rows into splits: by share or by count, stratified or balanced by label, seeded. Pure functions."""

import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.errors import DataError

Counts = npt.NDArray[np.float64]

# With fewer ways than this to deal groups out, all of them are compared: a dozen groups for two splits.
_MOST_WAYS = 4096
# Pairs of groups are looked at together up to this many groups: 500 articles take 6 MB and milliseconds.
_MOST_SWAPPED = 500
# An empty split is worse than any other.
_EMPTY = 1e12


def divide(
    labels: Sequence[Hashable],
    into: Mapping[str, float | int],
    *,
    stratified: bool = True,
    balanced: bool = False,
    seed: int | str = 0,
) -> dict[str, list[int]]:
    """Row numbers of each new split, disjoint, each sorted; the order of `into` does not matter.

    labels: one hashable per row. into: name -> share of all rows (float up to 1) or count (int).
    Shares together must not exceed 1; where they make 1, every row is used. `stratified` draws each label in proportion
    to what is left of it, to within one row. `balanced` draws the same number of every label (the remainder of an
    uneven count goes to the first labels). Raises DataError when rows do not suffice.
    """
    counts = _counts(len(labels), {name: into[name] for name in sorted(into)})
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        groups[label if stratified or balanced else None].append(index)
    chooser = random.Random(f"split/{seed}")
    ordered = sorted(groups, key=str)
    for label in ordered:
        chooser.shuffle(groups[label])
    result: dict[str, list[int]] = {}
    for name, count in counts.items():
        quotas = _quotas(count, {label: len(groups[label]) for label in ordered}, balanced=balanced, split=name)
        result[name] = sorted(groups[label].pop() for label in ordered for _ in range(quotas[label]))
    return {name: result[name] for name in into}


def _counts(total: int, into: Mapping[str, float | int]) -> dict[str, int]:
    shares = {name: amount for name, amount in into.items() if isinstance(amount, float)}
    if not all(0 < share <= 1 for share in shares.values()) or sum(shares.values()) > 1 + 1e-9:
        raise DataError(f"shares of a division must be above 0, and must not exceed 1 together: {dict(into)}")
    # Rounded at the running sum, so that shares that make 1 use every row.
    result, running, used = {}, 0.0, 0
    for name, amount in into.items():
        if isinstance(amount, float):
            running += amount
            result[name] = round(running * total) - used
            used += result[name]
        else:
            result[name] = amount
    if sum(result.values()) > total:
        raise DataError(f"a division asks for {sum(result.values())} rows, but there are {total}")
    for name, count in result.items():
        if count <= 0:
            raise DataError(f"the split {name!r} would be empty: {into[name]} of {total} rows")
    return result


def _quotas(count: int, available: Mapping[Hashable, int], *, balanced: bool, split: str) -> dict[Hashable, int]:
    """How many rows of each label: equal, or in proportion to what is left (largest remainders)."""
    labels = list(available)
    if balanced:
        quotas = {label: count // len(labels) + (place < count % len(labels)) for place, label in enumerate(labels)}
        for label, quota in quotas.items():
            if quota > available[label]:
                raise DataError(
                    f"the balanced split {split!r} needs {quota} rows of label {label!r}, {available[label]} are left"
                )
        return quotas
    total = sum(available.values())
    exact = {label: count * available[label] / total for label in labels}
    quotas = {label: int(exact[label]) for label in labels}
    by_remainder = sorted(labels, key=lambda label: (quotas[label] - exact[label], str(label)))
    for label in by_remainder[: count - sum(quotas.values())]:
        quotas[label] += 1
    return quotas


def divide_groups(
    labels: Sequence[Hashable],
    groups: Sequence[str],
    into: Mapping[str, float | int],
    *,
    stratified: bool = True,
    seed: int | str = 0,
) -> dict[str, list[int]]:
    """As `divide`, but the rows of a group stay together, so sizes and shares of labels are only near those asked for.

    groups: one name per row. The sum over splits (and what is left over) and labels of (rows - asked)^2 / asked is
    made small: where there are few groups all ways are compared, and the seed matters only among equals; else groups
    are dealt out one by one in a seeded order, each to where it helps most, then moved and swapped while that helps.
    Raises DataError for sizes that are impossible, and when there are fewer groups than splits.
    """
    counts = _counts(len(labels), {name: into[name] for name in sorted(into)})
    names = sorted(set(groups))
    if len(names) < len(counts):
        raise DataError(f"{len(counts)} splits can't be made of {len(names)} groups that stay together")
    random.Random(f"split/{seed}").shuffle(names)
    sizes = [*counts.values(), len(labels) - sum(counts.values())]
    table = _group_table(labels, groups, names, stratified=stratified)
    asked = np.outer(np.array(sizes) / len(labels), table.sum(axis=0))
    places = _deal(table, asked, is_named=np.array([*[True] * len(counts), False]), has_rest=sizes[-1] > 0)
    place_of = dict(zip(names, places, strict=True))
    numbers = {name: number for number, name in enumerate(counts)}
    return {name: [row for row, group in enumerate(groups) if place_of[group] == numbers[name]] for name in into}


def _group_table(labels: Sequence[Hashable], groups: Sequence[str], names: list[str], *, stratified: bool) -> Counts:
    """[groups, 1 + labels]: rows of each group, then of each of its labels when these matter."""
    found = Counter(zip(groups, labels, strict=True))
    known = sorted(set(labels), key=str) if stratified else []
    by_label = [[found[name, label] for label in known] for name in names]
    sizes = Counter(groups)
    return np.array([[sizes[name], *row] for name, row in zip(names, by_label, strict=True)], dtype=float)


def _deal(table: Counts, asked: Counts, *, is_named: npt.NDArray[np.bool_], has_rest: bool) -> list[int]:
    """A split's number for each group, [groups]. table: [groups, columns]; asked: [splits, columns]."""
    num_splits = len(asked) if has_rest else len(asked) - 1

    def cost(sums: Counts, splits: Any) -> Counts:
        """How far each split is from what was asked; sums: [..., columns], splits: numbers that fit [...]."""
        off = ((sums - asked[splits]) ** 2 / np.maximum(asked[splits], 1)).sum(axis=-1)
        # Rounded, so that ties are ties on every machine.
        return np.round(off + _EMPTY * (is_named[splits] & (sums[..., 0] == 0)), 9)

    every = np.arange(num_splits)
    if num_splits ** len(table) <= _MOST_WAYS:
        ways = np.array(list(itertools.product(range(num_splits), repeat=len(table))))  # [ways, groups]
        sums = np.stack([(ways == split) @ table for split in every], axis=1)  # [ways, splits, columns]
        return [int(place) for place in ways[cost(sums, every).sum(axis=1).argmin()]]
    places = np.zeros(len(table), dtype=int)
    sums = np.zeros((num_splits, table.shape[1]))
    for group, row in enumerate(table):
        places[group] = (cost(sums + row, every) - cost(sums, every)).argmin()
        sums[places[group]] += row
    while _improve(table, places, sums, cost):
        pass
    return [int(place) for place in places]


def _improve(table: Counts, places: npt.NDArray[np.int_], sums: Counts, cost: Callable[..., Counts]) -> bool:
    """Makes the best move of one group, or swap of two, in place; False when none helps."""
    every, now = np.arange(len(sums)), cost(sums, np.arange(len(sums)))
    without = cost(sums[places] - table, places) - now[places]
    gains = without[:, None] + cost(sums + table[:, None], every) - now  # [groups, splits]
    gains[np.arange(len(table)), places] = 0
    group, split = np.unravel_index(gains.argmin(), gains.shape)
    best, changes = gains[group, split], [(group, split)]
    if len(table) <= _MOST_SWAPPED:
        change = table - table[:, None]  # [groups, groups, columns]: what the first one's split gains
        swaps = cost(sums[places][:, None] + change, places[:, None]) - now[places][:, None]
        swaps = np.where(places[:, None] == places, 0, swaps + swaps.T)
        one, other = np.unravel_index(swaps.argmin(), swaps.shape)
        if swaps[one, other] < best:
            best, changes = swaps[one, other], [(one, places[other]), (other, places[one])]
    # Less than this is rounding, which could go round in circles.
    if best > -1e-6:
        return False
    for group, split in changes:
        sums[places[group]] -= table[group]
        sums[split] += table[group]
        places[group] = split
    return True


def label_counts(labels: Sequence[int | Sequence[int]], names: Sequence[str]) -> dict[str, int]:
    """How often each label occurs; for rows of several labels each one counts."""
    found: Counter[int] = Counter()
    for label in labels:
        found.update([label] if isinstance(label, int) else [i for i, on in enumerate(label) if on])
    return {name: found.get(index, 0) for index, name in enumerate(names)}
