"""The types that a model's matrix products are computed in, and a device's peak rate in them, for MFU."""

from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from bench.utils import hardware

NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


def shares(model: Any, autocast: str) -> dict[str, float]:
    """Return type -> its share of the weights that are multiplied: "bf16", "fp16", "tf32", "fp32", or another's name.

    autocast: "no", "bf16" or "fp16". Under it all products are in its type, but those of 4-bit layers, which have one
    of their own; without it, in the weights' own types. float32 is TF32 where torch may compute it so.
    """
    sizes: dict[str, int] = {}
    for module in model.modules():
        for size, kind in _products(module, autocast):
            name = _name(kind)
            sizes[name] = sizes.get(name, 0) + size
    total = sum(sizes.values())
    return {name: size / total for name, size in sizes.items() if size}


def peak_flops(device: str, model: Any, autocast: str) -> float | None:
    """Return the device's peak FLOP/s at the model's types of products, each weighted by its share of the time.

    None for an unknown device, or a type that it has no known rate for.
    """
    seconds = 0.0
    for name, share in shares(model, autocast).items():
        rate = hardware.peak_flops(device, name)
        if rate is None:
            return None
        seconds += share / rate
    return 1 / seconds if seconds else None


def _products(module: nn.Module, autocast: str) -> list[tuple[int, torch.dtype]]:
    """Return (size, type) of the weights that a module multiplies by: a linear layer's, or a mixture's experts."""
    lowered = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(autocast)
    if isinstance(module, nn.Linear | Conv1D):
        # A 4-bit layer's own; its weights are packed into numbers of another type.
        own = getattr(module, "compute_dtype", None)
        # Of a layer whose weights are sharded, a process holds a part, or nothing.
        size = module.in_features * module.out_features if isinstance(module, nn.Linear) else module.weight.numel()
        if own is not None and (lowered is None or own != torch.float32):
            return [(size, own)]
        return [(size, lowered or own or module.weight.dtype)]
    experts = [one for one in module.parameters(recurse=False) if one.dim() == 3]
    return [(one.numel(), lowered or one.dtype) for one in experts]


def _name(kind: torch.dtype) -> str:
    if kind == torch.float32 and torch.cuda.is_available() and torch.backends.cuda.matmul.allow_tf32:
        return "tf32"
    return NAMES.get(kind, str(kind).removeprefix("torch."))
