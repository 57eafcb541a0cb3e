"""Mixed precision and evaluation mode, as context managers."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(
    device: torch.device, precision: str, *, keep_copies: bool = True
) -> contextlib.AbstractContextManager[Any]:
    """Return mixed precision as accelerate sets it up for training; a null context for "no".

    keep_copies: whether a trained weight that was cast is kept until the end of the context.
    """
    if precision in AUTOCAST:
        return torch.autocast(device.type, dtype=AUTOCAST[precision], cache_enabled=keep_copies)
    return contextlib.nullcontext()


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Enter evaluation mode without gradients; training mode comes back if it was on."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
