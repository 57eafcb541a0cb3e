"""`training.per_device_batch: auto`: the largest micro-batch that fits, found by trials; the global batch stays.

    rows = settle(run, material)  # the same on every process; what was tried is in run.record.speed

A trial is a process of its own (`trial_worker`) that takes two optimiser steps on as many of the longest training
examples as a micro-batch holds: no real micro-batch has more tokens. One that takes more than the room there is, less
HEADROOM of it, does not fit, nor does one that the system kills. Candidates are the numbers of rows that divide a
process's share of the global batch, so that accumulation is whole; the plan's prediction says which one is tried first.

Several processes: rank zero tries for all, within the least room of any. A trial is one process that holds all states,
which under ZeRO and FSDP is more than each of them will hold; what they send one another from is added.
"""

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
from bench.data.batching import IGNORED
from bench.distributed import setup, sharding
from bench.errors import DivergedError, SetupError
from bench.memory import limits
from bench.memory.planner import Lengths, MemoryPlan, Parallelism
from bench.memory.search import AUTO, KEY, candidates, largest
from bench.records import failures
from bench.runner.context import Material
from bench.training.schedule import Budget
from bench.utils.files import ROOT
from bench.utils.hardware import GIB

Run = Any  # bench.runner.context.Run, which lies above
# Of the room: for what a run holds beside its training (data, predictions), and for steps unlike those of a trial.
HEADROOM = 0.05
# What is predicted to need so many times the room is not tried.
FAR_ABOVE = 3.0


class NoRoomError(MemoryError):
    """Not even one example fits. A run files it as `oom`."""


def settle(run: Run, material: Material) -> int | None:
    """Rows of a micro-batch, where the recipe says `auto`; None where it does not. Every process must call it.

    What a run found before it was interrupted holds for the one that goes on with it. Raises NoRoomError where nothing
    fits, SetupError where the global batch can't be split, or nothing fits that ZeRO or FSDP would divide, and what a
    trial has failed with for another reason.
    """
    training = run.resolved.recipe.training
    if training.per_device_batch != AUTO:
        return None
    if material.plan.trains != "gradient":
        name = run.resolved.recipe.method.name
        run.record.note(f"training.per_device_batch: auto is not used: method {name} trains nothing by gradients")
        return None
    found = run.record.speed.get(KEY)
    if found is None:
        assert material.train_set is not None
        examples, processes = len(material.train_set.ids), run.state.num_processes
        share = Budget.plan(training, examples, processes).per_device_batch
        with run.clock.phase("probe"):
            found = _taken_over(run, share) or _searched(run, material, share)
            run.record.speed[KEY] = found
            _say(run, found)
            if not found["chosen"]:
                # So that the plan can say what would fit.
                material.budget = Budget.plan(training, examples, processes, found=1)
                raise _nothing_fits(found)
    return int(found["chosen"])


def _taken_over(run: Run, share: int) -> dict[str, Any] | None:
    """What the interrupted run found, if training goes on from its checkpoint: with the same steps."""
    past = run.past.record if run.past.found is not None else None
    found = setup.same_everywhere(past.speed.get(KEY) if past is not None else None)
    if not found or not found["chosen"] or share % found["chosen"]:
        return None
    return {**found, "by": "the interrupted run"}


def _searched(run: Run, material: Material, share: int) -> dict[str, Any]:
    rooms = _least_rooms(run)
    if run.state.is_main_process:
        tick = _still_searching if run.state.num_processes > 1 else int
        return setup.same_everywhere(_Search(run, material, share, rooms, tick).result())
    found = None
    while found is None:
        found = setup.same_everywhere(None)
    return found


def _still_searching() -> None:
    setup.same_everywhere(None)


def _least_rooms(run: Run) -> dict[str, int]:
    sharers = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    rooms = gather_object([limits.available_bytes(run.state.device, sharers)])
    return {name: min(one.get(name, size) for one in rooms) for found in rooms for name, size in found.items()}


def _say(run: Run, found: dict[str, Any]) -> None:
    tried = ", ".join(f"{one['rows']} {'fits' if one['fits'] else 'does not fit'}" for one in found["tried"])
    console.say(f"micro-batch of {found['chosen']} by {found['by']} ({tried})")
    if run.state.num_processes > 1 and sharding.asked() is not None:
        run.record.note(
            "training.per_device_batch: auto: tried in one process that holds all states; divided, they take less"
        )


def _nothing_fits(found: dict[str, Any]) -> Exception:
    last = found["tried"][-1]
    predicted = "" if last["predicted_gib"] is None else f"predicted {last['predicted_gib']:.2f} GiB, "
    why = (
        f"not even a micro-batch of 1 example of {last['length']} tokens fits: {predicted}{last['reason']}; "
        f"{found['capacity_gib']:.2f} GiB of {found['limit']} are left, of which {HEADROOM:.0%} are kept free"
    )
    if sharding.asked() is None:
        return NoRoomError(why)
    return SetupError(
        f"training.per_device_batch: auto tries one process that holds all states, and so {why}. Divided over the "
        "processes they may fit: write a number, as `python -m bench plan` predicts it"
    )


