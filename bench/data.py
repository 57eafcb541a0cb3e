"""Dataset card -> splits of clean, labelled rows, checked for leakage. Nothing is dropped without being counted."""

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench import cleaning, corpora
from bench.errors import DataError, did_you_mean
from bench.settings import DatasetCard, Divide, Source
from bench.splits import divide, label_counts

Rows = list[dict[str, Any]]


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
    """Loads what the card describes; `needed` names the splits to keep, `limit` draws so many rows of a split.

    Raises DataError for a missing file or column, an unknown label, an empty text or split, and for leakage.
    """
    sources = _used(_read_source(card.source), card)
    labels = card.labels or _labels_in(sources, card)
    for name in card.filters.labels or ():
        if name not in labels:
            raise DataError(f"filters.labels names {name!r}, which no row has.{did_you_mean(name, labels)}")
    clean = cleaning.steps(card.clean)
    parsed = {name: _parse(sources[name], name, card, labels, clean) for name in _sources_of(card, needed)}
    splits = _divide(parsed, card, needed)
    splits = {name: _limited(split, limit.get(name)) for name, split in splits.items() if name in needed}
    splits, notes = _without_leaks(splits, card.leakage)
    for split in splits.values():
        notes += [f"{split.name}: {count} rows left out ({why})" for why, count in split.dropped.items()]
    return Corpus(splits=splits, labels=tuple(labels), notes=tuple(notes))


def _read_source(source: Source) -> Mapping[str, Any]:
    """Source split -> its rows, or a table that gives them."""
    if source.kind == "builtin":
        return corpora.generate(str(source.id), source.seed, source.sizes or None)
    try:
        if source.kind in ("hub", "saved"):
            return _load_dataset(source)
        return {split: _read_file(source, name) for split, name in source.files.items()}
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
    loaded = datasets.load_from_disk(str(_folder(source)))
    return loaded if isinstance(loaded, dict) else {"train": loaded}


def _folder(source: Source) -> Path:
    folder = Path(str(source.folder)).expanduser()
    if not folder.is_dir():
        advice = "put the files there, or name another with dataset.source.folder=PATH"
        raise DataError(f"the data folder {source.folder!r} does not exist; {advice}")
    return folder


def _read_file(source: Source, name: str) -> Rows:
    """Rows of a file. Text is read here, since pandas and Arrow guess: `NA` becomes no text, `007` a number."""
    path = _folder(source) / name
    if not path.is_file():
        raise DataError(f"the data file {name!r} is missing in {source.folder}")
    if source.kind == "parquet":
        import pyarrow.parquet

        return pyarrow.parquet.read_table(path).to_pylist()
    # Excel begins its files with a byte order mark.
    with path.open(encoding="utf-8-sig", newline="" if source.kind == "csv" else "\n") as stream:
        try:
            return _json_rows(stream, path) if source.kind == "jsonl" else _table_rows(stream, path, source.kind)
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 text: {error}") from error


def _json_rows(lines: Iterable[str], path: Path) -> Rows:
    rows: Rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number}: not a line of JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: expected a JSON object, got {line.strip():.60}")
        rows.append(row)
    return rows


def _table_rows(lines: Iterable[str], path: Path, kind: str) -> Rows:
    # Texts are often longer than csv's own limit of 131,072 characters.
    csv.field_size_limit(2**31 - 1)
    if kind == "csv":
        reader = csv.reader(lines, strict=True)
    else:
        reader = csv.reader((line.rstrip("\r\n") for line in lines), delimiter="\t", quoting=csv.QUOTE_NONE)
    rows: Rows = []
    try:
        header = next(reader, [])
        if len(set(header)) != len(header):
            raise DataError(f"{path}:1: a column stands twice in the header: {', '.join(header)}")
        for fields in reader:
            if len(fields) not in (0, len(header)):
                place = f"{path}:{reader.line_num}"
                raise DataError(f"{place}: {len(fields)} fields, but the header names {len(header)} columns")
            if fields:
                rows.append(dict(zip(header, fields, strict=True)))
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not valid {kind.upper()}: {error}") from error
    return rows


def _used(sources: Mapping[str, Any], card: DatasetCard) -> dict[str, Rows]:
    asked = _sources_of(card, set(card.split_names))
    for name in asked:
        if name not in sources:
            raise DataError(f"the source has no split {name!r}.{did_you_mean(name, sources)}")
    return {name: list(sources[name]) for name in asked}


def _sources_of(card: DatasetCard, needed: set[str]) -> list[str]:
    """Source splits that some splits are made of, without repetition."""
    found = [source for name, source in card.splits.items() if name in needed]
    found += [source for part in card.divide if not needed.isdisjoint(part.into) for source in part.of]
    return list(dict.fromkeys(found))


def _labels_in(sources: dict[str, Rows], card: DatasetCard) -> tuple[str, ...]:
    """Label names found in the data, sorted (numbers by value): for cards that do not list them."""
    found: set[str] = set()
    for split, rows in sources.items():
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
        label = _label(row, card, labels, label_ids, place)
        parsed = {"id": identity, "text": text, "text_pair": pair, "label": label}
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
    wanted = [columns.text, columns.text_pair, columns.id, *(labels if columns.label_flags else [columns.label])]
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


def _divide(parsed: dict[str, Split], card: DatasetCard, needed: set[str]) -> dict[str, Split]:
    splits = {name: replace(parsed[source], name=name) for name, source in card.splits.items() if name in needed}
    for part in (part for part in card.divide if not needed.isdisjoint(part.into)):
        rows = [{**row, "id": _joined_id(row, name, card, part)} for name in part.of for row in parsed[name].rows]
        dropped = sum((Counter(parsed[name].dropped) for name in part.of), Counter[str]())
        numbers = divide(
            [str(row["label"]) for row in rows],
            part.into,
            stratified=part.stratified,
            balanced=part.balanced,
            seed=part.seed,
        )
        for name, chosen in numbers.items():
            splits[name] = Split(name=name, rows=[rows[number] for number in chosen], dropped=dict(dropped))
    return splits


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
