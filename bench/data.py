"""Dataset card -> splits of clean, labelled rows, checked for leakage. Nothing is dropped without being counted."""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bench import cleaning, sources, squad
from bench.errors import DataError, did_you_mean
from bench.settings import DatasetCard, Divide
from bench.sources import Rows
from bench.splits import divide, divide_groups, label_counts


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
        """SHA-256 over ids, texts, labels and gold answers, in order."""
        digest = hashlib.sha256()
        for row in self.rows:
            golds = [row["answers"], row["answer_starts"]] if "answers" in row else []
            digest.update(json.dumps([row["id"], row["text"], row["text_pair"], row["label"], *golds]).encode())
        return digest.hexdigest()[:16]

    def labels(self, names: tuple[str, ...]) -> dict[str, int]:
        """Label name -> number of rows."""
        return label_counts([row["label"] for row in self.rows], names)


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """All splits of a data set, the names of its labels, and sentences about what was left out.

    version: which rules of SQuAD the data need, "1.1" or "2.0", found in all splits of the card; None without answers.
    """

    splits: dict[str, Split]
    labels: tuple[str, ...]
    notes: tuple[str, ...]
    version: str | None = None


def load(card: DatasetCard, limit: Mapping[str, int], needed: set[str]) -> Corpus:
    """Loads what the card describes; `needed` names the splits to keep, `limit` draws so many rows of a split.

    Raises DataError for a missing file or column, an unknown label, an empty text or split, an answer that does not
    stand where its offset says, and for leakage.
    """
    found, column = _used(sources.read(card.source), card), card.columns.answers
    version = column and squad.version_of(itertools.chain(*found.values()), column, card.filters.labels)
    labels = card.labels or (squad.LABELS if column else _labels_in(found, card))
    for name in card.filters.labels or ():
        if name not in labels:
            raise DataError(f"filters.labels names {name!r}, which no row has.{did_you_mean(name, labels)}")
    clean = cleaning.steps(card.clean)
    parsed = {name: _parse(found[name], name, card, labels, clean) for name in _sources_of(card, needed)}
    notes = [note for name in parsed if column for note in squad.plausible_note(name, found[name])]
    splits, inexact = _divide(parsed, card, needed)
    splits = {name: _aligned(split, card) for name, split in splits.items() if name in needed}
    splits = {name: _limited(split, limit.get(name)) for name, split in splits.items()}
    splits, leaks = _without_leaks(splits, card)
    notes += inexact + leaks
    for split in splits.values():
        notes += [f"{split.name}: {count} rows left out ({why})" for why, count in split.dropped.items()]
    return Corpus(splits=splits, labels=tuple(labels), notes=tuple(notes), version=version)


def _used(found: Mapping[str, Any], card: DatasetCard) -> dict[str, Rows]:
    asked = _sources_of(card, set(card.split_names))
    for name in asked:
        if name not in found:
            raise DataError(f"the source has no split {name!r}.{did_you_mean(name, found)}")
    return {name: list(found[name]) for name in asked}


def _sources_of(card: DatasetCard, needed: set[str]) -> list[str]:
    """Source splits that some splits are made of, without repetition."""
    found = [source for name, source in card.splits.items() if name in needed]
    found += [source for part in card.divide if not needed.isdisjoint(part.into) for source in part.of]
    return list(dict.fromkeys(found))


def _labels_in(tables: dict[str, Rows], card: DatasetCard) -> tuple[str, ...]:
    """Label names found in the data, sorted (numbers by value): for cards that do not list them."""
    found: set[str] = set()
    for split, rows in tables.items():
        _check_columns(rows, split, card, ())
        for row in rows:
            value = row.get(card.columns.label)
            found.update(_label_name(item) or "" for item in (value if isinstance(value, list) else [value]))
    # What is no label, or a secret one, is refused with its row, when that is parsed.
    found -= {"", "-1"}
    if len(found) < 2:
        raise DataError(f"the column {card.columns.label!r} holds {len(found)} labels; at least 2 are needed")
    if len(found) > 1000:
        raise DataError(f"the column {card.columns.label!r} holds {len(found)} different values; is it the label?")
    return tuple(sorted(found, key=(lambda name: (int(name), name)) if all(map(_is_number, found)) else None))


def _label_name(value: Any) -> str | None:
    """How a label of the data is called (true and false in small letters); None for what can't be one."""
    name = str(value) if isinstance(value, int | str) else None
    return name.lower() if name is not None and name.lower() in ("true", "false") else name


