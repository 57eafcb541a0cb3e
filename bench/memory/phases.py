"""Predicts the memory of every phase of a run (load, before, train, after, save), per GPU and on the host."""

from typing import Any

from torch import nn

from bench.models.batch_budget import default_budget, token_bytes
from bench.models.heads import unwrapped

# Bytes of a trained weight: a float32 gradient, Adam's two moments, and the copy of the weights that ZeRO keeps.
STATES = 4 + 8 + 4


def held_bytes(model: nn.Module) -> int:
    """Return the bytes of a model's parameters on this process, whole or sharded."""
    return sum(part.numel() * part.element_size() for part in map(_local, model.parameters()))


def _local(parameter: Any) -> Any:
    sharded = getattr(parameter, "ds_tensor", None)  # DeepSpeed's part
    if sharded is not None and not parameter.numel():
        return sharded
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter


def whole_scoring(model: nn.Module, world: int, batch_tokens: int | None) -> dict[str, int]:
    """Return phase -> bytes that scoring the whole model takes on a process, beside whose part of the states.

    Before training there are no states yet, after it they are given back; a validation has all of them beside it.
    """
    weights, trained = 0, 0
    for parameter in model.parameters():
        numbers = int(getattr(parameter, "ds_numel", parameter.numel()))
        weights += numbers * parameter.element_size()
        trained += numbers if parameter.requires_grad else 0
    config = unwrapped(model).config.get_text_config()
    working = (batch_tokens or default_budget(model)) * token_bytes(config)
    states = STATES * trained // world
    share = weights // world
    return {
        "before": weights + working,
        "validate": weights + working + share + states,
        "after": weights + working + share,
    }
