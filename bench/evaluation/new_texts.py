"""Texts to predict: read from a file or standard input, and checked against what the saved model was trained on."""

import json
import os
import re
import stat
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from bench.config.cards import CHOICES_TASK, GENERATION_TASK, Source
from bench.data import chat_layouts, sources
from bench.data.sources import Rows
from bench.errors import DataError, did_you_mean, nearest

Format = Literal["text", "jsonl", "csv", "tsv", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)
STANDARD_INPUT = Path("-")
JSON_LINES = (".jsonl", ".json", ".ndjson")
TABLES: dict[str, Format] = {".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
# Of these neither a line is a text nor a row is read.
OTHERS = (".arrow", ".xlsx", ".xls", ".yaml", ".yml", ".xml", ".html")
KEYS = ("text", "text_pair")
# A text of so many characters is a file that is no text; models read some thousands of tokens.
MOST_CHARACTERS = 10_000_000
# Words with apostrophes, hyphens and dots inside of them, and every other mark by itself.
_WORD = re.compile(r"\w+(?:[-'’.]\w+)*|[^\w\s]")
ADVICE = "give one text per line, JSON lines (.jsonl), or a table (.csv, .tsv, .parquet) with a column `text`"
# What a file is named as inside of a source.
_SPLIT = "texts"


def parse_columns(given: str) -> dict[str, str]:
    """Return {"text": column, "text_pair": column} of `text=body,text_pair=question`. Raises DataError for another."""
    columns: dict[str, str] = {}
    for part in given.split(","):
        key, equals, name = (word.strip() for word in part.partition("="))
        if key not in KEYS or not equals or not name or key in columns:
            raise DataError(f"--columns {given}: expected text=NAME, or text=NAME,text_pair=NAME")
        columns[key] = name
    return columns


def read_texts(
    path: Path,
    kind: Format | None = None,
    columns: Mapping[str, str] | None = None,
    own: Mapping[str, str | None] | None = None,
) -> Rows:
    """Return rows {"text", "text_pair"} of a file; "-" is standard input. Raises DataError with the place in the file.

    kind: the file's; None for what its ending says, which is text, one a line, where there is no known one. columns:
    names of the columns, as `parse_columns`. own: those of the data that the model was trained on, which are looked for
    beside `text` and `text_pair`.
    """
    if path != STANDARD_INPUT and path.suffix.lower() in OTHERS and kind is None:
        raise DataError(f"{path}: the lines of a {path.suffix.lower()} file are not texts; {ADVICE}")
    kind = kind or ("jsonl" if path.suffix.lower() in JSON_LINES else TABLES.get(path.suffix.lower(), "text"))
    shown = "standard input" if path == STANDARD_INPUT else str(path)
    if kind == "text" and columns:
        raise DataError(f"{shown}: --columns is for JSON lines and tables, and this is read as one text per line")
    chosen = _Columns(shown, columns or {}, own or {})
    if kind in ("csv", "tsv", "parquet"):
        rows = _table(path, kind, chosen)
    elif kind == "jsonl":
        # Not `splitlines`, which also cuts at characters inside of a text.
        lines = [(number, line) for number, line in enumerate(_content(path).split("\n"), start=1) if line.strip()]
        rows = [_row(f"{shown}:{number}", line, chosen) for number, line in lines]
    else:
        texts = [line.removesuffix("\r") for line in _content(path).split("\n") if line.strip()]
        if texts and all(_is_object(text) for text in texts[:100]):
            advice = "give --format jsonl" if path == STANDARD_INPUT else "name it .jsonl, or give --format jsonl"
            raise DataError(f"{shown}: its lines are JSON objects; {advice}")
        rows = [{"text": text, "text_pair": None} for text in texts]
    if not rows:
        raise DataError(f"{shown} is empty: there is no text in it to predict")
    return rows


class _Columns:
    """Chooses which key of a row is the text, and which its pair."""

    def __init__(self, shown: str, given: Mapping[str, str], own: Mapping[str, str | None]) -> None:
        self.shown, self.given, self.own = shown, given, own

    def of(self, names: Collection[str], place: str) -> dict[str, str | None]:
        """Return the names of both; None for no second text. Raises DataError where that is not plain."""
        return {key: self._named(key, names, place) for key in KEYS}

    def _named(self, key: str, names: Collection[str], place: str) -> str | None:
        if key in self.given:
            if self.given[key] not in names:
                hint = did_you_mean(self.given[key], names).replace("Known", "Its keys")
                raise DataError(f"{place}: --columns {key}={self.given[key]}: there is no such key.{hint}")
            return self.given[key]
        known = [name for name in dict.fromkeys((self.own.get(key), key)) if name in names]
        if len(known) > 1:
            raise DataError(
                f"{place}: `{known[0]}`, as in the data that the model was trained on, and `{known[1]}` are both "
                f"there; say which one is meant: --columns {key}={known[0]}"
            )
        if not known and key == "text":
            raise DataError(f"{place}: the key `text` is missing.{self._hint(names)}")
        return known[0] if known else None

    def _hint(self, names: Collection[str]) -> str:
        if not names:
            return " It is empty."
        near = next((name for name in names if name.lower() == "text"), None) or nearest("text", names)
        if near is not None:
            return f" Its {near!r} must be called 'text', or be named: --columns text={near}"
        return f" Its keys: {', '.join(sorted(names))}. Say which one is the text: --columns text=NAME"


def _table(path: Path, kind: Literal["csv", "tsv", "parquet"], columns: _Columns) -> Rows:
    """Return the rows of a table, read as the tables of a dataset card are."""
    if path == STANDARD_INPUT:
        if kind == "parquet":
            raise DataError("standard input can't be Parquet; give a file")
        rows = _piped(kind)
    elif not path.exists():
        raise DataError(f"{path}: can't be read: there is no such file")
    else:
        rows = _source_rows(path, kind)
    return [_of_any_task(row, columns, f"{columns.shown}: row {number}") for number, row in enumerate(rows, start=1)]


def _source_rows(path: Path, kind: Literal["csv", "tsv", "parquet"]) -> Rows:
    folder = str(path.absolute().parent)
    try:
        return sources.read(Source(kind=kind, folder=folder, files={_SPLIT: path.name}), [_SPLIT])[_SPLIT].rows
    except DataError as error:
        raise DataError(str(error).replace(f"the data of {folder}", str(path))) from error


def _piped(kind: Literal["csv", "tsv"]) -> Rows:
    """Return the rows of a table on standard input, from a copy: tables are read from regular files."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / f"stdin.{kind}"
        copy.write_text(_content(STANDARD_INPUT), encoding="utf-8", newline="")
        try:
            return _source_rows(copy, kind)
        except DataError as error:
            raise DataError(str(error).replace(str(copy), "standard input")) from error


def _content(path: Path) -> str:
    place = Path("/dev/stdin") if path == STANDARD_INPUT else path
    shown = "standard input" if path == STANDARD_INPUT else str(path)
    try:
        kind = place.stat().st_mode
        is_terminal = path == STANDARD_INPUT and os.isatty(0)
        if not (stat.S_ISREG(kind) or stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind) or is_terminal):
            what = "is a folder" if stat.S_ISDIR(kind) else "is a device, not a file"
            raise DataError(f"{shown} {what}; {ADVICE}")
        with open(0 if path == STANDARD_INPUT else place, "rb", closefd=path != STANDARD_INPUT) as stream:
            content = stream.read()
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise DataError(f"{shown}: this is UTF-16; save it as UTF-8")
        if b"\0" in content or content.startswith((b"\x1f\x8b", b"PK\x03\x04")):
            raise DataError(f"{shown}: this is not a text file, or a compressed one; {ADVICE}")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{shown}: can't be read: {error.strerror or error}") from error
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


def _row(place: str, line: str, columns: _Columns) -> dict[str, Any]:
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
    return _of_any_task(row, columns, place)


def _of_any_task(row: dict[str, Any], columns: _Columns, place: str) -> dict[str, Any]:
    """Return {"text", "text_pair"} of a row, and its `messages`, `tokens` or `choices`, where it has any."""
    if "messages" in row:
        turns = chat_layouts.turns_of(row["messages"], place, answered=False)
        said = "\n\n".join(turn["content"] for turn in turns if turn["role"] != "system")
        return {"text": said, "text_pair": None, "messages": turns}
    if "tokens" in row:
        words = row["tokens"]
        if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
            raise DataError(f"{place}: `tokens` must be a list of words, got {json.dumps(words, default=str)[:60]}")
        return {"text": row.get("text") or " ".join(words), "text_pair": None, "tokens": words}
    chosen = _chosen(row, columns.of(row, place), place)
    if "choices" in row:
        choices = row["choices"]
        if not isinstance(choices, list) or not all(isinstance(text, str) for text in choices):
            raise DataError(f"{place}: `choices` must be a list of texts, got {json.dumps(choices, default=str)[:60]}")
        chosen["choices"] = choices
    return chosen


def _chosen(row: dict[str, Any], columns: Mapping[str, str | None], place: str) -> dict[str, Any]:
    """Return {"text", "text_pair"} of a row, whose values must be texts; the second one may be missing."""
    chosen = {key: row[name] if name else None for key, name in columns.items()}
    for key, value in chosen.items():
        if not isinstance(value, str) and (value is not None or key == "text"):
            raise DataError(f"{place}: `{key}` must be a text, got {json.dumps(value, default=str)[:60]}")
    return chosen


def words_of(text: str) -> list[str]:
    """Return the words of a text, for a model that tags words: punctuation is apart, as in CoNLL's files."""
    return _WORD.findall(text)


def check(rows: Rows, description: dict[str, Any]) -> None:
    """Raise DataError for texts that this model can't have a label for: none, empty, or of another kind than trained.

    description: of the saved model; one that was trained on pairs of texts needs pairs, and another one single texts.
    """
    if not rows:
        raise DataError("there are no texts to predict")
    if description["task"] == "lm_eval_generation":
        raise DataError("answers of a model that was trained on a task of lm_eval are not written here for new texts")
    pairs, questions = _reads_pairs(description), description["task"] == "question_answering"
    for number, row in enumerate(rows, start=1):
        if description["task"] == CHOICES_TASK:
            _check_choices(f"text {number}", row.get("choices", []))
        for text in (row["text"], row["text_pair"] or "", *row.get("choices", ())):
            _check_text(f"text {number}", text)
        if not row["text"].strip():
            raise DataError(f"text {number} is empty")
        if "messages" in row and description["task"] != GENERATION_TASK:
            raise DataError(f"text {number} is a conversation (`messages`), and this model does not write texts")
        has_pair = bool((row["text_pair"] or "").strip())
        if questions and not has_pair:
            raise DataError(f"text {number} has no question: give JSON lines with `text` and, for it, `text_pair`")
        if pairs is True and not has_pair:
            raise DataError(
                f"text {number} has no second text, and this model was trained on pairs of texts: give JSON lines with "
                "`text` and `text_pair`"
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
