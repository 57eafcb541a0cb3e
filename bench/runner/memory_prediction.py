"""Predicted before, measured after: a run's memory by the plan, how far that was off, and what would have fitted.

    predict(run, material)  # before training: run.record.memory_predicted
    compare(run, material)  # after it: the measured peak beside it, and the error where both count the same
    advise(run)             # after a run ran out of memory: run.record.oom gets the plan's numbers and advice

All on torch's meta device, on rank zero only. A plan that fails never fails a run; the record says why there is none.
"""

import gc
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.data.batching import IGNORED
from bench.distributed import sharding
from bench.errors import BenchError, SetupError, StoppedError
from bench.memory import search
from bench.memory.planner import Lengths, MemoryPlan, Parallelism, Prediction
from bench.memory.search import Change
from bench.models.kernels import padding_free
from bench.models.library_internals import transformers_internals
from bench.records.failures import GENERAL_ADVICE
from bench.records.record import Advice
from bench.runner import out_of_memory
from bench.runner.context import Material
from bench.training.schedule import Budget, sorted_in_steps
from bench.utils.hardware import GIB
from bench.utils.numbers import shown

Run = Any  # bench.runner.context.Run, which lies above

# What no allocator counts: the first is taken by the driver, the second is an allowance.
UNCOUNTED = ("CUDA", "fragmentation")
ALLOCATED = "peak of torch's allocator in the training steps, of the process with the highest one"
GROWN = (
    "peak of resident memory in training, less what the process had before the model was built, with libraries that "
    "were loaded since and freed memory that the C library keeps"
)
NOT_COMPARABLE = (
    "a CPU has no allocator that counts tensors, and its attention keeps more than the fused kernels that are planned"
)


@dataclass(frozen=True, kw_only=True)
class Heaviest:
    """A micro-batch: rows, tokens of each (their mean, where pads are not computed), labels of each text's answer."""

    rows: int
    length: int
    answers: int


@dataclass(frozen=True, kw_only=True)
class Foretold:
    """What a run is planned as: its job, the row numbers of all steps, and whether pads are left out."""

    job: MemoryPlan
    order: list[int]
    without_pads: bool
    prediction: Prediction


def predict(run: Run, material: Material) -> None:
    """Fills in `memory_predicted`, before training, on rank zero. "train" is null, with a "reason", without a plan.

    Its parts are in GiB, at the step's fullest moment; rows and length are those of the run's heaviest micro-batch.
    """
    if not run.state.is_main_process:
        return
    try:
        run.foretold = foretold(run, material)
    except StoppedError:
        raise
    except BenchError as error:
        run.record.memory_predicted = {"train": None, "reason": str(error)}
    except Exception as error:  # a defect of the plan, or of a library on the meta device
        reason = f"the plan failed: {type(error).__name__}: {error}".splitlines()[0]
        run.record.memory_predicted = {"train": None, "reason": reason}
        run.record.note(f"memory was not predicted: {reason}")
    else:
        run.record.memory_predicted = {**run.foretold.prediction.as_record(), "error": None}
        _check_outline(run)


def _check_outline(run: Run) -> None:
    planned, model = run.foretold.job.states.num_trainable, run.record.model
    if model is not None and planned != model.parameters["trainable"]:
        run.record.note(
            f"memory was predicted for {planned:,} trained numbers, but the model has {model.parameters['trainable']:,}"
        )


def foretold(run: Run, material: Material) -> Foretold:
    """The plan of a run, of its heaviest micro-batch. Raises SetupError for what can't be planned."""
    recipe, budget, plan = run.resolved.recipe, material.budget, material.plan
    if plan.trains != "gradient":
        raise SetupError(f"method {recipe.method.name!r} trains nothing by gradients")
    if budget is None or material.train_set is None:
        raise SetupError("the sizes of training were not known yet")
    order, features = budget.order(recipe.seed), material.train_set.features
    without_pads = material.model is not None and padding_free.is_attached(material.model)
    if recipe.speed.padding_free and not without_pads:
        order = sorted_in_steps(order, material.train_set.lengths, budget.global_batch)
    batch = heaviest(features, order, budget.per_device_batch, without_pads)
    counts = [len(feature["input_ids"]) for feature in features]
    lengths = Lengths(
        longest=max(counts),
        mean=sum(counts) / len(counts),
        answers=batch.answers,
        source="the training split",
        examples=len(counts),
    )
    # Whatever is drawn here is not drawn from the run's own numbers.
    with torch.random.fork_rng(devices=[]):
        job = MemoryPlan.of(
            run.resolved,
            spread_of(run.state.num_processes),
            precision=material.scoring.precision,
            lengths=lengths,
            on_cpu=run.state.device.type == "cpu",
            num_labels=max(1, len(material.corpus.labels)),
        )
        prediction = job.predict(batch.rows, batch.length)
    return Foretold(job=job, order=order, without_pads=without_pads, prediction=prediction)


