"""Splits questions with long contexts into overlapping windows, for answers that are spans of the context."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bench.data.examples import Feature
from bench.data.tokenizer import encode
from bench.errors import DataError, SetupError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Offsets = npt.NDArray[np.int32]

# Every character that `str.isspace` calls white space.
WHITE_SPACE = np.array([code for code in range(0x3001) if chr(code).isspace()], dtype=np.uint32)


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Features of all rows, a row's windows one after another.

    cut: numbers of the rows whose question was truncated. missed: numbers of the rows whose answer lies wholly in no
    window, so that only the null position can be learned from them; empty when no positions were asked for.
    """

    features: list[Feature]
    cut: tuple[int, ...]
    missed: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class _Text:
    """Token ids of one text, and the characters of each token, [tokens, 2]."""

    ids: list[int]
    offsets: Offsets


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Special tokens before, between and after two texts.

    types: token types of all five parts, those of a text once for all of its tokens; None where the model reads none.
    null_tokens: tokens at which "no answer" is read, the preferred one first.
    """

    before: list[int]
    between: list[int]
    after: list[int]
    types: list[list[int]] | None
    null_tokens: tuple[int, ...]

    @property
    def added(self) -> int:
        """Return the number of tokens that belong to neither text."""
        return len(self.before) + len(self.between) + len(self.after)

    def input_ids(self, question: list[int], context: list[int]) -> list[int]:
        """Return both texts with the special tokens around them."""
        return [*self.before, *question, *self.between, *context, *self.after]

    def token_type_ids(self, question: int, context: int) -> list[int]:
        """Return the token types for so many tokens of each text."""
        before, first, between, second, after = self.types or [[]] * 5
        return [*before, *first * question, *between, *second * context, *after]

    def null(self, question: int, context: int) -> int:
        """Return the token at which "no answer" is read: the classification, else the begin, else the first token."""
        behind_question = len(self.before) + question
        last = behind_question + len(self.between) + context
        added = [*enumerate(self.before), *enumerate(self.between, behind_question), *enumerate(self.after, last)]
        places = [place for wanted in self.null_tokens for place, token in added if token == wanted]
        return places[0] if places else 0


def make_windows(
    rows: Sequence[dict[str, Any]],
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
    doc_stride: int,
    *,
    positions: bool = False,
) -> Windows:
    """Split rows ({"id", "text": context, "text_pair": question}) into windows of at most `max_length` tokens each.

    doc_stride: context tokens that two neighbouring windows share, as in transformers' run_qa.py; a window holds more
    than that. A question that leaves no room for it is truncated on the right, to half of what doc_stride and the
    special tokens leave. The question comes first, and special tokens are where the tokenizer's own template has them.

    A feature: {"input_ids", "token_type_ids" where the model reads them, "example": row number, "context_start" and
    "context_end": range of the context's tokens, "offsets": int32 [context tokens, 2], "null": token at which "no
    answer" is read}. Offsets count characters of the row's own text: without the white space around a token, and with
    the combining marks that its tokenizer drops behind it.

    positions: adds "start_positions" and "end_positions", the smallest token span that covers the first of a row's
    "answers" (at "answer_starts"); null when the row has none, or the window does not hold the whole span.

    Raises SetupError for a tokenizer without offsets, or lengths that leave no room; DataError for a context without
    tokens, or an answer that is not at its offset.
    """
    if not rows:
        return Windows(features=[], cut=(), missed=())
    texts = _tokenize(rows, tokenizer)
    layout = _layout(rows, texts, tokenizer)
    available = max_length - layout.added - doc_stride
    if doc_stride < 0 or available < 2:
        raise SetupError(
            f"max_length {max_length} with doc_stride {doc_stride} leaves no room for question and context: the "
            f"tokenizer adds {layout.added} special tokens; doc_stride must be 0 or more, and max_length "
            f"at least doc_stride + {layout.added + 2}"
        )
    features: list[Feature] = []
    cut, missed = [], []
    for number, row in enumerate(rows):
        question, context = texts[row["text_pair"]].ids, texts[row["text"]]
        if len(question) > available - 1 and layout.added + len(question) + len(context.ids) > max_length:
            question = question[: available // 2]
            cut.append(number)
        ranges = _ranges(len(context.ids), max_length - layout.added - len(question), doc_stride)
        own = [_feature(number, question, context, layout, *window) for window in ranges]
        if positions and not _add_positions(own, ranges, row, context.offsets):
            missed.append(number)
        features += own
    return Windows(features=features, cut=tuple(cut), missed=tuple(missed))


def _ranges(num_tokens: int, longest: int, doc_stride: int) -> list[tuple[int, int]]:
    """Return the context tokens of each window, [start, end); the last window is the first to reach the end."""
    if num_tokens <= longest:
        return [(0, num_tokens)]
    return [
        (start, min(start + longest, num_tokens)) for start in range(0, num_tokens - doc_stride, longest - doc_stride)
    ]


def _feature(number: int, question: list[int], context: _Text, layout: _Layout, start: int, end: int) -> Feature:
    """Return the window with the context's tokens [start, end)."""
    feature: Feature = {"input_ids": layout.input_ids(question, context.ids[start:end])}
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
    features: list[Feature], ranges: list[tuple[int, int]], row: dict[str, Any], offsets: Offsets
) -> bool:
    """Add start and end positions to a row's windows; False for an answer that lies wholly in none of them."""
    span = None
    if row["answers"]:
        answer, start = row["answers"][0], row["answer_starts"][0]
        if start < 0 or row["text"][start : start + len(answer)] != answer:
            raise DataError(f"the answer {answer!r} of {row['id']!r} is not at character {start} of its text")
        span = covering(offsets, start, start + len(answer))
    held = not row["answers"]
    for feature, (start, end) in zip(features, ranges, strict=True):
        first = last = feature["null"]
        if span is not None and start <= span[0] and span[1] < end:
            first, last = (feature["context_start"] + token - start for token in span)
            held = True
        feature["start_positions"], feature["end_positions"] = first, last
    return held


