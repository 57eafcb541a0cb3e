"""Parses the rows of one split: id, texts, label or gold answers. Every dropped row is counted."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bench.config.cards import DatasetCard
from bench.data import cleaning, squad
from bench.data.sources import Rows
from bench.data.splits import label_counts
from bench.errors import DataError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Split:
    """Rows of one split: dicts with `id`, `text`, `text_pair` (or None), `label` (an id, or a row of 0 and 1).

    Questions with gold answers (`columns.answers`) have these too: `text` is the passage, `text_pair` the question,
    `label` 1 where there is an answer, `answers` their texts, `answer_starts` their offsets in characters of `text`.
    `title` is what the row belongs to (`columns.group`): "" for a question without, no key for other rows without.
    """

    name: str
    rows: Rows
    dropped: dict[str, int] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of ids, texts, labels and gold answers, in order, shortened to 16 digits."""
        digest = hashlib.sha256()
        for row in self.rows:
            golds = [row["answers"], row["answer_starts"]] if "answers" in row else []
            digest.update(json.dumps([row["id"], row["text"], row["text_pair"], row["label"], *golds]).encode())
        return digest.hexdigest()[:16]

    def labels(self, names: tuple[str, ...]) -> dict[str, int]:
        """Count the rows of each label name."""
        return label_counts([row["label"] for row in self.rows], names)


def label_name(value: Any) -> str | None:
    """Return a label of the data as text, true and false in lower case; None for a value that can't be a label."""
    name = str(value) if isinstance(value, int | str) else None
    return name.lower() if name is not None and name.lower() in ("true", "false") else name


def is_number(name: str) -> bool:
    """Return whether a label's name is a whole number."""
    return name.removeprefix("-").isdecimal()


def _label_ids(labels: tuple[str, ...]) -> dict[str, int]:
    """Map the values that a label may have in the data to its id: its name and, where no name is a number, the id.

    Of two labels, false is the first and true the second, unless these are names of labels.
    """
    ids = {} if any(map(is_number, labels)) else {str(number): number for number in range(len(labels))}
    names = {label_name(name) or "": number for number, name in enumerate(labels)}
    truths = {"false": 0, "true": 1} if len(labels) == 2 and names.keys().isdisjoint(("false", "true")) else {}
    return ids | truths | names


def parse(
    rows: Rows, split: str, card: DatasetCard, labels: tuple[str, ...], clean: list[Callable[[str], str]]
) -> Split:
    """Parse the rows of one split; raises DataError for a row that is wrong, and for a split left empty."""
    check_columns(rows, split, card, labels)
    label_ids, columns = _label_ids(labels), card.columns
    dropped, kept = Counter[str](), []
    seen_texts, seen_ids = set[str](), set[str]()
    for number, row in enumerate(rows):
        identity = f"{split}-{number:06d}" if columns.id is None else _identity(row, columns.id, split, number)
        if identity in seen_ids:
            raise DataError(f"duplicate id {identity!r} in the split {split!r}")
        seen_ids.add(identity)
        place = f"row {identity} of the split {split!r}"
        text, pair = (_text(row, column, place, clean) for column in (columns.text, columns.text_pair))
        parsed = {"id": identity, "text": text, "text_pair": pair}
        if columns.answers is None:
            parsed["label"] = _label(row, card, labels, label_ids, place)
        else:
            _field(row, columns.answers, place)
            parsed |= {**squad.answers_of(row, columns.answers, place), "title": ""}
        if columns.group is not None:
            parsed["title"] = _text(row, columns.group, place, [])
        why = _reason_to_drop(parsed, card, labels, seen_texts)
        if why:
            dropped[why] += 1
            continue
        if not text or pair == "":
            empty = columns.text if not text else columns.text_pair
            raise DataError(f"{place} has an empty text ({empty!r}); remove the row, or set filters.drop_empty: true")
        kept.append(parsed)
    if not kept:
        reasons = ", ".join(f"{count} rows by {why}" for why, count in dropped.items())
        raise DataError(f"the split {split!r} is empty: left out {reasons}")
    return Split(name=split, rows=kept, dropped=dict(dropped))


def _identity(row: dict[str, Any], column: str, split: str, number: int) -> str:
    value = row.get(column)
    if value is None or value == "":
        raise DataError(f"row {number + 1} of the split {split!r} has no value in the id column {column!r}")
    return str(value)


