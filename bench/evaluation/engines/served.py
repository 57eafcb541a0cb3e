"""A model behind a server that speaks the OpenAI completions API as vLLM's does.

Relied on, by vLLM's sources (0.9 and later): a prompt may be tokens; `echo` with `logprobs` returns log-probabilities
of the prompt's tokens; `ignore_eos`, `stop_token_ids`, `top_k` and `repetition_penalty` are extra parameters; and
`return_tokens_as_token_ids` returns written tokens as "token_id:<number>", the one that ended the answer among them.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from bench.errors import SetupError
from bench.evaluation.engines.completions_api import Api, understood
from bench.evaluation.engines.engine import ended
from bench.evaluation.generation import Generated
from bench.evaluation.likelihood import Answer, Item

# Requests at a time: enough that a server fills its batches.
PARALLEL = 16
# A server takes what a request leaves open from the model's generation config, such as a penalty for repetition.
GREEDY: dict[str, Any] = {
    "temperature": 0,
    "top_p": 1,
    "top_k": -1,
    "min_p": 0,
    "repetition_penalty": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
}
TOKEN_ID = "token_id:"
_In = TypeVar("_In")
_Out = TypeVar("_Out")


class ServedEngine:
    """Scores and writes by requests, several at a time."""

    at_once = 4 * PARALLEL

    def __init__(self, api: Api) -> None:
        self.api = api

    def score(self, items: Sequence[Item]) -> list[Answer]:
        """Return log-likelihoods of each item's continuations, in nats."""
        return _together(self._scored, items)

    def write(self, prompts: Sequence[Sequence[int]], end_token_ids: set[int], limit: int) -> list[Generated]:
        """Return greedy answers of at most `limit` new tokens, ended by these tokens and by no others."""
        return _together(partial(self._written, ends=end_token_ids, limit=limit), prompts)

    def _scored(self, item: Item) -> Answer:
        """Send a prompt with each of its continuations; read the log-probabilities behind the prompt."""
        prompts = [[*item.context, *continuation] for continuation in item.continuations]
        content = {"prompt": prompts, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
        choices = self.api.completions(content, len(prompts), sum(map(len, prompts)))
        first = len(item.context)
        with understood(self.api.url):
            scored = [
                _behind(choice, range(first, first + len(continuation)), self.api.url)
                for choice, continuation in zip(choices, item.continuations, strict=True)
            ]
        return Answer(sums=tuple(sum(part) for part, _ in scored), greedy=tuple(likeliest for _, likeliest in scored))

    def _written(self, prompt: Sequence[int], ends: set[int], limit: int) -> Generated:
        content = {
            "prompt": [list(prompt)],
            "max_tokens": limit,
            **GREEDY,
            "ignore_eos": True,
            "stop_token_ids": sorted(ends),
            "logprobs": 1,
            "return_tokens_as_token_ids": True,
        }
        (choice,) = self.api.completions(content, 1, len(prompt))
        with understood(self.api.url):
            tokens = _token_ids(choice, self.api.url)
            return ended(tokens, choice.get("finish_reason"), choice.get("stop_reason"), ends, limit, self.api.url)


def _together(call: Callable[[_In], _Out], inputs: Iterable[_In]) -> list[_Out]:
    inputs = list(inputs)
    if len(inputs) == 1:
        return [call(inputs[0])]
    with ThreadPoolExecutor(PARALLEL) as threads:
        return [*threads.map(call, inputs)]


def _token_ids(choice: dict[str, Any], url: str) -> list[int]:
    """Return the tokens that were written, by their numbers."""
    given = choice.get("logprobs")
    tokens = given.get("tokens") if isinstance(given, dict) else None
    names = tokens if isinstance(tokens, list) else [None]
    numbers = [str(name).removeprefix(TOKEN_ID) if str(name).startswith(TOKEN_ID) else "" for name in names]
    if not all(number.isdecimal() for number in numbers):
        raise SetupError(
            f"{url} gives no numbers of the tokens that it writes, which `logprobs` with `return_tokens_as_token_ids` "
            "asks for: it needs vLLM 0.9 or later, or vLLM's option --return-tokens-as-token-ids"
        )
    return [int(number) for number in numbers]


def _behind(choice: dict[str, Any], places: range, url: str) -> tuple[list[float], bool]:
    """Return log-probabilities of the tokens at these places, and whether each is the likeliest one."""
    given = choice.get("logprobs") or {}
    values, tops = given.get("token_logprobs") or [], given.get("top_logprobs") or []
    known = values[places.start : places.stop]
    own = [float(value) for value in known if isinstance(value, int | float)]
    if len(own) != len(places):
        raise SetupError(
            f"{url} gives no log-probabilities of the prompt, which `echo` with `logprobs` asks for: without them no "
            "answer can be scored"
        )
    best = [max((tops[place] or {}).values(), default=0.0) if len(tops) > place else 0.0 for place in places]
    return own, all(value >= most for value, most in zip(own, best, strict=True))  # 0 is more than any of them
