"""Dividing rows into splits: by share or by count, stratified or balanced by label, seeded. Pure functions."""

import random
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence

from bench.errors import DataError


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


def label_counts(labels: Sequence[int | Sequence[int]], names: Sequence[str]) -> dict[str, int]:
    """How often each label occurs; for rows of several labels each one counts."""
    found: Counter[int] = Counter()
    for label in labels:
        found.update([label] if isinstance(label, int) else [i for i, on in enumerate(label) if on])
    return {name: found.get(index, 0) for index, name in enumerate(names)}
