"""Parses the rows of one split: id, texts, label or gold answers. Every dropped row is counted."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bench.config.cards import GENERATION_TASK, DatasetCard
from bench.data import cleaning
from bench.data.labels import Labels, field_of
from bench.data.sources import Rows
from bench.data.splits import label_counts
from bench.data.targets.target import Target
from bench.errors import DataError, did_you_mean

# Keys of gold values beside `label`.
GOLDS = ("answers", "answer_starts", "tokens", "tags", "choices", "messages")
_SURROGATE = re.compile("[\ud800-\udfff]")
# What programs write into a text column where the text is missing.
_MISSING_TEXTS = frozenset(("nan", "NaN", "None", "null", "NULL", "<NA>", "NaT"))


@dataclass(frozen=True, kw_only=True)
class Split:
    """Rows of one split: dicts with `id`, `text`, `text_pair` (or None), `label` (an id, or a row of 0 and 1).

    Questions with gold answers (`columns.answers`) have these too: `text` is the passage, `text_pair` the question,
    `label` 1 where there is an answer, `answers` their texts, `answer_starts` their offsets in characters of `text`.
    `tokens` and `tags` are words and the name of a tag for each; `text` is then the words with spaces between them, and
    `label` says which tags there are. `stratum` is what draws are balanced by, where that is not the label.
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
            golds = [row[key] for key in GOLDS if key in row]
            digest.update(json.dumps([row["id"], row["text"], row["text_pair"], row["label"], *golds]).encode())
        return digest.hexdigest()[:16]

    def labels(self, names: tuple[str, ...]) -> dict[str, int]:
        """Count the rows of each label name; {} where there are no names."""
        return label_counts([row["label"] for row in self.rows], names) if names else {}


def parse(rows: Rows, split: str, card: DatasetCard, target: Target, clean: list[Callable[[str], str]]) -> Split:
    """Parse the rows of one split; raises DataError for a row that is wrong, and for a split left empty.

    Labels are ids, or flags, of those that `filters.labels` leaves.
    """
    columns, labels = card.columns, target.labels
    dropped, kept = Counter[str](), []
    seen_texts, seen_ids = set[str](), set[str]()
    for number, row in enumerate(rows):
        identity = f"{split}-{number:06d}" if columns.id is None else _identity(row, columns.id, split, number)
        if identity in seen_ids:
            raise DataError(f"duplicate id {identity!r} in the split {split!r}")
        seen_ids.add(identity)
        place = f"row {identity} of the split {split!r}"
        if target.texts is None:
            text, pair = (_text(row, column, place, clean) for column in (columns.text, columns.text_pair))
        else:
            text, pair = target.texts(row, place)
        parsed = {"id": identity, "text": text, "text_pair": pair, **target.fields(row, place)}
        if columns.group is not None:
            parsed["title"] = _text(row, columns.group, place, [])
        why = _reason_to_drop(parsed, card, labels, seen_texts)
        if why:
            dropped[why] += 1
            continue
        if not text or pair == "":
            empty = (columns.text if "tokens" not in parsed else columns.tokens) if not text else columns.text_pair
            raise DataError(f"{place} has an empty text ({empty!r}); remove the row, or set filters.drop_empty: true")
        kept.append({**parsed, "label": labels.narrowed(parsed["label"])})
    if not kept:
        reasons = ", ".join(f"{count} rows by {why}" for why, count in dropped.items())
        raise DataError(f"the split {split!r} is empty: left out {reasons}")
    return Split(name=split, rows=kept, dropped=dict(dropped))


def texts_of(row: dict[str, Any]) -> list[str]:
    """Return the texts of a row that a tokenizer is trained on, with those to write and a system prompt."""
    texts = [text for text in (row["text"], row["text_pair"]) if text]
    if "answers" in row and "answer_starts" not in row:
        texts += row["answers"][:1]
        texts += [turn["content"] for turn in row.get("messages", ()) if turn["role"] != "user"]
    return texts


def missing_notes(split: Split) -> list[str]:
    """Return a note on texts that are a word for a missing value, which stay as they are; [] without any."""
    count = sum(row["text"] in _MISSING_TEXTS or row["text_pair"] in _MISSING_TEXTS for row in split.rows)
    return [f"{split.name}: {count} texts are a word for a missing value, as 'nan' and 'None'"] if count else []


def _identity(row: dict[str, Any], column: str, split: str, number: int) -> str:
    value = row.get(column)
    if value is None or value == "" or value != value:  # NaN is not itself
        raise DataError(f"row {number + 1} of the split {split!r} has no value in the id column {column!r}")
    return str(value)


def check_columns(rows: Rows, split: str, card: DatasetCard, wanted: list[str | None]) -> None:
    """Raise DataError where a split has no rows, or lacks a column that the card names; wanted: of texts and golds."""
    if not rows:
        raise DataError(f"the split {split!r} is empty: the source holds no rows for it")
    columns = card.columns
    for name in (*wanted, columns.id, columns.group):
        if name is not None and name not in rows[0]:
            raise DataError(f"the split {split!r} has no column {name!r}.{did_you_mean(name, rows[0])}")


def _text(row: dict[str, Any], column: str | None, place: str, clean: list[Callable[[str], str]]) -> str | None:
    if column is None:
        return None
    value = field_of(row, column, place)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{place}: the column {column!r}: expected text, got {value!r}")
    if not value.isascii() and _SURROGATE.search(value):
        raise DataError(f"{place}: the column {column!r} is not valid Unicode: it holds half of a surrogate pair")
    for step in clean:
        value = step(value)
    return "" if cleaning.is_blank(value) else value


def _reason_to_drop(row: dict[str, Any], card: DatasetCard, labels: Labels, seen: set[str]) -> str | None:
    """Return the name of the filter that leaves this row out, or None."""
    text, filters = row["text"], card.filters
    words = len(text.split())
    lacks_reference = card.task == GENERATION_TASK and not row["answers"]
    if filters.drop_empty and (not words or row["text_pair"] == "" or lacks_reference):
        return "drop_empty"
    if filters.min_words is not None and words < filters.min_words:
        return "min_words"
    if filters.max_words is not None and words > filters.max_words:
        return "max_words"
    if filters.labels is not None and not labels.is_kept(row["label"]):
        return "labels"
    if row.get("is_twice"):
        return "drop_equal_choices"
    if filters.drop_duplicates:
        key = text_key(row)
        if key in seen:
            return "drop_duplicates"
        seen.add(key)
    return None


def text_key(row: dict[str, Any]) -> str:
    """Return a key that rows share whose texts, and choices, count as the same, whatever their case and white space."""
    texts = [row["text"], row["text_pair"] or "", *sorted(row.get("choices", ()))]
    return "\x00".join(map(cleaning.normalized, texts))
