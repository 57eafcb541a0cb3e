"""Questions with long contexts as windows that a model can read, for answers that are spans of the context."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.data.tokenizer import encode
from bench.errors import DataError, SetupError

# All that `str.isspace` calls white space.
WHITE_SPACE = np.array([code for code in range(0x3001) if chr(code).isspace()], dtype=np.uint32)


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Features of all rows, a row's windows one after another; numbers of the rows whose question was shortened.

    missed: numbers of the rows whose answer lies wholly in no window, so that there is nothing but the null position
    to learn from them; empty when no positions were asked for.
    """

    features: list[dict[str, Any]]
    cut: tuple[int, ...]
    missed: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class _Text:
    """Token ids of one text, and the characters [tokens, 2] that each stands for."""

    ids: list[int]
    offsets: np.ndarray


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """What a tokenizer puts before, between and after two texts.

    types: token types of all five parts, those of a text once for all of its tokens; None where the model reads none.
    """

    before: list[int]
    between: list[int]
    after: list[int]
    types: list[list[int]] | None
    null_tokens: tuple[int, ...]

    @property
    def added(self) -> int:
        """Tokens that belong to neither text."""
        return len(self.before) + len(self.between) + len(self.after)

    def input_ids(self, question: list[int], context: list[int]) -> list[int]:
        """Both texts as the model reads them."""
        return [*self.before, *question, *self.between, *context, *self.after]

    def token_type_ids(self, question: int, context: int) -> list[int]:
        """For so many tokens of each."""
        before, first, between, second, after = self.types or [[]] * 5
        return [*before, *first * question, *between, *second * context, *after]

    def null(self, question: int, context: int) -> int:
        """Where "no answer" is read: at the classification token, else at the begin token, else at the first token."""
        behind_question = len(self.before) + question
        last = behind_question + len(self.between) + context
        added = [*enumerate(self.before), *enumerate(self.between, behind_question), *enumerate(self.after, last)]
        places = [place for wanted in self.null_tokens for place, token in added if token == wanted]
        return places[0] if places else 0


