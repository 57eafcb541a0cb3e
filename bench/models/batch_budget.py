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
    config = inner.config.get_text_config()
    # What a layer holds at once, in float32: the two halves of its MLP, and some vectors of the hidden size.
    token_bytes = 4 * (4 * getattr(config, "intermediate_size", 4 * config.hidden_size) + 16 * config.hidden_size)
    available_bytes = cuda.allowed(device) / 2 - inner.get_memory_footprint()
    low, high = GPU_BUDGETS
    return max(low, min(high, 2 ** int(math.log2(max(available_bytes / token_bytes, 1)))))


def device_of(model: Any) -> torch.device:
    """Return the device of a model's parameters."""
    device: torch.device = unwrapped(model).get_input_embeddings().weight.device
    return device
