"""Searches what fits a GPU: the largest micro-batch or text length, and the cheapest changes that make a run fit."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.config import bf16_products
from bench.config import resolve as recipes
from bench.config.resolve import Resolved
from bench.errors import BenchError, SetupError
from bench.memory import state_sizes
from bench.memory.planner import MemoryPlan
from bench.memory.verdict import gib
from bench.utils import hardware

AUTO, KEY = "auto", "per_device_batch"
# Rows of a micro-batch and tokens of a text, beyond which no search goes.
MOST_ROWS, LONGEST = 1024, 131_072
# Bytes by which sums are not straight: each tensor is rounded to the allocator's blocks.
ROUNDING = 2**19
# Sets of changes that are told where a run does not fit: each takes seconds to search.
MOST_WAYS = 2
NO_UNITS = "this GPU has no units for bfloat16"


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
    rows, _ = largest_dividing(plan, length, available_bytes)
    if not rows:
        return 1, [f"{said}not even 1 is predicted to fit"]
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
    sizes = sorted(
        (batch.rows // plan.lengths.choices * batch.length, max(usage.peaks.values()))
        for batch, usage in plan.usages.items()
    )
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
    """A change of a run, and what it costs, in words. overrides: of the recipe. parallelism: fields of Parallelism.

    instead_of: beginnings of the changes that it takes the place of. drops: options of the command that must go.
    """

    what: str
    costs: str
    overrides: tuple[str, ...] = ()
    parallelism: dict[str, Any] = field(default_factory=dict)
    instead_of: tuple[str, ...] = ()
    drops: tuple[str, ...] = ()


ROWS = "training.per_device_batch="
_CHECKPOINTING = "training.gradient_checkpointing=true"
_OFFLOADED = "training.activation_offload=true"
_8BIT = ("training.optimizer=adamw_bnb_8bit", "training.optimizer=paged_adamw_8bit")


def fewer_rows(rows: int) -> Change:
    """Return the change to a smaller micro-batch."""
    costs = "no other result, for the global batch stays; less speed where the GPU is not full"
    return Change(what=f"{ROWS}{rows}", costs=costs, overrides=(f"{ROWS}{rows}",))


def changes(plan: MemoryPlan, again: Callable[[tuple[str, ...]], Resolved] | None = None) -> list[Change]:
    """Return what may help, the cheapest first: what changes no result, then types of 16 and 8 bits, then the method.

    The micro-batch is 1 there; the search takes the largest that fits beside the other changes. again: loads the recipe
    with overrides, to find which form of another method keeps the options that it has too.
    """
    recipe, shardable = plan.resolved.recipe, plan.parallelism.world > 1 and not plan.on_cpu
    known_changes = [fewer_rows(1)] if recipe.training.per_device_batch != AUTO else []
    if shardable:
        known_changes += _stages(plan, {1: "hardly any time", 2: "little time"})
    if not recipe.training.gradient_checkpointing:
        costs = "about a third more computation; the same result"
        known_changes.append(Change(what=_CHECKPOINTING, costs=costs, overrides=(_CHECKPOINTING,)))
    if not recipe.training.activation_offload and not plan.on_cpu:
        overrides = (_OFFLOADED,) if recipe.training.gradient_checkpointing else (_CHECKPOINTING, _OFFLOADED)
        costs = "recomputed, and kept on the host until then: copies both ways, and its memory; the same result"
        known_changes.append(
            Change(what=" ".join(overrides), costs=costs, overrides=overrides, instead_of=(_CHECKPOINTING,))
        )
    if shardable:
        known_changes += _stages(plan, {3: "about half as much communication again"})
    if getattr(plan.resolved.options, "dtype", None) == "float32":
        what, costs = "method.dtype=bfloat16", "adapters, their gradients and moments in 16 bits; losses move a little"
        known_changes.append(Change(what=what, costs=costs, overrides=(what,)))
    costs = "moments in 8 bits; losses move a little; not with ZeRO-3 and FSDP2"
    known_changes.append(Change(what=_8BIT[0], costs=costs, overrides=(_8BIT[0],)))
    if not plan.on_cpu:
        costs = "moments in 8 bits, which move to the host when the GPU is full; losses move a little; only with DDP"
        known_changes.append(Change(what=_8BIT[1], costs=costs, overrides=(_8BIT[1],), instead_of=_8BIT))
    return [*known_changes, *_dearest(plan, shardable, again)]


def _stages(plan: MemoryPlan, costs: dict[int, str]) -> list[Change]:
    return [
        Change(what=f"--zero {stage}", costs=cost, parallelism={"zero": stage}, instead_of=("--zero", *_8BIT))
        for stage, cost in costs.items()
        if stage > plan.parallelism.zero and not plan.parallelism.fsdp
    ]


def _other_method(name: str, again: Callable[[tuple[str, ...]], Resolved] | None) -> str:
    """Return the override by which a recipe gets another method, and keeps the method's options where it has them."""
    whole, keeping = f"method={name}", f"method.name={name}"
    if again is None:
        return whole
    try:
        return keeping if again((keeping,)).hash != again((whole,)).hash else whole
    except BenchError:  # it has other options
        return whole


