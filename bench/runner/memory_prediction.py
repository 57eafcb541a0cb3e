"""Predicts a run's peak memory, compares it with the measured peak, and advises after a run ran out of memory.

    predict(run)  # before training: run.record.memory_predicted
    compare(run)  # after it: the measured peak beside it, and the error where both count the same
    advise(run)   # after a run ran out of memory: run.record.oom gets the plan's numbers and advice

All on torch's meta device, on rank zero only. A plan that fails never fails a run; the record says why there is none.
"""

import gc
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
from bench.memory import phases as memory_phases
from bench.memory import search
from bench.memory.limits import limits
from bench.memory.planner import Lengths, MemoryPlan, Parallelism, Prediction, longest_texts
from bench.memory.scoring import scoring_bytes
from bench.memory.search import Change
from bench.models.kernels import padding_free
from bench.models.library_internals import transformers_internals
from bench.records.failures import GENERAL_ADVICE, METRICS_ADVICE
from bench.records.record import Advice, OutOfMemory
from bench.runner import out_of_memory
from bench.runner.context import RunContext
from bench.training.schedule import Budget, sorted_in_steps
from bench.utils import cuda
from bench.utils.hardware import GIB
from bench.utils.numbers import format_bytes

# Not counted by any allocator: the first is taken by the driver, the second is an allowance.
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
class LargestMicroBatch:
    """A micro-batch: rows, tokens of each (the mean for padding-free batches), labels of each text's answer."""

    rows: int
    length: int
    answers: int


@dataclass(frozen=True, kw_only=True)
class PredictedMemory:
    """A run's planned memory: its job, the row numbers of all steps, and whether its batches are padding-free."""

    job: MemoryPlan
    order: list[int]
    without_pads: bool
    prediction: Prediction


def predict(run: RunContext) -> None:
    """Fill in `memory_predicted`, before training, on rank zero. "train" is null, with a "reason", without a plan.

    Its parts are in GiB, at the step's fullest moment; rows and length are those of the run's heaviest micro-batch.
    "phases" has the peak of every phase (load, before, train, after, save) in GiB.
    """
    if not run.state.is_main_process:
        return
    try:
        run.prediction = plan_memory(run)
    except StoppedError:
        raise
    except BenchError as error:
        run.record.memory_predicted = {"train": None, "reason": str(error)}
    except Exception as error:  # a defect of the plan, or of a library on the meta device
        reason = f"the plan failed: {type(error).__name__}: {error}".splitlines()[0]
        run.record.memory_predicted = {"train": None, "reason": reason}
        run.record.note(f"memory was not predicted: {reason}")
    else:
        job, prediction = run.prediction.job, run.prediction.prediction
        phases = memory_phases.as_record(job, prediction)
        run.record.memory_predicted = {**prediction.as_record(), "phases": phases, "error": None}
        _check_outline(run, job)
        _predict_scoring(run)


def _predict_scoring(run: RunContext) -> None:
    """Add what scoring will take on the host, by split; warn before training where there is not that much."""
    dataset, labels = run.resolved.recipe.dataset, len(run.inputs.corpus.labels)
    if run.inputs.task.READS != "labels" or run.record.memory_predicted is None:
        return
    sizes = {
        name: scoring_bytes(len(run.inputs.splits[name].ids), labels, multi_label=dataset.multi_label)
        for name in run.resolved.recipe.evaluation.splits
    }
    run.record.memory_predicted["scoring"] = {name: {"gib": size / GIB} for name, size in sizes.items()}
    left = min((limit.capacity - limit.used for limit in limits()), default=None)
    for name, size in sizes.items():
        if left is not None and size > left:
            of = f"{len(run.inputs.splits[name].ids):,} examples x {labels:,} labels"
            sentence = f"scoring {name} ({of}) is predicted to take {format_bytes(size)} on the host"
            run.record.warn(
                "scoring_memory", f"{sentence}, of which {format_bytes(max(left, 0))} are left: lower limit"
            )


def _check_outline(run: RunContext, job: MemoryPlan) -> None:
    planned, model = job.states.num_trainable, run.record.model
    if model is not None and planned != model.parameters["trainable"]:
        run.record.note(
            f"memory was predicted for {planned:,} trainable parameters, but the model has "
            f"{model.parameters['trainable']:,}"
        )