def heaviest(features: Sequence[dict[str, Any]], order: Sequence[int], rows: int, without_pads: bool) -> Heaviest:
    """The micro-batch with the most tokens: in the order of a run they are `rows` after `rows`, over all processes.

    An encoder-decoder's answers count as tokens too.
    """
    lengths, labels = [len(row["input_ids"]) for row in features], [row.get("token_labels", ()) for row in features]
    # A decoder's labels stand beside its tokens, an encoder-decoder's by themselves.
    apart = any(labels) and [len(row) for row in labels] != lengths
    learned = [len(row) if apart else sum(label != IGNORED for label in row) for row in labels]
    read, written = (np.array(numbers)[order].reshape(-1, rows) for numbers in (lengths, learned))
    tokens = read.sum(1) if without_pads else read.max(1) * rows
    place = int(np.argmax(tokens + (written.max(1) * rows if apart else 0)))
    answers = int(written[place].max()) if apart else math.ceil(written[place].sum() / rows)
    return Heaviest(rows=rows, length=math.ceil(tokens[place] / rows), answers=answers)


def spread_of(world: int) -> Parallelism:
    """How the launcher asked for the run to be spread. Raises SetupError for a way that the plan does not know."""
    if sharding.asked() == "fsdp":
        raise SetupError("the plan knows DDP and ZeRO, not how FSDP2 divides a model")
    stage = sharding.asked_stage()
    if stage is None:
        return Parallelism(world=world)
    if stage == 0:
        raise SetupError("the plan does not know DeepSpeed without ZeRO")
    optimizer, parameters = offloaded()
    # ZeRO keeps weights where they are before stage 3.
    places = {optimizer, parameters} if stage == 3 else {optimizer}
    if len(places) > 1 or not places <= {"none", "cpu"}:
        raise SetupError(
            f"the plan does not know ZeRO-{stage} with the optimizer's state on {optimizer}, weights on {parameters}"
        )
    return Parallelism(world=world, zero=stage, offload=places.pop())


def offloaded() -> tuple[str, str]:
    """Where DeepSpeed was asked to keep (the optimizer's state, the weights): "none", "cpu" or "nvme"."""
    path = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if path != "none":
        asked = json.loads(Path(path).read_text(encoding="utf-8")).get("zero_optimization", {})
        places = [(asked.get(f"offload_{name}") or {}).get("device", "none") for name in ("optimizer", "param")]
    else:
        names = ("OPTIMIZER", "PARAM")
        places = [os.environ.get(f"ACCELERATE_DEEPSPEED_OFFLOAD_{name}_DEVICE", "none") for name in names]
    return places[0], places[1]


def compare(run: Run, material: Material) -> None:
    """Sets what was measured beside the prediction; the error, predicted / measured - 1, where both count the same.

    On a GPU this is what torch's allocator counts: without context and fragmentation. It must be called after the
    record's `memory` was filled in.
    """
    if run.foretold is None or material.fit is None:
        return
    try:
        _compare(run, material, run.record.memory_predicted)
    except StoppedError:
        raise
    except Exception as error:  # a plan must not fail a run that has come so far
        run.record.note(f"memory was not compared with its prediction: {type(error).__name__}: {error}")


def _compare(run: Run, material: Material, found: dict[str, Any]) -> None:
    trained = run.record.memory.get("train", {})
    if run.state.device.type == "cpu":
        before, peak = run.before.resident, (trained.get("per_rank") or [trained])[0].get("rss_gib")
        grown = None if before is None or peak is None else max(0.0, peak - before / GIB)
        found |= {"measured": {"gib": None, "grown_gib": grown, "of": GROWN}, "no_error": NOT_COMPARABLE}
        return
    measured = trained.get("allocated_gib")
    if not measured:
        found["no_error"] = "this device does not tell what was allocated"
        return
    done = _of_steps_done(run, material)
    counted = sum(size for name, size in done.parts.items() if name not in UNCOUNTED) / GIB
    found |= {
        "measured": {"gib": measured, "reserved_gib": trained.get("reserved_gib"), "of": ALLOCATED},
        "compared": {"gib": counted, "rows": done.rows, "length": done.length},
        "error": counted / measured - 1,
    }


