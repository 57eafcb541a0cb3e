"""Holds the class names that files bring along against one another, and against the labels of the card.

`datasets` stores ids and, beside them, the names of these ids: in the metadata of a Parquet file, and in the features
of a data set. What an id means is therefore written in each file anew, and two files may have another order.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.data.label_names import FALSE_WORDS, TRUE_WORDS, is_number, key_of, listed
from bench.data.sources import Part, Rows, Table, class_name
from bench.errors import DataError
from bench.records.record import RunWarning

Names = tuple[str, ...]


@dataclass(kw_only=True)
class Matched:
    """By `key_of` a class name: the id of the card's label that it is; only names that are not a label's own."""

    ids: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[RunWarning] = field(default_factory=list)


def orders_in(tables: Mapping[str, Table], column: str) -> dict[Names, list[str]]:
    """Return the class names of a column, each order of them once, and the parts of the data that have it."""
    found: dict[Names, list[str]] = {}
    for table in tables.values():
        for part in table.parts:
            if column in part.class_names:
                found.setdefault(part.class_names[column], []).append(part.name)
    return found


def refuse_twins(orders: Iterable[Names], column: str) -> None:
    """Raise DataError for class names of one file that differ by case or blanks alone, and are read as one label."""
    for names in orders:
        counts = Counter(map(key_of, names))
        twins = [name for name in names if counts[key_of(name)] > 1]
        if twins:
            raise DataError(
                f"the class names {listed(twins)} of {column!r} could be read as one label or as several; list all "
                "labels in `labels`, as they are written in the data"
            )


def is_generic(names: Names) -> bool:
    """Return whether class names say no more than the ids: `0`, `1`, ... or `LABEL_0`, `LABEL_1`, ..."""
    return all(key_of(name) in (str(number), f"label_{number}") for number, name in enumerate(names))


def match(tables: Mapping[str, Table], column: str, labels: Sequence[str]) -> Matched:
    """Match the class names of all parts to the card's labels: by name, or else by position.

    Raises DataError where the names contradict one another, or the position.
    """
    orders, result = orders_in(tables, column), Matched()
    own = {key_of(label): number for number, label in enumerate(labels)}
    exact = {label: number for number, label in enumerate(labels)}
    by_position: list[Names] = []
    for names, parts in orders.items():
        keys = [key_of(name) for name in names]
        if is_generic(names):
            result.ids |= {key: number for number, key in enumerate(keys) if number < len(labels) and key not in own}
            continue
        places = [exact.get(name, own.get(key)) for name, key in zip(names, keys, strict=True)]
        known = [place for place in places if place is not None]
        if len(known) == len(names) or (known and len(names) != len(labels)):
            # A name that is no label of the card is refused with its row.
            if known != list(range(len(known))):
                result.notes.append(
                    f"{listed(parts)}: class ids mean {listed(names)} there, and {listed(labels)} in the card; labels "
                    "are read by their names"
                )
            continue
        result.ids |= _by_position(names, labels, parts, result)
        by_position.append(names)
    telling = [names for names in orders if not is_generic(names)]
    if by_position and len(telling) > 1:
        places_of = "; ".join(f"{listed(orders[names])}: {listed(names)}" for names in telling[:4])
        raise DataError(
            f"the class names of {column!r} are in different orders ({places_of}), and are not the card's labels, "
            f"{listed(labels)}; write the data's names into `labels`, and words for them into prompt.answers"
        )
    if telling:
        _check_plain_parts(tables, column, labels, telling, {**result.ids, **own, **exact})
    return result


def _by_position(names: Names, labels: Sequence[str], parts: list[str], result: Matched) -> dict[str, int]:
    """Return the ids of names that are no labels of the card: as many, in its order unless they say otherwise."""
    said = f"{listed(parts)}: the class names are {listed(names)}, the card's labels {listed(labels)}"
    advice = "; write the data's names into `labels`, and words for them into prompt.answers"
    if len(names) != len(labels):
        raise DataError(f"{said}{advice}")
    related = [[_related(name, label) for label in labels] for name in names]
    at_place = [row[number] for number, row in enumerate(related)]
    if any(any(row) and not row[number] for number, row in enumerate(related)):
        raise DataError(
            f"{said}: by position, {names[0]!r} would be {labels[0]!r}, by the names it would not; write the labels in "
            "the order of the class names, or the data's own names into `labels`"
        )
    sentence = f"{said}: matched by position"
    if all(at_place) or all(label == str(number) for number, label in enumerate(labels)):
        result.notes.append(sentence)
    else:
        result.warnings.append(RunWarning(code="labels_by_position", sentence=f"{sentence}, not by name"))
    return {key_of(name): number for number, name in enumerate(names)}


def _related(name: str, label: str) -> bool:
    """Return whether one name is the other, but for signs, abbreviates it (`neg`, `negative`), or is as true as it."""
    if any(key_of(name) in words and key_of(label) in words for words in (TRUE_WORDS, FALSE_WORDS)):
        return True
    first, second = (re.sub(r"[\W_]+", "", key_of(word)) for word in (name, label))
    shorter, longer = sorted((first, second), key=len)
    return first == second or (len(shorter) > 1 and longer.startswith(shorter))


def _check_plain_parts(
    tables: Mapping[str, Table], column: str, labels: Sequence[str], orders: list[Names], ids: Mapping[str, int]
) -> None:
    """Raise DataError for a part with ids and no names, where the class names of another give the ids otherwise."""
    if all(is_number(key_of(label)) for label in labels):
        return  # a number is a name there
    plain = [part.name for part, _ in plain_parts(tables, column)]
    for names in orders if plain else ():
        for number, name in enumerate(names):
            place = ids.get(name, ids.get(key_of(name), number))
            if place != number:
                raise DataError(
                    f"{listed(plain)}: the ids in {column!r} have no names; by the class names of the other files, "
                    f"{number} is {name!r}, by the card's labels it is {labels[number]!r}"
                    if number < len(labels)
                    else f"{listed(plain)}: the ids in {column!r} have no names; {number} is no label of the card"
                )


def plain_parts(tables: Mapping[str, Table], column: str) -> list[tuple[Part, Rows]]:
    """Return the parts that have ids in a column without class names, with their rows."""
    found: list[tuple[Part, Rows]] = []
    for table in tables.values():
        start = 0
        for part in table.parts:
            rows = table.rows[start : start + part.num_rows]
            start += part.num_rows
            if column not in part.class_names and any(_has_ids(row.get(column)) for row in rows):
                found.append((part, rows))
    return found


def _has_ids(value: object) -> bool:
    items = value if isinstance(value, list) else [value]
    return any(isinstance(item, int) and not isinstance(item, bool) and item != -1 for item in items)


def name_plain_parts(tables: Mapping[str, Table], column: str) -> list[str]:
    """Replace ids without names by the class names that all other parts share, in place; return notes.

    Raises DataError where these have several orders of names.
    """
    orders = [names for names in orders_in(tables, column) if not is_generic(names)]
    plain = plain_parts(tables, column) if orders else []
    if not plain:
        return []
    names_of_parts = listed(part.name for part, _ in plain)
    if len(orders) > 1:
        raise DataError(
            f"{names_of_parts}: the ids in {column!r} have no names, and the class names of the other files are in "
            f"different orders: {'; '.join(map(listed, orders[:4]))}"
        )
    for part, rows in plain:
        for row in rows:
            if column in row:
                row[column] = class_name(row[column], orders[0], f"{part.name}: the column {column!r}")
    return [f"{names_of_parts}: ids in {column!r} are read by the class names of the other files, {listed(orders[0])}"]
