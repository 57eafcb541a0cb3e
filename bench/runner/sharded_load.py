"""Decides whether a model that ZeRO-3 or FSDP2 shards is sharded already while it is loaded, and when it is saved.

A process that holds the whole model scores faster, and every method can be applied to it; so that way is kept where the
model fits. The record's `sharded_phases` says which way was taken, and why.
"""

import os
from collections.abc import Callable
from typing import TypeVar

from accelerate.utils import gather_object

from bench.config import registry
from bench.config.contracts import LoadPlan
from bench.config.fields import Strict
from bench.config.recipe import Recipe
from bench.distributed import sharding
from bench.errors import SetupError
from bench.evaluation import text_examples
from bench.memory import limits
from bench.models import build
from bench.runner.context import RunContext
from bench.utils.numbers import format_bytes

Built = TypeVar("Built")

ASKED = "speed.sharded_load"
# What a launcher's file calls it, as accelerate hands it on.
_FLAGS = {
    "ACCELERATE_DEEPSPEED_ZERO3_INIT": "zero3_init_flag: true in the launcher's file",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "fsdp_cpu_ram_efficient_loading: true in the launcher's file",
}
# Share of the memory left that whole weights may take: beside them there must be room for the batches that are scored.
WEIGHTS_SHARE = 0.5
# Why a model is whole where no process knows what memory is left.
NOT_TOLD = "the system does not tell how much memory is left"
# LoRA's options by which an adapter depends on the weights themselves, or takes the place of some of them.
_LORA_PLAIN = {"init_lora_weights": (None, True, "gaussian")}
_LORA_NEVER = ("use_dora", "target_parameters", "layer_replication", "trainable_token_indices")


def decide(run: RunContext) -> bool:
    """Return whether each process loads its shards alone; fill in the record. Every process must call it.

    Raises SetupError where the recipe asks for what this method can't do.
    """
    recipe, plan = run.resolved.recipe, run.inputs.plan
    if not sharding.shards_parameters() or plan.trains == "features":
        if recipe.speed.sharded_load is True:
            run.record.note(f"{ASKED}: true has no effect: no parameters are sharded in this launch")
        return False
    asked, hindrance = recipe.speed.sharded_load, _hindrance(recipe, plan, run.resolved.options)
    by = f"{ASKED}: {str(asked).lower()}"
    if asked == "auto" and plan.trains == "nothing" and recipe.evaluation.sharded is True:
        asked, by = True, "evaluation.sharded: true"  # no engine will shard it later
    if asked == "auto" and (flag := next((text for name, text in _FLAGS.items() if _is_set(name)), None)):
        asked, by = True, flag
    if asked is True and hindrance is not None:
        raise SetupError(f"{by}: {hindrance}, so that each process has to load the whole model; leave it out")
    if asked is True or asked is False:
        sharded, why = asked, by
    elif hindrance is not None:
        sharded, why = False, hindrance
    else:
        sharded, why = _by_memory(run)
    phases = ("load", "save") if plan.trains == "gradient" else ("load",)
    run.record.sharded_phases |= dict.fromkeys(phases, described(sharded, why))
    return sharded


def together(build: Callable[[], Built]) -> Built:
    """Return what each process builds; where one of them can't, raise its SetupError on all, of which none is waiting.

    Every process must call it.
    """
    built, problem = None, None
    try:
        built = build()
    except SetupError as error:
        problem = str(error)
    problems = [text for text in gather_object([problem]) if text]
    if problems or built is None:
        raise SetupError(problems[0])
    return built


def described(sharded: bool, why: str) -> str:
    """Return the record's sentence on one of the `sharded_phases`."""
    return f"{'sharded' if sharded else 'whole on each process'}: {why}"


def bytes_left(run: RunContext) -> int | None:
    """Return the memory left to this process, its share of what it shares; None where the system does not tell.

    All processes of a machine share its memory on a CPU; a GPU is a process's own.
    """
    on_cpu = run.state.device.type == "cpu"
    sharers = int(os.environ.get("LOCAL_WORLD_SIZE") or 1) if on_cpu else 1
    try:
        return min(limits.available_bytes(run.state.device, sharers).values())
    except SetupError:
        return None


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("true", "1")


def _hindrance(recipe: Recipe, plan: LoadPlan, options: Strict) -> str | None:
    """Return why a model must be whole while it is built, or None."""
    if plan.quantization is not None:
        return "bitsandbytes quantises whole weights, which each process then holds in 4 bits"
    if (plan.weights or recipe.model.weights) == "pretrained" and build.is_quantized(recipe.model):
        return "the checkpoint's weights are quantised, which each process then holds as they are"
    if recipe.model.trust_remote_code:
        return "the model's code is its repository's own, which may read weights while it builds them"
    if not plan.adapter:
        return None
    kind, config = getattr(options, "peft", ""), getattr(options, "config", {})
    if kind != "LoraConfig":
        return f"{kind} may read the weights that it adapts"
    for name, plain in _LORA_PLAIN.items():
        if config.get(name) not in plain:
            return f"{name} {config[name]!r} reads the weights that it adapts"
    for name in _LORA_NEVER:
        if config.get(name):
            return f"{name} reads or copies the weights that it adapts"
    return None


def _by_memory(run: RunContext) -> tuple[bool, str]:
    """Return whether the whole weights are too much for the process that has the least memory left, and a sentence."""
    needed = _weights_bytes(run)
    known = [left for left in gather_object([bytes_left(run)]) if left is not None]
    if not known:
        return False, NOT_TOLD
    sizes = f"the whole weights take {format_bytes(needed)}, and {format_bytes(min(known))} are left to each process"
    return needed > WEIGHTS_SHARE * min(known), sizes


def _weights_bytes(run: RunContext) -> int:
    """Return the bytes of the whole model's weights, by its shape."""
    recipe, plan = run.resolved.recipe, run.inputs.plan
    task, is_text = registry.load_task(recipe.dataset.task), recipe.objective == "text"
    return build.weights_bytes(
        recipe.model,
        plan,
        auto_class=text_examples.auto_class(recipe) if is_text else task.AUTO_CLASS,
        labels=() if is_text else task.head_outputs(run.inputs.corpus.labels),
        tokenizer=run.inputs.tokenizer,
        weights=plan.weights or recipe.model.weights,
    )