def windows(
    rows: Sequence[dict[str, Any]], tokenizer: Any, max_length: int, doc_stride: int, *, positions: bool = False
) -> Windows:
    """Rows ({"id", "text": context, "text_pair": question}) -> overlapping windows of at most `max_length` tokens each.

    doc_stride: context tokens that two neighbouring windows share, as in transformers' run_qa.py; a window holds more
    than that. A question that leaves no room for it is cut on the right, to half of what doc_stride and the
    tokenizer's own tokens leave. The question comes first, and the tokenizer's own template puts its tokens around.

    A feature: {"input_ids", "token_type_ids" where the model reads them, "example": row number, "context_start" and
    "context_end": range of the context's tokens, "offsets": int32 [context tokens, 2], "null": token at which "no
    answer" is read}. Offsets count characters of the row's own text; a token stands for no white space around it, and
    for the combining marks that its tokenizer drops behind it.

    positions: adds "start_positions" and "end_positions", the smallest token span that covers the first of a row's
    "answers" (at "answer_starts"); null when the row has none, or the window does not hold the whole span.

    Raises SetupError for a tokenizer without offsets, or lengths that leave no room; DataError for a context without
    tokens, or an answer that does not stand where the row says.
    """
    if not rows:
        return Windows(features=[], cut=(), missed=())
    texts = _tokenised(rows, tokenizer)
    layout = _layout(rows, texts, tokenizer)
    left = max_length - layout.added - doc_stride
    if doc_stride < 0 or left < 2:
        raise SetupError(
            f"max_length {max_length} with doc_stride {doc_stride} leaves no room for question and context: the "
            f"tokenizer adds {layout.added} tokens of its own; doc_stride must be 0 or more, and at least two tokens "
            "less than the rest"
        )
    features: list[dict[str, Any]] = []
    cut, missed = [], []
    for number, row in enumerate(rows):
        question, context = texts[row["text_pair"]].ids, texts[row["text"]]
        if len(question) > left - 1 and layout.added + len(question) + len(context.ids) > max_length:
            question = question[: left // 2]
            cut.append(number)
        ranges = _ranges(len(context.ids), max_length - layout.added - len(question), doc_stride)
        found = [_feature(number, question, context, layout, *window) for window in ranges]
        if positions and not _add_positions(found, ranges, row, context.offsets):
            missed.append(number)
        features += found
    return Windows(features=features, cut=tuple(cut), missed=tuple(missed))


def _ranges(total: int, room: int, doc_stride: int) -> list[tuple[int, int]]:
    """The parts of so many context tokens, each as long as there is room; the last is the first to reach the end."""
    if total <= room:
        return [(0, total)]
    return [(start, min(start + room, total)) for start in range(0, total - doc_stride, room - doc_stride)]


def _feature(number: int, question: list[int], context: _Text, layout: _Layout, start: int, end: int) -> dict[str, Any]:
    """The window with the context's tokens from `start` up to, not with, `end`."""
    feature: dict[str, Any] = {"input_ids": layout.input_ids(question, context.ids[start:end])}
    if layout.types is not None:
        feature["token_type_ids"] = layout.token_type_ids(len(question), end - start)
    first = len(layout.before) + len(question) + len(layout.between)
    return {
        **feature,
        "example": number,
        "context_start": first,
        "context_end": first + end - start,
        # A view: all windows of a context, for all of its questions, share one array.
        "offsets": context.offsets[start:end],
        "null": layout.null(len(question), end - start),
    }


def _add_positions(
    features: list[dict[str, Any]], ranges: list[tuple[int, int]], row: dict[str, Any], offsets: np.ndarray
) -> bool:
    """Whether all is well: the row has no answer, or one that lies wholly in a window."""
    span = None
    if row["answers"]:
        answer, start = row["answers"][0], row["answer_starts"][0]
        if start < 0 or row["text"][start : start + len(answer)] != answer:
            raise DataError(f"the answer {answer!r} of {row['id']!r} does not stand at character {start} of its text")
        span = covering(offsets, start, start + len(answer))
    held = not row["answers"]
    for feature, (start, end) in zip(features, ranges, strict=True):
        first = last = feature["null"]
        if span is not None and start <= span[0] and span[1] < end:
            first, last = (feature["context_start"] + token - start for token in span)
            held = True
        feature["start_positions"], feature["end_positions"] = first, last
    return held


def covering(offsets: np.ndarray, start: int, end: int) -> tuple[int, int] | None:
    """(first, last) of the smallest span of tokens that covers the characters from `start` up to, not with, `end`.

    offsets: [tokens, 2]. Characters that belong to no token, like spaces, need no cover; None when that is all of them.
    """
    starts, ends = offsets.T
    touching = np.flatnonzero((ends > start) & (starts < end) & (starts < ends))
    return (int(touching[0]), int(touching[-1])) if start < end and len(touching) else None


def _tokenised(rows: Sequence[dict[str, Any]], tokenizer: Any) -> dict[str, _Text]:
    """Each text once, however many questions are asked of it, in one call."""
    if not getattr(tokenizer, "is_fast", False):
        raise SetupError(
            f"{type(tokenizer).__name__} does not say which characters a token stands for, which answers that are "
            "spans of a text need; use a tokenizer of the tokenizers library"
        )
    contexts = {row["text"] for row in rows}
    texts = list(dict.fromkeys(text for row in rows for text in (row["text"], row["text_pair"])))
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    # As in `encode`: a special token that stands spelt out in a text is text.
    unknown = tokenizer.unk_token_id
    special = set(tokenizer.all_special_ids) - {unknown} if unknown is not None else set()
    found = {}
    for text, ids, pairs in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        offsets = np.array(pairs, dtype=np.int32).reshape(-1, 2)
        found[text] = _Text(
            ids=[unknown if token in special else token for token in ids],
            offsets=_visible(text, offsets) if text in contexts else offsets,
        )
    for row in rows:
        if not found[row["text"]].ids:
            raise DataError(f"the text of {row['id']!r} has no tokens, so there is nothing to look for an answer in")
    return found


def _visible(text: str, offsets: np.ndarray) -> np.ndarray:
    """Offsets [tokens, 2] without white space at either end, and with the combining marks that belong to no token.

    Whether a token stands for the space before its word depends on the tokenizer; an answer must not. And where accents
    are stripped or composed, a token ends before the mark that it was made of, so that an answer would lose it.
    """
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    places = np.arange(len(codes) + 1, dtype=np.int32)
    space = np.isin(codes, WHITE_SPACE)
    starts, ends = offsets.T
    if not text.isascii():
        known = [ord(character) for character in set(text) if unicodedata.category(character)[0] == "M"]
        if known:
            behind = _next(np.append(~np.isin(codes, np.array(known, dtype=np.uint32)), True), places)
            # Not where the marks are tokens of their own.
            following = np.append(starts, len(codes))[np.searchsorted(starts, ends)]
            ends = np.minimum(behind[ends], np.maximum(following, ends))
    starts = np.minimum(_next(np.append(~space, True), places)[starts], ends)
    before = len(codes) - _next(np.append(~space[::-1], True), places)[::-1]
    return np.stack([starts, np.maximum(before[ends], starts)], axis=1).astype(np.int32)


def _next(wanted: np.ndarray, places: np.ndarray) -> np.ndarray:
    """For each place the first one, from it on, that is wanted; the last one always is."""
    return np.minimum.accumulate(np.where(wanted, places, places[-1])[::-1])[::-1]


def _layout(rows: Sequence[dict[str, Any]], texts: dict[str, _Text], tokenizer: Any) -> _Layout:
    """Read off one pair. Raises SetupError for a tokenizer to which two texts side by side are other tokens."""
    row = next((row for row in rows if texts[row["text_pair"]].ids), rows[0])
    question, context = texts[row["text_pair"]].ids, texts[row["text"]].ids
    (feature,) = encode(tokenizer, [row["text_pair"]], [row["text"]])
    ids = feature["input_ids"]
    parts = tokenizer([row["text_pair"]], [row["text"]], verbose=False).sequence_ids(0)
    first, second = parts.index(0) if question else parts.index(1), parts.index(1)
    behind_first, behind_second = first + len(question), second + len(context)
    types = feature.get("token_type_ids")
    layout = _Layout(
        before=ids[:first],
        between=ids[behind_first:second],
        after=ids[behind_second:],
        types=None
        if types is None
        else [
            types[:first],
            types[first:behind_first][:1],
            types[behind_first:second],
            types[second : second + 1],
            types[behind_second:],
        ],
        null_tokens=tuple(token for token in (tokenizer.cls_token_id, tokenizer.bos_token_id) if token is not None),
    )
    same = (parts.count(0), parts.count(1)) == (len(question), len(context))
    if not same or layout.input_ids(question, context) != ids:
        raise SetupError(
            f"{type(tokenizer).__name__} makes other tokens of a question and a text side by side than of each alone, "
            "so that windows can't be cut from them"
        )
    return layout
