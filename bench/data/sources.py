"""Reads rows from the Hub, local files, saved data sets or the built-in ones. Values stay as they are written.

Only the ids of a class-label column become names: what an id means is written beside the data, in each file anew.
"""

import contextlib
import csv
import io
import json
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from bench.config.data_source import COMPOSED, FILE_KINDS, Source
from bench.data import conll, files, lm_eval_rows, squad
from bench.data.builtin import corpora
from bench.errors import BenchError, DataError, did_you_mean

Row = dict[str, Any]
Rows = list[Row]
# Column -> the names of its class ids, in their order.
ClassNames = Mapping[str, tuple[str, ...]]
# The tables of at most one source, that were read to make its card.
_handed_over: dict[str, dict[str, "Table"]] = {}
_COMMIT = re.compile(r"[0-9a-f]{40}")
# What separates the cells of tables in the wild.
_DELIMITERS = (";", "\t", ",", "|")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One file, or one split of a saved or downloaded data set, that rows come from. class_names: those it declares."""

    name: str
    num_rows: int
    class_names: ClassNames


@dataclass(frozen=True, kw_only=True)
class Table:
    """The rows of one source split, and the parts that they come from, in their order.

    Ids of columns with class names are replaced by these names. notes: sentences on how files were read.
    """

    rows: Rows
    parts: tuple[Part, ...]
    notes: tuple[str, ...] = ()


def hand_over(source: Source, tables: Mapping[str, Table]) -> None:
    """Keep what was read of a source to make its card, for the `read` that comes next and may change the rows."""
    with contextlib.suppress(DataError, OSError):
        _handed_over.clear()
        _handed_over[_key(source)] = dict(tables)


def _key(source: Source) -> str:
    """Return what tells that a source is the same: its settings, and the size and time of its files."""
    stats = []
    if source.kind in FILE_KINDS:
        folder = _folder(source)
        paths = [path for split, names in source.files.items() for path in files.find(folder, names, split)]
        stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return f"{source.model_dump_json()} {stats}"


def _taken(source: Source, wanted: Iterable[str]) -> dict[str, Table] | None:
    """Return the tables that were kept for this source, once; None without them."""
    if not _handed_over:
        return None
    kept = _handed_over.pop(_key(source), {})
    return {name: kept[name] for name in wanted} if kept and set(wanted) <= kept.keys() else None


def read(source: Source, wanted: Iterable[str]) -> dict[str, Table]:
    """Return the wanted source splits, with composed columns. Raises DataError for a missing or malformed source."""
    wanted = list(wanted)
    if (kept := _taken(source, wanted)) is not None:
        return kept
    tables = _read(source, wanted)
    for split, table in tables.items():
        for name, template in source.compose.items():
            _compose(table.rows, split, name, template)
    return tables


def _compose(rows: Rows, split: str, name: str, template: str) -> None:
    """Put a column of text into all rows, made of others by a template; a missing value is an empty text."""
    for row in rows:
        if name in row:
            raise DataError(f"source.compose.{name}: the split {split!r} has a column {name!r}; choose another name")
        for column in COMPOSED.findall(template):
            if column not in row:
                hint = did_you_mean(column, row)
                raise DataError(f"source.compose.{name}: the split {split!r} has no column {column!r}.{hint}")
        row[name] = composed(row, template, f"source.compose.{name}")


def composed(row: Mapping[str, Any], template: str, place: str) -> str:
    """Return a template filled with columns of a row. Raises DataError, with `place`, for a list or a mapping."""
    # Split at the columns' names, every second piece is one.
    pieces = COMPOSED.split(template)
    for number, column in enumerate(pieces[1::2]):
        value = row[column]
        if isinstance(value, list | dict):
            raise DataError(f"{place}: the column {column!r} has a list or a mapping: {value!r:.60}")
        pieces[2 * number + 1] = "" if value is None else str(value)
    return "".join(pieces)


def _read(source: Source, wanted: Iterable[str]) -> dict[str, Table]:
    try:
        if source.kind == "builtin":
            generated = corpora.generate(str(source.id), source.seed, source.sizes or None)
            return {name: _whole(name, list(_of(generated, name)), {}) for name in wanted}
        if source.kind == "lm_eval":
            documents, notes = lm_eval_rows.read(source, wanted)
            return {name: _whole(name, rows, {}, notes) for name, rows in documents.items()}
        if source.kind in ("hub", "saved"):
            return _load_dataset(source, wanted)
        folder = _folder(source)
        return {name: _read_files(source, folder, name) for name in wanted}
    except BenchError:
        raise
    except Exception as error:
        cause = error.__cause__ or error
        text = (str(cause).splitlines() or [type(cause).__name__])[0]
        raise DataError(f"the data of {source.id or source.folder} can't be read: {text}") from error


def _of(splits: Mapping[str, Any], name: str) -> Any:
    if name not in splits:
        raise DataError(f"the source has no split {name!r}.{did_you_mean(name, splits)}")
    return splits[name]


def _whole(name: str, rows: Rows, class_names: ClassNames, notes: Iterable[str] = ()) -> Table:
    return Table(rows=rows, parts=(Part(name=name, num_rows=len(rows), class_names=class_names),), notes=tuple(notes))


def _load_dataset(source: Source, wanted: Iterable[str]) -> dict[str, Table]:
    import datasets

    datasets.disable_progress_bars()
    if source.kind == "hub":
        if Path(str(source.id)).exists():
            raise DataError(
                f"{source.id!r} is on the Hub and a file or folder here, which `datasets` would read in its place; "
                "start the run elsewhere, or use source.kind: saved, parquet, json, jsonl or csv"
            )
        splits: Any = datasets.load_dataset(source.id, source.config, revision=source.revision)
    else:
        folder = _folder(source)
        for path in folder.rglob("*"):
            if not stat.S_ISDIR(kind := path.stat().st_mode):
                files.check_regular(path, kind)
        splits = datasets.load_from_disk(str(folder))
        splits = splits if isinstance(splits, dict) else {"train": splits}
    tables = {}
    if source.kind == "hub":
        _check_commit(source, splits)
    for name in wanted:
        # A format that was saved with the data may hide columns, and give values of NumPy or torch.
        split = _of(splits, name).with_format(None)
        names = _class_names(split.features.to_dict())
        tables[name] = _whole(name, _named(list(split), names, name), names)
    return tables


def _check_commit(source: Source, splits: Mapping[str, Any]) -> None:
    """Raise DataError for data of another commit: offline, `datasets` takes what is in its cache, of any."""
    for split in splits.values():
        for file in split.cache_files:
            commit = Path(file["filename"]).parent.name
            if _COMMIT.fullmatch(source.revision or "") and _COMMIT.fullmatch(commit) and commit != source.revision:
                raise DataError(
                    f"the data set {source.id!r} is in the cache at the commit {commit}, not at {source.revision}; "
                    "download the other one where there is a network, or name the one in the cache"
                )


def _class_names(features: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return the class names of columns of `datasets`' features, written as a mapping; also of lists of class ids."""
    found = {}
    for column, feature in features.items():
        if isinstance(feature, list) and len(feature) == 1:
            feature = feature[0]
        while isinstance(feature, Mapping) and isinstance(feature.get("feature"), Mapping):
            feature = feature["feature"]
        if isinstance(feature, Mapping) and feature.get("_type") == "ClassLabel" and feature.get("names"):
            found[column] = tuple(map(str, feature["names"]))
    return found


