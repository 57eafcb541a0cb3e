"""Dataset card -> splits of clean, labelled rows, checked for leakage. Nothing is dropped without being counted."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench import cleaning, corpora
from bench.errors import DataError, did_you_mean
from bench.settings import DatasetCard, Source
from bench.splits import divide, label_counts

Rows = list[dict[str, Any]]
LOADERS = {"jsonl": "json", "csv": "csv", "tsv": "csv", "parquet": "parquet"}


@dataclass(frozen=True, kw_only=True)
class Split:
    """Rows of one split: dicts with `id`, `text`, `text_pair` (or None), `label` (an id, or a row of 0 and 1)."""

    name: str
    rows: Rows
    dropped: dict[str, int] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over ids, texts and labels, in order."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(json.dumps([row["id"], row["text"], row["text_pair"], row["label"]]).encode())
        return digest.hexdigest()[:16]

    def labels(self, names: tuple[str, ...]) -> dict[str, int]:
        """Label name -> number of rows."""
        return label_counts([row["label"] for row in self.rows], names)


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """All splits of a data set, the names of its labels, and sentences about what was left out."""

    splits: dict[str, Split]
    labels: tuple[str, ...]
    notes: tuple[str, ...]


def load(card: DatasetCard, limit: Mapping[str, int], needed: set[str]) -> Corpus:
    """Loads what the card describes; `needed` names the splits to keep, `limit` cuts a split to its first rows.

    Raises DataError for a missing file or column, an unknown label, an empty text or split, and for leakage.
    """
    sources = _read_source(card.source)
    labels = card.labels or _labels_in(sources, card)
    clean = cleaning.steps(card.clean)
    parsed = {name: _parse(rows, name, card, labels, clean) for name, rows in _used(sources, card).items()}
    splits = _divide(parsed, card)
    splits = {name: _limited(split, limit.get(name)) for name, split in splits.items() if name in needed}
    for name, split in splits.items():
        if not split.rows:
            raise DataError(f"the split {name!r} is empty{_why_empty(split)}")
    splits, notes = _without_leaks(splits, card.leakage)
    for split in splits.values():
        notes += [f"{split.name}: {count} rows left out ({why})" for why, count in split.dropped.items()]
    return Corpus(splits=splits, labels=tuple(labels), notes=tuple(notes))


def _read_source(source: Source) -> dict[str, Rows]:
    if source.kind == "builtin":
        return corpora.generate(str(source.id), source.seed, source.sizes or None)
    try:
        return {name: _as_rows(table) for name, table in _load_dataset(source).items()}
    except DataError:
        raise
    except Exception as error:
        cause = error.__cause__ or error
        text = (str(cause).splitlines() or [type(cause).__name__])[0]
        raise DataError(f"the data of {source.id or source.folder} can't be read: {text}") from error


def _load_dataset(source: Source) -> Mapping[str, Any]:
    import datasets

    datasets.disable_progress_bars()
    if source.kind == "hub":
        return datasets.load_dataset(source.id, source.config, revision=source.revision)
    folder = Path(str(source.folder)).expanduser()
    if not folder.is_dir():
        raise DataError(
            f"the data folder {source.folder!r} does not exist; put the files there, "
            "or name another with dataset.source.folder=PATH"
        )
    if source.kind == "saved":
        loaded = datasets.load_from_disk(str(folder))
        return loaded if isinstance(loaded, dict) else {"train": loaded}
    files = {split: str(_inside(folder, name)) for split, name in source.files.items()}
    extra = {"sep": "\t", "quoting": 3} if source.kind == "tsv" else {}
    return datasets.load_dataset(LOADERS[source.kind], data_files=files, **extra)


def _inside(folder: Path, name: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise DataError(f"the data file {name!r} lies outside of its folder {folder}")
    if not path.is_file():
        raise DataError(f"the data file {name!r} is missing in {folder}")
    return path


def _as_rows(table: Any) -> Rows:
    # A class label of the Hub is a number with names; the card's own names decide, so the number is kept.
    return list(table)


def _used(sources: dict[str, Rows], card: DatasetCard) -> dict[str, Rows]:
    asked = {*card.splits.values(), *(name for part in card.divide for name in part.of)}
    for name in asked:
        if name not in sources:
            raise DataError(f"the source has no split {name!r}.{did_you_mean(name, sources)}")
    return {name: sources[name] for name in sources if name in asked}


def _labels_in(sources: dict[str, Rows], card: DatasetCard) -> tuple[str, ...]:
    """Label names found in the data, sorted: for cards that do not list them."""
    found: set[str] = set()
    for rows in _used(sources, card).values():
        for row in rows:
            value = row.get(card.columns.label)
            found.update(map(str, value) if isinstance(value, list) else [str(value)] if value is not None else [])
    if len(found) < 2:
        raise DataError(f"the column {card.columns.label!r} holds {len(found)} labels; at least 2 are needed")
    if len(found) > 1000:
        raise DataError(f"the column {card.columns.label!r} holds {len(found)} different values; is it the label?")
    return tuple(sorted(found))


def _parse(
    rows: Rows, split: str, card: DatasetCard, labels: tuple[str, ...], clean: list[Callable[[str], str]]
) -> Split:
    _check_columns(rows, split, card, labels)
    index = {name: number for number, name in enumerate(labels)}
    columns, dropped, kept = card.columns, Counter[str](), []
    seen_texts: set[str] = set()
    seen_ids: set[str] = set()
    for number, row in enumerate(rows):
        identity = str(row[columns.id]) if columns.id else f"{split}-{number:06d}"
        if identity in seen_ids:
            raise DataError(f"the id {identity!r} stands twice in the split {split!r}")
        seen_ids.add(identity)
        place = f"row {identity} of the split {split!r}"
        text, pair = (_text(row, column, place, clean) for column in (columns.text, columns.text_pair))
        label = _label(row, card, labels, index, place)
        why = _reason_to_drop(text or "", label, card, labels, seen_texts)
        if why:
            dropped[why] += 1
            continue
        if not text:
            raise DataError(f"{place} has an empty text; remove it, or set filters.drop_empty: true")
        kept.append({"id": identity, "text": text, "text_pair": pair, "label": label})
    return Split(name=split, rows=kept, dropped=dict(dropped))


def _check_columns(rows: Rows, split: str, card: DatasetCard, labels: tuple[str, ...]) -> None:
    if not rows:
        raise DataError(f"the split {split!r} is empty: the source holds no rows for it")
    columns = card.columns
    wanted = [columns.text, columns.text_pair, columns.id, *(labels if columns.label_flags else [columns.label])]
    for name in wanted:
        if name is not None and name not in rows[0]:
            raise DataError(f"the split {split!r} has no column {name!r}.{did_you_mean(name, rows[0])}")


def _text(row: dict[str, Any], column: str | None, place: str, clean: list[Callable[[str], str]]) -> str | None:
    if column is None:
        return None
    value = row[column]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{place}: the column {column!r} should be text, got {value!r}")
    for step in clean:
        value = step(value)
    return value if value.strip() else ""


def _label(row: dict[str, Any], card: DatasetCard, labels: tuple[str, ...], index: dict[str, int], place: str) -> Any:
    if card.columns.label_flags:
        return [int(bool(row[name])) for name in labels]
    value = row[card.columns.label]
    if not card.multi_label:
        return _label_id(value, labels, index, place)
    if not isinstance(value, list):
        raise DataError(f"{place}: expected a list of labels, got {value!r}")
    on = {_label_id(item, labels, index, place) for item in value}
    return [int(number in on) for number in range(len(labels))]


def _label_id(value: Any, labels: tuple[str, ...], index: dict[str, int], place: str) -> int:
    if isinstance(value, bool):
        value = int(value)
    if isinstance(value, int) and 0 <= value < len(labels):
        return value
    if isinstance(value, str) and value in index:
        return index[value]
    raise DataError(f"{place} has the unknown label {value!r}.{did_you_mean(str(value), labels)}")


def _reason_to_drop(text: str, label: Any, card: DatasetCard, labels: tuple[str, ...], seen: set[str]) -> str | None:
    """The name of the filter that leaves this row out, or None."""
    filters, words = card.filters, len(text.split())
    if filters.drop_empty and not words:
        return "drop_empty"
    if filters.min_words is not None and words < filters.min_words:
        return "min_words"
    if filters.max_words is not None and words > filters.max_words:
        return "max_words"
    names = {labels[i] for i, on in enumerate(label) if on} if isinstance(label, list) else {labels[label]}
    if filters.labels is not None and not names & set(filters.labels):
        return "labels"
    if filters.drop_duplicates:
        key = cleaning.normalized(text)
        if key in seen:
            return "drop_duplicates"
        seen.add(key)
    return None


def _divide(parsed: dict[str, Split], card: DatasetCard) -> dict[str, Split]:
    splits = {name: replace(parsed[source], name=name) for name, source in card.splits.items()}
    for part in card.divide:
        rows = [{**row, "id": _joined_id(row, name, card)} for name in part.of for row in parsed[name].rows]
        dropped = sum((Counter(parsed[name].dropped) for name in part.of), Counter[str]())
        numbers = divide(
            [str(row["label"]) for row in rows],
            part.into,
            stratified=part.stratified,
            balanced=part.balanced,
            seed=part.seed,
        )
        for name, chosen in numbers.items():
            if name in splits:
                raise DataError(f"the card makes the split {name!r} twice")
            splits[name] = Split(name=name, rows=[rows[number] for number in chosen], dropped=dict(dropped))
    return splits


def _joined_id(row: dict[str, Any], split: str, card: DatasetCard) -> str:
    # Ids of one's own may repeat between source splits; numbered ones already carry the split's name.
    return f"{split}/{row['id']}" if card.columns.id and len(card.source.files) > 1 else row["id"]


def _limited(split: Split, limit: int | None) -> Split:
    if limit is None or limit >= len(split.rows):
        return split
    dropped = {**split.dropped, "limit": len(split.rows) - limit}
    return replace(split, rows=split.rows[:limit], dropped=dropped)


def _why_empty(split: Split) -> str:
    reasons = ", ".join(f"{count} rows by {why}" for why, count in split.dropped.items())
    return f": left out {reasons}" if reasons else ""


def _without_leaks(splits: dict[str, Split], policy: str) -> tuple[dict[str, Split], list[str]]:
    """Texts (with their pair) of train or validation that stand in a scored split too: refused, dropped or allowed."""
    order = [*(name for name in splits if name not in ("validation", "train")), "validation", "train"]
    seen: dict[str, str] = {}
    result, notes = dict(splits), []
    for name in order:
        split = splits.get(name)
        if split is None:
            continue
        leaks = [row for row in split.rows if _key(row) in seen] if name in ("validation", "train") else []
        if leaks:
            sentence = _leak_sentence(name, leaks, seen)
            kept = [row for row in split.rows if _key(row) not in seen]
            if policy == "error":
                raise DataError(f"leakage: {sentence}; set leakage: drop in the dataset card to leave them out")
            if policy == "drop" and not kept:
                raise DataError(f"leakage: {sentence}, and the split would be empty without them")
            if policy == "drop":
                result[name] = replace(split, rows=kept, dropped={**split.dropped, "leakage": len(leaks)})
            else:
                notes.append(f"leakage allowed by the card: {sentence}")
        seen.update({_key(row): row["id"] for row in result[name].rows})
    return result, notes


def _leak_sentence(name: str, leaks: Rows, seen: dict[str, str]) -> str:
    shown = ", ".join(f"{row['id']} = {seen[_key(row)]}" for row in leaks[:3])
    return f"{len(leaks)} texts of {name!r} stand in another split too ({shown}{', ...' if len(leaks) > 3 else ''})"


def _key(row: dict[str, Any]) -> str:
    return cleaning.normalized(row["text"]) + "\x00" + cleaning.normalized(row["text_pair"] or "")
