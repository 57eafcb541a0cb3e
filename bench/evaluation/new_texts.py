"""Texts to predict: read from a file or standard input, and checked against what the saved model was trained on."""

import json
import os
import re
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import ValidationError

from bench import console
from bench.config.cards import CHOICES_TASK, GENERATION_TASK, TAGS_TASK
from bench.config.data_source import Source
from bench.data import cleaning, sources
from bench.data.sources import Rows
from bench.errors import DataError
from bench.evaluation.new_rows import PARTS, RowReader, Trained

FileKind = Literal["csv", "tsv", "parquet", "json", "squad", "conll", "jsonl"]
Format = Literal["text", "csv", "tsv", "parquet", "json", "squad", "conll", "jsonl"]
FORMATS: tuple[Format, ...] = get_args(Format)
STANDARD_INPUT = Path("-")
BY_ENDING: dict[str, Format] = {
    **dict.fromkeys((".jsonl", ".json", ".ndjson"), "jsonl"),
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    **dict.fromkeys((".conll", ".iob", ".iob2", ".bio"), "conll"),
}
PACKED = (".gz", ".bz2", ".xz")
# Of these neither a line is a text nor a row is read.
OTHERS = (".arrow", ".xlsx", ".xls", ".yaml", ".yml", ".xml", ".html")
# A text of so many characters is a file that is no text; models read some thousands of tokens.
MOST_CHARACTERS = 10_000_000
# Words with apostrophes, hyphens and dots inside of them, and every other mark by itself.
_WORD = re.compile(r"\w+(?:[-'’.]\w+)*|[^\w\s]")
ADVICE = "give one text per line, JSON lines (.jsonl), or a table (.csv, .tsv, .parquet) with a column `text`"
# Keys of a dataset card in a message -> options that say the same here.
_AS_OPTIONS = (
    (re.compile(r"mark of (\S+); remove `encoding: [^`]*`"), r"mark of \1; give --encoding \1"),
    (re.compile(r"`(delimiter|encoding): ([^`]*)`"), r"`--\1 \2`"),
    (re.compile(r"(?i)set source\.quoting: true"), r"give --format csv --delimiter '\\t'"),
    (re.compile(r"(?:set )?source\.kind: (\w+)"), r"give --format \1"),
    (re.compile(r", or false to keep every character"), ""),
)
# What a file is named as inside of a source.
_SPLIT = "texts"
_OTHERS = "; some models read tokens=NAME, choices=NAME, messages=NAME or input=NAME"


@dataclass(frozen=True, kw_only=True)
class Written:
    """The format of a table where the command gives it; None for what the table itself shows.

    Without any of it a table of the kind that the model was trained on is read as that one was.
    """

    delimiter: str | None = None
    encoding: str | None = None


def parse_columns(given: str) -> dict[str, str]:
    """Return {"text": column, "text_pair": column} of `text=body,text_pair=question`. Raises DataError for another.

    What models of some tasks read is named likewise: tokens, choices, messages, input.
    """
    columns: dict[str, str] = {}
    for part in given.split(","):
        key, equals, name = (word.strip() for word in part.partition("="))
        if key not in PARTS or not equals or not name or key in columns:
            raise DataError(f"--columns {given}: expected text=NAME, or text=NAME,text_pair=NAME{_OTHERS}")
        columns[key] = name
    return columns


def read_texts(
    path: Path,
    kind: Format | None = None,
    columns: Mapping[str, str] | None = None,
    trained: Trained | None = None,
    written: Written | None = None,
) -> Rows:
    """Return rows {"text", "text_pair"} of a file, with "tokens", "choices" or "messages" where the model reads these.

    "-" is standard input. kind: the file's; None for that of the training data where their files end alike, or what the
    ending says, which is text, one a line, where there is no known one. columns: names of the columns, as
    `parse_columns`. trained: how the model's own data were read, whose columns are looked for beside `text` and so on.
    Raises DataError with the place in the file.
    """
    trained, written = trained or Trained(), written or Written()
    kind = kind or _kind_of(path, trained)
    shown = "standard input" if path == STANDARD_INPUT else str(path)
    if kind == "text" and columns:
        raise DataError(f"{shown}: --columns is for JSON lines and tables, and this is read as one text per line")
    for name, value in (("delimiter", written.delimiter), ("encoding", written.encoding)):
        if value is not None and kind not in ("csv", "tsv"):
            raise DataError(f"{shown}: --{name} is for CSV and TSV, and this is read as {kind}")
    if kind == "conll" and trained.task != TAGS_TASK:
        raise DataError(
            f"{shown}: a file in CoNLL form has a word and its tag on each line, and this model does not tag words; "
            f"{ADVICE}"
        )
    reader = RowReader(shown, trained, columns or {})
    if kind == "text":
        rows = _lines(path, shown)
    elif kind == "jsonl" and path.suffix.lower() not in PACKED:
        # Not `splitlines`, which also cuts at characters inside of a text.
        lines = [(number, line) for number, line in enumerate(_content(path).split("\n"), start=1) if line.strip()]
        rows = [_row(f"{shown}:{number}", line, reader) for number, line in lines]
    else:
        rows = _table(path, _source(path, kind, trained, written), reader)
    if not rows:
        raise DataError(f"{shown} is empty: there is no text in it to predict")
    if reader.answered:
        console.complain(
            f"{shown}: {reader.answered} conversations end with the assistant's turn, which is left out and answered "
            "anew"
        )
    return rows


