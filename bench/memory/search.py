"""Searches what fits a GPU: the largest micro-batch or text length, and the cheapest changes that make a run fit."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.config import resolve as recipes
from bench.config.resolve import Resolved
from bench.distributed.sharding import SHARDABLE_OPTIMIZERS
from bench.errors import BenchError, SetupError
from bench.memory.planner import MemoryPlan

AUTO, KEY = "auto", "per_device_batch"
# Rows of a micro-batch and tokens of a text, beyond which no search goes.
MOST_ROWS, LONGEST = 1024, 131_072
# Bytes by which sums are not straight: each tensor is rounded to the allocator's blocks.
ROUNDING = 2**19


def largest(candidates: Sequence[int], start: int, fits: Callable[[int], bool]) -> int:
    """Return the largest of some rising numbers that fits, 0 for none. start: the index that is tried first.

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
    """Return the micro-batches that divide a process's share of the global batch, rising."""
    return [rows for rows in range(1, share + 1) if share % rows == 0]


def planned(plan: MemoryPlan, length: int, available_bytes: int | None) -> tuple[int, list[str]]:
    """Return (rows of a micro-batch, sentences about them) for a plan, which can try nothing: `auto` is predicted.

    available_bytes: of the GPU that is planned for; None where it is not known. Raises SetupError as `Budget.plan`.
    """
    share, said = plan.budget.per_device_batch, "training.per_device_batch: auto: "
    if plan.resolved.recipe.training.per_device_batch != AUTO:
        return share, []
    if available_bytes is None:
        return share, [f"{said}assumed to be the whole share of the global batch, {share}; give --gpu for the largest"]
    most = largest_batch(plan, length, available_bytes)
    if not most:
        return 1, [f"{said}not even 1 is predicted to fit"]
    rows = max(rows for rows in candidates(share) if rows <= most)
    return rows, [f"{said}{rows} is the largest that is predicted to fit; a run tries it"]


