"""Reads labels as ids, however they are written: names, class names of a file, ids, true and false, lists and flags.

A label is what the card lists, or else what the data hold. The same label in another spelling is one label, with a
note; a value that could be read in two ways is refused with both.
"""

import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bench.config.cards import DatasetCard
from bench.data import class_names, cleaning
from bench.data.label_names import (
    FALSE_WORDS,
    FLAGS,
    HIDDEN,
    MISSING_WORDS,
    TRUE_WORDS,
    Survey,
    is_number,
    key_of,
    listed,
    written,
)
from bench.data.sources import Row, Table
from bench.errors import DataError, did_you_mean
from bench.records.record import RunWarning

# As many different labels as are plausible where none is listed.
_MOST_LABELS = 1000
# From as many rows on, values that hardly ever repeat are no labels.
FEW_ROWS = 20
_DECIMAL = re.compile(r"[+-]?[0-9]*\.?[0-9]+")


@dataclass(kw_only=True)
class Labels:
    """The labels of a data set, and how its values are read as their ids.

    names: all of them. ids: label as it is written -> id; by_key: `key_of` it -> id. kept: the ids that
    `filters.labels` leaves. lists: what the items of lists are. flag_words: column of flags -> its class name -> 0 or
    1. two_readings: key -> why it can't be read.
    """

    names: tuple[str, ...]
    column: str = "label"
    kept: tuple[int, ...] = ()
    several: bool = False
    has_flag_columns: bool = False
    lists: Literal["names", "flags"] = "names"
    ids: Mapping[str, int] = field(default_factory=dict)
    by_key: Mapping[str, int] = field(default_factory=dict)
    flag_words: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    two_readings: Mapping[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[RunWarning] = field(default_factory=list)

    @property
    def kept_names(self) -> tuple[str, ...]:
        """Return the labels that rows still have when the filter has left out the others."""
        return tuple(self.names[number] for number in self.kept)

    def of(self, row: Row, place: str) -> Any:
        """Return the label of a row: an id, or 0 and 1 per label. Raises DataError, with `place`, for a wrong one."""
        if self.has_flag_columns:
            return [self._flag(field_of(row, name, place), name, place) for name in self.names]
        value = field_of(row, self.column, place)
        if not self.several:
            return self._id(value, place)
        if not isinstance(value, list):
            hint = "; in a file without lists use one column per label, and columns.label_flags: true"
            hint = hint if isinstance(value, str) else ""
            raise DataError(f"{place}: expected a list of labels, got {value!r:.60}{hint}")
        if self.lists == "flags":
            return self._flags(value, place)
        on = {self._id(item, place) for item in value}
        if len(on) < len(value) and all(_is_numeric(item) for item in value):
            # Read as label ids, [0, 1, 0] would be the first two labels.
            raise DataError(
                f"{place}: {value!r:.60} looks like one flag per label, for it has an item twice; expected label names "
                f"or ids, or {len(self.names)} flags in every row, or set columns.label_flags: true for a column per "
                "label"
            )
        return [int(number in on) for number in range(len(self.names))]

    def narrowed(self, label: Any) -> Any:
        """Return a label of `of` as an id, or flags, of the labels that the filter leaves."""
        if len(self.kept) == len(self.names):
            return label
        return [label[number] for number in self.kept] if isinstance(label, list) else self._places[label]

    def is_kept(self, label: Any) -> bool:
        """Return whether the filter leaves a label of `of`: the id, or one at least of several labels."""
        return any(label[number] for number in self.kept) if isinstance(label, list) else label in self._places

    @functools.cached_property
    def _places(self) -> dict[int, int]:
        return {number: place for place, number in enumerate(self.kept)}

    def find(self, name: str) -> int | None:
        """Return the id of a label that is written this way, or None."""
        number = self.ids.get(name)
        return number if number is not None else self.by_key.get(key_of(name))

    def _id(self, value: Any, place: str) -> int:
        name = written(value)
        number = None if name is None else self.find(name)
        if number is not None and name is not None:
            if (why := self.two_readings.get(key_of(name))) and name not in self.ids:
                raise DataError(f"{place}: {value!r} {why}")
            return number
        hint = did_you_mean(str(value), self.names)
        if name is not None and key_of(name) == HIDDEN:
            hint = (
                " -1 marks a hidden label, as in GLUE's test splits; score another split. Where it is a label, list it "
                "in `labels`; where it marks rows without one, leave these out: list it, and name the others in "
                "filters.labels."
            )
        elif name is not None and key_of(name) == str(len(self.names)):
            hint += f" Ids go from 0 to {len(self.names) - 1}; where the data count from 1, write names in their place."
        elif value is None or (isinstance(value, float) and value != value) or (name is not None and not name.strip()):
            hint = " The label is missing; write it, or remove the row."
        elif isinstance(value, list):
            hint += " For lists of labels set multi_label: true."
        raise DataError(f"{place} has the unknown label {value!r:.60}.{hint}")

    def _flags(self, value: list[Any], place: str) -> list[int]:
        flags = [_flag_of(item) for item in value]
        if len(flags) != len(self.names) or None in flags:
            raise DataError(f"{place}: expected {len(self.names)} flags, one per label, got {value!r:.60}")
        return [flag for flag in flags if flag is not None]

    def _flag(self, value: Any, column: str, place: str) -> int:
        words = self.flag_words.get(column)
        flag = words.get(value) if words is not None and isinstance(value, str) else _flag_of(value)
        if flag is None and isinstance(value, str):
            flag = {"no": 0, "yes": 1}.get(value.strip().casefold())
        if flag is None:
            expected = "expected true or false, 1 or 0, or yes or no"
            raise DataError(f"{place}: the column {column!r}: {expected}, got {value!r:.60}")
        return flag


def field_of(row: Row, column: str, place: str) -> Any:
    """Return a value of a row. Raises DataError, with `place`, for a row without it."""
    # JSON lines need not have the same keys.
    if column not in row:
        raise DataError(f"{place} has no {column!r}.{did_you_mean(column, row)}")
    return row[column]


def _flag_of(value: Any) -> int | None:
    return {"0": 0, "1": 1, "false": 0, "true": 1}.get(key_of(written(value) or ""))


def _is_numeric(value: Any) -> bool:
    name = written(value)
    return name is not None and (is_number(key_of(name)) or name in ("true", "false"))


def read(tables: Mapping[str, Table], card: DatasetCard) -> Labels:
    """Return the labels of the card, or else of the data: of all source splits that the card uses.

    Raises DataError where they can't be known, or could be read in two ways.
    """
    column = card.columns.label
    if card.columns.label_flags:
        labels = Labels(names=card.labels, flag_words=_flag_words(tables, card.labels))
    else:
        notes = [] if card.labels else class_names.name_plain_parts(tables, column)
        surveys = {name: Survey.of(table.rows, column) for name, table in tables.items()}
        labels = _listed(card, surveys, tables) if card.labels else _found(card, surveys, tables)
        open_ones = [survey for survey in surveys.values() if not survey.is_hidden]
        if card.multi_label:
            labels.lists = _lists(card, labels, open_ones)
        labels.notes[:0] = notes
        labels.notes += _spelling_notes(labels, surveys)
    labels.column, labels.several = column, card.multi_label
    labels.has_flag_columns = card.columns.label_flags
    labels.kept = _kept(labels, card)
    return labels


def _kept(labels: Labels, card: DatasetCard) -> tuple[int, ...]:
    if card.filters.labels is None:
        return tuple(range(len(labels.names)))
    own = {key_of(name): number for number, name in enumerate(labels.names)}
    wanted = set()
    for name in card.filters.labels:
        number = labels.ids.get(name, own.get(key_of(name)))
        number = labels.names.index(name) if number is None and name in labels.names else number
        if number is None:
            hint = did_you_mean(name, labels.names)
            raise DataError(f"filters.labels has {name!r}, which is not a label of the data.{hint}")
        wanted.add(number)
    if len(wanted) < 2:
        raise DataError(f"filters.labels leaves one label, {listed(card.filters.labels)}: there is nothing to classify")
    return tuple(sorted(wanted))


def _flag_words(tables: Mapping[str, Table], columns: Iterable[str]) -> dict[str, dict[str, int]]:
    """Return what the class names of columns of flags mean, where files name them."""
    words: dict[str, dict[str, int]] = {}
    for column in columns:
        for names in class_names.orders_in(tables, column):
            if not {key_of(name) for name in names} <= {*TRUE_WORDS, *FALSE_WORDS}:
                raise DataError(
                    f"the column {column!r} of flags has the class names {listed(names)}; expected false and true, no "
                    "and yes, or 0 and 1"
                )
            words.setdefault(column, {}).update({name: int(key_of(name) in TRUE_WORDS) for name in names})
    return words


# ---------------------------------------------------------------- labels that the card lists


def _listed(card: DatasetCard, surveys: Mapping[str, Survey], tables: Mapping[str, Table]) -> Labels:
    """Return the card's labels, and how the data may name them.

    By a name, in any spelling that no other label has; by its id, where no name is a number; of two labels, by false
    and true, which are the first and the second unless the names say otherwise.
    """
    names = card.labels
    keys = [key_of(name) for name in names]
    counts = Counter(keys)
    positions = {} if any(map(is_number, keys)) else {str(number): number for number in range(len(names))}
    truths = {"false": 0, "true": 1} if len(names) == 2 else {}
    if set(keys) == {"0", "1"} and len(keys) == 2:
        truths = {"false": keys.index("0"), "true": keys.index("1")}
    elif set(keys) == {"false", "true"} and len(keys) == 2:
        positions = {"0": keys.index("false"), "1": keys.index("true")}
    matched = class_names.match(tables, card.columns.label, names)
    labels = Labels(
        names=names,
        ids={written(name) or "": number for number, name in enumerate(names)},
        by_key={
            **positions,
            **truths,
            **matched.ids,
            **{key: number for number, key in enumerate(keys) if counts[key] == 1},
        },
        notes=matched.notes,
        warnings=matched.warnings,
    )
    seen = {key_of(name) for survey in surveys.values() for name in survey.counts}
    if set(keys) in ({"0", "1"}, {"false", "true"}) and seen & {"0", "1"} and seen & {"false", "true"}:
        labels.notes.append(f"{card.columns.label!r} holds true and false, and 0 and 1: read as the same two labels")
    if len(names) == 2 and keys[0] in TRUE_WORDS[2:] and keys[1] in FALSE_WORDS[2:]:
        _beware_of_order(labels, surveys)
    return labels


def _beware_of_order(labels: Labels, surveys: Mapping[str, Survey]) -> None:
    """Of the labels yes and no, in this order: refuse true and false, and warn where the data have ids."""
    first, second = labels.names
    advice = f"list them as [{second}, {first}], or write names into the data"
    labels.two_readings = {
        word: f"could be read in two ways: of two labels {word} is the {place}, {by_place!r}, but it means {meant!r}; "
        f"{advice}"
        for word, place, by_place, meant in (("true", "second", second, first), ("false", "first", first, second))
    }
    num_ids = sum(survey.counts[name] for survey in surveys.values() for name in ("0", "1", "0.0", "1.0"))
    if num_ids:
        sentence = (
            f"{num_ids} labels are the ids 0 and 1, which are read as {first!r} and {second!r}, by the order of "
            f"`labels`; if 1 means {first!r}, {advice}"
        )
        labels.warnings.append(RunWarning(code="label_order", sentence=sentence))


# ---------------------------------------------------------------- labels that are found in the data


def _found(card: DatasetCard, surveys: Mapping[str, Survey], tables: Mapping[str, Table]) -> Labels:
    """Return the labels in the data: in the order of their class names, or sorted, numbers by value."""
    column = card.columns.label
    class_names.refuse_twins(class_names.orders_in(tables, column), column)
    together = Survey()
    for survey in surveys.values():
        if not survey.is_hidden:
            together.counts.update(survey.counts)
    groups = together.groups()
    if set(groups) != {HIDDEN, "1"} and card.filters.labels is None:
        # One that is hidden is refused with its row, when that is parsed; a filter may leave such rows out.
        groups.pop(HIDDEN, None)
    alias = _truths_in(groups)
    for number, truth in alias.items():
        groups[truth] = groups.get(truth, Counter()) + groups.pop(number)
    names = _names_of(groups)
    _check_found(column, names, next((one.other for one in surveys.values() if one.other is not None), None))
    if not card.multi_label:
        _refuse_names_of_rows(column, groups)
    by_value = all(map(is_number, names.values()))
    ordered = sorted(names, key=lambda key: (int(key) if by_value else 0, names[key]))
    orders = [order for order in class_names.orders_in(tables, column) if not class_names.is_generic(order)]
    if orders:
        ranks = {key: rank for rank, key in enumerate(dict.fromkeys(key_of(name) for each in orders for name in each))}
        ordered.sort(key=lambda key: ranks.get(key, len(ranks)))
    by_key = {key: number for number, key in enumerate(ordered)}
    labels = Labels(
        names=tuple(names[key] for key in ordered),
        ids={names[key]: number for key, number in by_key.items()},
        by_key=by_key | {number: by_key[truth] for number, truth in alias.items()},
    )
    if len(orders) > 1:
        labels.notes.append(
            f"class ids in {column!r} mean {'; '.join(map(listed, orders[:4]))} in different files; labels are read by "
            "their names"
        )
    if alias:
        labels.notes.append(f"{column!r} holds true and false, and 0 and 1: read as the same two labels")
    labels.warnings += [*_doubtful(labels, together, card), *_cases(surveys)]
    _check_words(card, labels.names)
    return labels


def _check_words(card: DatasetCard, names: tuple[str, ...]) -> None:
    """Raise DataError for wrong words of `prompt.answers`; those for labels that the card lists are checked there."""
    if card.prompt is None:
        return
    answers = card.prompt.answers
    for name in answers:
        if name not in names:
            hint = did_you_mean(name, names)
            raise DataError(f"prompt.answers has {name!r}, which is not a label of the data.{hint}")
    kept = [name for name in names if card.filters.labels is None or name in card.filters.labels]
    for word, count in Counter(answers.get(name, name) for name in kept).items():
        if count > 1:
            raise DataError(f"prompt.answers: two labels of the data have the same answer, {word!r}")


def _truths_in(groups: Mapping[str, Counter[str]]) -> dict[str, str]:
    """Return {"0": "false", "1": "true"}, as far as the data have these, where they have nothing but both kinds."""
    if not groups.keys() <= FLAGS or not groups.keys() & {"0", "1"} or not groups.keys() & {"false", "true"}:
        return {}
    return {number: truth for number, truth in (("0", "false"), ("1", "true")) if number in groups}


def _names_of(groups: Mapping[str, Counter[str]]) -> dict[str, str]:
    """Return key -> name: the spelling, the most frequent of several; one for all numbers, if there are several."""
    tidy = {key: Counter[str]() for key in groups}
    for key, spellings in groups.items():
        for spelling, count in spellings.items():
            tidy[key][cleaning.trimmed(spelling)] += count
    mixed = any(len(spellings) > 1 for key, spellings in tidy.items() if is_number(key))
    names = {}
    for key, spellings in tidy.items():
        if (is_number(key) and mixed) or key in ("true", "false"):
            names[key] = key
        else:
            names[key] = max(spellings, key=lambda spelling: (spellings[spelling], spelling))
    return names


def _check_found(column: str, names: Mapping[str, str], other: Any) -> None:
    """Raise DataError where the values can't be labels. other: a value that is none."""
    as_lists = [name for name in names.values() if re.fullmatch(r"\[.*\]", name, re.DOTALL)]
    if as_lists:
        raise DataError(
            f"the column {column!r} holds lists that are written as text, as {as_lists[0]!r:.60}; for several labels "
            "use JSON lines or Parquet with lists, or one column per label and columns.label_flags: true"
        )
    if len(names) < 2:
        hint = "" if other is None else f"; {other!r:.60} can't be one"
        hint += "; did you mean task: regression?" if isinstance(other, float) else ""
        raise DataError(f"the column {column!r} has {len(names)} labels; expected 2 or more{hint}")
    if len(names) > _MOST_LABELS:
        raise DataError(
            f"the column {column!r} has {len(names)} different values, too many for labels; check columns.label"
        )


def _refuse_names_of_rows(column: str, groups: Mapping[str, Counter[str]]) -> None:
    """Raise DataError for values that hardly ever repeat, as those of a column of ids."""
    num_rows = sum(sum(spellings.values()) for spellings in groups.values())
    if num_rows >= FEW_ROWS and len(groups) > num_rows / 2:
        raise DataError(
            f"the column {column!r} has {len(groups)} different values in {num_rows} rows, which are names of rows and "
            "not labels; check columns.label, or list all of them in `labels`"
        )


def _doubtful(labels: Labels, together: Survey, card: DatasetCard) -> list[RunWarning]:
    """Warn of labels that may be none: words for a missing value, several labels in one text, and scores."""
    counts = {key: sum(spellings.values()) for key, spellings in together.groups().items()}
    names = [name for name in labels.names if card.filters.labels is None or name in card.filters.labels]
    keys = {key_of(name) for name in names}
    warnings = []
    for name in names:
        if key_of(name) in MISSING_WORDS:
            sentence = (
                f"{name!r} is a label of {counts[key_of(name)]} rows, and a word for a missing value; where it is a "
                "label, list it in `labels`, else leave these rows out with filters.labels"
            )
            warnings.append(RunWarning(code="missing_value_label", sentence=sentence))
    joined = [name for name in names if _parts(name) and keys.issuperset(_parts(name))]
    if joined:
        sentence = (
            f"{listed(joined)} ({sum(counts[key_of(name)] for name in joined)} rows) would each be a label of its own, "
            "and look like lists of others; for several labels per text set multi_label: true and give lists"
        )
        warnings.append(RunWarning(code="label_list", sentence=sentence))
    if len(names) > 2 and all(map(_DECIMAL.fullmatch, keys)) and not all(map(is_number, keys)):
        sentence = (
            f"the labels are {len(names)} numbers with fractions, {listed(names)}: if they are scores, what is learned "
            "here knows nothing of their order; did you mean task: regression?"
        )
        warnings.append(RunWarning(code="label_scores", sentence=sentence))
    return warnings


def _parts(name: str) -> list[str]:
    """Return the names that a name may be a list of; [] for one without a separator."""
    parts = [key_of(part) for part in re.split(r"[;|,/+&]", name)]
    return parts if len(parts) > 1 else []


def _cases(surveys: Mapping[str, Survey]) -> list[RunWarning]:
    """Warn of labels of one split that differ by case alone: in two splits they are one, in one they might be two."""
    for split, survey in surveys.items():
        for key, spellings in survey.groups().items():
            tidy = sorted({cleaning.trimmed(spelling) for spelling in spellings})
            if len(tidy) > 1 and not is_number(key) and len({name.casefold() for name in tidy}) < len(tidy):
                sentence = (
                    f"{listed(tidy)} in {split!r} are read as one label; if they are several, list all of them in "
                    "`labels`"
                )
                return [RunWarning(code="label_spellings", sentence=sentence)]
    return []


def _spelling_notes(labels: Labels, surveys: Mapping[str, Survey]) -> list[str]:
    """Return notes that count the labels of each split that are written in another way than they are called."""
    notes = []
    for split, survey in surveys.items() if labels.lists == "names" else ():
        others = {}
        for spelling, count in survey.counts.items():
            number = labels.find(spelling)
            if number is None or spelling in (labels.names[number], written(labels.names[number])):
                continue
            # An id, or the class name of a file, is no other spelling.
            if key_of(spelling) == key_of(labels.names[number]) or spelling != key_of(spelling):
                others[spelling] = (count, labels.names[number])
        if others:
            few = list(others.items())[:8]
            said = ", ".join(f"{spelling!r} as {name!r} ({count})" for spelling, (count, name) in few)
            more = f", and {len(others) - len(few)} more" if len(others) > len(few) else ""
            notes.append(f"{split}: labels in another spelling are read: {said}{more}")
    return notes


# ---------------------------------------------------------------- lists: names, ids or flags


def _lists(card: DatasetCard, labels: Labels, surveys: list[Survey]) -> Literal["names", "flags"]:
    """Return what the items of lists are. Raises DataError for lists that could be read in two ways.

    Numbers are flags where the labels are listed and every list has as many items; else they are ids, or names.
    """
    keys = {key_of(name) for survey in surveys for name in survey.counts}
    lengths = set().union(*(survey.lengths for survey in surveys))
    repeats = sum(survey.repeats for survey in surveys)
    booleans = sum(survey.num_booleans for survey in surveys)
    column, length = card.columns.label, next(iter(lengths), 0)
    if not keys or not lengths or not keys <= FLAGS:
        _refuse_mixed(card, surveys)
        if repeats and not card.labels and all(map(is_number, keys)):
            raise DataError(
                f"the lists in {column!r} could be read in two ways: as ids of labels, or as a number for each label "
                f"or token, for {repeats} of them hold a number twice; write lists of names"
            )
        if repeats:
            labels.notes.append(f"{repeats} lists in {column!r} name a label twice, which counts once")
        return "names"
    as_flags = f"as flags of {length} labels" if len(lengths) == 1 else "as flags"
    refusal = f"the lists in {column!r} could be read in two ways: {as_flags}, or as the labels {listed(sorted(keys))}"
    if not card.labels:
        if len(lengths) == 1 or repeats or booleans:
            raise DataError(f"{refusal}; list the names of the labels in `labels`, or write lists of names")
        return "names"
    if lengths != {len(card.labels)}:
        if booleans:
            raise DataError(
                f"the lists of true and false in {column!r} have {listed(sorted(lengths))} items, but the card lists "
                f"{len(card.labels)} labels"
            )
        return "names"
    if keys <= {key_of(name) for name in card.labels}:
        raise DataError(f"{refusal}; write lists of names that are no numbers, or use columns.label_flags: true")
    short = set().union(*(survey.short for survey in surveys))
    if booleans or repeats or len(short) > 1 or (length == 1 and "1" in keys):
        return "flags"
    # Of two labels, [0, 1] in all rows: both labels, or the second.
    raise DataError(f"{refusal} (ids); write lists of names, or use columns.label_flags: true")


def _refuse_mixed(card: DatasetCard, surveys: list[Survey]) -> None:
    """Raise DataError where one split has lists of flags, by their length, and another one lists of names."""
    for survey in surveys:
        as_flags = survey.counts and survey.lengths == {len(card.labels)} and set(map(key_of, survey.counts)) <= FLAGS
        others = [name for other in surveys if other is not survey for name in other.counts if not _is_numeric(name)]
        if as_flags and others and not any(_is_numeric(name) for name in card.labels):
            raise DataError(
                f"the lists in {card.columns.label!r} could be read in two ways: in one split they are numbers, ids or "
                f"a flag for each of {len(card.labels)} labels, in another one names, as {others[0]!r}; write lists of "
                "names everywhere"
            )