def plan_memory(run: RunContext) -> PredictedMemory:
    """Return the plan of a run, for its heaviest micro-batch. Raises SetupError for what can't be planned."""
    recipe, budget, plan, train = run.resolved.recipe, run.budget, run.inputs.plan, run.inputs.train
    if plan.trains != "gradient":
        raise SetupError(f"method {recipe.method.name!r} trains nothing by gradients")
    if budget is None or train is None:
        raise SetupError("the sizes of training were not known yet")
    order = budget.order(recipe.seed, train.lengths if recipe.training.group_by_length else None)
    features = train.features
    counts, choices = longest_texts(features)
    if choices > 1:  # of an example, all are as long as the longest one
        features = [{"input_ids": range(count)} for count in counts]
    without_pads = run.model is not None and padding_free.is_attached(run.model)
    if recipe.speed.padding_free and not without_pads:
        order = sorted_in_steps(order, train.lengths, budget.global_batch)
    batch = largest_micro_batch(features, order, budget.per_device_batch, without_pads)
    lengths = Lengths(
        longest=max(counts),
        mean=sum(counts) / len(counts),
        answers=batch.answers,
        source="the training split",
        examples=len(counts),
        choices=choices,
    )
    # Random numbers that are drawn here must not advance the run's own generator.
    with torch.random.fork_rng(devices=[]):
        job = MemoryPlan.of(
            run.resolved,
            requested_parallelism(run.state.num_processes),
            precision=run.inputs.scoring.precision,
            lengths=lengths,
            on_cpu=run.state.device.type == "cpu",
            num_labels=max(1, len(run.inputs.corpus.labels)),
            capability=cuda.capability(run.state.device) if run.state.device.type == "cuda" else None,
        )
        prediction = job.predict(batch.rows, batch.length)
    return PredictedMemory(job=job, order=order, without_pads=without_pads, prediction=prediction)


