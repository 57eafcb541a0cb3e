"""The right one of a row's own choices, which may differ in number: by its number, its letter, its text or its name."""

import functools
import itertools
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.config.cards import DatasetCard
from bench.data import cleaning
from bench.data.label_names import written
from bench.data.labels import Labels, field_of
from bench.data.sources import Row, Table
from bench.data.targets.target import Target
from bench.errors import DataError

# What stands for a right choice that is not told, as in the test splits of leaderboards.
HIDDEN = ("", "-1", "-1.0")


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The choices of one row. names: what the row itself calls them, as ARC does; () where it names none."""

    texts: tuple[str, ...]
    names: tuple[str, ...] = ()


# (written label, choices) -> number of the right choice, from 0; None where it can't be read so.
Reading = Callable[[str, Choices], int | None]


def columns(card: DatasetCard) -> list[str | None]:
    """Return the columns of the texts, of the choices and of the right one."""
    return [card.columns.text, card.columns.text_pair, *_columns_of(card), card.columns.label]


def _columns_of(card: DatasetCard) -> tuple[str, ...]:
    named = card.columns.choices or ()
    return (named,) if isinstance(named, str) else named


def reads_all_splits(card: DatasetCard) -> bool:
    """Return False: splits that a run does not use are read for the number of choices only, where they have them."""
    return False


def position_names(count: int) -> tuple[str, ...]:
    """Return names for the places of choices: letters, or numbers from 1 where there are more than letters."""
    letters = string.ascii_uppercase
    return tuple(letters[:count]) if count <= len(letters) else tuple(map(str, range(1, count + 1)))


def read(tables: Mapping[str, Table], used: Sequence[str], card: DatasetCard) -> Target:
    """Return how choices are read. The labels are the places of choices, as many as any row of the source has.

    Raises DataError for choices that are none, and where labels could be read in two ways.
    """
    clean = cleaning.steps(cleaning.of_card(card)[0])
    wanted = {*_columns_of(card), card.columns.label}
    readable = {name: table for name, table in tables.items() if table.rows and wanted <= set(table.rows[0])}
    counts = [len(each.texts) for each, _, _ in _rows(readable, card)]
    reading = _reading(readable, card)
    names = position_names(max(counts, default=0))

    def fields(row: Row, place: str) -> dict[str, Any]:
        """Return the texts of the choices and the number of the right one."""
        choices = of_row(row, card.columns.choices or "", place)
        texts = [functools.reduce(lambda text, step: step(text), clean, text) for text in choices.texts]
        label = _right_one(row, choices, reading, card, place)
        parsed: dict[str, Any] = {"label": label, "choices": texts}
        if texts.count(texts[label]) > 1 and card.source.kind != "lm_eval":
            if not card.filters.drop_equal_choices:
                raise DataError(
                    f"{place}: the right choice, {texts[label]!r:.60}, is there {texts.count(texts[label])} times; "
                    "correct the row, or set filters.drop_equal_choices: true"
                )
            parsed["is_twice"] = True
        return parsed

    return Target(
        labels=Labels(names=names, kept=tuple(range(len(names)))),
        fields=fields,
        compares_labels=False,
        notes=tuple(_notes({name: readable[name] for name in used if name in readable}, card)),
    )


def _notes(tables: Mapping[str, Table], card: DatasetCard) -> Iterator[str]:
    """Yield how many choices the rows of each used split have, where these differ, and how many have one twice."""
    for name, table in tables.items():
        texts = [each.texts for each, _, _ in _rows({name: table}, card)]
        sizes = sorted({len(each) for each in texts})
        if len(sizes) > 1:
            yield f"{name}: rows have {sizes[0]} to {sizes[-1]} choices"
        if twice := sum(len(set(each)) < len(each) for each in texts):
            yield f"{name}: {twice} rows have a choice twice; of equal choices the first one is predicted"


def _rows(tables: Mapping[str, Table], card: DatasetCard) -> Iterator[tuple[Choices, str | None, str]]:
    """Yield choices, label as it is written (None for a hidden one) and place of each row."""
    for name, table in tables.items():
        for number, row in enumerate(table.rows):
            place = f"row {number + 1} of the split {name!r}"
            yield of_row(row, card.columns.choices or "", place), _written(row.get(card.columns.label)), place


def _written(value: Any) -> str | None:
    text = None if isinstance(value, bool) else written(value)
    text = text.strip() if text is not None else None
    if isinstance(value, float) and text is not None:
        text = text.removesuffix(".0")
    return None if text is None or text in HIDDEN else text


def of_row(row: Row, named: str | tuple[str, ...], place: str) -> Choices:
    """Return a row's choices, of one column or several.

    Raises DataError, with `place`, where these are not two texts at least, none of them empty.
    """
    if isinstance(named, tuple):
        cells = [field_of(row, name, place) for name in named]
        while cells and cells[-1] in (None, ""):
            cells.pop()  # a table has as many columns as the row with most choices
        choices = Choices(texts=tuple(_texts(cells, place)), names=named[: len(cells)])
    else:
        choices = _listed(field_of(row, named, place), named, place)
    if len(choices.texts) < 2:
        raise DataError(f"{place} has {len(choices.texts)} choices; expected two at least")
    return choices


def _listed(value: Any, column: str, place: str) -> Choices:
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        value = {key: [item.get(key) for item in value] for key in ("text", "label")}
    names: list[Any] = []
    if isinstance(value, dict):
        value, names = value.get("text"), value.get("label") or []
    if not isinstance(value, list):
        hint = "; in a file without lists, name the columns of the choices: columns.choices: [first, second]"
        hint = hint if isinstance(value, str) else ""
        raise DataError(
            f"{place}: the column {column!r}: expected a list of texts, or {{text: [...], label: [...]}}, got "
            f"{value!r:.60}{hint}"
        )
    if names and len(names) != len(value):
        raise DataError(f"{place}: the column {column!r} has {len(value)} texts of choices, but {len(names)} labels")
    return Choices(texts=tuple(_texts(value, place)), names=tuple(map(str, names)))


def _texts(values: Sequence[Any], place: str) -> Iterator[str]:
    for number, value in enumerate(values, start=1):
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if value is None or (isinstance(value, str) and cleaning.is_blank(value)):
            raise DataError(f"{place}: choice {number} of {len(values)} is empty")
        if not isinstance(value, str):
            raise DataError(f"{place}: choice {number} of {len(values)} must be a text, got {value!r:.60}")
        yield value


def _right_one(row: Row, choices: Choices, reading: Reading, card: DatasetCard, place: str) -> int:
    value = field_of(row, card.columns.label, place)
    text = _written(value)
    if text is None and (isinstance(value, bool | list) or written(value) is None) and value is not None:
        raise _outside(value, choices, place)
    if text is None:
        hidden = " The right choice is hidden, as in a leaderboard's test split; score another split."
        raise DataError(f"{place} has the label {value!r:.60}, which is none of its choices.{hidden}")
    number = reading(text, choices)
    if number is None:
        raise _outside(value, choices, place)
    return number


def _outside(value: Any, choices: Choices, place: str) -> DataError:
    last = len(choices.texts)
    names = f", one of {', '.join(map(repr, choices.names))}" if choices.names else ""
    return DataError(
        f"{place} has the label {value!r:.60}, which is none of its {last} choices: expected a number (0 to "
        f"{last - 1}, or 1 to {last}), a letter (A to {position_names(last)[-1]}){names}, or the text of the right one"
    )


def _number(first: int) -> Reading:
    def _read(label: str, choices: Choices) -> int | None:
        number = int(label) - first if label.isascii() and label.isdecimal() else -1
        return number if 0 <= number < len(choices.texts) else None

    return _read


def _letter(label: str, choices: Choices) -> int | None:
    number = string.ascii_uppercase.find(label.upper()) if len(label) == 1 else -1
    return number if 0 <= number < len(choices.texts) else None


def _text(label: str, choices: Choices) -> int | None:
    texts = [text.strip() for text in choices.texts]
    return texts.index(label) if label in texts else None


def _name(label: str, choices: Choices) -> int | None:
    return choices.names.index(label) if label in choices.names else None


# How a label may be read where the card does not state it, in words too; the first ones go without saying.
_READINGS: dict[str, Reading] = {"from_0": _number(0), "from_1": _number(1), "letter": _letter, "text": _text}


def _reading(tables: Mapping[str, Table], card: DatasetCard) -> Reading:
    """Return how labels are read: as the card states it, by names beside the choices, or the only way that there is.

    Raises DataError where none fits all rows, and where two do and give different choices.
    """
    if card.columns.label_as is not None:
        return _READINGS[card.columns.label_as]
    rows = [(each, label, place) for each, label, place in _rows(tables, card) if label is not None]
    if not rows:
        return _READINGS["from_0"]  # nothing can be read: each row says so
    known = _class_numbers(tables, card.columns.label)
    certain: list[Reading] = [_name]
    if known:
        # The classes of a column of labels have the order of the choices.
        certain.append(lambda label, choices: _within(known.get(label), choices))
    for reading in certain:
        if all(reading(label, each) is not None for each, label, _ in rows):
            return reading
    wrong = {name: sum(read_so(label, each) is None for each, label, _ in rows) for name, read_so in _READINGS.items()}
    fitting = [name for name, count in wrong.items() if not count]
    if not fitting:
        best = _READINGS[min(wrong, key=lambda name: wrong[name])]
        each, label, place = next(row for row in rows if best(row[1], row[0]) is None)
        raise _outside(label, each, place)
    for one, other in itertools.pairwise(fitting):
        for each, label, place in rows:
            first, second = _READINGS[one](label, each), _READINGS[other](label, each)
            if first is not None and second is not None and first != second:
                raise DataError(
                    f"the column {card.columns.label!r} can be read in two ways: {place} has the label {label!r}, "
                    f"which is {each.texts[first]!r:.60} as {one!r} and {each.texts[second]!r:.60} as {other!r}; say "
                    "which with columns.label_as"
                )
    return _READINGS[fitting[0]]


def _class_numbers(tables: Mapping[str, Table], column: str) -> dict[str, int]:
    """Return class name -> number, of a column whose classes are named alike in all parts; else {}."""
    parts = [part.class_names.get(column) for table in tables.values() for part in table.parts]
    named = parts[0] if parts else None
    return {name: number for number, name in enumerate(named)} if named and set(parts) == {named} else {}


def _within(number: int | None, choices: Choices) -> int | None:
    return number if number is not None and number < len(choices.texts) else None
