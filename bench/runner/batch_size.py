"""`training.per_device_batch: auto`: finds the largest micro-batch that fits, by trials; the global batch stays.

    rows = resolve_batch_size(run)  # the same on every process; what was tried is in run.record.speed

A trial is a process of its own (`trial_worker`) that takes two optimiser steps on as many of the longest training
examples as a micro-batch holds: no real micro-batch has more tokens. One that takes more than the memory that is left,
less HEADROOM of it, does not fit, nor does one that the system kills. Candidates are the numbers of rows that divide a
process's share of the global batch, so that accumulation is whole; the plan's prediction says which one is tried first.

With several processes, rank zero tries for all, within the least memory that any of them has left. A trial is one
process that holds all states, which under ZeRO and FSDP is more than each of them will hold; buffers of their
communication are added.
"""

import functools
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object

from bench import console
from bench.config.recipe import Recipe
from bench.data.batching import IGNORED
from bench.distributed import setup, sharding
from bench.errors import DivergedError, SetupError
from bench.memory import limits
from bench.memory.planner import Lengths, MemoryPlan, Parallelism, longest_texts
from bench.memory.search import AUTO, KEY, candidates, largest
from bench.records import failures
from bench.runner.context import RunContext
from bench.training.schedule import Budget
from bench.utils.files import ROOT
from bench.utils.hardware import GIB

# Share of the memory left: for what a run holds beside its training (data, predictions), and for unusual steps.
HEADROOM = 0.05
# What is predicted to need so many times the memory left is not tried.
FAR_ABOVE = 3.0
# How often the other processes hear that rank zero is still trying: no collective call of theirs may run out of time.
BEAT_S = 2.0
STEPS = 2
REQUEST, ANSWER, TOKENIZER, ERRORS = "request.json", "answer.json", "tokenizer", "errors.txt"
# Of a launch of several processes; a trial is one alone. The last are those of MPI.
LAUNCHED = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("PMI_", "OMPI_", "MV2_", "GROUP_", "ROLE_", "TORCHELASTIC_", "ACCELERATE_USE_", "ACCELERATE_DEEPSPEED", "FSDP_"),
)
# The large ones, which take memory by being there.
LIBRARIES = ("torch", "transformers", "accelerate", "peft", "datasets", "pyarrow", "pandas", "sklearn", "scipy")


class NoRoomError(MemoryError):
    """Not even one example fits. A run files it as `oom`."""


def resolve_batch_size(run: RunContext) -> int | None:
    """Return the rows of a micro-batch, where the recipe says `auto`; None elsewhere. Every process must call it.

    What a run found before it was interrupted holds for the one that goes on with it. Raises NoRoomError where nothing
    fits, SetupError where the global batch can't be split, or nothing fits that ZeRO or FSDP would shard, and what a
    trial has failed with for another reason.
    """
    training = run.resolved.recipe.training
    if training.per_device_batch != AUTO:
        return None
    if run.inputs.plan.trains != "gradient":
        name = run.resolved.recipe.method.name
        run.record.note(f"training.per_device_batch: auto is not used: method {name} trains nothing by gradients")
        return None
    result = run.record.speed.get(KEY)
    if result is None:
        assert run.inputs.train is not None
        examples, processes = len(run.inputs.train.ids), run.state.num_processes
        share = Budget.plan(training, examples, processes).per_device_batch
        with run.clock.phase("probe"):
            result = _taken_over(run, share) or _searched(run, share)
            run.record.speed[KEY] = result
            _say(run, result)
            if not result["chosen"]:
                # So that the plan can say what would fit.
                run.budget = Budget.plan(training, examples, processes, auto_rows=1)
                raise _nothing_fits(result)
    return int(result["chosen"])


def _taken_over(run: RunContext, share: int) -> dict[str, Any] | None:
    """Return what the interrupted run found, if training goes on from its checkpoint: with the same steps."""
    previous = run.previous.record if run.previous.checkpoint is not None else None
    result = setup.broadcast_from_rank_zero(previous.speed.get(KEY) if previous is not None else None)
    if not result or not result["chosen"] or share % result["chosen"]:
        return None
    return {**result, "by": "the interrupted run"}