def largest_batch(plan: MemoryPlan, length: int, available_bytes: int) -> int:
    """Return the rows of the largest micro-batch that fits; 0 for none, MOST_ROWS for at least so many."""
    share = max(1, plan.resolved.recipe.training.global_batch // plan.parallelism.world)

    def _over(rows: int) -> int:
        return plan.predict(rows, length).needed - available_bytes

    # A micro-batch that is the whole share needs no gradients beside its activations, as those of several do.
    if share == 1 or _over(share) <= 0:
        return _largest(_over, share, MOST_ROWS, share, _rise_per_token(plan) * length)
    start = min(plan.budget.per_device_batch, share - 1)
    return _largest(_over, 1, share - 1, start, _rise_per_token(plan) * length)


def longest_read(plan: MemoryPlan) -> int | None:
    """Return the tokens of the longest text that the model reads, by its card or its config; None if neither says."""
    config = plan.model.config.get_text_config()
    return plan.resolved.recipe.model.max_length or getattr(config, "max_position_embeddings", None)


def largest_length(plan: MemoryPlan, rows: int, available_bytes: int) -> int:
    """Return the tokens of the longest texts that fit, in steps of 16; 0 for none, and no more than the model reads."""
    most = longest_read(plan) or LONGEST
    step = min(16, most)
    start = max(1, min(plan.lengths.longest, most) // step)
    rise = _rise_per_token(plan) * rows * step

    def _over(steps: int) -> int:
        return plan.predict(rows, steps * step).needed - available_bytes

    return step * _largest(_over, 1, min(most, LONGEST) // step, start, rise)


def _rise_per_token(plan: MemoryPlan) -> float:
    """Return the bytes that a token more needs, by the sizes that were run already; 0.0 where they don't tell.

    By one size alone it is what all of its tokens need, which is a little too much: some does not grow with them.
    """
    sizes = sorted((rows * length, max(usage.peaks.values())) for (rows, length, _), usage in plan.usages.items())
    if not sizes:
        return 0.0
    (few, low), (many, high) = sizes[0], sizes[-1]
    return high / many if few == many else max(0.0, (high - low) / (many - few))


def _largest(over: Callable[[int], int], least: int, most: int, start: int, rise: float = 0.0) -> int:
    """Return the largest integer from `least` to `most` where `over`, which grows, is not above 0; 0 for none.

    rise: of `over` from one number to the next, as far as it is known; else 0.0. It is the largest of sums that grow in
    proportion, or faster. So what a straight line through two known values says of a larger number is never too much,
    and where the line is above 0 there, the number need not be tried.
    """
    known = {start: over(start)}
    low, high = (start, most + 1) if known[start] <= 0 else (least - 1, start)
    guess = math.floor(start - known[start] / rise) if rise > 0 else 2 * start if low == start else start // 2
    while high - low > 1:
        guess = min(max(guess, low + 1), high - 1)
        known[guess] = over(guess)
        low, high = (guess, high) if known[guess] <= 0 else (low, guess)
        one, other = (low, high) if low in known and high in known else sorted(known)[-2:]
        if low not in known:
            one, other = sorted(known)[:2]
        rise = (known[other] - known[one]) / (other - one)
        if _is_last(known, low):
            break
        guess = math.floor(other - known[other] / rise) if rise > 0 else most
        # From below, one step on decides; from above, one step back.
        guess = guess + 1 if guess == low else guess
    return low if low >= least else 0


def _is_last(known: dict[int, int], low: int) -> bool:
    """Return whether the line through `low`, which fits, and the value below it says that the next does not fit."""
    fitting = sorted(number for number in known if number <= low)[-2:]
    if len(fitting) < 2:
        return False
    first, last = fitting
    return known[last] + (known[last] - known[first]) / (last - first) > ROUNDING


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change of a run, and what it costs, in words. overrides: of the recipe. parallelism: fields of Parallelism."""

    what: str
    costs: str
    overrides: tuple[str, ...] = ()
    parallelism: dict[str, Any] = field(default_factory=dict)


def changes(plan: MemoryPlan) -> list[Change]:
    """Return what may help, the cheapest first."""
    recipe, world = plan.resolved.recipe, plan.parallelism.world
    known_changes = [
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
        known_changes.append(Change(what="method=lora", costs=costs, overrides=("method=lora",)))
    if named != "qlora":
        costs = "another method: 4-bit weights below adapters; slower steps, slightly other scores"
        known_changes.append(Change(what="method=qlora", costs=costs, overrides=("method=qlora",)))
    for stage, costs in enumerate(("hardly any time", "little time", "about half as much communication again"), 1):
        if world > 1 and stage > plan.parallelism.zero and not plan.on_cpu:
            known_changes.append(Change(what=f"--zero {stage}", costs=costs, parallelism={"zero": stage}))
    if world > 1 and not plan.on_cpu:
        costs = "several times the time of a step, and memory of the host"
        known_changes.append(
            Change(what="--zero 3 --offload cpu", costs=costs, parallelism={"zero": 3, "offload": "cpu"})
        )
    return known_changes


def loader(path: Path, own: tuple[str, ...], seed: int | None = None) -> Callable[[tuple[str, ...]], Resolved]:
    """Return a loader of a recipe with its `own` overrides and more, which replace those of the same key."""

    def _load(overrides: tuple[str, ...]) -> Resolved:
        replaced = {item.partition("=")[0] for item in overrides}
        kept = [item for item in own if item.partition("=")[0].partition(".method")[0] not in replaced]
        if "method" in replaced:
            kept = [item for item in kept if not item.startswith("method.")]
        return recipes.load(path, (*kept, *overrides), seed)

    return _load


def cheapest_fit(
    plan: MemoryPlan, length: int, available_bytes: int, again: Callable[[tuple[str, ...]], Resolved]
) -> list[Change]:
    """Return the changes that make a run fit, each of which is needed; [] where none does.

    They are added one after another, in the order of `changes`, and then left out again where that still fits.
    again: loads the recipe with overrides.
    """
    chosen: list[Change] = []
    # Whether it fits, by the recipe and its parallelism: a change may change nothing, and none is tried twice.
    needed = plan.predict(plan.budget.per_device_batch, length).needed
    known = {(plan.resolved.hash, plan.parallelism): needed <= available_bytes}
    for change in changes(plan):
        tried = [other for other in chosen if not _excludes(change, other)] + [change]
        if not _possible(plan, tried, again):
            continue
        chosen = tried
        if _fits(plan, chosen, length, available_bytes, again, known):
            for one in chosen[:-1]:
                without = [other for other in chosen if other is not one]
                if _fits(plan, without, length, available_bytes, again, known):
                    chosen = without
            return chosen
    return []


def _excludes(new: Change, old: Change) -> bool:
    """Return whether a change replaces an earlier one: of method, of stage, of an optimiser that ZeRO refuses."""
    if any(item.startswith("method=") for item in new.overrides):
        return any(item.startswith("method=") for item in old.overrides)
    return bool(new.parallelism) and (bool(old.parallelism) or old.what.endswith("8bit"))


def _possible(plan: MemoryPlan, chosen: list[Change], again: Callable[[tuple[str, ...]], Resolved]) -> bool:
    try:
        resolved = again(tuple(item for change in chosen for item in change.overrides))
    except BenchError:
        return False
    zero = max([plan.parallelism.zero, *(change.parallelism.get("zero", 0) for change in chosen)])
    return zero == 0 or resolved.recipe.training.optimizer in SHARDABLE_OPTIMIZERS


def _fits(
    plan: MemoryPlan, chosen: list[Change], length: int, available_bytes: int, again: Any, known: dict[Any, bool]
) -> bool:
    """known: what was tried, by the recipe's hash and the parallelism; it is added to."""
    resolved = again(tuple(item for change in chosen for item in change.overrides))
    parallelism: dict[str, Any] = {}
    for change in chosen:
        parallelism |= change.parallelism
    now = dataclasses.replace(plan.parallelism, **parallelism)
    if (resolved.hash, now) not in known:
        options: Any = {"precision": plan.precision, "lengths": plan.lengths, "on_cpu": plan.on_cpu}
        options["num_labels"] = getattr(plan.model.config, "num_labels", 2)
        try:
            varied = MemoryPlan.of(resolved, now, **options)
            known[resolved.hash, now] = varied.predict(varied.budget.per_device_batch, length).needed <= available_bytes
        except SetupError:
            known[resolved.hash, now] = False
    return known[resolved.hash, now]