def largest_micro_batch(
    features: Sequence[dict[str, Any]], order: Sequence[int], rows: int, without_pads: bool
) -> LargestMicroBatch:
    """Return the micro-batch with the most tokens: in a run's order they are `rows` after `rows`, over all processes.

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
    return LargestMicroBatch(rows=rows, length=math.ceil(tokens[place] / rows), answers=answers)


def requested_parallelism(world: int) -> Parallelism:
    """Return the parallelism that the launcher asked for. Raises SetupError for one that the plan does not know."""
    if sharding.requested_backend() == "fsdp":
        for name, meant, known in (
            ("FSDP_OFFLOAD_PARAMS", "its weights on the host", "false"),
            ("FSDP_RESHARD_AFTER_FORWARD", "weights that stay gathered", "true"),
        ):
            if os.environ.get(name, known).lower() != known:
                raise SetupError(f"the plan does not know FSDP2 with {meant} ({name.lower()})")
        return Parallelism(world=world, fsdp=True)
    stage = sharding.requested_stage()
    if stage is None:
        return Parallelism(world=world)
    if stage == 0:
        raise SetupError("the plan does not know DeepSpeed without ZeRO")
    optimizer, parameters = sharding.requested_offload()
    # ZeRO keeps weights where they are before stage 3.
    places = {optimizer, parameters} if stage == 3 else {optimizer}
    if len(places) > 1 or not places <= {"none", "cpu"}:
        raise SetupError(
            f"the plan does not know ZeRO-{stage} with the optimizer's state on {optimizer}, weights on {parameters}"
        )
    return Parallelism(world=world, zero=stage, offload=places.pop())


def compare(run: RunContext) -> None:
    """Write the measured peak beside the prediction; and the error, predicted / measured - 1, where they compare.

    On a GPU this is what torch's allocator counts: without context and fragmentation. It must be called after the
    record's `memory` was filled in.
    """
    if run.prediction is None or run.fit_result is None:
        return
    try:
        _compare(run)
    except StoppedError:
        raise
    except Exception as error:  # a plan must not fail a run that has come so far
        run.record.note(f"memory was not compared with its prediction: {type(error).__name__}: {error}")


def _compare(run: RunContext) -> None:
    predicted, trained = run.record.memory_predicted, run.record.memory.get("train", {})
    assert predicted is not None
    if run.state.device.type == "cpu":
        before = run.memory_baseline.resident if run.memory_baseline is not None else None
        peak = (trained.get("per_rank") or [trained])[0].get("rss_gib")
        grown = None if before is None or peak is None else max(0.0, peak - before / GIB)
        predicted |= {"measured": {"gib": None, "grown_gib": grown, "of": GROWN}, "no_error": NOT_COMPARABLE}
        return
    measured = trained.get("allocated_gib")
    if not measured:
        predicted["no_error"] = "this device does not tell what was allocated"
        return
    done = _of_steps_done(run)
    counted = sum(size for name, size in done.parts.items() if name not in UNCOUNTED) / GIB
    predicted |= {
        "measured": {"gib": measured, "reserved_gib": trained.get("reserved_gib"), "of": ALLOCATED},
        "compared": {"gib": counted, "rows": done.rows, "length": done.length},
        "error": counted / measured - 1,
    }


def _of_steps_done(run: RunContext) -> Prediction:
    """Return the prediction for the steps that this process took: early stopping and resumption leave out others."""
    budget, progress, planned, train = run.budget, run.progress, run.prediction, run.inputs.train
    assert budget is not None
    assert progress is not None
    assert planned is not None
    assert train is not None
    size = budget.global_batch
    rows = planned.order[(progress.step - len(progress.steps.counts)) * size : progress.step * size]
    batch = largest_micro_batch(train.features, rows, budget.per_device_batch, planned.without_pads)
    if (batch.rows, batch.length) == (planned.prediction.rows, planned.prediction.length):
        return planned.prediction
    return planned.job.predict(batch.rows, batch.length)


def advise(run: RunContext) -> str:
    """Fill in `run.record.oom` with what the plan says; return the sentence. Releases the model; never raises."""
    oom = run.record.oom
    assert oom is not None
    run.release_model()
    gc.collect()
    try:
        # Otherwise the plan's own model would be built sharded, as DeepSpeed has it done while a run trains.
        with transformers_internals.without_deepspeed():
            oom.unadvised = _why_not(run, oom) or _advised(run, oom)
    except BenchError as error:
        oom.unadvised = f"no advice by the plan: {error}; {GENERAL_ADVICE}"
    except Exception as error:  # the plan needs memory, too
        message = f"no advice, for the plan failed: {type(error).__name__}: {error}".splitlines()[0]
        oom.unadvised = f"{message}; {GENERAL_ADVICE}"
    return out_of_memory.sentence(oom)


def _why_not(run: RunContext, oom: OutOfMemory) -> str | None:
    """Return why the plan has nothing to say, if so."""
    if not run.has_inputs:
        return "this was before there were data to train on; give it more memory, or lower limit"
    if oom.phase == "metrics":
        return METRICS_ADVICE
    if oom.memory == "host" and run.state.device.type != "cpu":
        return "it was the host's memory, not the GPU's; give the machine more, or lower limit"
    if oom.phase in out_of_memory.SCORING:
        way = run.record.sharded_phases.get(
            {"validate": "validate", "score_before": "before"}.get(oom.phase, "after"), ""
        )
        other = ", or set evaluation.sharded: true" if way.startswith("whole") else ""
        return f"this was while scoring; lower evaluation.batch_tokens{other}"
    return f"the capacity is not known; {GENERAL_ADVICE}" if out_of_memory.available_bytes(oom) is None else None


def _advised(run: RunContext, oom: OutOfMemory) -> str | None:
    """Fill in the plan's numbers and changes; return why there is no change, if so."""
    available = out_of_memory.available_bytes(oom) or 0
    if run.budget is None and run.inputs.train is not None:
        # A run that was to find its micro-batch by itself, and found none.
        processes, examples = run.state.num_processes, len(run.inputs.train.ids)
        run.budget = Budget.plan(run.resolved.recipe.training, examples, processes, auto_rows=1)
    known = run.prediction or plan_memory(run)
    assert run.budget is not None
    rows, length, job = run.budget.per_device_batch, known.job.lengths.longest, known.job
    oom.predicted_gib = known.prediction.total / GIB
    key = "training.per_device_batch="
    own = [item for item in run.resolved.overrides if not item.startswith(key)] + [f"{key}{rows}"]
    load = search.loader(Path(run.resolved.path), tuple(own), run.resolved.recipe.seed)
    oom.largest_rows = search.largest_batch(job, length, available)
    share = run.budget.global_batch // run.state.num_processes
    fewer = [size for size in range(1, rows) if share % size == 0]
    if known.prediction.needed <= available:
        # Without pads, more texts fit than if all were as long as the longest.
        oom.largest_rows = max(rows, oom.largest_rows)
        oom.advice = [_fewer_rows(fewer[-1])] if fewer else []
        return f"by the plan {format_bytes(available)} are enough, so that it is wrong, or something else takes memory"
    if any(size <= oom.largest_rows for size in fewer):
        oom.advice = [_fewer_rows(max(size for size in fewer if size <= oom.largest_rows))]
        return None
    chosen = search.cheapest_fit(job, length, available, load)
    oom.advice = [Advice(change=as_typed(change), costs=change.costs) for change in chosen]
    if chosen:
        return None
    return "nothing that the plan knows makes it fit: take a smaller model, shorter texts or more memory"


def _fewer_rows(rows: int) -> Advice:
    costs = "no other result, for the global batch stays; less speed where the device is not full"
    return Advice(change=f"training.per_device_batch={rows}", costs=costs)


def as_typed(change: Change) -> str:
    """Return a change as it is typed for a run: overrides, or the launcher's option."""
    if not change.parallelism:
        return " ".join(change.overrides)
    name = "zero3_offload_cpu" if change.parallelism.get("offload") == "cpu" else f"zero{change.parallelism['zero']}"
    return f"--config_file accelerate_configs/{name}.yaml"
