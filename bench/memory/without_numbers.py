"""Adapters that compute while they are built, on models whose weights are not there.

    with on_host(model):
        adapted = method.adapt(model, options)  # VeRA, BOFT and their like draw and compute numbers of their own
    to_meta(adapted)

Weights stand on the host meanwhile, each as a single number that is seen as a whole tensor: it takes no memory, and an
adapter finds shapes, types and a device that computes. One that computes from the weights themselves, such as a
decomposition of each of them, or draws as many numbers, is refused: that would take as long as in a run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from bench.errors import SetupError
from bench.models.library_internals import torch_internals

# Results of a single operation, in elements, that an adapter may make of its own: 1 GiB in float32.
LARGEST = 2**28
# Elements of a matrix that is decomposed: half a second.
DECOMPOSED = 2**20
DECOMPOSITIONS = ("svd", "qr", "eig", "lstsq", "inv", "cholesky")
# Errors of torch for what has no numbers, in its words or in those of a method that did not expect it.
SIGNS = ("meta", "'nonetype' object", "but got nonetype")


class TooMuchError(SetupError):
    """An adapter that computes too much while it is built."""


def is_meant(error: Exception) -> bool:
    """Return whether an error may come of numbers that are not there."""
    return any(sign in str(error).lower() for sign in SIGNS)


@contextmanager
def on_host(model: nn.Module) -> Iterator[None]:
    """Let an adapter be built on a model of the meta device, inside. Weights in 4 bits stay there.

    Raises SetupError where that takes more than a few numbers of its own.
    """
    placed: dict[int, torch.Tensor] = {}
    kept = list(_tensors(model))  # so that no other tensor gets the address of one of them
    for owner, name, tensor in kept:
        if tensor.is_meta and getattr(tensor, "quant_state", None) is None:
            if id(tensor) not in placed:
                placed[id(tensor)] = _like(tensor, torch.zeros((), dtype=tensor.dtype).expand(tensor.shape))
            setattr(owner, name, placed[id(tensor)])
    try:
        with _Bounded(), torch.random.fork_rng(devices=[]):
            yield
    except SetupError as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, TooMuchError):
                raise cause from None
            cause = cause.__cause__
        if is_meant(error):
            raise SetupError(f"the adapter computes with the model's weights while it is built{ADVICE}") from error
        raise


def to_meta(model: nn.Module) -> nn.Module:
    """Move whatever is on the host to the meta device; return the model. What was shared stays so."""
    moved: dict[int, torch.Tensor] = {}
    kept = list(_tensors(model))
    for owner, name, tensor in kept:
        if not tensor.is_meta:
            if id(tensor) not in moved:
                moved[id(tensor)] = _like(tensor, torch.empty(tensor.shape, dtype=tensor.dtype, device="meta"))
            setattr(owner, name, moved[id(tensor)])
    return model


def _tensors(model: nn.Module) -> Iterator[tuple[nn.Module, str, Any]]:
    """Yield (module, name, tensor) of all parameters and buffers, as often as they are held."""
    for module in list(model.modules()):
        for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            yield module, name, parameter
        for name, buffer in list(module.named_buffers(recurse=False, remove_duplicate=False)):
            yield module, name, buffer


def _like(tensor: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return values as a parameter where the tensor is one, with what is noted on it."""
    if not isinstance(tensor, nn.Parameter):
        return values
    parameter = nn.Parameter(values, requires_grad=tensor.requires_grad)
    parameter.__dict__.update(tensor.__dict__)
    return parameter


class _Bounded(torch_internals.TorchDispatchMode):
    """Refuses operations that are as large as those of the model itself."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation. Raises TooMuchError for one that is too large."""
        name = func.__name__
        inputs = [item for item in torch_internals.tree_leaves(args) if isinstance(item, torch.Tensor)]
        size = max((item.numel() for item in inputs if not item.is_meta), default=0)
        if any(word in name for word in DECOMPOSITIONS) and size > DECOMPOSED:
            raise TooMuchError(f"the adapter decomposes the model's weights while it is built ({name}){ADVICE}")
        out = func(*args, **(kwargs or {}))
        for item in torch_internals.tree_leaves(out):
            if isinstance(item, torch.Tensor) and item.untyped_storage().nbytes() > 4 * LARGEST and not item.is_meta:
                raise TooMuchError(
                    f"the adapter makes tensors as large as the model's weights while it is built{ADVICE}"
                )
        return out


ADVICE = "; it can't be planned without them"
