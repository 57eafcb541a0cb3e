"""Compares what an engine gives with what the plain scorer gives, by the very tokens that both were asked.

Log-likelihoods may differ by rounding. A written answer that differs must, at the first token that does, have taken one
that the plain model holds as likely as its own, to rounding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bench.data.examples import Encoded
from bench.evaluation import likelihood, self_check
from bench.evaluation.generation import Generated, Generator, likeliest
from bench.evaluation.likelihood import Answer, Item
from bench.evaluation.reader import Scoring

# Tokens at each place of a plain answer among which an engine's token is looked for.
LIKELIEST = 10


@dataclass
class Kept:
    """Answers that were scored and written, by tokens. likeliest: of plain answers, see `generation.likeliest`."""

    scored: dict[Item, Answer] = field(default_factory=dict)
    written: dict[tuple[int, ...], tuple[Generated, set[int]]] = field(default_factory=dict)
    likeliest: dict[tuple[int, ...], list[dict[int, float]]] = field(default_factory=dict)

    def update(self, other: "Kept") -> None:
        """Add what another process has kept."""
        self.scored |= other.scored
        self.written |= other.written
        self.likeliest |= other.likeliest


@dataclass(frozen=True, kw_only=True)
class Found:
    """Result of a comparison. compared: log-likelihoods and written answers. changed: answers that differ.

    largest: difference of a log-likelihood, in nats. beyond: values and answers that differ by more than rounding.
    """

    compared: int
    largest: float | None
    changed: int
    beyond: int


def sample(split: Encoded, count: int) -> Encoded:
    """Return at most `count` examples of a split: the longest, the shortest, and some of lengths between."""
    chosen = sorted(self_check.sample(split.lengths, count))
    return replace(
        split,
        ids=tuple(split.ids[number] for number in chosen),
        features=[split.features[number] for number in chosen],
        sizes=None if split.sizes is None else tuple(split.sizes[number] for number in chosen),
    )


def plainly(scoring: Scoring, kept: Kept) -> Scoring:
    """Return scoring by torch without its fast paths, which keeps what it gives."""
    return replace(
        scoring,
        shared_prefix=False,
        scorer=_keeping(likelihood.Scorer, kept),
        generator=_keeping(Generator, kept, looks=True),
    )


def by_engine(scoring: Scoring, scorer: Callable[..., Any], generator: Callable[..., Any], kept: Kept) -> Scoring:
    """Return scoring by an engine, which keeps what it gives."""
    return replace(scoring, scorer=_keeping(scorer, kept), generator=_keeping(generator, kept))


def _keeping(make: Callable[..., Any], kept: Kept, *, looks: bool = False) -> Callable[..., Any]:
    def _make(model: Any, asked: Sequence[Any], **options: Any) -> "_Keeping":
        return _Keeping(make(model, asked, **options), model, asked, options, kept, looks=looks)

    return _make


class _Keeping:
    """A scorer or generator that keeps its answers. looks: and what else was likely where it wrote."""

    def __init__(
        self, inner: Any, model: Any, asked: Sequence[Any], options: dict[str, Any], kept: Kept, *, looks: bool
    ) -> None:
        self._inner, self._model, self._asked, self._options, self._kept = inner, model, asked, options, kept
        self._looks = looks
        self.batches: list[list[int]] = inner.batches

    @property
    def notes(self) -> list[str]:
        """Return the fallbacks."""
        return list(self._inner.notes)

    @property
    def check_s(self) -> float:
        """Return the seconds that comparing a fast path took."""
        return float(self._inner.check_s)

    def run(self, numbers: list[int]) -> list[Any]:
        """Return the answers to what these numbers ask, and keep them."""
        answers: list[Any] = self._inner.run(numbers)
        for number, answer in zip(numbers, answers, strict=True):
            asked = self._asked[number]
            if isinstance(asked, Item):
                self._kept.scored[asked] = answer
                continue
            self._kept.written[tuple(asked)] = answer, self._options["end_token_ids"]
            if self._looks:
                with self._options["autocast"]():
                    self._kept.likeliest[tuple(asked)] = likeliest(self._model, asked, answer, LIKELIEST)
        return answers


def compare(plain: Kept, engine: Kept, *, exact: bool) -> Found:
    """Compare all that the plain scorer was asked, of which the engine must have all. exact: by rounding of float32."""
    compared, largest, changed, beyond = 0, list[float](), 0, 0
    for item, wanted in plain.scored.items():
        given = engine.scored[item]
        for value, right, continuation in zip(given.sums, wanted.sums, item.continuations, strict=True):
            compared += 1
            largest.append(abs(value - right))
            beyond += self_check.is_far(value, right, exact=exact, tokens=len(continuation))
    for prompt, (wrote, ends) in plain.written.items():
        answer, _ = engine.written[prompt]
        compared += 1
        if answer != wrote:
            changed += 1
            beyond += not _is_as_likely(answer, wrote, ends, plain.likeliest[prompt], exact=exact)
    return Found(compared=compared, largest=max(largest, default=None), changed=changed, beyond=beyond)


def _is_as_likely(
    answer: Generated, wrote: Generated, ends: set[int], tokens: list[dict[int, float]], *, exact: bool
) -> bool:
    """Return whether an answer's first token that differs is as likely as the plain answer's own, to rounding."""
    place = 0
    while place < min(len(answer.tokens), len(wrote.tokens)) and answer.tokens[place] == wrote.tokens[place]:
        place += 1
    if place >= len(tokens):
        return False
    known, best = tokens[place], max(tokens[place].values())
    taken = {answer.tokens[place]} if place < len(answer.tokens) else ends
    values = [known[token] for token in taken if token in known]
    return bool(values) and not self_check.is_far(max(values), best, exact=exact)