def _searched(run: RunContext, share: int) -> dict[str, Any]:
    available = _least_available(run)
    result: dict[str, Any] | None = None
    if run.state.is_main_process:
        tick = _still_searching if run.state.num_processes > 1 else int
        result = setup.broadcast_from_rank_zero(_Search(run, share, available, tick).result())
    while result is None:
        result = setup.broadcast_from_rank_zero(None)
    return result


def _still_searching() -> None:
    setup.broadcast_from_rank_zero(None)


def _least_available(run: RunContext) -> dict[str, int]:
    sharers = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    per_process: list[dict[str, int]] = gather_object([limits.available_bytes(run.state.device, sharers)])
    names = dict.fromkeys(name for available in per_process for name in available)
    return {name: min(available[name] for available in per_process if name in available) for name in names}


def _say(run: RunContext, result: dict[str, Any]) -> None:
    tried = ", ".join(f"{one['rows']} {'fits' if one['fits'] else 'does not fit'}" for one in result["tried"])
    console.say(f"micro-batch of {result['chosen']} by {result['by']} ({tried})")
    if run.state.num_processes > 1 and sharding.requested_backend() is not None:
        run.record.note(
            "training.per_device_batch: auto: tried in one process that holds all states; sharded, they take less"
        )


def _nothing_fits(result: dict[str, Any]) -> Exception:
    last = result["tried"][-1]
    predicted = "" if last["predicted_gib"] is None else f"predicted {last['predicted_gib']:.2f} GiB, "
    why = (
        f"not even a micro-batch of 1 example of {last['length']} tokens fits: {predicted}{last['reason']}; "
        f"{result['capacity_gib']:.2f} GiB of {result['limit']} are left, of which {HEADROOM:.0%} are kept free"
    )
    if sharding.requested_backend() is None:
        return NoRoomError(why)
    return SetupError(
        f"training.per_device_batch: auto tries one process that holds all states, and so {why}. Sharded over the "
        "processes they may fit: write a number, as `python -m bench plan` predicts it"
    )