def covering(offsets: Offsets, start: int, end: int) -> tuple[int, int] | None:
    """Return (first, last) of the smallest span of tokens that covers the characters [start, end).

    offsets: [tokens, 2]. Characters of no token, like spaces, need no cover; None when all of them are.
    """
    starts, ends = offsets.T
    touching = np.flatnonzero((ends > start) & (starts < end) & (starts < ends))
    return (int(touching[0]), int(touching[-1])) if start < end and len(touching) else None


def _tokenize(rows: Sequence[dict[str, Any]], tokenizer: "PreTrainedTokenizerBase") -> dict[str, _Text]:
    """Tokenize each text once, however many questions there are on it, in one call."""
    if not getattr(tokenizer, "is_fast", False):
        raise SetupError(
            f"{type(tokenizer).__name__} gives no offsets of tokens in a text, which spans need; use a fast tokenizer "
            "(of the tokenizers library)"
        )
    contexts = {row["text"] for row in rows}
    texts = list(dict.fromkeys(text for row in rows for text in (row["text"], row["text_pair"])))
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    # As in `encode`: a special token that is spelt out in a text is text.
    unknown = tokenizer.unk_token_id
    special = set(tokenizer.all_special_ids) - {unknown} if unknown is not None else set()
    encoded_texts = {}
    for text, ids, pairs in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        offsets = np.array(pairs, dtype=np.int32).reshape(-1, 2)
        encoded_texts[text] = _Text(
            ids=[unknown if token in special else token for token in ids],
            offsets=_visible(text, offsets) if text in contexts else offsets,
        )
    for row in rows:
        if not encoded_texts[row["text"]].ids:
            raise DataError(f"the text of {row['id']!r} has no tokens, so that no answer can be a span of it")
    return encoded_texts


def _visible(text: str, offsets: Offsets) -> Offsets:
    """Return offsets [tokens, 2] without white space at either end, and with the combining marks of no token.

    Whether a token includes the space before its word depends on the tokenizer; an answer must not. And where accents
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


def _next(wanted: npt.NDArray[np.bool_], places: Offsets) -> Offsets:
    """Return for each place the first wanted one from it on; the last place is always wanted."""
    return np.minimum.accumulate(np.where(wanted, places, places[-1])[::-1])[::-1]


def _layout(rows: Sequence[dict[str, Any]], texts: dict[str, _Text], tokenizer: "PreTrainedTokenizerBase") -> _Layout:
    """Read the layout off one pair. Raises SetupError for a tokenizer that gives two texts as a pair other tokens."""
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
            f"{type(tokenizer).__name__} makes other tokens of a question and a text as a pair than of each alone, so "
            "that windows can't be cut from them"
        )
    return layout
