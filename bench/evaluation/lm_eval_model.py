"""The harness's label scorer as a model of lm-evaluation-harness, under the name `bench`.

On a command line: `python -m bench lm-eval --model bench --model_args pretrained=... --tasks ...`, with the arguments
of lm_eval's own command. In Python: `register()`, then `lm_eval.simple_evaluate("bench", ...)`.

Log-likelihoods of continuations come from bench.evaluation.likelihood; everything else is done by lm_eval's own HFLM.
"""

import functools
import importlib.util
import logging
from typing import Any

import torch

from bench.errors import SetupError
from bench.evaluation import likelihood

NAME = "bench"
# The texts by which lm_eval caches an answer (None for windows of a rolling log-likelihood), context, continuation.
Request = tuple[tuple[str, str] | None, list[int], list[int]]

logger = logging.getLogger(__name__)


class LabelScoring:
    """Mixin for HFLM: all continuations of a context are scored in one row. `model_class` joins the two."""

    def __init__(self, *arguments: Any, budget: int | str | None = None, **options: Any) -> None:
        """Take HFLM's arguments, and budget: how many tokens a batch of rows holds; None leaves it to the scorer."""
        self.budget = None if budget is None else int(budget)
        self._contexts: dict[str, list[int] | None] = {}
        super().__init__(*arguments, **options)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return for each request the sum of log-probabilities, and whether greedy decoding gives the continuation."""
        # HFLM moves spaces at a context's end to the continuation.
        self._contexts = dict.fromkeys(request.args[0].rstrip() for request in requests)
        try:
            return super().loglikelihood(requests, disable_tqdm=disable_tqdm)  # type: ignore[misc,no-any-return]
        finally:
            self._contexts = {}

    def tok_encode(self, string: str, *arguments: Any, **options: Any) -> list[int]:
        """Encode as HFLM does, but a context once, not once for each of its continuations."""
        encode = super().tok_encode  # type: ignore[misc]
        if arguments or options or string not in self._contexts:
            return encode(string, *arguments, **options)  # type: ignore[no-any-return]
        known = self._contexts[string]
        if known is None:
            known = self._contexts[string] = encode(string)
        return known

    def _loglikelihood_tokens(
        self: Any, requests: list[Request], disable_tqdm: bool = False, **options: Any
    ) -> list[tuple[float, bool]]:
        if not is_ours(requests, self.backend, self.max_length):
            plain = super()._loglikelihood_tokens  # type: ignore[misc]
            return plain(requests, disable_tqdm=disable_tqdm, **options)  # type: ignore[no-any-return]
        items, members = grouped(requests, self.max_length)
        scorer = self._scorer(items)
        answers: dict[int, tuple[float, bool]] = {}
        with _progress(len(requests), hidden=disable_tqdm or self.rank != 0) as progress:
            for numbers in scorer.batches:
                for number, answer in zip(numbers, scorer.run(numbers), strict=True):
                    scored = {place: (answer.sums[label], answer.greedy[label]) for place, label in members[number]}
                    # At once, so that an interrupted evaluation keeps what it has.
                    for place, pair in scored.items():
                        self.cache_hook.add_partial("loglikelihood", requests[place][0], pair)
                    answers |= scored
                    progress.update(len(scored))
        for note in scorer.notes:
            logger.warning(note)
        return [answers[place] for place in range(len(requests))]

    def _scorer(self: Any, items: list[likelihood.Item]) -> likelihood.Scorer:
        dtype = self.mixed_precision_dtype
        return likelihood.Scorer(
            self.model,
            items,
            pad_token_id=self.tokenizer.pad_token_id,
            budget=self.budget,
            autocast=None if dtype is None else functools.partial(torch.autocast, self.device.type, dtype=dtype),
        )


def is_ours(requests: list[Request], backend: str, max_length: int) -> bool:
    """Return whether the scorer answers these requests; HFLM itself answers, or refuses, the others.

    Left to it are encoder-decoders, windows of a rolling log-likelihood, and what it does not allow: an empty context
    or continuation, and a continuation that is longer than the model.
    """
    return (
        bool(requests)
        and backend == "causal"
        and all(
            key is not None and context and 0 < len(continuation) <= max_length
            for key, context, continuation in requests
        )
    )


def grouped(requests: list[Request], max_length: int) -> tuple[list[likelihood.Item], list[list[tuple[int, int]]]]:
    """Return an item for each context, and for each item its requests: (their place, the number of the continuation).

    As HFLM does it, what is too long for the model loses tokens of the context's beginning: the model reads
    max_length tokens, and the last one of a continuation is never read.
    """
    contexts: dict[tuple[int, ...], dict[tuple[int, ...], int]] = {}
    members: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    num_cut = 0
    for place, (_, context, continuation) in enumerate(requests):
        most = max_length + 1 - len(continuation)
        num_cut += len(context) > most
        kept = tuple(context[-most:])
        labels = contexts.setdefault(kept, {})
        label = labels.setdefault(tuple(continuation), len(labels))
        members.setdefault(kept, []).append((place, label))
    if num_cut:
        logger.warning("%d of %d requests are cut at their beginning to %d tokens", num_cut, len(requests), max_length)
    items = [likelihood.Item(context=context, continuations=tuple(labels)) for context, labels in contexts.items()]
    return items, list(members.values())


def _progress(total: int, hidden: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, disable=hidden, desc="Running loglikelihood requests")


@functools.cache
def model_class() -> type:
    """Return the class that lm_eval makes the model from. Raises SetupError where lm_eval is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise SetupError('lm-evaluation-harness is not installed: pip install "finetune-bench[lm_eval]"')
    from lm_eval.models.huggingface import HFLM

    return type("BenchLM", (LabelScoring, HFLM), {"__doc__": LabelScoring.__doc__, "__module__": __name__})


def register() -> type:
    """Make `bench` known to lm_eval in this process, and return the model's class. May be called again."""
    made = model_class()
    from lm_eval.api.registry import register_model

    return register_model(NAME)(made)  # type: ignore[no-any-return]
