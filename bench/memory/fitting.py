"""Makes a recipe fit a GPU without another result: the largest micro-batch, and if need be gradient checkpointing."""

from dataclasses import dataclass
from pathlib import Path

from bench.config import without_model
from bench.config.resolve import Resolved
from bench.memory import inference, report, search
from bench.memory.planner import MemoryPlan, Parallelism
from bench.memory.verdict import asked_card, gib
from bench.utils import hardware

_CHECKPOINTING = "training.gradient_checkpointing=true"


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The answer for one recipe: `fits`, in a sentence, and the overrides with which it does."""

    fits: bool
    sentence: str
    overrides: tuple[str, ...] = ()


def fit(path: Path, own: tuple[str, ...], size: str) -> Fit:
    """Return how a recipe fits one GPU. size: of its memory, or its name. own: overrides of the run.

    Of a method that trains nothing by gradients it is whether weights and a batch that is scored fit. Raises SetupError
    for a size that is none, or what can't be planned.
    """
    available_bytes = hardware.memory(size)
    load = search.loader(path, own)
    resolved = load(())
    name = resolved.recipe.method.name
    if not without_model.uses_model(name):
        return Fit(fits=True, sentence="uses no GPU")
    if not resolved.by_gradients:
        return _asked_only(name, resolved, available_bytes, size)
    told = [text.partition("=")[0] for text in own]
    tries: list[tuple[str, ...]] = [()]
    if "training.gradient_checkpointing" not in told and not resolved.recipe.training.gradient_checkpointing:
        tries.append((_CHECKPOINTING,))
    for more in tries:
        plan = _plan(load(more) if more else resolved, size)
        length = plan.lengths.longest
        share = plan.budget.per_device_batch
        most = share if plan.predict(share, length).needed <= available_bytes else 0
        most = most or search.largest_batch(plan, length, available_bytes)
        if most:
            return _fitting(name, plan, min(most, share), more, size)
    needed = gib(plan.predict(1, length).needed)
    how = " even with gradient checkpointing" if len(tries) > 1 else ""
    sentence = f"{name} is left out: one text of {length} tokens needs {needed}{how}, and {size} has"
    return Fit(fits=False, sentence=f"{sentence} {gib(available_bytes)}")


def _asked_only(name: str, resolved: Resolved, available_bytes: int, size: str) -> Fit:
    """Return whether a model that is not trained fits, with batches as small as its scorer makes them by itself."""
    lengths = report.lengths_of(resolved)
    found = inference.plan(
        resolved, precision="bf16", lengths=lengths, usable=available_bytes, capability=asked_card(size).capability
    )
    weights = found.parts["weights"]
    held = weights + hardware.CONTEXT
    if found.total > available_bytes:
        needed = f"one text of {lengths.longest} tokens needs {gib(found.total)}"
        if found.tokens > lengths.longest:
            needed = f"a batch of {found.tokens} tokens needs {gib(found.total)}"
        if held > available_bytes:
            needed = f"the weights and CUDA's context alone take {gib(held)}"
        return Fit(fits=False, sentence=f"{name} is left out: {needed}, and {size} has {gib(available_bytes)}")
    sentence = f"weights of {gib(weights)}, planned {gib(found.total)} of {size} with batches of {found.tokens} tokens"
    return Fit(fits=True, sentence=sentence)


def _plan(resolved: Resolved, size: str) -> MemoryPlan:
    capability = asked_card(size).capability
    return MemoryPlan.of(resolved, Parallelism(), lengths=report.lengths_of(resolved), capability=capability)


def _fitting(name: str, plan: MemoryPlan, most: int, more: tuple[str, ...], size: str) -> Fit:
    share, length = plan.budget.per_device_batch, plan.lengths.longest
    rows = max(rows for rows in search.candidates(share) if rows <= most)
    overrides = more if rows == share else (*more, f"training.per_device_batch={rows}")
    needed = gib(plan.predict(rows, length).needed)
    changed = f", with {' and '.join(overrides)}" if overrides else ""
    return Fit(fits=True, sentence=f"planned {needed} of {size}{changed}", overrides=overrides)
