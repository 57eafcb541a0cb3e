"""The largest sizes of a training that fit a GPU, and the cheapest change that makes one fit which does not."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bench.errors import BenchError, SetupError
from bench.plan import Job
from bench.recipe import Resolved
from bench.sharding import DIVISIBLE

# Rows of a micro-batch and tokens of a text, beyond which no search goes.
MOST_ROWS, LONGEST = 1024, 131_072


def largest_batch(job: Job, length: int, room: int) -> int:
    """Rows of the largest micro-batch that fits; 0 for none, MOST_ROWS for at least so many."""
    share = max(1, job.resolved.recipe.training.global_batch // job.spread.world)

    def _over(rows: int) -> int:
        return job.predict(rows, length).needed - room

    # A micro-batch that is the whole share needs no gradients beside its activations, as those of several do.
    if share == 1 or _over(share) <= 0:
        return _largest(_over, share, MOST_ROWS, share)
    return _largest(_over, 1, share - 1, min(job.budget.per_device_batch, share - 1))


def largest_length(job: Job, rows: int, room: int) -> int:
    """Tokens of the longest texts that fit, in steps of 16; 0 for none, and no more than the model reads."""
    config = job.model.config.get_text_config()
    most = job.resolved.recipe.model.max_length or getattr(config, "max_position_embeddings", None) or LONGEST
    step = min(16, most)
    start = max(1, min(job.lengths.longest, most) // step)
    return step * _largest(lambda n: job.predict(rows, n * step).needed - room, 1, min(most, LONGEST) // step, start)


def _largest(over: Callable[[int], int], least: int, most: int, start: int) -> int:
    """The largest whole number from `least` to `most` where `over`, which grows, is not above 0; 0 where none is.

    It grows nearly in proportion, so that it is looked for where a straight line through known values crosses 0.
    """
    known = {start: over(start)}
    low, high = (start, most + 1) if known[start] <= 0 else (least - 1, start)
    guess = 2 * start if low == start else start // 2
    while high - low > 1:
        guess = min(max(guess, low + 1), high - 1)
        known[guess] = over(guess)
        low, high = (guess, high) if known[guess] <= 0 else (low, guess)
        one, other = (low, high) if low in known and high in known else sorted(known)[-2:]
        if low not in known:
            one, other = sorted(known)[:2]
        rise = (known[other] - known[one]) / (other - one)
        guess = math.floor(other - known[other] / rise) if rise > 0 else most
        # From below, one step on decides; from above, one step back.
        guess = guess + 1 if guess == low else guess
    return low if low >= least else 0


@dataclass(frozen=True, kw_only=True)
class Change:
    """What to change in a run, and what it costs, in words. overrides: of the recipe. spread: fields of Spread."""

    what: str
    costs: str
    overrides: tuple[str, ...] = ()
    spread: dict[str, Any] = field(default_factory=dict)


def changes(job: Job) -> list[Change]:
    """What may help, the cheapest first."""
    recipe, world = job.resolved.recipe, job.spread.world
    found = [
        Change(
            what="training.per_device_batch=1",
            costs="no other result, for the global batch stays; less speed where the GPU is not full",
            overrides=("training.per_device_batch=1",),
        ),
        Change(
            what="training.gradient_checkpointing=true",
            costs="about a third more computation; the same result",
            overrides=("training.gradient_checkpointing=true",),
        ),
        Change(
            what="training.optimizer=adamw_bnb_8bit",
            costs="moments in 8 bits; losses move a little; not with ZeRO",
            overrides=("training.optimizer=adamw_bnb_8bit",),
        ),
    ]
    named = recipe.method.name
    if named not in ("lora", "qlora"):
        costs = "another method: adapters learn less than all weights; compare the scores"
        found.append(Change(what="method=lora", costs=costs, overrides=("method=lora",)))
    if named != "qlora":
        costs = "another method: 4-bit weights below adapters; slower steps, slightly other scores"
        found.append(Change(what="method=qlora", costs=costs, overrides=("method=qlora",)))
    for stage, costs in enumerate(("hardly any time", "little time", "about half as much communication again"), 1):
        if world > 1 and stage > job.spread.zero:
            found.append(Change(what=f"--zero {stage}", costs=costs, spread={"zero": stage}))
    if world > 1:
        costs = "several times the time of a step, and memory of the host"
        found.append(Change(what="--zero 3 --offload cpu", costs=costs, spread={"zero": 3, "offload": "cpu"}))
    return found


def cheapest_fit(job: Job, length: int, room: int, again: Callable[[tuple[str, ...]], Resolved]) -> list[Change]:
    """The changes that make a run fit, each of which is needed; [] where none does.

    They are added one after another, in the order of `changes`, and then left out again where that still fits.
    again: loads the recipe with overrides.
    """
    chosen: list[Change] = []
    for change in changes(job):
        tried = [other for other in chosen if not _excludes(change, other)] + [change]
        if not _possible(job, tried, again):
            continue
        chosen = tried
        if _fits(job, chosen, length, room, again):
            for one in chosen[:-1]:
                without = [other for other in chosen if other is not one]
                if _fits(job, without, length, room, again):
                    chosen = without
            return chosen
    return []


def _excludes(new: Change, old: Change) -> bool:
    """Whether a change takes the place of an earlier one: of method, of stage, of an optimiser that ZeRO refuses."""
    if any(item.startswith("method=") for item in new.overrides):
        return any(item.startswith("method=") for item in old.overrides)
    return bool(new.spread) and (bool(old.spread) or old.what.endswith("8bit"))


def _varied(job: Job, chosen: list[Change], again: Callable[[tuple[str, ...]], Resolved]) -> Job:
    overrides = tuple(item for change in chosen for item in change.overrides)
    spread: dict[str, Any] = {}
    for change in chosen:
        spread |= change.spread
    spread_now = dataclasses.replace(job.spread, **spread)
    return Job.of(again(overrides), spread_now, precision=job.precision, lengths=job.lengths)


def _possible(job: Job, chosen: list[Change], again: Callable[[tuple[str, ...]], Resolved]) -> bool:
    try:
        resolved = again(tuple(item for change in chosen for item in change.overrides))
    except BenchError:
        return False
    zero = max([job.spread.zero, *(change.spread.get("zero", 0) for change in chosen)])
    return zero == 0 or resolved.recipe.training.optimizer in DIVISIBLE


def _fits(job: Job, chosen: list[Change], length: int, room: int, again: Any) -> bool:
    try:
        varied = _varied(job, chosen, again)
        return varied.predict(varied.budget.per_device_batch, length).needed <= room
    except SetupError:
        return False
