"""Which precision is faster on this device: a step of the run's own model is timed in float32 and in bf16 autocast."""

import os
import statistics
import time
from typing import Any

import torch

from bench.data.batching import collate
from bench.distributed import setup
from bench.errors import SetupError
from bench.evaluation.reader import Scoring
from bench.models.autocast import autocast
from bench.models.heads import unwrapped
from bench.records.clock import synchronize

ROUNDS = 8
ROWS = 16
# bf16 moves losses a little, so it must be worth it.
LEAST_GAIN = 1.2


def measured(model: Any, features: list[dict[str, Any]], scoring: Scoring, *, learns: bool) -> dict[str, Any]:
    """{"chosen": "bf16" or "no", "float32_s", "bf16_s"}: median seconds of a step, as rank zero measured them.

    features: examples of which the first are run. learns: whether the backward pass belongs to a step. The model and
    the state of the random numbers are as before. Sets what accelerate reads when it is set up for training.
    Raises SetupError where the launcher has chosen a precision already.
    """
    if scoring.precision != "no":
        raise SetupError(
            f"speed.precision is 'measured', but the launcher has set mixed_precision to {scoring.precision!r}; "
            "take 'launcher', or an accelerate config with mixed_precision: 'no'"
        )
    batch = collate([{**feature, "labels": 0} for feature in features[:ROWS]], scoring.tokenizer)
    inputs = {name: tensor.to(scoring.device) for name, tensor in batch.items() if name != "labels"}
    seconds = setup.same_everywhere(_seconds(model, inputs, scoring.device, learns))
    chosen = "bf16" if seconds["bf16"] * LEAST_GAIN < seconds["no"] else "no"
    os.environ["ACCELERATE_MIXED_PRECISION"] = chosen
    return {"chosen": chosen, "float32_s": seconds["no"], "bf16_s": seconds["bf16"]}


def _seconds(model: Any, inputs: dict[str, torch.Tensor], device: torch.device, learns: bool) -> dict[str, float]:
    """Median seconds of each precision, measured in turns; the first turn is left out."""
    found: dict[str, list[float]] = {"no": [], "bf16": []}
    devices = [device] if device.type == "cuda" else []
    training = model.training
    model.train(learns)
    with torch.random.fork_rng(devices):
        for _ in range(ROUNDS):
            for name, times in found.items():
                started_s = time.perf_counter()
                _step(model, inputs, device, name, learns)
                synchronize()
                times.append(time.perf_counter() - started_s)
    model.train(training)
    model.zero_grad(set_to_none=True)
    return {name: statistics.median(times[1:]) for name, times in found.items()}


def _step(model: Any, inputs: dict[str, torch.Tensor], device: torch.device, precision: str, learns: bool) -> None:
    """The body only: heads differ by objective, and cost little in either precision."""
    inner = unwrapped(model)
    body = inner.get_encoder() if inner.config.is_encoder_decoder else inner.base_model
    with torch.set_grad_enabled(learns):
        with autocast(device, precision):
            hidden = body(**inputs).last_hidden_state
        if hidden.requires_grad:
            hidden.float().square().mean().backward()
