"""Predicts the memory of every phase of a run (load, before, train, after, save): of each GPU, and of a host.

    for phase in forecast(plan, plan.predict(rows=1, length=512)):
        phase.gpu, phase.host   # bytes

Under ZeRO-3 and FSDP2 a model stays sharded in all of them (`distributed.in_step`, `evaluation.sharded`), so that no
GPU ever holds more than its part, the layers that are gathered at a time, and a batch. Else each holds the whole model.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from bench.models import shards
from bench.models.batch_budget import GPU_BUDGETS, default_budget, token_bytes
from bench.models.heads import unwrapped
from bench.utils import hardware
from bench.utils.hardware import CONTEXT, GIB

if TYPE_CHECKING:  # it uses this module itself
    from bench.memory.planner import MemoryPlan, Prediction

# Bytes of a trained weight: a float32 gradient, Adam's two moments, and the copy of the weights that ZeRO keeps.
STATES = 4 + 8 + 4
FLOAT32 = 4
# Logits that scoring holds at once, in float32, their exponentials, and the copy in the head's own type.
LOGITS_BYTES = 3 * FLOAT32 * 2**24
# GPUs of a host: what their processes keep there adds up.
GPUS_PER_HOST = 8
# The least that a file of weights holds, which is put together in memory.
FILE = 2**26
# What a process keeps on the host: libraries, and its CUDA context's own part. An assumption.
LIBRARIES = 2 * GIB

_PLACES = ("gpu", "host")


@dataclass(frozen=True, kw_only=True)
class PhaseMemory:
    """Bytes of one phase. gpu: of each GPU. host: of all processes of one host. sharded: whether no GPU holds all."""

    name: str
    gpu: int
    host: int
    sharded: bool


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """Bytes of what the phases are made of. own: a GPU's weights. states: what training keeps on a GPU beside them.

    layers: gathered at a time. tensor: the largest one. batch: of scoring. context: CUDA's.
    """

    weights: int
    own: int
    states: int
    layers: int
    tensor: int
    batch: int
    context: int


def elsewhere(plan: "MemoryPlan") -> dict[str, int]:
    """Return phase -> bytes of each GPU in all phases but training; unless it is sharded, those of the whole model.

    bitsandbytes makes its 4-bit weights of whole ones, so that each process loads and keeps all of them.
    """
    parts = _parts(plan)
    # Of cuBLAS's workspaces, one comes with the first forward pass, the other with the first backward pass.
    workspace = 0 if plan.on_cpu else hardware.cublas_workspace(plan.capability)
    if not plan.parallelism.shards_weights:
        # Its batch takes what is left: less memory makes smaller ones.
        whole = parts.weights + parts.context
        trained = whole + 2 * workspace
        return {"load": whole, "before": whole + workspace, "after": trained, "save": trained}
    held = parts.own + parts.context
    scored = held + parts.states + parts.layers + parts.batch + 2 * workspace
    whole = parts.weights + parts.context
    return {
        "load": whole if plan.quantized else held + parts.layers + parts.tensor,
        "before": scored,
        "after": scored,
        # Training's states are given back by then.
        "save": (whole if plan.quantized else held + 2 * parts.tensor) + 2 * workspace,
    }


def _parts(plan: "MemoryPlan") -> _Parts:
    states, parallelism, config = plan.states, plan.parallelism, unwrapped(plan.model).config
    away, sharded = parallelism.offload == "cpu", parallelism.shards_weights
    own = 0 if sharded and away else math.ceil(states.weights / (parallelism.world if sharded else 1))
    # Beside a part of its own ZeRO keeps a copy of it for the optimiser.
    kept = states.optimizer + states.gradients + (0 if parallelism.fsdp else states.trained)
    return _Parts(
        weights=states.weights,
        own=own,
        states=0 if away else math.ceil(kept / parallelism.world),
        layers=plan.gathered,
        tensor=min(states.weights, states.largest * FLOAT32),
        batch=GPU_BUDGETS[0] * token_bytes(config.get_text_config()) + LOGITS_BYTES,
        context=0 if plan.on_cpu else CONTEXT,
    )


def forecast(plan: "MemoryPlan", prediction: "Prediction", per_host: int = GPUS_PER_HOST) -> list[PhaseMemory]:
    """Return all phases in their order. prediction: of the training steps. per_host: GPUs of a host."""
    parallelism, states = plan.parallelism, plan.states
    sharded = parallelism.shards_weights
    sizes = elsewhere(plan)
    processes = min(parallelism.world, per_host)
    share = processes / parallelism.world
    libraries = processes * LIBRARIES
    training = round(sum(prediction.host.values()) * share) + libraries
    waiting = round(states.weights * share) if sharded and parallelism.offload == "cpu" else 0
    tensor = min(states.weights, states.largest * FLOAT32)
    # Unless it is sharded, each process reads the model by itself, a file at a time straight to its GPU.
    host = {
        "load": libraries + waiting + (processes * tensor if sharded else 0),
        "before": training,
        "train": training,
        "after": training,
        "save": libraries + waiting + tensor + (max(FILE, states.weights // (4 * parallelism.world)) if sharded else 0),
    }
    gpu = {**sizes, "train": prediction.total}
    whole = {"load", "save"} if plan.quantized else set()
    return [
        PhaseMemory(name=name, gpu=gpu[name], host=host[name], sharded=sharded and name not in whole) for name in host
    ]


def lines(plan: "MemoryPlan", prediction: "Prediction") -> list[str]:
    """Return all phases in plain text, for `python -m bench plan`."""
    found = forecast(plan, prediction)
    gpu, host = (", ".join(f"{phase.name} {getattr(phase, kind) / GIB:.2f}" for phase in found) for kind in _PLACES)
    whole = [phase.name for phase in found if not phase.sharded]
    how = (
        "the model is sharded in all of them" if not whole else f"the model is whole on each GPU in {', '.join(whole)}"
    )
    hosts = f"with {GPUS_PER_HOST} GPUs" if plan.parallelism.world > GPUS_PER_HOST else "in all"
    return [
        f"  phases, GiB on each GPU: {gpu} ({how})",
        f"  phases, GiB on a host {hosts}: {host} ({LIBRARIES / GIB:.0f} of each process assumed)",
    ]


def as_record(plan: "MemoryPlan", prediction: "Prediction") -> dict[str, Any]:
    """Return the record's `phases`: of each GPU, or process on a CPU, and of all processes of a host, in GiB.

    On a CPU both are the same memory, so that only the first is told.
    """
    found: dict[str, Any] = {}
    for phase in forecast(plan, prediction):
        found[phase.name] = {"gib": phase.gpu / GIB, "sharded": phase.sharded}
        if not plan.on_cpu:
            found[phase.name]["host_gib"] = phase.host / GIB
    return found


def held_bytes(model: nn.Module) -> int:
    """Return the bytes that a model's parameters take on this process, whole or sharded."""
    return sum(_stored(parameter) for parameter in model.parameters())


def _stored(parameter: Any) -> int:
    sharded = getattr(parameter, "ds_tensor", None)  # DeepSpeed's part
    local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
    shard = shards.of(parameter) if sharded is None else sharded
    own = int(local.untyped_storage().nbytes())
    return own if shard is None else own + shard.numel() * shard.element_size()


def whole_scoring(model: nn.Module, world: int, batch_tokens: int | None, *, mixed: bool) -> dict[str, int]:
    """Return phase -> bytes that scoring the whole model takes on a process that has its part of the states, too.

    Before training there are no states yet, after it they are given back; a validation has all of them beside it.
    mixed: whether autocast keeps a copy of each trained weight in 16 bits.
    """
    weights, trained = 0, 0
    for parameter in model.parameters():
        numbers = int(getattr(parameter, "ds_numel", parameter.numel()))
        weights += numbers * parameter.element_size()
        trained += numbers if parameter.requires_grad else 0
    config = unwrapped(model).config.get_text_config()
    working = (batch_tokens or default_budget(model)) * token_bytes(config) + LOGITS_BYTES
    working += 2 * trained if mixed else 0
    states = STATES * trained // world
    share = weights // world
    return {
        "before": weights + working,
        "validate": weights + working + share + states,
        "after": weights + working + share,
    }
