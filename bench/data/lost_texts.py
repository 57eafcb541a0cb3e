"""Findings on encoded data: texts and answers that were cut away, and positions that are not those of the answers."""

from collections.abc import Mapping, Sequence
from typing import Any

from bench.data.examples import Feature
from bench.records.record import RunWarning

# From this share of texts on, what was cut says something about the score; classifiers often read beginnings only.
MANY_TEXTS = 0.25
# An answer that is cut is lost, so that few are many.
MANY_ANSWERS = 0.05
# Of texts without a known word, as of answers that can't be read, a share from here on is more than the odd slip.
MANY_UNREAD = 0.1
# Below, tokens that stand for no characters of their own may be why.
MANY_POSITIONS = 0.05


def texts_cut(splits: Mapping[str, tuple[int, int]], unit: str, max_length: int) -> RunWarning | None:
    """Return a warning of splits with a large share of texts longer than max_length tokens.

    splits: name -> how many were cut, of how many. unit: what was cut, e.g. "texts".
    """
    many = {name: (cut, total) for name, (cut, total) in splits.items() if total and cut / total >= MANY_TEXTS}
    if not many:
        return None
    listed = "; ".join(f"{name} {cut:,} of {total:,} ({cut / total:.0%})" for name, (cut, total) in many.items())
    return RunWarning(code="texts_cut", sentence=f"{unit} cut to max_length {max_length} tokens: {listed}")


def answers_cut(split: str, cut: int, total: int, how: str) -> RunWarning | None:
    """Return a warning of answers that are cut away. how: of these, e.g. "lie wholly in no window"."""
    if not total or cut / total < MANY_ANSWERS:
        return None
    return RunWarning(code="answers_cut", sentence=f"{split}: {cut:,} of {total:,} answers ({cut / total:.0%}) {how}")


def without_terms(split: str, count: int, total: int) -> RunWarning | None:
    """Return a warning of texts in which a classifier of words finds none that it knows."""
    if not total or count / total < MANY_UNREAD:
        return None
    sentence = f"{split}: {count:,} of {total:,} texts ({count / total:.0%}) hold no term of the training texts"
    return RunWarning(code="no_known_terms", sentence=f"{sentence}, and all get the same answer")


def positions(rows: Sequence[Mapping[str, Any]], features: Sequence[Feature]) -> RunWarning | None:
    """Return a warning of learned positions that mark other words than the answers.

    features: windows as `windows.make_windows` gives them with positions; `rows[feature["example"]]` is its row. Read
    apart from how positions are made: by the text that they mark, which must hold the answer and little else.
    """
    marked = past = other = 0
    for feature in features:
        row, first, last = rows[feature["example"]], feature["start_positions"], feature["end_positions"]
        if not row["answers"] or first == last == feature["null"]:
            continue
        marked += 1
        if not feature["context_start"] <= first <= last < feature["context_end"]:
            past += 1
            continue
        offsets, begin = feature["offsets"], feature["context_start"]
        other += not _is_answer(row, row["answers"][0], offsets[first - begin], offsets[last - begin])
    if not marked or (past + other) / marked < MANY_POSITIONS:
        return None
    sentence = (
        f"train: {past + other:,} of {marked:,} positions to learn ({(past + other) / marked:.0%}) are not those of "
        f"the answer: {past:,} lie outside the text's tokens, {other:,} mark other words"
    )
    return RunWarning(code="offsets_not_tokens", sentence=sentence)


def _is_answer(row: Mapping[str, Any], answer: str, first: Sequence[int], last: Sequence[int]) -> bool:
    """Return whether the characters of two tokens, and those between, hold the answer, which touches both tokens."""
    start, end = int(first[0]), int(last[1])
    text, wanted = row["text"][start:end], answer.strip()
    return wanted in text and len(text) - len(wanted) <= (first[1] - first[0]) + (last[1] - last[0])