def _is_number(name: str) -> bool:
    return name.removeprefix("-").isdecimal()


def _label_ids(labels: tuple[str, ...]) -> dict[str, int]:
    """What a label may be called in the data -> its id: its name, else (where no name is a number) the id itself.

    Of two labels, false is the first and true the second, unless they are called so themselves.
    """
    ids = {} if any(map(_is_number, labels)) else {str(number): number for number in range(len(labels))}
    names = {_label_name(name) or "": number for number, name in enumerate(labels)}
    truths = {"false": 0, "true": 1} if len(labels) == 2 and names.keys().isdisjoint(("false", "true")) else {}
    return ids | truths | names


def _parse(
    rows: Rows, split: str, card: DatasetCard, labels: tuple[str, ...], clean: list[Callable[[str], str]]
) -> Split:
    _check_columns(rows, split, card, labels)
    label_ids, columns = _label_ids(labels), card.columns
    dropped, kept = Counter[str](), []
    seen_texts, seen_ids = set[str](), set[str]()
    for number, row in enumerate(rows):
        identity = f"{split}-{number:06d}" if columns.id is None else _identity(row, columns.id, split, number)
        if identity in seen_ids:
            raise DataError(f"the id {identity!r} stands twice in the split {split!r}")
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
            raise DataError(f"{place} has an empty text ({empty!r}); remove it, or set filters.drop_empty: true")
        kept.append(parsed)
    if not kept:
        reasons = ", ".join(f"{count} rows by {why}" for why, count in dropped.items())
        raise DataError(f"the split {split!r} is empty: left out {reasons}")
    return Split(name=split, rows=kept, dropped=dict(dropped))


def _identity(row: dict[str, Any], column: str, split: str, number: int) -> str:
    value = row.get(column)
    if value is None or value == "":
        raise DataError(f"row {number + 1} of the split {split!r} has no {column!r}, which is its id")
    return str(value)


def _check_columns(rows: Rows, split: str, card: DatasetCard, labels: tuple[str, ...]) -> None:
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
        raise DataError(f"{place}: the column {column!r} should be text, got {value!r}")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise DataError(f"{place}: the column {column!r} is no valid Unicode: it holds half of a surrogate pair")
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
        # Read as ids, [0, 1, 0] would be the first two labels.
        raise DataError(f"{place}: {value!r:.60} looks like a flag per label, which needs columns.label_flags: true")
    return [int(number in on) for number in range(len(labels))]


def _flag(value: Any, column: str, place: str) -> int:
    flag = {"0": 0, "1": 1, "false": 0, "true": 1}.get(_label_name(value) or "")
    if flag is None:
        raise DataError(f"{place}: the column {column!r} should be true or false, or 1 or 0; got {value!r:.60}")
    return flag


def _label_id(value: Any, labels: tuple[str, ...], ids: dict[str, int], place: str) -> int:
    name = _label_name(value)
    if name in ids:
        return ids[name]
    hint = did_you_mean(str(value), labels)
    if name == "-1":
        hint = " -1 marks a label that is kept secret, as in GLUE's test splits; score another split."
    raise DataError(f"{place} has the unknown label {value!r:.60}.{hint}")


def _reason_to_drop(row: dict[str, Any], card: DatasetCard, labels: tuple[str, ...], seen: set[str]) -> str | None:
    """The name of the filter that leaves this row out, or None."""
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
        key = _key(row)
        if key in seen:
            return "drop_duplicates"
        seen.add(key)
    return None


def _divide(parsed: dict[str, Split], card: DatasetCard, needed: set[str]) -> tuple[dict[str, Split], list[str]]:
    splits = {name: replace(parsed[source], name=name) for name, source in card.splits.items() if name in needed}
    notes: list[str] = []
    for part in (part for part in card.divide if not needed.isdisjoint(part.into)):
        rows = [{**row, "id": _joined_id(row, name, card, part)} for name in part.of for row in parsed[name].rows]
        dropped = sum((Counter(parsed[name].dropped) for name in part.of), Counter[str]())
        for name, chosen in _divided(rows, part).items():
            splits[name] = Split(name=name, rows=[rows[number] for number in chosen], dropped=dict(dropped))
            asked = part.into[name]
            if part.by_group and name in needed:
                share = f", {len(chosen) / len(rows):.3g} of all," if isinstance(asked, float) else ""
                notes.append(f"{name}: {len(chosen)} rows{share} for {asked} asked: groups stay together")
    return splits, notes