@dataclass
class _Search:
    """The search of rank zero: tries sizes, and keeps the outcomes. tick: is called while a trial runs."""

    run: RunContext
    share: int
    available: dict[str, int]
    tick: Callable[[], object]
    tried: list[dict[str, Any]] = field(default_factory=list)
    limit: str = ""
    capacity: int = 0

    def __post_init__(self) -> None:
        self.limit = min(self.available, key=lambda name: self.available[name])
        self.capacity = self.available[self.limit]
        self.precision = setup.precision()
        assert self.run.inputs.train is not None
        features = self.run.inputs.train.features
        self.longest = sorted(range(len(features)), key=lambda number: _size(features[number]), reverse=True)

    def result(self) -> dict[str, Any]:
        """Return the record's part: the number, and how it was found."""
        started_s, sizes = time.perf_counter(), candidates(self.share)
        fitting = [place for place, rows in enumerate(sizes) if not self._predicted_over(rows, 1 - HEADROOM)]
        chosen = largest(sizes, max(fitting, default=0), self._fits)
        return {
            "chosen": chosen,
            "by": "probe",
            "limit": self.limit,
            "capacity_gib": self.capacity / GIB,
            "headroom_share": HEADROOM,
            "seconds": time.perf_counter() - started_s,
            "tried": self.tried,
        }

    def _features(self, rows: int) -> list[dict[str, Any]]:
        """Return so many of the longest examples, repeated where there are fewer, as in a run's own batches."""
        assert self.run.inputs.train is not None
        numbers = itertools.islice(itertools.cycle(self.longest), rows)
        return [self.run.inputs.train.features[number] for number in numbers]

    def _predicted_over(self, rows: int, times: float) -> bool:
        """Return whether it is predicted to need more than so many times the memory left."""
        size = self._predicted(rows)
        return size is not None and size > times * min(self.available.values())

    def _predicted(self, rows: int) -> int | None:
        """Return bytes, without CUDA's context, which is there already; None where there is no prediction."""
        job, features = self._job, self._features(rows)
        if job is None:
            return None
        lengths, _ = longest_texts(features)
        without_pads = self.run.resolved.recipe.speed.padding_free
        prediction = job.predict(rows, math.ceil(sum(lengths) / rows) if without_pads else max(lengths))
        return prediction.total - prediction.parts.get("CUDA", 0)

    @functools.cached_property
    def _job(self) -> MemoryPlan | None:
        features = self._features(candidates(self.share)[0])
        answers = max(_answers(feature) for feature in features)
        counts, choices = longest_texts(features)
        longest, source = max(counts), "the training split"
        lengths = Lengths(longest=longest, mean=float(longest), answers=answers, source=source, choices=choices)
        spread, on_cpu = Parallelism(world=self.run.state.num_processes), self.run.state.device.type == "cpu"
        labels = max(1, len(self.run.inputs.corpus.labels))
        try:
            job = MemoryPlan.of(
                self.run.resolved, spread, precision=self.precision, lengths=lengths, on_cpu=on_cpu, num_labels=labels
            )
            job.predict(1, longest)
        except Exception as error:  # a prediction only saves trials: without one, the whole share is tried first
            self.run.record.note(f"training.per_device_batch: auto: nothing could be predicted: {error}")
            return None
        return job

    def _fits(self, rows: int) -> bool:
        features, predicted = self._features(rows), self._predicted(rows)
        entry: dict[str, Any] = {
            "rows": rows,
            "length": max(len(feature["input_ids"]) for feature in features),
            "tokens": sum(len(feature["input_ids"]) for feature in features),
            "precision": self.precision,
            "predicted_gib": None if predicted is None else predicted / GIB,
            "fits": False,
            "peak_gib": None,
            "reason": None,
        }
        if rows > 1 and self._predicted_over(rows, FAR_ABOVE):
            entry["reason"] = "not tried: it is predicted to need far more than there is"
        else:
            accumulation = min(2, self.share // rows)
            trial = Trial(
                rows=rows,
                accumulation=accumulation,
                precision=self.precision,
                features=features,
                available=self.available,
            )
            self._judge(entry, outcome(self.run, trial, self.tick))
        self.tried.append(entry)
        return bool(entry["fits"])

    def _judge(self, entry: dict[str, Any], answer: dict[str, Any]) -> None:
        """Fill in whether it fits, by the limit that it comes nearest to. Raises errors unrelated to memory."""
        status, reason = answer["status"], answer.get("reason")
        if status == "oom":
            entry["reason"] = reason
            return
        if status != "ok":
            kinds = {"invalid": SetupError, "diverged": DivergedError}
            error = kinds.get(status, RuntimeError)(f"a trial of {entry['rows']} examples at once failed: {reason}")
            error.add_note(answer.get("trace", ""))
            raise error
        taken, available = answer["taken"], answer["available"]
        self.limit = max(available, key=lambda name: taken[name] / max(1, available[name]))
        self.capacity = available[self.limit]
        entry["peak_gib"] = taken[self.limit] / GIB
        entry["fits"] = taken[self.limit] <= (1 - HEADROOM) * self.capacity
        if not entry["fits"]:
            entry["reason"] = f"measured {entry['peak_gib']:.2f} GiB of {self.limit}"


def _size(feature: dict[str, Any]) -> tuple[int, int]:
    """Return the key by which examples are compared: all their tokens, then those that are to be written."""
    own, answers = len(feature["input_ids"]), _answers(feature)
    apart = len(feature.get("token_labels", ())) != own  # an encoder-decoder's
    return own + (answers if apart else 0), answers


def _answers(feature: dict[str, Any]) -> int:
    return sum(token != IGNORED for token in feature.get("token_labels", ()))


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One micro-batch to try: so many rows of real examples, at a precision.

    accumulation: micro-batches of a step; two represent any number, since the second one finds gradients. available:
    limit -> bytes that it may take.
    """

    rows: int
    accumulation: int
    precision: str
    features: list[dict[str, Any]]
    available: dict[str, int]


def outcome(run: RunContext, trial: Trial, tick: Callable[[], object]) -> dict[str, Any]:
    """Run a trial in a process of its own; return {"status", "reason"}, and for "ok" its "taken" and "available".

    These two are bytes by limit. A process that the system kills is "oom". tick: is called every BEAT_S while it runs.
    """
    device = run.state.device
    with tempfile.TemporaryDirectory(prefix="micro-batch-") as name:
        folder = Path(name)
        run.inputs.tokenizer.save_pretrained(folder / TOKENIZER)
        (folder / REQUEST).write_text(json.dumps(_request(run, trial)), encoding="utf-8")
        code = _ended(folder, _environment(device, trial.precision), tick)
        if (folder / ANSWER).is_file():
            answer: dict[str, Any] = json.loads((folder / ANSWER).read_text(encoding="utf-8"))
            return answer
        message = (folder / ERRORS).read_text(encoding="utf-8", errors="replace")[-4000:]
    if code == -signal.SIGKILL:
        return {"status": "oom", "reason": "its process was killed, as the system does when memory runs out"}
    last = (message.strip().splitlines() or [f"its process ended with {code}, and said nothing"])[-1]
    scarce = failures.is_out_of_memory(RuntimeError(message)) or "MemoryError" in message
    return {"status": "oom" if scarce else "crashed", "reason": last}


def _request(run: RunContext, trial: Trial) -> dict[str, Any]:
    several, sharded_by = run.state.num_processes > 1, sharding.requested_backend()
    return {
        "recipe": _short(run, trial).model_dump(mode="json"),
        "model_name": run.resolved.model_name,
        "labels": list(run.inputs.corpus.labels),
        "features": trial.features,
        "device": run.state.device.type,
        "precision": trial.precision,
        "available": trial.available,
        "libraries": sorted(name for name in sys.modules if name.partition(".")[0] in LIBRARIES),
        # DDP sends gradients from copies; DeepSpeed keeps copies of weights, and two buckets of at most 4 bytes.
        "sends": several or sharded_by is not None,
        "constant": sharding.BUFFERS["reduce_bucket_size"] * 8 if sharded_by == "deepspeed" else 0,
    }


def _short(run: RunContext, trial: Trial) -> Recipe:
    """Return the recipe with a few steps of that micro-batch, and nothing around them."""
    recipe = run.resolved.recipe
    training = recipe.training.model_copy(
        update={
            "global_batch": trial.rows * trial.accumulation,
            "per_device_batch": trial.rows,
            "steps": STEPS,
            "epochs": None,
            "minutes": None,
            "warmup": 0.0,
            "evaluate_every": None,
            "best": None,
            "early_stopping": None,
        }
    )
    never = recipe.checkpoints.model_copy(update={"every_steps": None, "every_minutes": None})
    # The run keeps no freed memory either (bench.utils.process); to compile a step takes longer than the search.
    speed = recipe.speed.model_copy(update={"keep_memory": False, "compile": False})
    changes = {"training": training, "checkpoints": never, "speed": speed, "trackers": (), "save": False}
    return recipe.model_copy(update=changes)


def _environment(device: torch.device, precision: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHED)}
    return {
        **kept,
        "ACCELERATE_USE_CPU": str(device.type == "cpu").lower(),
        "ACCELERATE_MIXED_PRECISION": precision,
    }


def _ended(folder: Path, environment: dict[str, str], tick: Callable[[], object]) -> int:
    """Run a trial to its end; return the exit code, below 0 for a signal. It does not outlive this process."""
    # The place of this package goes first: from another folder, another checkout might be found as `bench`.
    load = "import sys; sys.path[0] = sys.argv[1]; from bench.runner import trial_worker"
    code = f"{load}; sys.exit(trial_worker.main(sys.argv[2]))"
    command = [sys.executable, "-c", code, str(ROOT), str(folder)]
    with (folder / ERRORS).open("wb") as errors:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors
        )
        try:
            while True:
                try:
                    return process.wait(timeout=BEAT_S)
                except subprocess.TimeoutExpired:
                    tick()
        finally:
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()
