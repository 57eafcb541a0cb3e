"""Tokens of many texts that begin and end alike, with each common part encoded once.

Encoding a part by itself gives other tokens than the same part inside of a text, unless it is cut where no token
reaches across. Cuts are made at the beginning of a line, each part is encoded with its neighbours around it, and
the result is compared with the plain encoding on a sample; where that differs, everything is encoded plainly.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

TokenIds = list[int]
# Of each token the characters that it stands for, [start, end).
CharSpans = list[tuple[int, int]]
# Texts -> for each its tokens, and their spans (None where the tokenizer knows none).
Tokenize = Callable[[list[str]], list[tuple[TokenIds, CharSpans | None]]]
# Characters of a neighbour that is encoded with a part; a whole word of it is enough for every known tokenizer.
NEIGHBOUR = 64
SAMPLE = 64
# Rows of one type, so that they can be compared.
_Row = TypeVar("_Row", list[int], tuple[int, ...], str)


@dataclass(frozen=True)
class EncodedTexts:
    """Tokens of texts, each alone and followed by each ending.

    text_ids[i]: text i alone. prompt_ids[i]: the first tokens that text i alone and text i with each ending share.
    continuation_ids[i][e]: what follows them in text i with ending e. is_fallback: common parts could not be encoded
    once without changing tokens, so every text was encoded plainly.
    """

    text_ids: list[TokenIds]
    prompt_ids: list[TokenIds]
    continuation_ids: list[list[TokenIds]]
    is_fallback: bool


def common_prefix_length(rows: Sequence[_Row]) -> int:
    """Return how many first tokens, or characters, all rows share."""
    # Of sorted rows the first and the last differ the earliest.
    first, last = min(rows), max(rows)
    return next((place for place, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))


def encode(tokenize: Tokenize, texts: Sequence[str], endings: Sequence[str]) -> EncodedTexts:
    """Encode every text, alone and followed by each ending. No ending may be empty."""
    texts = list(texts)
    cuts = _cuts(texts) if len(texts) > 1 else None
    encoded = _encode_parts(tokenize, texts, endings, *cuts) if cuts else None
    if encoded is not None and _equals_plain(tokenize, texts, endings, encoded):
        return encoded
    return replace(_encode_plainly(tokenize, texts, endings), is_fallback=cuts is not None)


def _encode_plainly(tokenize: Tokenize, texts: list[str], endings: Sequence[str]) -> EncodedTexts:
    text_ids = [ids for ids, _ in tokenize(texts)]
    with_ending = [[ids for ids, _ in tokenize([text + ending for text in texts])] for ending in endings]
    prompt_ids, continuation_ids = [], []
    for number, ids in enumerate(text_ids):
        shared = common_prefix_length([ids, *(column[number] for column in with_ending)])
        prompt_ids.append(ids if shared == len(ids) else ids[:shared])
        continuation_ids.append([column[number][shared:] for column in with_ending])
    return EncodedTexts(text_ids, prompt_ids, continuation_ids, is_fallback=False)


def encode_each(tokenize: Tokenize, texts: Sequence[str], endings: Sequence[Sequence[str]]) -> EncodedTexts:
    """Encode every text, alone and followed by each of its own endings. endings: of each text, none of them empty."""
    text_ids = [ids for ids, _ in tokenize(list(texts))]
    whole = [text + ending for text, own in zip(texts, endings, strict=True) for ending in own]
    with_ending = iter([ids for ids, _ in tokenize(whole)] if whole else [])
    prompt_ids, continuation_ids = [], []
    for ids, own in zip(text_ids, endings, strict=True):
        rows = [next(with_ending) for _ in own]
        shared = common_prefix_length([ids, *rows])
        prompt_ids.append(ids[:shared])
        continuation_ids.append([row[shared:] for row in rows])
    return EncodedTexts(text_ids, prompt_ids, continuation_ids, is_fallback=False)


def _cuts(texts: list[str]) -> tuple[int, int] | None:
    """Return (characters of the common beginning, characters of the common end) to cut off; None where none can be."""
    before = common_prefix_length(texts)
    after = common_prefix_length([text[::-1] for text in texts])
    # A text must not belong to both.
    after = min(after, min(map(len, texts)) - before)
    head, tail = texts[0][:before], texts[0][len(texts[0]) - after :] if after else ""
    first = max((place for place in _line_starts(head) if place < len(head)), default=0)
    last = min((place for place in _line_starts(tail) if place < len(tail)), default=None)
    return (first, len(tail) - last) if last is not None else None


def _line_starts(text: str) -> list[int]:
    """Return the places behind a line break where a word begins."""
    return [place + 1 for place, sign in enumerate(text[:-1]) if sign == "\n" and not text[place + 1].isspace()]


def _encode_parts(
    tokenize: Tokenize, texts: list[str], endings: Sequence[str], first: int, last: int
) -> EncodedTexts | None:
    """Encode the common first and last characters once; None where a token reaches across a cut."""
    sample = texts[0]
    head = _tokens_between(tokenize([sample[: first + NEIGHBOUR]])[0], 0, first)
    behind = max(len(sample) - last - NEIGHBOUR, 0)
    cut = len(sample) - last - behind
    tails = [_tokens_between(each, cut, None) for each in tokenize([sample[behind:] + end for end in ("", *endings)])]
    start = max(first - NEIGHBOUR, 0)
    middles = [
        _tokens_between(each, first - start, len(text) - last - start)
        for each, text in zip(tokenize([text[start:] for text in texts]), texts, strict=True)
    ]
    known_tails = [tail for tail in tails if tail is not None]
    known_middles = [middle for middle in middles if middle is not None]
    if head is None or len(known_tails) < len(tails) or len(known_middles) < len(middles):
        return None
    shared = common_prefix_length(known_tails)
    alone, *with_ending = known_tails
    continuation_ids = [tail[shared:] for tail in with_ending]
    bodies = [head + middle for middle in known_middles]
    text_ids = [body + alone for body in bodies]
    prompt_ids = text_ids if shared == len(alone) else [body + alone[:shared] for body in bodies]
    return EncodedTexts(text_ids, prompt_ids, [continuation_ids] * len(texts), is_fallback=False)


def _tokens_between(encoded: tuple[TokenIds, CharSpans | None], start: int, stop: int | None) -> TokenIds | None:
    """Return the tokens of the characters [start, stop); None where a token reaches across, or spans are not known."""
    ids, spans = encoded
    if spans is None:
        return None
    kept: TokenIds = []
    for token, (left, right) in zip(ids, spans, strict=True):
        if left < start < right or (stop is not None and left < stop < right):
            return None
        # A token without characters, like a space put before a word, belongs to what follows it.
        if left >= start and (stop is None or right <= stop):
            kept.append(token)
    return kept


def _equals_plain(tokenize: Tokenize, texts: list[str], endings: Sequence[str], encoded: EncodedTexts) -> bool:
    """Compare with plain encoding: the shortest and longest texts, and an even sample of the others."""
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    step = max(1, len(order) // SAMPLE)
    chosen = [*order[::step], order[-1]]
    for place, ending in enumerate(("", *endings)):
        # Every ending on a few of them is as good: what stands before it does not depend on it.
        rows = chosen if place == 0 else chosen[:: max(1, len(chosen) // 4)]
        plain = tokenize([texts[number] + ending for number in rows])
        for number, (ids, _) in zip(rows, plain, strict=True):
            continuation = encoded.continuation_ids[number][place - 1] if place else []
            if ids != (encoded.prompt_ids[number] + continuation if place else encoded.text_ids[number]):
                return False
    return True
