"""Every decoder of the installed transformers is scored and written with as by the plain path, fast or not."""

import random
import warnings
from typing import Any

import pytest
import torch

from bench.evaluation import generation, likelihood, self_check
from tests.helpers.every_decoder import kinds, make

# Scans over a state, token by token in Python: seconds each, and no path but the plain one.
SLOW = {
    "falcon_h1",
    "nemotron_h",
    "qwen3_next",
    "qwen3_5_text",
    "qwen3_5_moe_text",
    "minimax",
    "rwkv",
    "mamba",
    "cpmant",
}
# Whose fast paths are known to work: were one of them to fall back, this test would pass for the wrong reason.
FAST = ("afmoe", "cohere2", "gemma3_text", "gpt2", "llama", "mistral", "olmo3", "opt", "phi3", "qwen3_moe")
SETTINGS: dict[str, Any] = {"end_token_ids": {3, 5, 7, 11}, "max_new_tokens": 4, "pad_token_id": 0}


def items() -> list[likelihood.Item]:
    rng = random.Random(1)
    common = rng.choices(range(3, 97), k=9)
    return [
        likelihood.Item(
            context=(*common, *rng.choices(range(3, 97), k=length)), continuations=((5,), (5, 6), (7, 8, 9))
        )
        for length in (1, 14, 4)
    ]


def built(kind: str) -> Any:
    """A model that runs; None for a type that does not run as this library makes it of small sizes."""
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            model = make(kind)
            model(input_ids=torch.tensor([items()[0].context]))
    except Exception:  # whatever a class makes of sizes that it was not written for
        return None
    return model


def compare(kind: str, model: Any) -> tuple[bool, bool]:
    """Return whether labels were scored, and answers written, by the fast paths."""
    asked = items()
    scorer = likelihood.Scorer(model, asked, pad_token_id=0)
    for numbers in scorer.batches:
        for number, answer in zip(numbers, scorer.run(numbers), strict=True):
            assert answer.sums == pytest.approx(likelihood.plain(model, asked[number]).sums, abs=1e-4), kind
    prompts = [list(item.context) for item in asked]
    generator = generation.Generator(model, prompts, **SETTINGS)
    expected = [generation.plain(model, prompt, **SETTINGS) for prompt in prompts]
    assert generator.run([0, 1, 2]) == expected, kind
    return not scorer.notes, not generator.notes


def test_every_decoder_is_scored_and_written_with_as_by_the_plain_path(monkeypatch):
    monkeypatch.setattr(self_check, "LIMIT_S", 600.0)  # all of the few prompts, on a busy machine too
    ran, fast, failed = 0, {}, {}
    for kind in kinds():
        model = None if kind in SLOW else built(kind)
        if model is None:
            continue
        ran += 1
        try:
            fast[kind] = compare(kind, model)
        except Exception as error:  # all of them are to be seen at once
            failed[kind] = f"{type(error).__name__}: {str(error)[:200]}"
    assert failed == {}
    assert ran > 100
    assert {kind: fast[kind] for kind in FAST} == dict.fromkeys(FAST, (True, True))
