"""Splits sentences of words into overlapping windows of tokens, in which each word is seen once, at its first token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.data.examples import Feature
from bench.data.tokenizer import encode
from bench.errors import SetupError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class WordWindows:
    """Windows of each row, and the numbers of its words that have no token, so that no window shows them.

    A window: {"input_ids", "places": tokens at which words are read, "words": the numbers of these words}.
    """

    windows: list[list[Feature]]
    unseen: list[tuple[int, ...]]


def make_windows(rows: Sequence[dict[str, Any]], tokenizer: "PreTrainedTokenizerBase", max_length: int) -> WordWindows:
    """Split rows ({"tokens": words, "text": these with spaces between them}) into windows of at most `max_length`.

    The text is tokenised as a whole, and a word is read at the first token that begins in it, as in BERT's section 5.3.
    Neighbouring windows share half of their tokens; a word is read in the window that shows most tokens on both of its
    sides (the shorter side counts, and an end of the sentence is no limit), the first of equals. Raises SetupError for
    a tokenizer without offsets, and lengths that leave no room for a word.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise SetupError(
            f"{type(tokenizer).__name__} gives no offsets of tokens in a text, which tags of words need; use a fast "
            "tokenizer (of the tokenizers library)"
        )
    if not rows:
        return WordWindows(windows=[], unseen=[])
    texts = [row["text"] for row in rows]
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    # As in `encode`: a special token that is spelt out in a text is text.
    unknown = tokenizer.unk_token_id
    special = set(tokenizer.all_special_ids) - {unknown} if unknown is not None else set()
    all_ids = [[unknown if token in special else token for token in ids] for ids in encoded["input_ids"]]
    before, after = _around(texts, all_ids, tokenizer)
    longest = max_length - len(before) - len(after)
    if longest < 1:
        raise SetupError(
            f"max_length {max_length} leaves no room for a word: the tokenizer adds {len(before) + len(after)} tokens "
            "of its own"
        )
    windows, unseen = [], []
    for row, ids, offsets in zip(rows, all_ids, encoded["offset_mapping"], strict=True):
        first = _first_tokens(row["text"], row["tokens"], offsets)
        windows.append(_windows(ids, first, before, after, longest))
        unseen.append(tuple(number for number in range(len(row["tokens"])) if number not in first))
    return WordWindows(windows=windows, unseen=unseen)


def _around(
    texts: Sequence[str], all_ids: Sequence[list[int]], tokenizer: "PreTrainedTokenizerBase"
) -> tuple[list[int], list[int]]:
    """Return the special tokens before and after a text. Raises SetupError where a text has others with them."""
    place = next((number for number, ids in enumerate(all_ids) if ids), 0)
    (feature,) = encode(tokenizer, [texts[place]])
    whole, ids = feature["input_ids"], all_ids[place]
    for start in range(len(whole) - len(ids) + 1):
        if whole[start : start + len(ids)] == ids:
            return whole[:start], whole[start + len(ids) :]
    raise SetupError(
        f"{type(tokenizer).__name__} makes other tokens of a text with its special tokens than without, so that "
        "windows can't be cut from it"
    )


def _first_tokens(text: str, words: Sequence[str], offsets: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Return number of a word -> its first token; words without a token are left out."""
    owner: list[int | None] = [None] * len(text)
    start = 0
    for number, word in enumerate(words):
        owner[start : start + len(word)] = [number] * len(word)
        start += len(word) + 1
    first: dict[int, int] = {}
    for token, (begin, end) in enumerate(offsets):
        # Whether a token includes the space before its word depends on the tokenizer.
        while begin < end and (owner[begin] is None or text[begin].isspace()):
            begin += 1
        word_number = owner[begin] if begin < end else None
        if word_number is not None:
            first.setdefault(word_number, token)
    return first


def _windows(ids: list[int], first: dict[int, int], before: list[int], after: list[int], longest: int) -> list[Feature]:
    if not ids:
        return []
    step = longest - longest // 2
    ranges = [(0, min(longest, len(ids)))]
    while ranges[-1][1] < len(ids):
        start = ranges[-1][0] + step
        ranges.append((start, min(start + longest, len(ids))))
    chosen: list[list[tuple[int, int]]] = [[] for _ in ranges]
    for word, token in first.items():
        best = max(range(len(ranges)), key=lambda number: (_context(token, *ranges[number], len(ids)), -number))
        chosen[best].append((word, token))
    return [
        {
            "input_ids": [*before, *ids[start:end], *after],
            "places": [len(before) + token - start for _, token in own],
            "words": [word for word, _ in own],
        }
        for (start, end), own in zip(ranges, chosen, strict=True)
        if own
    ]


def _context(token: int, start: int, end: int, length: int) -> int:
    """Return how many tokens a window [start, end) shows on the shorter side of a token; -1 where it lies outside."""
    if not start <= token < end:
        return -1
    left = length if start == 0 else token - start
    right = length if end == length else end - 1 - token
    return min(left, right)
