"""One trial of a micro-batch: the process that `bench.runner.batch_size` starts.

It runs a run's own stages on a few real examples, so that the model, what is adapted and left out of it, the engine and
the optimiser are the same ones, and writes down how much memory that took.
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
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import PartialState
from transformers import AutoTokenizer

from bench import console
from bench.config import registry
from bench.config.recipe import Recipe
from bench.config.resolve import Resolved
from bench.data.examples import Encoded
from bench.evaluation.reader import Scoring
from bench.memory import limits
from bench.records import clock, failures, record
from bench.runner import batch_size, stages
from bench.runner.context import Material, Run
from bench.utils import files, numbers, process


def main(place: str) -> int:
    """Reads the request in a folder, trains, and writes the answer there: what was taken, or the error's sentence."""
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
        asked = failures.sizes_in(text).get("asked")
        if asked is not None:
            text = f"it ran out of memory when it asked for {numbers.format_bytes(asked)} more"
        return {"status": failures.status_of(error), "reason": text, "trace": traceback.format_exc()}


def _end_with_parent() -> None:
    """The pipe on standard input closes when the run is gone, however it went."""
    sys.stdin.buffer.read()
    os._exit(1)


def _measured(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """{"status": "ok", "taken", "room"}: bytes by limit; the first on top of what a process has before its model."""
    state = PartialState(cpu=request["device"] == "cpu")
    run = _run(request, folder, state)
    recipe = run.resolved.recipe
    process.allocator_in_force(
        state.device.type,
        keep_memory=recipe.speed.keep_memory,
        searches_batch_size=recipe.training.per_device_batch == "auto",
        note=run.record.note,
    )
    material = _material(run, request, folder)
    for name in request["libraries"]:  # what the run has loaded already is no part of what its training takes
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    rooms = {name: min(size, request["room"].get(name, size)) for name, size in limits.left(state.device).items()}
    base = limits.held(state.device)
    limits.keep_within(rooms, state.device)
    try:
        stages.build_model(run, material)
        stages.fit(run, material)
    except Exception as error:
        # Not every library says what it was that it could not have.
        scarce = min(limits.left(state.device).values()) < batch_size.HEADROOM * min(rooms.values())
        if failures.status_of(error) == "crashed" and scarce:
            raise MemoryError(f"{type(error).__name__} with hardly any memory left: {error}") from error
        raise
    peaks = _peaks(run, base)
    sent = request["constant"] + (_trained_bytes(material.model) if request["sends"] else 0)
    return {"status": "ok", "taken": {name: peaks[name] - base[name] + sent for name in rooms}, "room": rooms}


def _peaks(run: Run, base: dict[str, int]) -> dict[str, int]:
    """Bytes by limit, at most; a phase's own peak begins anew with it."""
    phases = list(run.clock.peaks.values())
    if limits.DEVICE in base:
        return {limits.DEVICE: max(peak.reserved or 0 for peak in phases)}
    return {limits.MEMORY: max(peak.rss or 0 for peak in phases), limits.ADDRESSES: limits.most_addresses()}


def _trained_bytes(model: torch.nn.Module) -> int:
    return sum(one.numel() * one.element_size() for one in model.parameters() if one.requires_grad)


def _run(request: dict[str, Any], folder: Path, state: PartialState) -> Run:
    recipe = Recipe.model_validate_json(json.dumps(request["recipe"]))
    method = registry.load("methods", recipe.method.name)
    resolved = Resolved(
        recipe=recipe,
        options=method.Options.model_validate(recipe.method.model_extra or {}),
        path="",
        study="",
        dataset_name="",
        model_name=request["model_name"],
        as_written={},
        overrides=(),
        card_overrides={},
    )
    started = record.Record(name="", started_at="", recipe=record.RecipePart(path=""))
    return Run(resolved, started, folder, clock=clock.Clock(), state=state)


def _material(run: Run, request: dict[str, Any], folder: Path) -> Material:
    """The run's own, as far as training needs it."""
    recipe = run.resolved.recipe
    method = registry.load("methods", recipe.method.name)
    task = registry.load("tasks", recipe.dataset.task)
    trusted = recipe.model.trust_remote_code
    tokenizer = AutoTokenizer.from_pretrained(folder / batch_size.TOKENIZER, trust_remote_code=trusted)
    tokenizer.padding_side = "right"
    features = request["features"]
    corpus: Any = SimpleNamespace(labels=tuple(request["labels"]), splits={"train": SimpleNamespace(fingerprint="")})
    nothing: Any = None
    return Material(
        corpus=corpus,
        plan=method.load_plan(run.resolved.options),
        method=method,
        task=task,
        tokenizer=tokenizer,
        splits={},
        train_set=Encoded(name="train", ids=tuple(map(str, range(len(features)))), features=features, truncated=0),
        scoring=Scoring(
            task=task,
            tokenizer=tokenizer,
            metrics=nothing,
            threshold=recipe.evaluation.threshold,
            device=run.state.device,
            precision=request["precision"],
        ),
    )
