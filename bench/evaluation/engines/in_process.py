"""A model that the package vllm holds in this process.

Relied on, by vLLM's sources (0.9 and later): `LLM(model, revision=, dtype=, trust_remote_code=, seed=)`, its `generate`
of prompts {"prompt_token_ids": [...]}, `SamplingParams(prompt_logprobs=, stop_token_ids=, ignore_eos=, detokenize=)`;
of a result `prompt_logprobs` (of each place token -> an object with `logprob`), and of its output `token_ids`, the one
that ended it among them, `finish_reason` and `stop_reason`.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from bench.errors import SetupError
from bench.evaluation.engines.engine import ended
from bench.evaluation.generation import Generated
from bench.evaluation.likelihood import Answer, Item
from bench.utils.loading_errors import reason

PACKAGE = "vllm"
WHERE = "vllm"
OPTIONS = "evaluation.backend_options"


def why_not() -> str | None:
    """Return that the package is not installed; None where it is."""
    if importlib.util.find_spec(PACKAGE) is not None:
        return None
    return (
        "evaluation.backend: vllm needs the package vllm, which is not installed: pip install vllm; or name a server "
        "that runs elsewhere by evaluation.server"
    )


class InProcessEngine:
    """Scores and writes by `vllm.LLM`, which forms its own batches."""

    at_once = 1_024

    def __init__(self, model: str, options: Mapping[str, Any]) -> None:
        """Load a model by vLLM. options: of `vllm.LLM`. Raises SetupError with vLLM's reason where it can't."""
        try:
            import vllm

            self.version = str(getattr(vllm, "__version__", "")) or None
            self._params = vllm.SamplingParams
            self._llm = vllm.LLM(model=model, seed=0, **options)
        except Exception as error:  # of any kind, from the library that loads it
            raise SetupError(f"vLLM can't load {model}: {reason(error)[:300]}; see {OPTIONS}") from error

    def score(self, items: Sequence[Item]) -> list[Answer]:
        """Return log-likelihoods of each item's continuations, in nats."""
        prompts = [[*item.context, *continuation] for item in items for continuation in item.continuations]
        results = iter(self._generated(prompts, {"prompt_logprobs": 1, "max_tokens": 1}))
        answers = []
        for item in items:
            first = len(item.context)
            parts = [_behind(next(results), first, continuation) for continuation in item.continuations]
            answers.append(Answer(sums=tuple(part for part, _ in parts), greedy=tuple(best for _, best in parts)))
        return answers

    def write(self, prompts: Sequence[Sequence[int]], end_token_ids: set[int], limit: int) -> list[Generated]:
        """Return greedy answers of at most `limit` new tokens, ended by these tokens and by no others."""
        options = {"max_tokens": limit, "stop_token_ids": sorted(end_token_ids), "ignore_eos": True}
        outputs = [result.outputs[0] for result in self._generated(prompts, options)]
        return [
            ended([*each.token_ids], each.finish_reason, each.stop_reason, end_token_ids, limit, WHERE)
            for each in outputs
        ]

    def _generated(self, prompts: Sequence[Sequence[int]], options: dict[str, Any]) -> list[Any]:
        params = self._params(temperature=0.0, detokenize=False, **options)
        asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        try:
            results = self._llm.generate(asked, params, use_tqdm=False)
        except ValueError as error:  # as for a prompt that is longer than its context
            raise SetupError(f"vLLM refuses the run's prompts: {reason(error)[:300]}; see {OPTIONS}") from error
        if len(results) != len(prompts):
            raise SetupError(f"vLLM answers {len(prompts)} prompts with {len(results)} results")
        return list(results)


def _behind(result: Any, first: int, continuation: Sequence[int]) -> tuple[float, bool]:
    """Return the log-likelihood of the tokens from place `first` on, and whether each is the likeliest one."""
    given = result.prompt_logprobs
    total, greedy = 0.0, True
    for place, token in enumerate(continuation, first):
        found = given[place] if given is not None and place < len(given) else None
        if not found or token not in found:
            raise SetupError("vLLM gives no log-probabilities of the prompt, without which no answer can be scored")
        total += float(found[token].logprob)
        greedy &= found[token].logprob >= max(each.logprob for each in found.values())
    return total, greedy