def _named(rows: Rows, class_names: ClassNames, place: str) -> Rows:
    """Replace class ids by their names, in place."""
    for row in rows if class_names else ():
        for column, names in class_names.items():
            if column in row:
                row[column] = class_name(row[column], names, f"{place}: the column {column!r}")
    return rows


def class_name(value: Any, names: tuple[str, ...], place: str) -> Any:
    """Return the name of a class id, or those of a list of ids; -1, a hidden label, and values of other types stay.

    Raises DataError, with `place`, for an id without a name.
    """
    if isinstance(value, list):
        return [class_name(item, names, place) for item in value]
    if isinstance(value, bool) or not isinstance(value, int) or value == -1:
        return value
    if not 0 <= value < len(names):
        raise DataError(f"{place} has {len(names)} class names, but the class id {value}")
    return names[value]


def _folder(source: Source) -> Path:
    folder = Path(str(source.folder)).expanduser()
    if not folder.exists():
        at = "" if folder.is_absolute() else f" in {Path.cwd()}"
        advice = "put the files there, or name another with dataset.source.folder=PATH"
        raise DataError(f"the data folder {source.folder!r} does not exist{at}; {advice}")
    if not folder.is_dir():
        raise DataError(f"the data folder {source.folder!r} is a file; name its folder, and the file in source.files")
    return folder