def _kind_of(path: Path, trained: Trained) -> Format:
    """Return the kind of a file by its ending. Raises DataError for one of which no rows can be read."""
    ending = path.suffix.lower()
    if path != STANDARD_INPUT and ending in trained.files.get("endings", ()) and trained.files.get("kind") in FORMATS:
        return trained.files["kind"]
    if path != STANDARD_INPUT and ending in OTHERS:
        raise DataError(f"{path}: the lines of a {ending} file are not texts; {ADVICE}")
    return BY_ENDING.get(ending, "text")


def _lines(path: Path, shown: str) -> Rows:
    numbered = [(number, line) for number, line in enumerate(_content(path).split("\n"), start=1) if line.strip()]
    texts = [line.removesuffix("\r") for _, line in numbered]
    if numbered and (blank := numbered[-1][0] - len(texts)):  # an answer has not the number of its line
        console.complain(f"{shown}: blank lines are no texts, and have no answers: {blank}")
    if texts and all(_is_object(text) for text in texts[:100]):
        advice = "give --format jsonl" if path == STANDARD_INPUT else "name it .jsonl, or give --format jsonl"
        raise DataError(f"{shown}: its lines are JSON objects; {advice}")
    return [{"text": text, "text_pair": None} for text in texts]


def _source(path: Path, kind: FileKind, trained: Trained, written: Written) -> Source:
    """Return the file as a source of one split. Raises DataError for a delimiter or encoding that there is not."""
    as_trained = trained.files if trained.files.get("kind") == kind else {}
    settings: dict[str, Any] = {key: as_trained.get(key) for key in ("delimiter", "encoding", "quoting")}
    settings |= {key: value for key, value in vars(written).items() if value is not None}
    if settings["delimiter"] == r"\t":  # as a shell hands it over
        settings["delimiter"] = "\t"
    folder = str(path.absolute().parent)
    try:
        return Source(kind=kind, folder=folder, files={_SPLIT: path.name}, **settings)
    except ValidationError as error:
        fault = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise DataError(f"{path}: {fault}") from error


def _table(path: Path, source: Source, reader: RowReader) -> Rows:
    """Return the rows of a table, read as the tables of a dataset card are."""
    if path == STANDARD_INPUT:
        if source.kind == "parquet":
            raise DataError("standard input can't be Parquet; give a file")
        rows = _piped(source)
    elif not path.exists():
        raise DataError(f"{path}: can't be read: there is no such file")
    else:
        rows = _source_rows(path, source)
    return [reader.read(row, f"{reader.shown}: row {number}") for number, row in enumerate(rows, start=1)]


def _source_rows(path: Path, source: Source) -> Rows:
    try:
        return sources.read(source, [_SPLIT])[_SPLIT].rows
    except DataError as error:
        said = str(error).replace(f"the data of {source.folder}", str(path))
        for key, option in _AS_OPTIONS:
            said = key.sub(option, said)
        raise DataError(said) from error


def _piped(source: Source) -> Rows:
    """Return the rows of a table on standard input, from a copy: tables are read from regular files."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / f"stdin.{source.kind}"
        copy.write_bytes(_bytes(STANDARD_INPUT))
        own = source.model_copy(update={"folder": folder, "files": {_SPLIT: copy.name}})
        try:
            return _source_rows(copy, own)
        except DataError as error:
            raise DataError(str(error).replace(str(copy), "standard input")) from error


def _bytes(path: Path) -> bytes:
    place = Path("/dev/stdin") if path == STANDARD_INPUT else path
    shown = "standard input" if path == STANDARD_INPUT else str(path)
    try:
        kind = place.stat().st_mode
        is_terminal = path == STANDARD_INPUT and os.isatty(0)
        if not (stat.S_ISREG(kind) or stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind) or is_terminal):
            what = "is a folder" if stat.S_ISDIR(kind) else "is a device, not a file"
            raise DataError(f"{shown} {what}; {ADVICE}")
        with open(0 if path == STANDARD_INPUT else place, "rb", closefd=path != STANDARD_INPUT) as stream:
            return stream.read()
    except OSError as error:
        raise DataError(f"{shown}: can't be read: {error.strerror or error}") from error


def _content(path: Path) -> str:
    content, shown = _bytes(path), "standard input" if path == STANDARD_INPUT else str(path)
    try:
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise DataError(f"{shown}: this is UTF-16; save it as UTF-8")
        if b"\0" in content or content.startswith((b"\x1f\x8b", b"PK\x03\x04")):
            raise DataError(f"{shown}: this is not a text file, or a compressed one; {ADVICE}")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(f"{shown}:{line}: can't be read as UTF-8 text: {error.reason}") from error


def _is_object(text: str) -> bool:
    try:
        return text.lstrip().startswith("{") and isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON. Raises ValueError for a key with two values: Python would silently take the last."""
    row = dict(pairs)
    if len(row) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r:.60} is there twice")
    return row


