"""Splits rows by share or by count, stratified or balanced by label, or by whole groups; seeded, pure functions."""

import random
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from bench.errors import DataError

Counts = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int_]

# Orders in which groups are dealt out, to keep the best result: six or seven articles are then split in the best of all
# ways, and as many as SQuAD has, 442, to within 0.1 % of the sizes asked, in half a second.
_TRIES = 512
# Groups dealt out in all tries together, a second's work: of many groups a few orders are good enough.
_MOST_DEALT = 2**18
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
    """Return the row numbers of each new split, disjoint, each sorted; the order of `into` does not matter.

    labels: one hashable per row. into: name -> share of all rows (float up to 1) or count (int).
    Shares together must not exceed 1; where they sum to 1, every row is used. `stratified` draws each label in
    proportion to what is left of it, to within one row. `balanced` draws the same number of every label (the remainder
    of an uneven count goes to the first labels). Raises DataError when there are too few rows.
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
    """Return the number of rows of each split. Raises DataError for sizes that are impossible."""
    shares = {name: amount for name, amount in into.items() if isinstance(amount, float)}
    if not all(0 < share <= 1 for share in shares.values()) or sum(shares.values()) > 1 + 1e-9:
        raise DataError(f"shares of a split must be above 0, and must not exceed 1 together; got {dict(into)}")
    # Rounded at the running sum, so that shares that sum to 1 use every row.
    result, running, used = {}, 0.0, 0
    for name, amount in into.items():
        if isinstance(amount, float):
            running += amount
            result[name] = round(running * total) - used
            used += result[name]
        else:
            result[name] = amount
    if sum(result.values()) > total:
        raise DataError(f"the splits ask for {sum(result.values())} rows, but there are {total}")
    for name, count in result.items():
        if count <= 0:
            raise DataError(f"the split {name!r} would be empty: {into[name]} of {total} rows")
    return result


def _quotas(count: int, available: Mapping[Hashable, int], *, balanced: bool, split: str) -> dict[Hashable, int]:
    """Return the number of rows of each label: equal, or in proportion to what is left (largest remainders)."""
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
    """Split as `divide` does, but keep groups whole, so that sizes and shares of labels are only near those asked.

    groups: one name per row. The sum over splits (and what is left over) and labels of (rows - asked)^2 / asked is
    made small: groups are dealt out one by one, each to the split where it lowers the sum most, in several seeded
    orders, and the best result is kept. Of few groups the seed matters only among equally good results.
    Raises DataError for sizes that are impossible, and when there are fewer groups than splits.
    """
    counts = _counts(len(labels), {name: into[name] for name in sorted(into)})
    names = sorted(set(groups))
    if len(names) < len(counts):
        raise DataError(f"{len(counts)} splits can't be made of {len(names)} groups that stay together")
    num_left_over = len(labels) - sum(counts.values())
    sizes = [*counts.values(), *([num_left_over] if num_left_over else [])]
    table = _group_table(labels, groups, names, stratified=stratified)
    asked = np.outer(np.array(sizes) / len(labels), table.sum(axis=0))
    chooser = random.Random(f"split/{seed}")
    num_tries = max(1, min(_TRIES, _MOST_DEALT // len(names)))
    orders = np.array([chooser.sample(range(len(names)), len(names)) for _ in range(num_tries)])
    places = _deal(table, asked, orders, must_be_filled=np.arange(len(sizes)) < len(counts))
    place_of = dict(zip(names, places, strict=True))
    numbers = {name: number for number, name in enumerate(counts)}
    return {name: [row for row, group in enumerate(groups) if place_of[group] == numbers[name]] for name in into}


def _group_table(labels: Sequence[Hashable], groups: Sequence[str], names: list[str], *, stratified: bool) -> Counts:
    """Return [groups, 1 + labels]: rows of each group, then of each of its labels when these matter."""
    pairs = Counter(zip(groups, labels, strict=True))
    known = sorted(set(labels), key=str) if stratified else []
    by_label = [[pairs[name, label] for label in known] for name in names]
    sizes = Counter(groups)
    return np.array([[sizes[name], *row] for name, row in zip(names, by_label, strict=True)], dtype=float)


def _deal(table: Counts, asked: Counts, orders: Indices, *, must_be_filled: npt.NDArray[np.bool_]) -> list[int]:
    """Return the split's number for each group, [groups]: the best of one greedy deal for each order.

    table: [groups, columns]. asked: [splits, columns]. orders: [tries, groups], group numbers.
    """

    def cost(sums: Counts) -> Counts:
        """Return [..., splits]: how far each split is from what was asked; sums: [..., splits, columns]."""
        off = ((sums - asked) ** 2 / np.maximum(asked, 1)).sum(axis=-1)
        # Rounded, so that ties are ties on every machine.
        rounded: Counts = np.round(off + _EMPTY * (must_be_filled & (sums[..., 0] == 0)), 9)
        return rounded

    tries = np.arange(len(orders))
    places = np.zeros(orders.shape, dtype=int)
    sums = np.zeros((len(orders), *asked.shape))  # [tries, splits, columns]
    for group in orders.T:
        rows = table[group]  # [tries, columns]
        chosen = (cost(sums + rows[:, None]) - cost(sums)).argmin(axis=1)
        places[tries, group] = chosen
        sums[tries, chosen] += rows
    return [int(place) for place in places[cost(sums).sum(axis=1).argmin()]]


def label_counts(labels: Sequence[int | Sequence[int]], names: Sequence[str]) -> dict[str, int]:
    """Count the rows of each label name; a row of several labels counts for each of them."""
    counts: Counter[int] = Counter()
    for label in labels:
        counts.update([label] if isinstance(label, int) else [i for i, on in enumerate(label) if on])
    return {name: counts.get(index, 0) for index, name in enumerate(names)}
