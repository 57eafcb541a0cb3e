"""Modes for a step on the meta device: mixed precision as on CUDA, and attention as fused kernels hold it.

`bench.memory.activations` runs a model's step under these, and counts what is alive in it.
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from bench.models.library_internals import torch_internals

# What autocast casts on CUDA, down and up (aten/src/ATen/autocast_mode.h); what models call, of these lists.
LOWERED = {
    functional.linear, torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.bmm, torch.Tensor.bmm,
    torch.baddbmm, torch.Tensor.baddbmm, torch.addmm, torch.mm, torch.einsum, functional.conv1d,
}  # fmt: skip
RAISED = {
    functional.layer_norm, functional.softmax, torch.softmax, torch.Tensor.softmax, functional.log_softmax,
    functional.cross_entropy, functional.nll_loss, torch.pow, torch.Tensor.pow, torch.rsqrt, torch.exp, torch.log,
    torch.sum, torch.Tensor.sum, torch.Tensor.cumsum, torch.cumsum, functional.mse_loss,
    functional.binary_cross_entropy_with_logits,
}  # fmt: skip
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Autocast(TorchFunctionMode):
    """Mixed precision as on CUDA; torch has none for the meta device.

    lower: the type with 16 bits. leave_out: is given the 16-bit copies of weights that are gathered for each layer, as
    under ZeRO-3, and counted by others; None elsewhere. keeps: whether copies of trained weights are kept until the
    forward pass is over.
    """

    def __init__(self, lower: torch.dtype, leave_out: Callable[[torch.Tensor], None] | None, keeps: bool) -> None:
        super().__init__()
        self.lower, self._leave_out, self._keeps = lower, leave_out, keeps
        self._copies: dict[int, torch.Tensor] = {}
        self._recomputes = False

    def __enter__(self) -> "Autocast":
        """Enter the mode; attention functions find its type."""
        super().__enter__()
        self._token = _ACTIVE.set(self)
        return self

    def __exit__(self, *error: Any) -> None:
        """Leave the mode."""
        _ACTIVE.reset(self._token)
        super().__exit__(*error)

    def forget(self) -> int:
        """Give up the copies of weights at the end of the forward pass; return their bytes."""
        self._recomputes = True
        size = sum(copy.numel() * copy.element_size() for copy in self._copies.values())
        self._copies.clear()
        return size

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function on inputs of the type that autocast gives it."""
        kwargs = kwargs or {}
        # The backward pass is not under autocast, but for what is recomputed in it.
        if func in LOWERED and torch.is_grad_enabled():
            args, kwargs = torch_internals.tree_map(self._lowered, (args, kwargs))
        elif func in RAISED and torch.is_grad_enabled():
            args, kwargs = torch_internals.tree_map(self._raised, (args, kwargs))
        return func(*args, **kwargs)

    def _lowered(self, item: Any) -> Any:
        if not torch.is_tensor(item) or item.dtype not in (torch.float32, *TYPES.values()) or item.dtype == self.lower:
            return item
        if not (item.is_leaf and item.requires_grad and item.dtype == torch.float32):
            return item.to(self.lower)
        if self._leave_out is not None:
            copy = item.to(self.lower)
            self._leave_out(copy)
            return copy
        if not self._keeps or self._recomputes:
            return item.to(self.lower)  # autocast is left after each block that is recomputed
        if id(item) not in self._copies:
            self._copies[id(item)] = item.to(self.lower)
        return self._copies[id(item)]

    def _raised(self, item: Any) -> Any:
        return item.float() if torch.is_tensor(item) and item.dtype in TYPES.values() else item


