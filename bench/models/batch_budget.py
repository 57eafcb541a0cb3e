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
    total_bytes = cuda.allowed(device)
    return budget_for(model, total_bytes, unwrapped(model).get_memory_footprint())


def budget_for(model: Any, total_bytes: int | None, weights_bytes: int) -> int:
    """Return the tokens of a batch on a GPU with so much memory; the fewest on one that is not known."""
    config, (low, high) = unwrapped(model).config.get_text_config(), GPU_BUDGETS
    if total_bytes is None:
        return low
    # What a layer holds at once, in float32: the two halves of its MLP, and some vectors of the hidden size.
    token_bytes = 4 * (4 * getattr(config, "intermediate_size", 4 * config.hidden_size) + 16 * config.hidden_size)
    available_bytes = total_bytes / 2 - weights_bytes
    return max(low, min(high, 2 ** int(math.log2(max(available_bytes / token_bytes, 1)))))


def device_of(model: Any) -> torch.device:
    """Return the device of a model's parameters."""
    device: torch.device = unwrapped(model).get_input_embeddings().weight.device
    return device
