"""Tokens of many texts that begin and end alike, with each common part encoded once.

Encoding a part by itself gives other tokens than the same part inside of a text, unless it is cut where no token
reaches across. Cuts are made at the beginning of a line, each part is encoded with its neighbours around it, and
the result is compared with the plain encoding on a sample; where that differs, everything is encoded plainly.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

Tokens = list[int]
# Texts -> for each its tokens, and the span of characters of each token (None where the tokenizer knows none).
Encode = Callable[[list[str]], list[tuple[Tokens, list[tuple[int, int]] | None]]]
# Characters of a neighbour that is encoded with a part; a whole word of it is enough for every known tokenizer.
NEIGHBOUR = 64
SAMPLE = 64
# Rows of one type, so that they can be compared.
_Row = TypeVar("_Row", list[int], tuple[int, ...], str)


@dataclass(frozen=True)
class Spliced:
    """trunks[i]: what text i and text i with each ending begin with. rests[i][e]: the tokens of ending e behind it.

    prompts[i]: the tokens of text i alone. whole: cuts would have changed tokens, so every text was encoded plainly.
    """

    prompts: list[Tokens]
    trunks: list[Tokens]
    rests: list[list[Tokens]]
    whole: bool


def common_prefix_length(rows: Sequence[_Row]) -> int:
    """Return how many first tokens, or characters, all rows share."""
    # Of sorted rows the first and the last differ the earliest.
    first, last = min(rows), max(rows)
    return next((place for place, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))


def encode(tokens_of: Encode, texts: Sequence[str], endings: Sequence[str]) -> Spliced:
    """Encodes every text, alone and followed by each ending. No ending may be empty."""
    texts = list(texts)
    cuts = _cuts(texts) if len(texts) > 1 else None
    spliced = _spliced(tokens_of, texts, endings, *cuts) if cuts else None
    if spliced is not None and _holds(tokens_of, texts, endings, spliced):
        return spliced
    return replace(_plain(tokens_of, texts, endings), whole=cuts is not None)


def _plain(tokens_of: Encode, texts: list[str], endings: Sequence[str]) -> Spliced:
    prompts = [tokens for tokens, _ in tokens_of(texts)]
    ended = [[tokens for tokens, _ in tokens_of([text + ending for text in texts])] for ending in endings]
    trunks, rests = [], []
    for number, prompt in enumerate(prompts):
        shared = common_prefix_length([prompt, *(column[number] for column in ended)])
        trunks.append(prompt if shared == len(prompt) else prompt[:shared])
        rests.append([column[number][shared:] for column in ended])
    return Spliced(prompts, trunks, rests, whole=False)


def _cuts(texts: list[str]) -> tuple[int, int] | None:
    """(characters of the common beginning, characters of the common end) to cut off; None where nothing is gained."""
    before = common_prefix_length(texts)
    after = common_prefix_length([text[::-1] for text in texts])
    # A text must not belong to both.
    after = min(after, min(map(len, texts)) - before)
    head, tail = texts[0][:before], texts[0][len(texts[0]) - after :] if after else ""
    first = max((place for place in _line_starts(head) if place < len(head)), default=0)
    last = min((place for place in _line_starts(tail) if place < len(tail)), default=None)
    return (first, len(tail) - last) if last is not None else None


def _line_starts(text: str) -> list[int]:
    """Places behind a line break where a word begins."""
    return [place + 1 for place, sign in enumerate(text[:-1]) if sign == "\n" and not text[place + 1].isspace()]


def _spliced(tokens_of: Encode, texts: list[str], endings: Sequence[str], first: int, last: int) -> Spliced | None:
    sample = texts[0]
    head = _between(tokens_of([sample[: first + NEIGHBOUR]])[0], 0, first)
    behind = max(len(sample) - last - NEIGHBOUR, 0)
    cut = len(sample) - last - behind
    tails = [_between(found, cut, None) for found in tokens_of([sample[behind:] + end for end in ("", *endings)])]
    start = max(first - NEIGHBOUR, 0)
    parts = tokens_of([text[start:] for text in texts])
    middles = [
        _between(found, first - start, len(text) - last - start) for found, text in zip(parts, texts, strict=True)
    ]
    known_tails = [tail for tail in tails if tail is not None]
    known_middles = [middle for middle in middles if middle is not None]
    if head is None or len(known_tails) < len(tails) or len(known_middles) < len(middles):
        return None
    shared = common_prefix_length(known_tails)
    alone, *ended = known_tails
    rests = [tail[shared:] for tail in ended]
    bodies = [head + middle for middle in known_middles]
    prompts = [body + alone for body in bodies]
    trunks = prompts if shared == len(alone) else [body + alone[:shared] for body in bodies]
    return Spliced(prompts, trunks, [rests] * len(texts), whole=False)


def _between(found: tuple[Tokens, list[tuple[int, int]] | None], start: int, stop: int | None) -> Tokens | None:
    """Tokens of the characters from `start` to `stop`; None when a token reaches across, or spans are not known."""
    tokens, spans = found
    if spans is None:
        return None
    kept: Tokens = []
    for token, (left, right) in zip(tokens, spans, strict=True):
        if left < start < right or (stop is not None and left < stop < right):
            return None
        # A token without characters, like a space put before a word, belongs to what follows it.
        if left >= start and (stop is None or right <= stop):
            kept.append(token)
    return kept


def _holds(tokens_of: Encode, texts: list[str], endings: Sequence[str], spliced: Spliced) -> bool:
    """Whether plain encoding gives the same, on the shortest and longest texts and on an even sample of the rest."""
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    step = max(1, len(order) // SAMPLE)
    chosen = [*order[::step], order[-1]]
    for place, ending in enumerate(("", *endings)):
        # Every ending on a few of them is as good: what stands before it does not depend on it.
        rows = chosen if place == 0 else chosen[:: max(1, len(chosen) // 4)]
        plain = tokens_of([texts[number] + ending for number in rows])
        for number, (tokens, _) in zip(rows, plain, strict=True):
            rest = spliced.rests[number][place - 1] if place else []
            if tokens != (spliced.trunks[number] + rest if place else spliced.prompts[number]):
                return False
    return True