def _of_steps_done(run: Run, material: Material) -> Prediction:
    """The prediction for the steps that this process took: early stopping and resumption leave out others."""
    fit, known, features = material.fit, run.foretold, material.train_set.features  # type: ignore[union-attr]
    assert fit is not None
    size = fit.budget.global_batch
    rows = known.order[(fit.step - len(fit.steps.counts)) * size : fit.step * size]
    batch = heaviest(features, rows, fit.budget.per_device_batch, known.without_pads)
    if (batch.rows, batch.length) == (known.prediction.rows, known.prediction.length):
        return known.prediction
    return known.job.predict(batch.rows, batch.length)


def advise(run: Run) -> str:
    """Fills `run.record.oom` in with what the plan says; returns the sentence. Gives the model up; never raises."""
    oom = run.record.oom
    if run.material is not None:
        run.material.model = run.material.fit = None
    gc.collect()
    try:
        # Else the plan's own model would be built divided, as DeepSpeed has it done while a run trains.
        with transformers_internals.without_deepspeed():
            oom.unadvised = _why_not(run) or _advised(run)
    except BenchError as error:
        oom.unadvised = f"no advice by the plan: {error}; {GENERAL_ADVICE}"
    except Exception as error:  # also for want of memory
        told = f"no advice, for the plan failed: {type(error).__name__}: {error}".splitlines()[0]
        oom.unadvised = f"{told}; {GENERAL_ADVICE}"
    return out_of_memory.sentence(oom)


def _why_not(run: Run) -> str | None:
    """Why the plan has nothing to say, if so."""
    oom = run.record.oom
    if run.material is None:
        return "this was before there were data to train on; give it more memory, or lower limit"
    if oom.memory == "host" and run.state.device.type != "cpu":
        return "it was the host's memory, not the GPU's; give the machine more, or lower limit"
    if oom.phase in out_of_memory.SCORING:
        return "this was while scoring; lower evaluation.batch_tokens"
    return f"the capacity is not known; {GENERAL_ADVICE}" if out_of_memory.room(oom) is None else None


def _advised(run: Run) -> str | None:
    """Fills in the plan's numbers and changes; returns why there is no change, if so."""
    oom, material, room = run.record.oom, run.material, out_of_memory.room(run.record.oom) or 0
    if material.budget is None and material.train_set is not None:
        # A run that was to find its micro-batch by itself, and found none.
        processes, examples = run.state.num_processes, len(material.train_set.ids)
        material.budget = Budget.plan(run.resolved.recipe.training, examples, processes, found=1)
    known = run.foretold or foretold(run, material)
    rows, length = material.budget.per_device_batch, known.job.lengths.longest
    oom.predicted_gib = known.prediction.total / GIB
    asked, job = "training.per_device_batch=", known.job
    own = [item for item in run.resolved.overrides if not item.startswith(asked)] + [f"{asked}{rows}"]
    load = search.loader(Path(run.resolved.path), tuple(own), run.resolved.recipe.seed)
    oom.largest_rows = search.largest_batch(job, length, room)
    share = material.budget.global_batch // run.state.num_processes
    fewer = [size for size in range(1, rows) if share % size == 0]
    if known.prediction.needed <= room:
        # Without pads, more texts fit than if all were as long as the longest.
        oom.largest_rows = max(rows, oom.largest_rows)
        oom.advice = [_fewer_rows(fewer[-1])] if fewer else []
        return f"by the plan {shown(room)} are enough, so that it is wrong, or something else takes memory"
    if any(size <= oom.largest_rows for size in fewer):
        oom.advice = [_fewer_rows(max(size for size in fewer if size <= oom.largest_rows))]
        return None
    chosen = search.cheapest_fit(job, length, room, load)
    oom.advice = [Advice(change=typed(change), costs=change.costs) for change in chosen]
    if chosen:
        return None
    return "nothing that the plan knows makes it fit: take a smaller model, shorter texts or more memory"


def _fewer_rows(rows: int) -> Advice:
    costs = "no other result, for the global batch stays; less speed where the device is not full"
    return Advice(change=f"training.per_device_batch={rows}", costs=costs)


def typed(change: Change) -> str:
    """A change as it is typed for a run: overrides, or the launcher's option."""
    if not change.parallelism:
        return " ".join(change.overrides)
    name = "zero3_offload_cpu" if change.parallelism.get("offload") == "cpu" else f"zero{change.parallelism['zero']}"
    return f"--config_file accelerate_configs/{name}.yaml"