def _row(place: str, line: str, reader: RowReader) -> dict[str, Any]:
    try:
        row = json.loads(line.removeprefix("\ufeff"), object_pairs_hook=_distinct_keys)
    except RecursionError as error:
        raise DataError(f"{place}: this JSON is nested too deeply; {ADVICE}") from error
    except ValueError as error:
        if "is there twice" in str(error):
            raise DataError(f"{place}: {error}") from error
        hint = "; an indented file is not JSON lines" if line.strip() in ("[", "{") else ""
        raise DataError(
            f"{place}: this is not a line of JSON: {getattr(error, 'msg', error)}{hint}; {ADVICE}"
        ) from error
    if not isinstance(row, dict):
        shown = "a list" if isinstance(row, list) else json.dumps(row)[:60]
        raise DataError(f"{place}: expected a JSON object with `text`, got {shown}; {ADVICE}")
    return reader.read(row, place)


def words_of(text: str) -> list[str]:
    """Return the words of a text, for a model that tags words: punctuation is apart, as in CoNLL's files."""
    return _WORD.findall(text)


def check(rows: Rows, description: dict[str, Any]) -> None:
    """Raise DataError for texts that this model can't have a label for: none, empty, or of another kind than trained.

    description: of the saved model; one that was trained on pairs of texts needs pairs, and another one single texts.
    """
    if not rows:
        raise DataError("there are no texts to predict")
    if description.get("choices_in_prompts"):
        raise DataError("this model was trained on a prompt for each choice, which new texts are not put into here")
    pairs, questions = _reads_pairs(description), description["task"] == "question_answering"
    for number, row in enumerate(rows, start=1):
        if description["task"] == CHOICES_TASK:
            _check_choices(f"text {number}", row.get("choices", []))
        for text in (row["text"], row["text_pair"] or "", *row.get("choices", ())):
            _check_text(f"text {number}", text)
        if cleaning.is_blank(row["text"]):
            raise DataError(f"text {number} is empty")
        if "messages" in row and description["task"] != GENERATION_TASK:
            raise DataError(f"text {number} is a conversation (`messages`), and this model does not write texts")
        has_pair = not cleaning.is_blank(row["text_pair"] or "")
        if questions and not has_pair:
            raise DataError(f"text {number} has no question: give JSON lines with `text` and, for it, `text_pair`")
        if pairs is True and not has_pair:
            raise DataError(
                f"text {number} has no second text, and this model was trained on pairs of texts: give --text-pair "
                "after --text, or a file with both, as CSV or JSON lines with `text` and `text_pair`"
            )
        if pairs is False and has_pair:
            raise DataError(f"text {number} has a `text_pair`, and this model was trained on single texts")


def _check_choices(name: str, choices: list[str]) -> None:
    if not choices:
        raise DataError(f"{name} has no choices: give JSON lines with `text` and, for it, a list `choices`")
    if len(choices) < 2 or not all(text.strip() for text in choices):
        raise DataError(f"{name}: `choices` must be two texts at least, none of them empty, got {choices!r:.60}")
    if len(set(choices)) < len(choices):
        raise DataError(f"{name} has a choice twice: {max(choices, key=choices.count)!r:.60}")


def _reads_pairs(description: dict[str, Any]) -> bool | None:
    """Return whether a model was trained on pairs; None where one of an earlier version does not say so."""
    prompt = description.get("prompt")
    if isinstance(prompt, dict) and isinstance(prompt.get("template"), str):
        return "{text_pair}" in prompt["template"]
    pairs = description.get("pairs")
    return pairs if isinstance(pairs, bool) else None


def _check_text(name: str, text: str) -> None:
    if len(text) > MOST_CHARACTERS:
        raise DataError(f"{name} has {len(text):,} characters; at most {MOST_CHARACTERS:,} are read")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{name} is not valid Unicode: character {error.start + 1} is half of one") from error