def _divided(rows: Rows, part: Divide) -> dict[str, list[int]]:
    labels = [str(row["label"]) for row in rows]
    if not part.by_group:
        return divide(labels, part.into, stratified=part.stratified, balanced=part.balanced, seed=part.seed)
    for row in rows:
        if not row["title"]:
            raise DataError(f"row {row['id']} belongs to no group, so divide.by_group can't place it")
    return divide_groups(labels, [row["title"] for row in rows], part.into, stratified=part.stratified, seed=part.seed)


def _aligned(split: Split, card: DatasetCard) -> Split:
    """The split without the rows whose answers are elsewhere, if the card says so; what is scored is never left out."""
    if card.columns.answers is None:
        return split
    wrong = {row["id"]: why for row in split.rows if (why := squad.misaligned(row))}
    if not wrong:
        return split
    identity, why = next(iter(wrong.items()))
    if not (card.filters.drop_misaligned and split.name == "train"):
        place = f"row {identity} of the split {split.name!r}: {why}; {len(wrong)} such rows"
        if split.name == "train":
            raise DataError(f"{place}; mend them, or set filters.drop_misaligned: true")
        raise DataError(f"{place}; mend them: nothing is left out of a split that is scored")
    kept = [row for row in split.rows if row["id"] not in wrong]
    if not kept:
        raise DataError(f"the split {split.name!r} is empty: left out {len(wrong)} rows by drop_misaligned")
    return replace(split, rows=kept, dropped={**split.dropped, "drop_misaligned": len(wrong)})


def _joined_id(row: dict[str, Any], split: str, card: DatasetCard, part: Divide) -> str:
    # Ids of one's own may repeat between source splits; numbered ones already carry the split's name.
    return f"{split}/{row['id']}" if card.columns.id and len(part.of) > 1 else row["id"]


def _limited(split: Split, limit: int | None) -> Split:
    if limit is None or limit >= len(split.rows):
        return split
    # The first rows of a file that is sorted by label would all have the same one.
    labels = [str(row["label"]) for row in split.rows]
    drawn = divide(labels, {split.name: limit}, seed=f"limit/{split.name}")[split.name]
    dropped = {**split.dropped, "limit": len(split.rows) - limit}
    return replace(split, rows=[split.rows[number] for number in drawn], dropped=dropped)


def _without_leaks(splits: dict[str, Split], card: DatasetCard) -> tuple[dict[str, Split], list[str]]:
    """Rows of train or validation that share a text or a group with a scored split: refused, dropped or allowed."""
    order = [*(name for name in splits if name not in ("validation", "train")), "validation", "train"]
    seen: dict[str, str] = {}
    result, notes = dict(splits), []
    for name in order:
        split = splits.get(name)
        if split is None:
            continue
        keys = {row["id"]: _leak_keys(row) for row in split.rows}
        leaks = {identity: seen[key] for identity, each in keys.items() for key in each if key in seen}
        if leaks and name in ("validation", "train"):
            sentence = _leak_sentence(name, leaks, "passages or articles" if card.columns.answers else "texts")
            kept = [row for row in split.rows if row["id"] not in leaks]
            if card.leakage == "error":
                raise DataError(f"leakage: {sentence}; set leakage: drop in the dataset card to leave them out")
            if card.leakage == "drop" and not kept:
                raise DataError(f"leakage: {sentence}, and the split would be empty without them")
            if card.leakage == "drop":
                result[name] = replace(split, rows=kept, dropped={**split.dropped, "leakage": len(leaks)})
            else:
                notes.append(f"leakage allowed by the card: {sentence}")
        seen.update({key: row["id"] for row in result[name].rows for key in keys[row["id"]]})
    return result, notes


def _leak_sentence(name: str, leaks: dict[str, str], what: str) -> str:
    shown = ", ".join(f"{identity} = {other}" for identity, other in list(leaks.items())[:3])
    more = ", ..." if len(leaks) > 3 else ""
    if what == "texts":
        return f"{len(leaks)} texts of {name!r} stand in another split too ({shown}{more})"
    return f"the {what} of {len(leaks)} rows of {name!r} stand in another split too ({shown}{more})"


def _leak_keys(row: dict[str, Any]) -> list[str]:
    # Whoever has read a passage in training knows it, whatever was asked: the question does not count.
    text = cleaning.normalized(row["text"]) if "answers" in row else _key(row)
    return [f"text {text}", *([f"group {row['title']}"] if row.get("title") else [])]


def _key(row: dict[str, Any]) -> str:
    return cleaning.normalized(row["text"]) + "\x00" + cleaning.normalized(row["text_pair"] or "")
