"""What the harness uses of the package vllm, over a real model of transformers: it can't be installed here."""

import types
from dataclasses import dataclass
from typing import ClassVar

import torch
import transformers

from tests.helpers.completions_server import greedy


@dataclass
class SamplingParams:
    temperature: float = 1.0
    max_tokens: int = 16
    prompt_logprobs: int | None = None
    stop_token_ids: list | None = None
    ignore_eos: bool = False
    detokenize: bool = True


class LLM:
    """made: the arguments of each that was made, which a test reads."""

    made: ClassVar[list] = []

    def __init__(self, model, *, seed, **options):
        type(self).made.append({"model": model, "seed": seed, **options})
        if options.get("max_model_len") == 1:
            raise RuntimeError("max_model_len 1 is too small\nmore of it")
        self.limit = options.get("max_model_len")
        self.model = transformers.AutoModelForCausalLM.from_pretrained(model).eval()

    def generate(self, prompts, sampling_params, *, use_tqdm):
        assert sampling_params.temperature == 0
        assert not use_tqdm
        return [self.result(prompt["prompt_token_ids"], sampling_params) for prompt in prompts]

    def result(self, ids, params):
        if self.limit is not None and len(ids) > self.limit:
            raise ValueError(f"The decoder prompt (length {len(ids)}) is longer than the maximum model length")
        ends = set(params.stop_token_ids or ())
        tokens = greedy(self.model, ids, ends, params.max_tokens)
        stopped = tokens[-1] in ends
        output = types.SimpleNamespace(
            token_ids=tuple(tokens),
            finish_reason="stop" if stopped else "length",
            stop_reason=tokens[-1] if stopped else None,
        )
        return types.SimpleNamespace(outputs=[output], prompt_logprobs=params.prompt_logprobs and self.logprobs(ids))

    def logprobs(self, ids):
        with torch.no_grad():
            values = self.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        rows = [None]
        for place, token in enumerate(ids[1:]):
            best = int(values[place].argmax())
            rows.append({one: types.SimpleNamespace(logprob=float(values[place, one])) for one in (token, best)})
        return rows


def module():
    """Return a module as `import vllm` gives it."""
    found = types.ModuleType("vllm")
    found.__version__, found.LLM, found.SamplingParams = "0.0.test", LLM, SamplingParams
    found.__spec__ = types.SimpleNamespace(name="vllm")
    return found