def check_columns(rows: Rows, split: str, card: DatasetCard, labels: tuple[str, ...]) -> None:
    """Raise DataError where a split has no rows, or lacks a column that the card names."""
    if not rows:
        raise DataError(f"the split {split!r} is empty: the source holds no rows for it")
    columns = card.columns
    wanted = [columns.text, columns.text_pair, columns.id, columns.group, columns.answers]
    wanted += labels if columns.label_flags else [] if columns.answers else [columns.label]
    for name in wanted:
        if name is not None and name not in rows[0]:
            raise DataError(f"the split {split!r} has no column {name!r}.{did_you_mean(name, rows[0])}")


def _field(row: dict[str, Any], column: str, place: str) -> Any:
    # JSON lines need not have the same keys.
    if column not in row:
        raise DataError(f"{place} has no {column!r}.{did_you_mean(column, row)}")
    return row[column]


def _text(row: dict[str, Any], column: str | None, place: str, clean: list[Callable[[str], str]]) -> str | None:
    if column is None:
        return None
    value = _field(row, column, place)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{place}: the column {column!r}: expected text, got {value!r}")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise DataError(f"{place}: the column {column!r} is not valid Unicode: it holds half of a surrogate pair")
    for step in clean:
        value = step(value)
    return value if value.strip() else ""


def _label(row: dict[str, Any], card: DatasetCard, labels: tuple[str, ...], ids: dict[str, int], place: str) -> Any:
    if card.columns.label_flags:
        return [_flag(_field(row, name, place), name, place) for name in labels]
    value = _field(row, card.columns.label, place)
    if not card.multi_label:
        return _label_id(value, labels, ids, place)
    if not isinstance(value, list):
        hint = "; in a file without lists use one column per label, and columns.label_flags: true"
        raise DataError(
            f"{place}: expected a list of labels, got {value!r:.60}{hint if isinstance(value, str) else ''}"
        )
    on = {_label_id(item, labels, ids, place) for item in value}
    if len(value) == len(labels) > len(on) and all(item in (0, 1) for item in value):
        # Read as label ids, [0, 1, 0] would be the first two labels.
        raise DataError(
            f"{place}: {value!r:.60} looks like one flag per label; expected label names or ids, or set "
            "columns.label_flags: true"
        )
    return [int(number in on) for number in range(len(labels))]


def _flag(value: Any, column: str, place: str) -> int:
    flag = {"0": 0, "1": 1, "false": 0, "true": 1}.get(label_name(value) or "")
    if flag is None:
        raise DataError(f"{place}: the column {column!r}: expected true or false, or 1 or 0, got {value!r:.60}")
    return flag


def _label_id(value: Any, labels: tuple[str, ...], ids: dict[str, int], place: str) -> int:
    name = label_name(value)
    if name in ids:
        return ids[name]
    hint = did_you_mean(str(value), labels)
    if name == "-1":
        hint = " -1 marks a hidden label, as in GLUE's test splits; score another split."
    raise DataError(f"{place} has the unknown label {value!r:.60}.{hint}")


def _reason_to_drop(row: dict[str, Any], card: DatasetCard, labels: tuple[str, ...], seen: set[str]) -> str | None:
    """Return the name of the filter that leaves this row out, or None."""
    text, label = row["text"], row["label"]
    filters, words = card.filters, len(text.split())
    if filters.drop_empty and (not words or row["text_pair"] == ""):
        return "drop_empty"
    if filters.min_words is not None and words < filters.min_words:
        return "min_words"
    if filters.max_words is not None and words > filters.max_words:
        return "max_words"
    names = {labels[i] for i, on in enumerate(label) if on} if isinstance(label, list) else {labels[label]}
    if filters.labels is not None and not names & set(filters.labels):
        return "labels"
    if filters.drop_duplicates:
        key = text_key(row)
        if key in seen:
            return "drop_duplicates"
        seen.add(key)
    return None


def text_key(row: dict[str, Any]) -> str:
    """Return a key that rows share whose texts count as the same, whatever their case and white space."""
    return cleaning.normalized(row["text"]) + "\x00" + cleaning.normalized(row["text_pair"] or "")
