"""Questions on passages in SQuAD's formats: official JSON and the Hub's flat form give the same rows.

A question without gold answers is unanswerable (SQuAD v2.0, Rajpurkar et al. 2018); in v1.1 every one has an answer.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from bench.config.cards import ANSWER_LABELS
from bench.errors import DataError, RecipeError

Rows = list[dict[str, Any]]

# A row's label tells whether its question can be answered: the id is 1 where there is a gold answer.
LABELS: tuple[str, ...] = ANSWER_LABELS
# Metric -> the version of the data for which its rules are written.
VERSIONS: Mapping[str, str] = {"squad": "1.1", "squad_v2": "2.0"}


def flatten(content: object, place: str) -> Rows:
    """Flatten the content of an official file: a row per question, in the Hub's flat form and the file's order.

    Rows have `title`, `context` and what the file says of the question (`id`, `question`, `answers`, and in v2.0
    `is_impossible` and `plausible_answers`), unchanged. Raises DataError, with `place`, for another format.
    """
    rows: Rows = []
    for article, where in _items(content, "data", place):
        for paragraph, here in _items(article, "paragraphs", where):
            around = {"title": article.get("title"), "context": paragraph.get("context")}
            rows += [{**around, **question} for question, _ in _items(paragraph, "qas", here)]
    return rows


def _items(content: object, key: str, place: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield each object of the list under a key, and its place in the file."""
    items = content.get(key) if isinstance(content, dict) else None
    if not isinstance(items, list):
        raise DataError(f"{place}: not in SQuAD's format: expected an object with a list {key!r}, got {content!r:.60}")
    for number, item in enumerate(items):
        where = f"{place}: {key}[{number}]" if key == "data" else f"{place}.{key}[{number}]"
        if not isinstance(item, dict):
            raise DataError(f"{where}: not in SQuAD's format: expected an object, got {item!r:.60}")
        yield item, where


def answers_of(row: Mapping[str, Any], column: str, place: str) -> dict[str, Any]:
    """Return {"label": 1 where there is an answer, else 0, "answers": texts, "answer_starts": offsets in characters}.

    The column holds {"text": [...], "answer_start": [...]} or a list of {"text", "answer_start"}. Raises DataError,
    with `place`, for another format, an answer of white space alone, and an `is_impossible` that contradicts it.
    """
    pairs = [_answer(text, start, place) for text, start in _pairs(row[column], column, place)]
    said = row.get("is_impossible")
    impossible = None if said is None else _truth(said, place)
    if impossible is not None and impossible is not (not pairs):
        answers = f"{len(pairs)} answer{'s' if len(pairs) > 1 else ''}" if pairs else "no answer"
        raise DataError(f"{place}: is_impossible is {said!r}, but the question has {answers}")
    return {"label": int(bool(pairs)), "answers": [text for text, _ in pairs], "answer_starts": [at for _, at in pairs]}


def _truth(value: Any, place: str) -> bool:
    """Return what `is_impossible` says: a truth value, or 0 and 1 or their words, as tables and forms write them."""
    words = {"false": False, "0": False, "0.0": False, "true": True, "1": True, "1.0": True}
    truth = words.get(str(value).strip().lower()) if isinstance(value, bool | int | float | str) else None
    if truth is None:
        raise DataError(f"{place}: is_impossible is {value!r:.60}; expected true or false, or 1 or 0")
    return truth


def _pairs(value: Any, column: str, place: str) -> list[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        texts, starts = value.get("text"), value.get("answer_start")
        if isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts):
            return list(zip(texts, starts, strict=True))
    elif isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
        return [(item.get("text"), item.get("answer_start")) for item in value]
    expected = "lists `text` and `answer_start` of equal length, or a list of such pairs"
    raise DataError(f"{place}: {column!r} must hold {expected}; got {value!r:.80}")


def _answer(text: Any, start: Any, place: str) -> tuple[str, int]:
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{place}: an answer must be text that is not empty, got {text!r:.60}")
    if isinstance(start, bool) or not isinstance(start, int):
        raise DataError(f"{place}: the start of the answer {text!r:.60} must be a whole number, got {start!r:.60}")
    return text, start


def misaligned(row: Mapping[str, Any]) -> str | None:
    """Return a sentence on the first answer of a row that is not at its offset; None when all are.

    row: {"text", "answers", "answer_starts"}.
    """
    context = row["text"]
    for text, start in zip(row["answers"], row["answer_starts"], strict=True):
        # A negative offset would count from the end.
        characters = context[start : start + len(text)] if start >= 0 else ""
        if characters != text:
            hint = _other_count(context, text, start)
            return f"at character {start} of the context is {characters!r:.60}, not the answer {text!r:.60}{hint}"
    return None


def _other_count(context: str, text: str, start: int) -> str:
    """Return in which other way an offset counts, as a part of a sentence; "" where none is known."""
    for encoding, unit, size in (
        ("utf-8", "bytes (UTF-8)", 1),
        ("utf-16-le", "units of UTF-16, as JavaScript does", 2),
    ):
        found, wanted = context.encode(encoding), text.encode(encoding)
        if start > 0 and found[start * size : start * size + len(wanted)] == wanted:
            return f", which is there if offsets count {unit}"
    if start > 0 and context[start - 1 : start - 1 + len(text)] == text:
        return ", which is there if offsets count from 1"
    return ""


def version_of(rows: Iterable[Mapping[str, Any]], column: str, kept: Sequence[str] | None = None) -> str:
    """Return "2.0" when a question has no answer or a key `is_impossible`, else "1.1".

    kept: labels to which a filter restricts the rows; without the unanswerable ones, the rules of v1.1 apply.
    """
    if kept is not None and LABELS[0] not in kept:
        return VERSIONS["squad"]
    is_v2 = any("is_impossible" in row or not _has_answer(row.get(column)) for row in rows)
    return VERSIONS["squad_v2" if is_v2 else "squad"]


def _has_answer(value: Any) -> bool:
    return bool(value.get("text") if isinstance(value, Mapping) else value)


def check_version(version: str | None, metric_names: Iterable[str]) -> None:
    """Raise RecipeError for a metric of the other version; version: that of a Corpus, None without answers."""
    for name in metric_names:
        if name not in VERSIONS or VERSIONS[name] == version:
            continue
        if version is None:
            reason = "these data have no gold answers; a card names them with columns.answers"
        elif name == "squad":
            reason = "these data have questions without an answer (SQuAD v2.0); ask for squad_v2"
        else:
            reason = "in these data every question has an answer (SQuAD v1.1); ask for squad"
        raise RecipeError(f"the metric {name!r} does not fit: {reason}")


def plausible_note(split: str, rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a note on the plausible answers of SQuAD v2.0, which are wrong ones and not used; [] without any."""
    count = sum(bool(row.get("plausible_answers")) for row in rows)
    return [f"{split}: {count} questions have plausible answers, which are not used"] if count else []