def _read_files(source: Source, folder: Path, split: str) -> Table:
    names = _of(source.files, split)
    paths = files.find(folder, names, split)
    notes: list[str] = []
    if missing := files.missing_shards(paths):
        notes.append(f"{split}: not all shards are read: {missing}")
    rows: Rows = []
    parts: list[Part] = []
    for path in paths:
        new, class_names = _read_file(source, path, notes)
        parts.append(Part(name=str(path.relative_to(folder)), num_rows=len(new), class_names=class_names))
        rows += new
    if len(parts) > 1:
        counts = ", ".join(f"{part.name} ({part.num_rows} rows)" for part in parts)
        notes.append(f"{split}: read from {len(parts)} files: {counts}")
    return Table(rows=rows, parts=tuple(parts), notes=tuple(notes))


def _read_file(source: Source, path: Path, notes: list[str]) -> tuple[Rows, ClassNames]:
    """Read a file. Text is parsed here, since pandas and Arrow guess types: `NA` becomes null, `007` a number."""
    if source.kind == "parquet":
        return _parquet_rows(path)
    is_table = source.kind in ("csv", "tsv")
    newline = "" if is_table and source.is_quoted else "\n"
    with files.text(path, newline, notes, source.encoding, is_table=is_table) as stream:
        if source.kind == "squad":
            return squad.flatten(_json(stream, path), str(path)), {}
        if source.kind == "json":
            return _listed_rows(_json(stream, path), path), {}
        if source.kind == "jsonl":
            return _json_rows(stream, path), {}
        if source.kind == "conll":
            return conll.read(stream, path, notes), {}
        rows = _table_rows(stream, path, source)
    if source.kind == "tsv" and source.quoting is None:
        _refuse_quotes(rows, path)
    return rows, {}