class OnCuda(TorchFunctionMode):
    """Dropout and attention as CUDA has them. Enter it before `Autocast`.

    Dropout keeps its mask as one byte an element, whatever the input's type; on other devices torch multiplies by a
    mask of that type (aten/src/ATen/native/Dropout.cpp: the fused `native_dropout` is for CUDA, `_dropout_impl` for all
    others). padded: whether attention is given a mask, since the batch has pads. packed: whether it runs without pads,
    text by text where no kernel takes texts of any length.
    """

    def __init__(self, *, padded: bool = False, packed: bool = False) -> None:
        super().__init__()
        self.padded, self.packed = padded, packed

    def repeats_keys(self, kind: torch.dtype) -> bool:
        """Return whether attention in this type takes as many heads of keys as of queries: flash attention does not."""
        return self.padded or kind == torch.float32

    def runs_by_texts(self, query: torch.Tensor, dropout: float) -> bool:
        """Return whether texts of like length are run in a call of their own (packed_attention.takes_any_lengths)."""
        narrow = query.shape[-1] <= 256 and query.shape[-1] % 8 == 0
        return self.packed and not (narrow and query.dtype != torch.float32 and not dropout)

    def __enter__(self) -> "OnCuda":
        """Enter the mode; the attention function finds it."""
        super().__enter__()
        self._token = _ON_CUDA.set(self)
        return self

    def __exit__(self, *error: Any) -> None:
        """Leave the mode."""
        _ON_CUDA.reset(self._token)
        super().__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function; dropout by the operation that CUDA takes."""
        kwargs = kwargs or {}
        if func in (functional.dropout, torch.dropout):
            return _dropped(*args, **kwargs)
        return func(*args, **kwargs)


def _dropped(
    input: torch.Tensor,  # the name by which it may be given
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    train: bool = True,
) -> torch.Tensor:
    """Return what dropout gives. train: the name in `torch.dropout`."""
    if not (training and train) or p == 0:
        return input
    return torch.native_dropout(input, p, True)[0]


# The modes that a step is run in.
_ACTIVE: ContextVar[Autocast | None] = ContextVar("bench_meta_autocast", default=None)
_ON_CUDA: ContextVar[OnCuda | None] = ContextVar("bench_meta_on_cuda", default=None)


class Fused(torch.autograd.Function):
    """Attention as fused kernels keep it. query: [rows, heads, tokens, width]."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, masked: bool) -> torch.Tensor:
        """Keep its inputs, its output, the log-sum-exp of each query, and a mask as numbers to add to scores."""
        rows, heads, tokens, _ = query.shape
        out = query.new_empty(rows, tokens, heads, value.shape[-1])
        sums = query.new_empty(rows, heads, tokens, dtype=torch.float32)
        bias = [query.new_empty(rows, 1, tokens, key.shape[2])] if masked else []
        ctx.save_for_backward(query, key, value, out, sums, *bias)
        return out.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """Make gradients, and beside them the float32 sum for queries, and keys and values for each query's head."""
        query, key, value, *_ = ctx.saved_tensors
        needed = [torch.empty_like(query, dtype=torch.float32)]
        needed += [torch.empty_like(query) for _ in range(2) if key.shape[1] != query.shape[1]]
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None


def attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """The registered function; returns [rows, tokens, heads, width]. With a soft cap there is no fused kernel."""
    casts = _ACTIVE.get()
    kind = casts.lower if casts is not None else value.dtype
    query, key, value = query.to(kind), key.to(kind), value.to(kind)
    groups, cuda = query.shape[1] // key.shape[1], _ON_CUDA.get()
    if softcap is None:
        if groups > 1 and cuda is not None and cuda.repeats_keys(kind):
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        by_texts = cuda is not None and cuda.runs_by_texts(query, dropout)
        if cuda is not None and cuda.packed and not by_texts:
            # The kernel for texts of any length takes them with the tokens first: where one product gave all three,
            # as in ModernBERT, it is not kept.
            query, key, value = (part.transpose(1, 2).contiguous().transpose(1, 2) for part in (query, key, value))
        out = Fused.apply(query, key, value, cuda is not None and cuda.padded).transpose(1, 2)
        # The calls' results are joined, and each of them is kept besides.
        return out.clone() if by_texts else out, None
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = torch.tanh(torch.matmul(query, key.transpose(-1, -2)) * query.shape[-1] ** -0.5 / softcap) * softcap
    seen = torch.empty(scores.shape[-2:], dtype=torch.bool, device="meta")
    weights = functional.softmax(scores.masked_fill(seen, -torch.inf), -1, dtype=torch.float32).to(kind)
    return torch.matmul(functional.dropout(weights, dropout), value).transpose(1, 2), None
