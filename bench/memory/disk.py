"""Predicts what a run writes to disk: checkpoints, the saved model, and tokens in the cache."""

from typing import Any

from bench.data.token_cache import LIMIT_BYTES
from bench.memory import state_sizes
from bench.memory.planner import MemoryPlan
from bench.memory.verdict import gib

# Of a token in the cache, with its number in 32 bits (`data.token_cache`).
BYTES_PER_TOKEN = 4
# Checkpoints of models on the Hub have 16 bits a number, but for a few.
DOWNLOADED_BYTES = 2


def total(plan: MemoryPlan) -> int:
    """Return the bytes that a training takes on disk in all: what it writes, its tokens, and the model's download."""
    recipe, states = plan.resolved.recipe, plan.states
    checkpoints = _checkpoint_bytes(plan) * (recipe.checkpoints.keep + 1) if _writes_checkpoints(recipe) else 0
    best = states.trained if recipe.training.best is not None else 0
    saved = _saved(plan)[1] if recipe.save else 0
    return checkpoints + best + saved + _token_bytes(recipe, plan.lengths) + _download_bytes(recipe, plan.model)


def total_of_scoring(found: Any) -> int:
    """Return the bytes that a run takes on disk which trains nothing by gradients."""
    return _download_bytes(found.resolved.recipe, found.model)


def _writes_checkpoints(recipe: Any) -> bool:
    return recipe.checkpoints.every_steps is not None or recipe.checkpoints.every_minutes is not None


def _checkpoint_bytes(plan: MemoryPlan) -> int:
    states = plan.states
    adapter = bool(state_sizes.load_plan(plan.resolved)[1].adapter)
    # DeepSpeed writes float32 weights beside those of the model, and frozen ones unless there is an adapter. FSDP2
    # writes the parts of the weights themselves.
    sharded = 0 if plan.parallelism.zero == 0 else states.trained + (0 if adapter else states.frozen)
    return states.trained + states.optimizer + states.paged + sharded


def _saved(plan: MemoryPlan) -> tuple[str, int]:
    """Return (what is saved at the end, its bytes)."""
    if state_sizes.load_plan(plan.resolved)[1].adapter:
        return "adapter and head", plan.states.trained
    return "model", plan.states.weights


def lines(plan: MemoryPlan) -> list[str]:
    """Return what a training writes, in lines for people."""
    recipe = plan.resolved.recipe
    shown = []
    if _writes_checkpoints(recipe):
        one, most = _checkpoint_bytes(plan), recipe.checkpoints.keep + 1
        shown.append(
            f"  disk: a checkpoint takes {gib(one)}; {recipe.checkpoints.keep} are kept, and one more while it is "
            f"written: {gib(most * one)}"
        )
        if recipe.training.best is not None:
            shown.append(f"  disk: the best weights take {gib(plan.states.trained)}")
    if recipe.save:
        what, size = _saved(plan)
        shown.append(f"  disk: the saved {what} takes {gib(size)}")
    return [*shown, *_tokens(plan.resolved.recipe, plan.lengths), *_download(plan.resolved.recipe, plan.model)]


def of_scoring(found: Any) -> list[str]:
    """Return what a run that trains nothing takes: it saves no model, and downloads one."""
    return _download(found.resolved.recipe, found.model)


def _token_bytes(recipe: Any, lengths: Any) -> int:
    if recipe.objective != "head" or not recipe.speed.token_cache:
        return 0
    if lengths.examples is None:
        return LIMIT_BYTES
    return min(round(lengths.examples * lengths.mean * BYTES_PER_TOKEN), LIMIT_BYTES)


def _tokens(recipe: Any, lengths: Any) -> list[str]:
    size = _token_bytes(recipe, lengths)
    if not size:
        return []
    if lengths.examples is None:
        return [f"  disk: cached tokens take at most {gib(size)}, over all runs"]
    return [f"  disk: cached tokens of the training split take {gib(size)} of the cache's {gib(LIMIT_BYTES)}"]


def _download_bytes(recipe: Any, model: Any) -> int:
    card = recipe.model
    if card.weights != "pretrained" or card.id is None or card.package is not None:
        return 0
    frozen = sum(_numbers(parameter) for name, parameter in model.named_parameters() if "lora_" not in name)
    return int(frozen * DOWNLOADED_BYTES)


def _download(recipe: Any, model: Any) -> list[str]:
    size = _download_bytes(recipe, model)
    return [f"  disk: the model's files on the Hub take about {gib(size)}, in 16 bits"] if size else []


def _numbers(parameter: Any) -> int:
    """Return the numbers of a weight before it was packed into 4 bits."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else state.shape.numel()
