"""Reads files in CoNLL form: a word and its tag on each line, a blank line after each sentence."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.errors import DataError

# Begins a document in the files of CoNLL-2003; it is no word.
DOCUMENT = "-DOCSTART-"


def read(lines: Iterable[str], path: Path, notes: list[str]) -> list[dict[str, Any]]:
    """Return a row for each sentence: `tokens` from the first column, `tags` from the last one.

    Columns are separated by tabs where the first line has one, else by any white space. Of more than two the others are
    `column_2`, `column_3` and so on. Raises DataError, with the line, for another number of columns than before.
    """
    rows: list[dict[str, Any]] = []
    sentence: list[list[str]] = []
    separator: str | None = None
    number_of_columns = documents = 0
    for number, line in enumerate(lines, start=1):
        text = line.rstrip("\r\n")
        if not text.strip():
            _end(sentence, rows)
            sentence = []
            continue
        if not number_of_columns:
            separator = "\t" if "\t" in text else None
        fields = text.split(separator)
        if fields[0] == DOCUMENT:
            _end(sentence, rows)
            sentence, documents = [], documents + 1
            continue
        number_of_columns = number_of_columns or len(fields)
        if len(fields) < 2 or len(fields) != number_of_columns or not fields[-1]:
            expected = f"{number_of_columns} columns as on the first line" if number_of_columns > 1 else "word and tag"
            by = "tabs" if separator else "white space"
            raise DataError(f"{path}:{number}: expected {expected}, separated by {by}, got {text[:60]!r}")
        sentence.append(fields)
    _end(sentence, rows)
    if documents:
        notes.append(f"{path.name}: {documents} lines {DOCUMENT} begin documents and are no sentences")
    return rows


def _end(sentence: list[list[str]], rows: list[dict[str, Any]]) -> None:
    if not sentence:
        return
    columns = [list(column) for column in zip(*sentence, strict=True)]
    row: dict[str, Any] = {"tokens": columns[0], "tags": columns[-1]}
    row |= {f"column_{number}": column for number, column in enumerate(columns[1:-1], start=2)}
    rows.append(row)
