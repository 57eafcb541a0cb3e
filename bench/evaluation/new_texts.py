"""Texts to predict: read from a file or a command line, and checked against what the saved model was trained on."""

import json
import stat
from pathlib import Path
from typing import Any

from bench.config.cards import CHOICES_TASK
from bench.data.sources import Rows
from bench.errors import DataError, did_you_mean

JSON_LINES = (".jsonl", ".json", ".ndjson")
# Of these a line is not a text.
TABLES = (".csv", ".tsv", ".parquet", ".arrow", ".xlsx", ".xls", ".yaml", ".yml", ".xml", ".html")
KEYS = ("text", "text_pair")
# A text of so many characters is a file that is no text; models read some thousands of tokens.
MOST_CHARACTERS = 10_000_000
ADVICE = "give one text per line, or JSON lines (.jsonl) with `text` (and `text_pair`)"


def read_texts(path: Path) -> Rows:
    """Read one text per line, or JSON lines with `text` (and `text_pair`). Raises DataError with the line number."""
    if path.suffix.lower() in TABLES:
        raise DataError(f"{path}: the lines of a {path.suffix.lower()} file are not texts; {ADVICE}")
    content = _content(path)
    if path.suffix.lower() in JSON_LINES:
        # Not `splitlines`, which also cuts at characters inside of a text.
        lines = [(number, line) for number, line in enumerate(content.split("\n"), start=1) if line.strip()]
        return [_row(f"{path}:{number}", line) for number, line in lines]
    texts = [line.removesuffix("\r") for line in content.split("\n") if line.strip()]
    if texts and all(_is_object(text) for text in texts[:100]):
        raise DataError(f"{path}: its lines are JSON objects; name it .jsonl, or give one text per line")
    return [{"text": text, "text_pair": None} for text in texts]


def _content(path: Path) -> str:
    try:
        kind = path.stat().st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISFIFO(kind)):
            what = "is a folder" if stat.S_ISDIR(kind) else "is a device, not a file"
            raise DataError(f"{path} {what}; {ADVICE}")
        content = path.read_bytes()
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise DataError(f"{path}: this is UTF-16; save it as UTF-8")
        if b"\0" in content or content.startswith((b"\x1f\x8b", b"PK\x03\x04")):
            raise DataError(f"{path}: this is not a text file, or a compressed one; {ADVICE}")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(f"{path}:{line}: can't be read as UTF-8 text: {error.reason}") from error


def _is_object(text: str) -> bool:
    try:
        return text.lstrip().startswith("{") and isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _row(place: str, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line.removeprefix("\ufeff"))
    except RecursionError as error:
        raise DataError(f"{place}: this JSON is nested too deeply; {ADVICE}") from error
    except ValueError as error:
        hint = "; an indented file is not JSON lines" if line.strip() in ("[", "{") else ""
        raise DataError(
            f"{place}: this is not a line of JSON: {getattr(error, 'msg', error)}{hint}; {ADVICE}"
        ) from error
    if not isinstance(row, dict):
        shown = "a list" if isinstance(row, list) else json.dumps(row)[:60]
        raise DataError(f"{place}: expected a JSON object with `text`, got {shown}; {ADVICE}")
    if "text" not in row:
        hint = did_you_mean("text", row) if row else " It is empty."
        raise DataError(f"{place}: the key `text` is missing.{hint.replace('Known', 'Its keys')}")
    for key in KEYS:
        value = row.get(key)
        if not isinstance(value, str) and (value is not None or key == "text"):
            raise DataError(f"{place}: `{key}` must be a text, got {json.dumps(value)[:60]}")
    found = {"text": row["text"], "text_pair": row.get("text_pair")}
    if "choices" in row:
        choices = row["choices"]
        if not isinstance(choices, list) or not all(isinstance(text, str) for text in choices):
            raise DataError(f"{place}: `choices` must be a list of texts, got {json.dumps(choices)[:60]}")
        found["choices"] = choices
    return found


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
