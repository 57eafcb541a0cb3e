"""Reads rows from the Hub, local files, saved data sets or the built-in ones. Values stay as they are written."""

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

from bench.config.cards import Source
from bench.data import squad
from bench.data.builtin import corpora
from bench.errors import DataError

Row = dict[str, Any]
Rows = list[Row]


def read(source: Source) -> Mapping[str, Iterable[Row]]:
    """Return the rows of each source split. Raises DataError for a missing or malformed source."""
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


def _load_dataset(source: Source) -> Mapping[str, Iterable[Row]]:
    import datasets

    datasets.disable_progress_bars()
    if source.kind == "hub":
        splits: Mapping[str, Iterable[Row]] = datasets.load_dataset(source.id, source.config, revision=source.revision)
        return splits
    saved = datasets.load_from_disk(str(_folder(source)))
    return saved if isinstance(saved, dict) else {"train": saved}


def _folder(source: Source) -> Path:
    folder = Path(str(source.folder)).expanduser()
    if not folder.is_dir():
        advice = "put the files there, or name another with dataset.source.folder=PATH"
        raise DataError(f"the data folder {source.folder!r} does not exist; {advice}")
    return folder


def _read_file(source: Source, name: str) -> Rows:
    """Read a file. Text is parsed here, since pandas and Arrow guess types: `NA` becomes null, `007` a number."""
    path = _folder(source) / name
    if not path.is_file():
        raise DataError(f"the data file {name!r} is missing in {source.folder}")
    if source.kind == "parquet":
        import pyarrow.parquet

        table: Rows = pyarrow.parquet.read_table(path).to_pylist()
        return table
    # Excel begins its files with a byte order mark.
    with path.open(encoding="utf-8-sig", newline="" if source.kind == "csv" else "\n") as stream:
        try:
            if source.kind == "squad":
                return squad.flatten(_json(stream, path), str(path))
            return _json_rows(stream, path) if source.kind == "jsonl" else _table_rows(stream, path, source.kind)
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 text: {error}") from error


def _json(stream: TextIO, path: Path) -> Any:
    try:
        return json.load(stream)
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON: {error}") from error


def _json_rows(lines: Iterable[str], path: Path) -> Rows:
    rows: Rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number}: not valid JSON: {error}") from error
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
            raise DataError(f"{path}:1: duplicate column in the header: {', '.join(header)}")
        for fields in reader:
            if len(fields) not in (0, len(header)):
                place = f"{path}:{reader.line_num}"
                raise DataError(f"{place}: {len(fields)} fields, but the header names {len(header)} columns")
            if fields:
                rows.append(dict(zip(header, fields, strict=True)))
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not valid {kind.upper()}: {error}") from error
    return rows