def _dearest(plan: MemoryPlan, shardable: bool, again: Callable[[tuple[str, ...]], Resolved] | None) -> list[Change]:
    """Return changes that cost much time, or make it another method."""
    named, known_changes = plan.resolved.recipe.method.name, []
    if shardable and plan.parallelism.offload == "none":
        costs = "several times the step's time; much memory of the host"
        parallelism = {"zero": 3, "offload": "cpu", "fsdp": False}
        what, replaced = "--zero 3 --offload cpu", ("--zero", *_8BIT)
        drops = ("--fsdp",) if plan.parallelism.fsdp else ()
        known_changes.append(Change(what=what, costs=costs, parallelism=parallelism, instead_of=replaced, drops=drops))
    if named not in ("lora", "qlora"):
        costs = "another method: adapters learn less than all weights; compare the scores"
        what = _other_method("lora", again)
        known_changes.append(Change(what=what, costs=costs, overrides=(what,)))
    if named != "qlora":
        costs = "another method: 4-bit weights below adapters; slower steps, slightly other scores"
        what = _other_method("qlora", again)
        known_changes.append(Change(what=what, costs=costs, overrides=(what,), instead_of=("method=", "method.")))
    return known_changes


def loader(path: Path, own: tuple[str, ...], seed: int | None = None) -> Callable[[tuple[str, ...]], Resolved]:
    """Return a loader of a recipe with its `own` overrides and more, which replace those of the same key."""

    def _load(overrides: tuple[str, ...]) -> Resolved:
        dropped = replaced(own, overrides)
        return recipes.load(path, (*(item for item in own if item not in dropped), *overrides), seed)

    return _load


