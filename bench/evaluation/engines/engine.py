"""Contract of a program that scores and writes in place of a model of torch, and its use by the readers."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from bench.errors import SetupError
from bench.evaluation.generation import Generated
from bench.evaluation.likelihood import Answer, Item


class Engine(Protocol):
    """A served or loaded model. at_once: examples of one call, enough to keep it busy."""

    at_once: int

    def score(self, items: Sequence[Item]) -> list[Answer]:
        """Return log-likelihoods of each item's continuations, in nats."""

    def write(self, prompts: Sequence[Sequence[int]], end_token_ids: set[int], limit: int) -> list[Generated]:
        """Return greedy answers of at most `limit` new tokens, ended by these tokens and by no others."""


class EngineScorer:
    """Scores items by an engine, as `likelihood.Scorer` does by a model of torch. Takes that one's arguments."""

    def __init__(self, engine: Engine, model: Any, items: Sequence[Item], **_: Any) -> None:
        self.engine, self.items = engine, list(items)
        self.batches = in_parts(len(items), engine.at_once)
        self.notes: list[str] = []
        self.check_s = 0.0

    def run(self, numbers: list[int]) -> list[Answer]:
        """Score the items of these numbers, in their order."""
        return self.engine.score([self.items[number] for number in numbers])


class EngineGenerator:
    """Writes answers by an engine, as `generation.Generator` does by a model of torch. Takes that one's arguments.

    An engine does not know `stop`: what it writes behind the place where `stop` is true is cut off here.
    """

    def __init__(
        self,
        engine: Engine,
        model: Any,
        prompts: Sequence[Sequence[int]],
        *,
        end_token_ids: set[int],
        max_new_tokens: int,
        stop: Callable[[list[int]], bool] | None = None,
        **_: Any,
    ) -> None:
        self.engine, self.prompts, self.stop = engine, prompts, stop
        self.end_token_ids, self.max_new_tokens = end_token_ids, max_new_tokens
        self.batches = in_parts(len(prompts), engine.at_once)
        self.notes: list[str] = []
        self.check_s = 0.0

    def run(self, numbers: list[int]) -> list[Generated]:
        """Write answers to these prompts, in this order."""
        prompts = [self.prompts[number] for number in numbers]
        return [self._cut(each) for each in self.engine.write(prompts, self.end_token_ids, self.max_new_tokens)]

    def _cut(self, answer: Generated) -> Generated:
        if self.stop is not None:
            for length in range(1, len(answer.tokens) + 1):
                if self.stop(list(answer.tokens[:length])):
                    return Generated(tokens=answer.tokens[:length], stopped=True)
        return answer


def in_parts(count: int, size: int) -> list[list[int]]:
    """Return the numbers of so many examples in parts of at most `size`."""
    return [list(range(first, min(first + size, count))) for first in range(0, count, size)]


def ended(
    tokens: Sequence[int], finish_reason: Any, stop_reason: Any, end_token_ids: set[int], limit: int, where: str
) -> Generated:
    """Return what an engine wrote, without the token that ended it. Raises SetupError for an answer that was cut.

    finish_reason, stop_reason: as vLLM has them: "stop" at an end token, which is the last of the tokens, and "length".
    """
    if finish_reason == "stop":
        if tokens and tokens[-1] in end_token_ids:
            return Generated(tokens=tuple(tokens[:-1]), stopped=True)
        if stop_reason in end_token_ids:
            return Generated(tokens=tuple(tokens), stopped=True)
        raise SetupError(
            f"{where} ends an answer at {stop_reason!r}, which is no end token of the run's prompts: it has stop "
            "tokens or texts of its own; start it without them"
        )
    if finish_reason == "length" and len(tokens) == limit:
        return Generated(tokens=tuple(tokens), stopped=False)
    if finish_reason == "length":
        raise SetupError(
            f"{where} cuts an answer after {len(tokens)} of {limit} tokens (prompting.max_new_tokens): its context is "
            "too short; give it a larger max_model_len"
        )
    raise SetupError(f"{where} gives an answer up (finish_reason {finish_reason!r}) after {len(tokens)} tokens")
