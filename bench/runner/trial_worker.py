"""One trial of a micro-batch: the process that `bench.runner.batch_size` starts.

It builds and trains a model by the run's own functions, on a few real examples, so that the adapted model, the
engine and the optimiser are the same ones, and writes down how much memory that took.
"""

import contextlib
import gc
import importlib
import json
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from bench import console
from bench.config import foreign_code, registry
from bench.config.recipe import Recipe
from bench.data.examples import Encoded
from bench.evaluation.metric_set import MetricSet
from bench.evaluation.reader import Scoring
from bench.memory import limits
from bench.models.kernels import padding_free
from bench.records import clock, failures
from bench.runner import batch_size, stages
from bench.training import fit as training
from bench.training.schedule import Budget
from bench.training.state import Progress
from bench.utils import files, numbers, process


def main(place: str) -> int:
    """Read the request in a folder, train, and write the answer there: the memory taken, or the error's sentence."""
    folder = Path(place)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    console.quiet_libraries()
    request = json.loads((folder / batch_size.REQUEST).read_text(encoding="utf-8"))
    answer = _attempt(request, folder)
    gc.collect()  # the exception held the tensors of its frames, and to write takes some memory too
    files.write_text(folder / batch_size.ANSWER, json.dumps(answer))
    return 0


def _attempt(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    try:
        return _measured(request, folder)
    except Exception as error:
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        requested = failures.sizes_in(text).get("asked")
        if requested is not None:
            text = f"it ran out of memory when it asked for {numbers.format_bytes(requested)} more"
        return {"status": failures.status_of(error), "reason": text, "trace": traceback.format_exc()}


def _end_with_parent() -> None:
    """End this process with its run: the pipe on standard input closes then, however the run ended."""
    sys.stdin.buffer.read()
    os._exit(1)


def _measured(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return {"status": "ok", "taken", "available"}: bytes by limit; "taken" beyond what there was before the model."""
    state, phases = PartialState(cpu=request["device"] == "cpu"), clock.Clock()
    recipe = Recipe.model_validate_json(json.dumps(request["recipe"]))
    process.allocator_in_force(
        state.device.type,
        keep_memory=recipe.speed.keep_memory,
        searches_batch_size=recipe.training.per_device_batch == "auto",
        note=_ignore,
    )
    foreign_code.confirm(recipe.model.trust_remote_code)  # else the run would have ended before this trial
    tokenizer = AutoTokenizer.from_pretrained(
        folder / batch_size.TOKENIZER, trust_remote_code=recipe.model.trust_remote_code
    )
    tokenizer.padding_side = "right"
    for name in request["libraries"]:  # what the run has loaded already is no part of what its training takes
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    available = {
        name: min(size, request["available"].get(name, size))
        for name, size in limits.available_bytes(state.device).items()
    }
    base = limits.held_bytes(state.device)
    limits.keep_within(available, state.device)
    try:
        model = _trained(recipe, request, tokenizer, state, phases, folder)
    except Exception as error:
        # Not every library reports that it ran out of memory.
        scarce = min(limits.available_bytes(state.device).values()) < batch_size.HEADROOM * min(available.values())
        if failures.status_of(error) == "crashed" and scarce:
            raise MemoryError(f"{type(error).__name__} with hardly any memory left: {error}") from error
        raise
    peaks = _peaks(phases, base)
    sent = request["constant"] + (_trained_bytes(model) if request["sends"] else 0)
    return {
        "status": "ok",
        "taken": {name: peaks[name] - base[name] + sent for name in available},
        "available": available,
    }


def _ignore(_: str) -> None:
    """Drop a note: the run itself writes these down."""


def _trained(
    recipe: Recipe,
    request: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    state: PartialState,
    phases: clock.Clock,
    folder: Path,
) -> torch.nn.Module:
    """Build the run's model and train it for the request's steps, in the run's phases; return it."""
    options = registry.load_method(recipe.method.name).Options.model_validate(recipe.method.model_extra or {})
    labels, features = tuple(request["labels"]), request["features"]
    budget = Budget.plan(recipe.training, len(features), state.num_processes)
    with phases.phase("load"):
        model = stages.adapted_model(recipe, options, tokenizer=tokenizer, labels=labels, device=state.device).model
        if recipe.speed.padding_free:
            padding_free.attach(model)
    metrics = MetricSet((), multi_label=recipe.dataset.multi_label, num_labels=len(labels))
    scoring = Scoring(
        tokenizer=tokenizer,
        metrics=metrics,
        threshold=recipe.evaluation.threshold,
        device=state.device,
        precision=request["precision"],
    )
    train = Encoded(name="train", ids=tuple(map(str, range(len(features)))), features=features, truncated=0)
    with console.Phase("train", total=budget.steps) as display, phases.phase("train"):
        inputs = stages.fit_inputs(recipe, model, train, scoring, budget, folder=folder, clock=phases, display=display)
        return training.fit(inputs, Progress()).model


def _peaks(phases: clock.Clock, base: dict[str, int]) -> dict[str, int]:
    """Return the peak bytes by limit; each phase measures its own."""
    peaks = phases.peaks.values()
    if limits.DEVICE in base:
        return {limits.DEVICE: max(peak.reserved or 0 for peak in peaks)}
    return {limits.MEMORY: max(peak.rss or 0 for peak in peaks), limits.ADDRESSES: limits.peak_address_space()}


def _trained_bytes(model: torch.nn.Module) -> int:
    return sum(one.numel() * one.element_size() for one in model.parameters() if one.requires_grad)