def replaced(own: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """Return those of a command's `own` overrides in whose place others come: of the same key, or of a method."""
    keys = {item.partition("=")[0] for item in overrides}
    return [
        item
        for item in own
        if (key := item.partition("=")[0]) in keys
        or ("method" in keys and key.startswith("method."))
        or ("method.name" in keys and key == "method")
    ]


def cheapest_fit(
    plan: MemoryPlan, length: int, available_bytes: int, again: Callable[[tuple[str, ...]], Resolved]
) -> list[Change]:
    """Return the changes that make a run fit, each of which is needed; [] where none does.

    They are added one after another, in the order of `changes`, until it fits: so the dearest of them is as cheap as
    can be. Then each is left out again where it fits without it, the dearest first, and the micro-batch is the largest
    that fits and divides the global batch. What the GPU can't compute is changed with them. again: loads the recipe
    with overrides.
    """
    return _cheapest(_Tries(plan=plan, length=length, again=again), available_bytes, "")


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Changes that make a run fit together, and the bytes that a GPU must have then."""

    changes: list[Change]
    needed: int

    def line(self, beginning: str, own: Sequence[str]) -> str:
        """Return the changes as arguments of one command, and what they cost. own: the overrides of the command."""
        arguments = " ".join(change.what for change in self.changes)
        dropped = replaced(own, [item for change in self.changes for item in change.overrides])
        dropped += [option for change in self.changes for option in change.drops]
        instead = f", in place of {' '.join(dropped)}" if dropped else ""
        if len(self.changes) == 1:
            return f"{beginning}: {arguments}{instead} ({self.changes[0].costs})"
        costs = "; ".join(f"{change.what}: {change.costs}" for change in self.changes)
        return f"{beginning}: {arguments}{instead}, all together: {gib(self.needed)} ({costs})"


def ways_to_fit(
    plan: MemoryPlan, length: int, available_bytes: int, again: Callable[[tuple[str, ...]], Resolved]
) -> list[Fit]:
    """Return `cheapest_fit`, and after it the cheapest changes without the dearest of those; [] where nothing fits."""
    tries = _Tries(plan=plan, length=length, again=again)
    fits: list[Fit] = []
    without = ""
    for _ in range(MOST_WAYS):
        chosen = _cheapest(tries, available_bytes, without)
        needed = tries.needed(chosen) if chosen else None
        if needed is None or needed > available_bytes:
            break
        fits.append(Fit(changes=chosen, needed=needed))
        dearest = [change for change in chosen if change.costs != NO_UNITS][-1]
        without = ROWS if dearest.what.startswith(ROWS) else dearest.what
    return fits


def _cheapest(tries: "_Tries", available_bytes: int, skipped: str) -> list[Change]:
    """Return the changes of `cheapest_fit`. skipped: the beginning of one that is not to be made, or ""."""
    chosen: list[Change] = []
    for change in changes(tries.plan, tries.again):
        if skipped and change.what.startswith(skipped):
            continue
        kept = [other for other in chosen if not other.what.startswith(change.instead_of or ("\0",))]
        needed = tries.needed([*kept, change])
        if needed is None:  # it can't be combined with the others, or not be planned
            continue
        chosen = [*kept, change]
        if needed <= available_bytes:
            for one in reversed(chosen[:-1]):
                without = [other for other in chosen if other is not one]
                least = tries.needed(without)
                if least is not None and least <= available_bytes:
                    chosen = without
            return [*tries.with_most_rows(chosen, available_bytes), *tries.repairs(chosen)]
    return []


def load_repaired(
    overrides: tuple[str, ...],
    again: Callable[[tuple[str, ...]], Resolved],
    precision: str,
    capability: tuple[int, int] | None,
) -> tuple[Resolved, tuple[str, ...]]:
    """Return (the recipe with overrides, and more of them without which the GPU can't multiply in its type).

    capability: of the GPU; None where it is not known. Raises BenchError as `again`.
    """
    resolved, more = again(overrides), tuple[str, ...]()
    if capability is None or capability >= hardware.BF16_CAPABILITY:
        return resolved, more
    while True:
        load_plan = state_sizes.load_plan(resolved, trained=False)[1]
        asked = bf16_products.asked(resolved.recipe, load_plan, precision)
        if asked is None or asked.override in more:
            return resolved, more
        more = (*more, asked.override)
        resolved = again((*overrides, *more))


@dataclass(kw_only=True)
class _Tries:
    """Plans of a run with some changes. plans: by the recipe's hash and the parallelism, each built once."""

    plan: MemoryPlan
    length: int
    again: Callable[[tuple[str, ...]], Resolved]
    plans: dict[Any, MemoryPlan | None] = field(default_factory=dict)

    def needed(self, chosen: Sequence[Change]) -> int | None:
        """Return the bytes that a GPU must have; None for changes that don't go together, or can't be planned."""
        varied = self._varied(chosen)
        return None if varied is None else varied.predict(self._rows(chosen, varied), self.length).needed

    def _rows(self, chosen: Sequence[Change], varied: MemoryPlan) -> int:
        for change in chosen:
            if change.what.startswith(ROWS):
                return int(change.what.removeprefix(ROWS))
        auto = varied.resolved.recipe.training.per_device_batch == AUTO
        return 1 if auto else varied.budget.per_device_batch

    def repairs(self, chosen: Sequence[Change]) -> list[Change]:
        """Return changes without which a run with others is refused: the GPU has no units for bf16."""
        overrides = self._load(chosen)[1]
        return [Change(what=item, costs=NO_UNITS, overrides=(item,)) for item in overrides]

    def _load(self, chosen: Sequence[Change]) -> tuple[Resolved, tuple[str, ...]]:
        overrides = tuple(item for change in chosen for item in change.overrides if not item.startswith(ROWS))
        return load_repaired(overrides, self.again, self.plan.precision, self.plan.capability)

    def with_most_rows(self, chosen: list[Change], available_bytes: int) -> list[Change]:
        """Return the changes with the largest micro-batch that fits, where its size is one of them."""
        varied = self._varied(chosen)
        if varied is None or not any(change.what.startswith(ROWS) for change in chosen):
            return chosen
        sizes = candidates(varied.budget.per_device_batch)[:-1]  # the whole does not fit
        rows = largest(sizes, len(sizes) // 2, lambda rows: varied.predict(rows, self.length).needed <= available_bytes)
        return [fewer_rows(max(rows, 1)) if change.what.startswith(ROWS) else change for change in chosen]

    def _varied(self, chosen: Sequence[Change]) -> MemoryPlan | None:
        """Return the plan of a run with changes, but for the rows of its micro-batch, which a prediction is told."""
        try:
            resolved, _ = self._load(chosen)
        except BenchError:
            return None
        parallelism: dict[str, Any] = {}
        for change in chosen:
            parallelism |= change.parallelism
        now = dataclasses.replace(self.plan.parallelism, **parallelism)
        if (resolved.hash, now) == (self.plan.resolved.hash, self.plan.parallelism):
            return self.plan
        if (resolved.hash, now) not in self.plans:
            options: Any = {"precision": self.plan.precision, "lengths": self.plan.lengths, "on_cpu": self.plan.on_cpu}
            options["capability"] = self.plan.capability
            options["num_labels"] = getattr(self.plan.model.config, "num_labels", 2)
            try:
                self.plans[resolved.hash, now] = MemoryPlan.of(resolved, now, **options)
            except SetupError:
                self.plans[resolved.hash, now] = None
        return self.plans[resolved.hash, now]


def largest_dividing(plan: MemoryPlan, length: int, available_bytes: int) -> tuple[int, int]:
    """Return (largest micro-batch that fits and divides a GPU's share of the global batch, rows that fit), or zeros."""
    rows = largest_batch(plan, length, available_bytes)
    share = max(1, plan.resolved.recipe.training.global_batch // plan.parallelism.world)
    return max((size for size in candidates(share) if size <= rows), default=0), rows
