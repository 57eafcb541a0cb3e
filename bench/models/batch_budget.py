"""Tokens that are scored at once, by device."""

import math
from typing import Any

import torch

from bench.models.heads import unwrapped
from bench.utils import cuda

# Tokens of a batch on a CPU: more of them at once leave its caches and gain nothing.
CPU_BUDGET = 2048
# On a GPU more than that gains nothing either.
GPU_BUDGETS = (4096, 65_536)


def default_budget(model: Any) -> int:
    """Return the tokens of a batch for the device that the model is on: the same on all GPUs of a kind."""
    device = device_of(model)
    if device.type != "cuda":
        return CPU_BUDGET
    inner = unwrapped(model)
    # A parameter that ZeRO-3 has sharded is empty; batches are those of the whole model.
    empty = [part for part in inner.parameters() if not part.numel() and hasattr(part, "ds_numel")]
    elsewhere = sum(part.ds_numel * part.element_size() for part in empty)
    return budget_for(model, cuda.allowed(device), inner.get_memory_footprint() + elsewhere)


def budget_for(model: Any, total_bytes: int | None, weights_bytes: int) -> int:
    """Return the tokens of a batch on a GPU with so much memory; the fewest on one that is not known."""
    low, high = GPU_BUDGETS
    if total_bytes is None:
        return low
    available_bytes = total_bytes / 2 - weights_bytes
    each_bytes = token_bytes(unwrapped(model).config.get_text_config())
    return max(low, min(high, 2 ** int(math.log2(max(available_bytes / each_bytes, 1)))))


def token_bytes(config: Any) -> int:
    """Return what a layer holds at once for a token, in float32: the halves of its MLP, and some vectors."""
    hidden = int(config.hidden_size)
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    return 4 * (4 * (max(inner) if isinstance(inner, list) else int(inner)) + 16 * hidden)


def device_of(model: Any) -> torch.device:
    """Return the device of a model's parameters."""
    device: torch.device = unwrapped(model).get_input_embeddings().weight.device
    return device
