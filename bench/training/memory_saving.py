"""Saves memory in training without changing the result: activation checkpointing and offload, no cached casts.

move_to_host(model)  # of a model with gradient checkpointing: the inputs of each block are kept on the host
drop_copies(accelerator)  # autocast casts a weight again wherever it is used, and keeps no copy of it
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import AutocastKwargs
from torch import nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks

from bench.errors import SetupError
from bench.models.heads import unwrapped
from bench.models.kernels.packed_attention import recomputing
from bench.models.library_internals import transformers_internals

# Bytes of what was moved on the meta device, one after another.
_MOVED: ContextVar[list[int] | None] = ContextVar("bench_moved", default=None)


def move_to_host(model: nn.Module) -> None:
    """Keep the inputs of checkpointed blocks in the host's pinned memory until the backward pass.

    The model's activations must be checkpointed already. On a CPU, whose memory that is, nothing is moved.
    """
    for module in model.modules():
        checkpoint = transformers_internals.checkpoint_function(module)
        if checkpoint is not None:
            # Its keywords stay in sight: a body that leaves out pads looks for its `context_fn` there.
            moved = functools.partial(_moved, checkpoint.func, **checkpoint.keywords)
            transformers_internals.set_checkpoint_function(module, moved)


def _moved(checkpoint: Callable[..., Any], function: Any, *inputs: Any, **options: Any) -> Any:
    """Run a block under hooks that see its inputs as torch's checkpoint saves them; inside, torch saves nothing."""
    places = {item.device.type for item in inputs if torch.is_tensor(item)}
    with _hooks(next(iter(places), "cpu")):
        return checkpoint(function, *inputs, **options)


def _hooks(device: str) -> AbstractContextManager[Any]:
    hooks: AbstractContextManager[Any] = nullcontext()
    if device == "cuda":
        hooks = save_on_cpu(pin_memory=True)
    elif device == "meta":
        hooks = saved_tensors_hooks(_pack, _unpack)
    return hooks


def _pack(tensor: torch.Tensor) -> tuple[torch.Size, torch.dtype]:
    moved = _MOVED.get()
    if moved is not None:
        moved.append(tensor.numel() * tensor.element_size())
    return tensor.shape, tensor.dtype


def _unpack(packed: tuple[torch.Size, torch.dtype]) -> torch.Tensor:
    shape, dtype = packed
    return torch.empty(shape, dtype=dtype, device="meta")


@contextmanager
def counting() -> Iterator[list[int]]:
    """Yield a list that gets the bytes of whatever is moved on the meta device."""
    moved: list[int] = []
    token = _MOVED.set(moved)
    try:
        yield moved
    finally:
        _MOVED.reset(token)


def drop_copies(accelerator: Accelerator) -> None:
    """Let autocast keep no 16-bit copy of a weight until the forward pass is over; call it before `prepare`.

    A weight is cast again where it is used again. Where blocks are recomputed, each is used once in either pass, and
    autocast would keep two bytes for each trainable parameter until the last block is done.
    """
    accelerator.autocast_handler = AutocastKwargs(cache_enabled=False)


def checkpoint_activations(model: nn.Module, *, offload: bool = False) -> None:
    """Recompute activations in the backward pass, also of a padding-free model.

    offload: keep what that needs on the host. Raises SetupError for a model that does not support it.
    """
    if not model.supports_gradient_checkpointing:
        raise SetupError(f"training.gradient_checkpointing: {type(unwrapped(model)).__name__} does not support it")
    settings = {"use_reentrant": False, "context_fn": recomputing}
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)
    if offload:
        move_to_host(model)