@dataclass
class _Search:
    """Rank zero's: tries sizes, and keeps what came of it. tick: is called while a trial runs."""

    run: Run
    material: Material
    share: int
    rooms: dict[str, int]
    tick: Callable[[], Any]
    tried: list[dict[str, Any]] = field(default_factory=list)
    limit: str = ""
    capacity: int = 0
    _jobs: dict[str, MemoryPlan | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.limit = min(self.rooms, key=lambda name: self.rooms[name])
        self.capacity = self.rooms[self.limit]
        measured = self.run.resolved.recipe.speed.precision == "measured"
        # Which one is faster is known only when the model is there.
        self.precisions = ("no", "bf16") if measured else (setup.precision(),)
        assert self.material.train_set is not None
        features = self.material.train_set.features
        self.longest = sorted(range(len(features)), key=lambda number: _size(features[number]), reverse=True)

    def result(self) -> dict[str, Any]:
        """The record's part: the number, and how it was found."""
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
        """The longest examples, some of them again where there are not as many, as in a run's own batches."""
        assert self.material.train_set is not None
        numbers = itertools.islice(itertools.cycle(self.longest), rows)
        return [self.material.train_set.features[number] for number in numbers]

    def _predicted_over(self, rows: int, times: float) -> bool:
        """Whether it is predicted to need more than so many times the room."""
        sizes = [self._predicted(rows, precision) for precision in self.precisions]
        return any(size is not None and size > times * min(self.rooms.values()) for size in sizes)

    def _predicted(self, rows: int, precision: str) -> int | None:
        """Bytes, less those of a context, which is there already; None where there is no prediction."""
        features = self._features(rows)
        if precision not in self._jobs:
            self._jobs[precision] = self._job(precision, features)
        job = self._jobs[precision]
        if job is None:
            return None
        lengths = [len(feature["input_ids"]) for feature in features]
        without_pads = self.run.resolved.recipe.speed.padding_free
        found = job.predict(rows, math.ceil(sum(lengths) / rows) if without_pads else max(lengths))
        return found.total - found.parts.get("CUDA", 0)

    def _job(self, precision: str, features: list[dict[str, Any]]) -> MemoryPlan | None:
        answers = max(_answers(feature) for feature in features)
        longest = max(len(feature["input_ids"]) for feature in features)
        lengths = Lengths(longest=longest, mean=float(longest), answers=answers, source="the training split")
        spread, on_cpu = Parallelism(world=self.run.state.num_processes), self.run.state.device.type == "cpu"
        labels = max(1, len(self.material.corpus.labels))
        try:
            job = MemoryPlan.of(
                self.run.resolved, spread, precision=precision, lengths=lengths, on_cpu=on_cpu, num_labels=labels
            )
            job.predict(1, longest)
        except Exception as error:  # a prediction only saves trials: without one, the whole share is tried first
            self.run.record.note(f"training.per_device_batch: auto: nothing could be predicted: {error}")
            return None
        return job

    def _fits(self, rows: int) -> bool:
        return all(self._try(rows, precision) for precision in self.precisions)

    def _try(self, rows: int, precision: str) -> bool:
        features, predicted = self._features(rows), self._predicted(rows, precision)
        entry: dict[str, Any] = {
            "rows": rows,
            "length": max(len(feature["input_ids"]) for feature in features),
            "tokens": sum(len(feature["input_ids"]) for feature in features),
            "precision": precision,
            "predicted_gib": None if predicted is None else predicted / GIB,
            "fits": False,
            "peak_gib": None,
            "reason": None,
        }
        if rows > 1 and self._predicted_over(rows, FAR_ABOVE):
            entry["reason"] = "not tried: it is predicted to need far more than there is"
        else:
            accumulation = min(2, self.share // rows)
            trial = Trial(rows=rows, accumulation=accumulation, precision=precision, features=features, room=self.rooms)
            self._judge(entry, outcome(self.run, self.material, trial, self.tick))
        self.tried.append(entry)
        return bool(entry["fits"])

    def _judge(self, entry: dict[str, Any], answer: dict[str, Any]) -> None:
        """Whether it fits, by the limit that it comes nearest to. Raises what has nothing to do with memory."""
        status, reason = answer["status"], answer.get("reason")
        if status == "oom":
            entry["reason"] = reason
            return
        if status != "ok":
            kinds = {"invalid": SetupError, "diverged": DivergedError}
            error = kinds.get(status, RuntimeError)(f"a trial of {entry['rows']} examples at once failed: {reason}")
            error.add_note(answer.get("trace", ""))
            raise error
        taken, rooms = answer["taken"], answer["room"]
        self.limit = max(rooms, key=lambda name: taken[name] / max(1, rooms[name]))
        self.capacity = rooms[self.limit]
        entry["peak_gib"] = taken[self.limit] / GIB
        entry["fits"] = taken[self.limit] <= (1 - HEADROOM) * self.capacity
        if not entry["fits"]:
            entry["reason"] = f"measured {entry['peak_gib']:.2f} GiB of {self.limit}"


def _size(feature: dict[str, Any]) -> tuple[int, int]:
    """Examples are compared by all their tokens, then by those that are to be written."""
    own, answers = len(feature["input_ids"]), _answers(feature)
    apart = len(feature.get("token_labels", ())) != own  # an encoder-decoder's
    return own + (answers if apart else 0), answers


def _answers(feature: dict[str, Any]) -> int:
    return sum(token != IGNORED for token in feature.get("token_labels", ()))


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


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is tried: so many rows of a micro-batch, at a precision, of those real examples.

    accumulation: micro-batches of a step; two stand for any number, for the second one finds gradients. room: limit ->
    bytes that it may take.
    """

    rows: int
    accumulation: int
    precision: str
    features: list[dict[str, Any]]
    room: dict[str, int]


def outcome(run: Run, material: Material, trial: Trial, tick: Callable[[], Any]) -> dict[str, Any]:
    """What the trial's process wrote, or what its end means: {"status", "reason"}, and where that is "ok" its "taken"
    and "room", bytes by limit. Killed by the system is "oom". tick: is called every BEAT_S while it runs."""
    device = run.state.device
    with tempfile.TemporaryDirectory(prefix="micro-batch-") as name:
        folder = Path(name)
        material.tokenizer.save_pretrained(folder / TOKENIZER)
        (folder / REQUEST).write_text(json.dumps(_request(run, material, trial)), encoding="utf-8")
        code = _ended(folder, _environment(device, trial.precision), tick)
        if (folder / ANSWER).is_file():
            return json.loads((folder / ANSWER).read_text(encoding="utf-8"))
        told = (folder / ERRORS).read_text(encoding="utf-8", errors="replace")[-4000:]
    if code == -signal.SIGKILL:
        return {"status": "oom", "reason": "its process was killed, as the system does when memory runs out"}
    last = (told.strip().splitlines() or [f"its process ended with {code}, and said nothing"])[-1]
    scarce = failures.is_out_of_memory(RuntimeError(told)) or "MemoryError" in told
    return {"status": "oom" if scarce else "crashed", "reason": last}


def _request(run: Run, material: Material, trial: Trial) -> dict[str, Any]:
    several, divided = run.state.num_processes > 1, sharding.asked()
    return {
        "recipe": _short(run, trial).model_dump(mode="json"),
        "model_name": run.resolved.model_name,
        "labels": list(material.corpus.labels),
        "features": trial.features,
        "device": run.state.device.type,
        "precision": trial.precision,
        "room": trial.room,
        "libraries": sorted(name for name in sys.modules if name.partition(".")[0] in LIBRARIES),
        # DDP sends gradients from copies; DeepSpeed keeps copies of weights, and two buckets of at most 4 bytes.
        "sends": several or divided is not None,
        "constant": sharding.BUFFERS["reduce_bucket_size"] * 8 if divided == "deepspeed" else 0,
    }


def _short(run: Run, trial: Trial) -> Any:
    """The recipe with a few steps of that micro-batch, and nothing around them."""
    recipe = run.resolved.recipe
    training = recipe.training.model_copy(
        update={
            "global_batch": trial.rows * trial.accumulation,
            "per_device_batch": trial.rows,
            "steps": STEPS,
            "epochs": None,
            "minutes": None,
            "evaluate_every": None,
            "best": None,
            "early_stopping": None,
        }
    )
    never = recipe.checkpoints.model_copy(update={"every_steps": None, "every_minutes": None})
    # The run keeps no freed memory either (bench.utils.process).
    speed = recipe.speed.model_copy(update={"precision": "launcher", "keep_memory": False})
    changes = {"training": training, "checkpoints": never, "speed": speed, "trackers": (), "save": False}
    return recipe.model_copy(update=changes)


def _environment(device: torch.device, precision: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHED)}
    return {
        **kept,
        "ACCELERATE_USE_CPU": str(device.type == "cpu").lower(),
        "ACCELERATE_MIXED_PRECISION": precision,
    }


def _ended(folder: Path, environment: dict[str, str], tick: Callable[[], Any]) -> int:
    """Runs a trial to its end; returns the exit code, below 0 for a signal. It does not outlive this process."""
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
