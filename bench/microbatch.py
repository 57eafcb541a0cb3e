"""`training.per_device_batch: auto`: the largest micro-batch that fits, found by trials; the global batch stays.

    rows = settle(run, material)  # the same on every process; what was tried is in run.record.speed

A trial is a process of its own (`bench.tryout`) that takes two optimiser steps on as many of the longest training
examples as a micro-batch holds: no real micro-batch has more tokens. One that takes more than the room there is, less
HEADROOM of it, does not fit, nor does one that the system kills. Candidates are the numbers of rows that divide a
process's share of the global batch, so that accumulation is whole; the plan's prediction says which one is tried first.

Several processes: rank zero tries for all, within the least room of any. A trial is one process that holds all states,
which under ZeRO and FSDP is more than each of them will hold; what they send one another from is added.
"""

import itertools
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from accelerate.utils import gather_object

from bench import console, launch, plan_search, room, sharding
from bench.collating import IGNORED
from bench.errors import DivergedError, SetupError
from bench.fitting import Budget
from bench.hardware import GIB
from bench.material import Material
from bench.plan import Job, Lengths, Spread
from bench.tryout import Trial, outcome

Run = Any  # bench.run.Run, which lies above

AUTO, KEY = "auto", "per_device_batch"
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


def largest(candidates: Sequence[int], start: int, fits: Callable[[int], bool]) -> int:
    """The largest of some rising numbers that fits, 0 for none. start: the place of the one that is asked first.

    From there in widening steps, then by halves. Where a larger one would fit though a smaller one does not, this may
    miss it; what is returned did fit.
    """
    low, high, step, place = -1, len(candidates), 1, start
    while high - low > 1:
        if fits(candidates[place]):
            low = place
        else:
            high = place
        if low == -1 or high == len(candidates):
            place = max(0, high - step) if low == -1 else min(high - 1, low + step)
            step *= 2
        else:
            place = (low + high) // 2
    return candidates[low] if low >= 0 else 0


def candidates(share: int) -> list[int]:
    """Rows that divide a process's share of the global batch, rising."""
    return [rows for rows in range(1, share + 1) if share % rows == 0]


def planned(job: Job, length: int, room_bytes: int | None) -> tuple[int, list[str]]:
    """(rows of a micro-batch, sentences about them) for a plan, where nothing can be tried: `auto` is predicted.

    room_bytes: of the GPU that is planned for; None where it is not known. Raises SetupError as `Budget.plan` does.
    """
    share, said = job.budget.per_device_batch, "training.per_device_batch: auto: "
    if job.resolved.recipe.training.per_device_batch != AUTO:
        return share, []
    if room_bytes is None:
        return share, [f"{said}assumed to be the whole share of the global batch, {share}; give --gpu for the largest"]
    most = plan_search.largest_batch(job, length, room_bytes)
    if not most:
        return 1, [f"{said}not even 1 is predicted to fit"]
    rows = max(rows for rows in candidates(share) if rows <= most)
    return rows, [f"{said}{rows} is the largest that is predicted to fit; a run tries it"]


def _taken_over(run: Run, share: int) -> dict[str, Any] | None:
    """What the interrupted run found, if training goes on from its checkpoint: with the same steps."""
    past = run.past.record if run.past.found is not None else None
    found = launch.same_everywhere(past.speed.get(KEY) if past is not None else None)
    if not found or not found["chosen"] or share % found["chosen"]:
        return None
    return {**found, "by": "the interrupted run"}


def _searched(run: Run, material: Material, share: int) -> dict[str, Any]:
    rooms = _least_rooms(run)
    if run.state.is_main_process:
        tick = _still_searching if run.state.num_processes > 1 else int
        return launch.same_everywhere(_Search(run, material, share, rooms, tick).result())
    found = None
    while found is None:
        found = launch.same_everywhere(None)
    return found


def _still_searching() -> None:
    launch.same_everywhere(None)


def _least_rooms(run: Run) -> dict[str, int]:
    sharers = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    rooms = gather_object([room.left(run.state.device, sharers)])
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
    _jobs: dict[str, Job | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.limit = min(self.rooms, key=lambda name: self.rooms[name])
        self.capacity = self.rooms[self.limit]
        measured = self.run.resolved.recipe.speed.precision == "measured"
        # Which one is faster is known only when the model is there.
        self.precisions = ("no", "bf16") if measured else (launch.precision(),)
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

    def _job(self, precision: str, features: list[dict[str, Any]]) -> Job | None:
        answers = max(_answers(feature) for feature in features)
        longest = max(len(feature["input_ids"]) for feature in features)
        lengths = Lengths(longest=longest, mean=float(longest), answers=answers, source="the training split")
        spread, on_cpu = Spread(world=self.run.state.num_processes), self.run.state.device.type == "cpu"
        labels = max(1, len(self.material.corpus.labels))
        try:
            job = Job.of(
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