def _parquet_rows(path: Path) -> tuple[Rows, ClassNames]:
    import pyarrow.parquet

    with files.binary(path, parquet=True) as stream:
        # By its path a file is read in parallel.
        try:
            table = pyarrow.parquet.read_table(path if isinstance(stream.raw, io.FileIO) else stream)
        except pyarrow.ArrowInvalid as error:
            said = str(error).splitlines()[0]
            raise DataError(f"{path} can't be read as Parquet; it is damaged, or of another kind: {said}") from error
    described = (table.schema.metadata or {}).get(b"huggingface")
    class_names: ClassNames = {}
    if described is not None:
        try:
            class_names = _class_names(json.loads(described)["info"]["features"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: its description of the columns (metadata `huggingface`) can't be read") from error
    return _named(table.to_pylist(), class_names, str(path)), class_names


def _distinct_keys(pairs: list[tuple[str, Any]]) -> Row:
    """Return an object of JSON. Raises ValueError for a key with two values: Python would silently take the last."""
    row = dict(pairs)
    if len(row) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return row


def _json(stream: TextIO, path: Path) -> Any:
    try:
        return json.load(stream, object_pairs_hook=_distinct_keys)
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        hint = "; for a row on each line, set source.kind: jsonl" if "Extra data" in str(error) else ""
        raise DataError(f"{path}: not valid JSON: {error}{hint}") from error


def _listed_rows(content: Any, path: Path) -> Rows:
    """Return the rows of a list of objects, or of an object whose `data` is one."""
    place = str(path)
    if isinstance(content, dict):
        if not isinstance(content.get("data"), list):
            keys = ", ".join(map(repr, list(content)[:8])) or "none"
            raise DataError(f"{path}: expected a list of rows, or an object with a list `data`; its keys are {keys}")
        content, place = content["data"], f"{path}: data"
    if not isinstance(content, list):
        raise DataError(f"{path}: expected a list of rows, got {content!r:.60}")
    for number, row in enumerate(content):
        if not isinstance(row, dict):
            raise DataError(f"{place}[{number}]: expected an object, got {row!r:.60}")
    return content


def _json_rows(lines: Iterable[str], path: Path) -> Rows:
    rows: Rows = []
    decode = json.JSONDecoder(object_pairs_hook=_distinct_keys).decode
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        is_array = not rows and line.lstrip().startswith("[")
        hint = "; for a file that is one JSON array, set source.kind: json" if is_array else ""
        try:
            row = decode(line)
        except (ValueError, RecursionError) as error:
            if not rows and line.strip() == "{":
                hint = "; each row must be on a line of its own, or set source.kind: json for a list of rows"
            raise DataError(f"{path}:{number}: not valid JSON: {error}{hint}") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: expected a JSON object, got {line.strip():.60}{hint}")
        rows.append(row)
    return rows


def _table_rows(lines: Iterable[str], path: Path, source: Source) -> Rows:
    # Texts are often longer than csv's own limit of 131,072 characters.
    csv.field_size_limit(2**31 - 1)
    delimiter = source.delimiter or ("," if source.kind == "csv" else "\t")
    if source.is_quoted:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
    else:
        reader = csv.reader((line.rstrip("\r\n") for line in lines), delimiter=delimiter, quoting=csv.QUOTE_NONE)
    rows: Rows = []
    try:
        header = next(reader, [])
        if len(header) == 1:
            _check_delimiter(header[0], path, delimiter)
        if len(set(header)) != len(header):
            raise DataError(f"{path}:1: duplicate column in the header: {', '.join(header)}")
        for fields in reader:
            if len(fields) not in (0, len(header)):
                place = f"{path}:{reader.line_num}"
                quoted = source.kind == "tsv" and not source.is_quoted and any(cell.startswith('"') for cell in fields)
                hint = "; if cells are in quotes, set source.quoting: true" if quoted else ""
                raise DataError(f"{place}: {len(fields)} fields, but the header names {len(header)} columns{hint}")
            if fields:
                rows.append(dict(zip(header, fields, strict=True)))
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not valid {source.kind.upper()}: {error}") from error
    return rows


def _check_delimiter(header: str, path: Path, delimiter: str) -> None:
    """Raise DataError where the only column of a header looks like several with another delimiter, as Excel writes."""
    if stated := re.fullmatch(r"sep=(.)", header):
        raise DataError(
            f"{path}:1: the first line names a delimiter, {header!r}, for Excel alone; remove this line, and write "
            f"`delimiter: {json.dumps(stated[1])}`"
        )
    others = [sign for sign in _DELIMITERS if sign != delimiter and sign in header]
    if others:
        meant = max(others, key=header.count)
        raise DataError(
            f"{path}:1: the header is one column, {header!r:.60}; its names look separated by {meant!r}: write "
            f"`delimiter: {json.dumps(meant)}`"
        )


def _refuse_quotes(rows: Rows, path: Path) -> None:
    """Raise DataError where cells of a TSV file look quoted: they can be read as they stand, or as CSV is read."""
    found = list(_quoted_cells(rows))
    if found:
        number, cell = found[0]
        raise DataError(
            f"{path}: {len(found)} cells look quoted, as pandas writes them; row {number} has {cell:.60}. Set "
            "source.quoting: true to read them without these quotes, or false to keep every character"
        )


def _quoted_cells(rows: Rows) -> Iterator[tuple[int, str]]:
    """Yield the numbered rows and cells in quotes whose own quotes, of which there is one at least, are all doubled.

    Two quotes with nothing between them count too, and, where every cell of a column is in quotes, all of these.
    """
    all_quoted = set(rows[0]) if len(rows) > 1 else set()
    for row in rows:
        all_quoted = {column for column in all_quoted if _is_quoted(row[column])}
        if not all_quoted:
            break
    for number, row in enumerate(rows, start=1):
        for column, cell in row.items():
            if _is_quoted(cell) and (cell == '""' or '""' in cell[1:-1] or column in all_quoted):
                yield number, cell


def _is_quoted(cell: str) -> bool:
    return len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in cell[1:-1].replace('""', "")
