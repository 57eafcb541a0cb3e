"""Arranges attention so that one of torch's fused kernels takes it, whose memory grows with the length of a text.

What no fused kernel takes, torch computes by matrix products, and holds the scores of all queries with all keys. Which
kernel takes what depends on the GPU's generation, the type, the heads and the mask; torch is asked for it (`takes`):

* FlashAttention: 16 bits, compute capability 8.0 (Ampere) or newer, heads up to 256 wide, no mask;
* memory-efficient attention: float32 and fp16 on any GPU, bf16 from 8.0 on, any mask, but as many heads of keys as of
  queries.

So keys and values of grouped queries are repeated where FlashAttention can't be had (float32, a mask, a T4 or V100),
and bf16 on a GPU older than Ampere is computed in float32.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.backends.cuda import (
    SDPAParams,
    can_use_cudnn_attention,
    can_use_efficient_attention,
    can_use_flash_attention,
)
from torch.nn import functional
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

# Kernels, as a record names them. DEFAULT: of another device than a GPU, which has its own. PLAIN: not fused.
FLASH, EFFICIENT, CUDNN, DEFAULT, PLAIN = "flash", "memory-efficient", "cudnn", "default", "not fused"
# Any lengths in one call.
VARLEN = "flash, packed texts"
# Name of transformers' own function for scaled dot-product attention.
SDPA = "sdpa"


@dataclass(frozen=True, kw_only=True)
class Arrangement:
    """The kernel, and what is done to queries, keys and values before it.

    repeated: keys and values are repeated for the queries that share them. in_float32: all three are cast to float32.
    """

    kernel: str
    repeated: bool = False
    in_float32: bool = False

    def described(self) -> str:
        """Return it in words, for a record."""
        how = [*(["keys and values repeated"] if self.repeated else []), *(["in float32"] if self.in_float32 else [])]
        return ", ".join([self.kernel, *how])


# What attention on a GPU was really computed by since `used` was last asked.
_USED: set[str] = set()


def used() -> list[str]:
    """Return the kernels that attention on a GPU was computed by since this was last asked, in words."""
    found = sorted(_USED)
    _USED.clear()
    return found


def note_used(kernel: str) -> None:
    """Remember a kernel for `used`."""
    if kernel != DEFAULT:
        _USED.add(kernel)


def takes(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    mask: torch.Tensor | None = None,
    dropout: float = 0.0,
    causal: bool = False,
) -> str | None:
    """Return the fused kernel that takes these [rows, heads, tokens, width] as they are, by torch's word, or None."""
    if query.device.type != "cuda":
        return DEFAULT
    asked = SDPAParams(query, key, value, mask, dropout, causal and mask is None, query.shape[1] != key.shape[1])
    if can_use_flash_attention(asked):
        return FLASH
    if can_use_efficient_attention(asked):
        return EFFICIENT
    return CUDNN if can_use_cudnn_attention(asked) else None


def arranged(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: Any
) -> tuple[Arrangement, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the cheapest arrangement that a fused kernel takes, and queries, keys and values changed by it.

    options: of `takes`. Where no kernel takes any, they come back as they are.
    """
    groups = query.shape[1] // key.shape[1]
    for kind, repeated in _candidates(query.dtype, grouped=groups > 1):
        parts = query.to(kind), key.to(kind), value.to(kind)
        if repeated:
            parts = parts[0], repeat_heads(parts[1], groups), repeat_heads(parts[2], groups)
        kernel = takes(*parts, **options)
        if kernel is not None:
            return Arrangement(kernel=kernel, repeated=repeated, in_float32=kind != query.dtype), *parts
    return Arrangement(kernel=PLAIN), query, key, value


def _candidates(dtype: torch.dtype, *, grouped: bool) -> Iterator[tuple[torch.dtype, bool]]:
    """Yield (type, whether keys and values are repeated) of all arrangements, the cheapest first."""
    for kind in dict.fromkeys((dtype, torch.float32)):
        yield kind, False
        if grouped:
            yield kind, True


def rule(
    capability: tuple[int, int],
    dtype: torch.dtype,
    *,
    width: int,
    grouped: bool,
    masked: bool = False,
    dropout: bool = False,
    trains: bool = True,
) -> str | None:
    """Return what `takes` is expected to say on a GPU of a compute capability, e.g. (8, 9): the rules of torch 2.13.

    width: of a head. grouped: whether queries share keys. The rules: aten/src/ATen/native/transformers/cuda/
    sdp_utils.cpp. cuDNN's kernel, which newer GPUs have besides, is left out.
    """
    half, ampere = dtype in (torch.float16, torch.bfloat16), capability >= (8, 0)
    small = capability[0] == 12 or (8, 6) <= capability <= (8, 9)  # less shared memory than an A100 or H100
    too_wide = width > 256 or (trains and small and (192 < width <= 224 or (width > 224 and dropout)))
    if half and ampere and not masked and not too_wide:
        return FLASH
    multiple = 8 if half else 4 if ampere else 1
    known = ampere or dtype != torch.bfloat16
    return EFFICIENT if known and width % multiple == 0 and not grouped else None


def expected(capability: tuple[int, int], dtype: torch.dtype, *, grouped: bool, **options: Any) -> Arrangement:
    """Return how a run arranges its attention on a GPU that is not there, for a forecast. options: of `rule`."""
    for kind, repeated in _candidates(dtype, grouped=grouped):
        kernel = rule(capability, kind, grouped=grouped and not repeated, **options)
        if kernel is not None:
            return Arrangement(kernel=kernel, repeated=repeated, in_float32=kind != dtype)
    return Arrangement(kernel=PLAIN)


def scaled_dot_product(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    mask: torch.Tensor | None = None,
    dropout: float = 0.0,
    causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """Return torch's scaled dot-product attention [rows, heads, tokens, width], by a fused kernel where one takes it.

    key, value: with as many heads as queries, or fewer that divide them.
    """
    dtype = query.dtype
    arrangement, query, key, value = arranged(query, key, value, mask=mask, dropout=dropout, causal=causal)
    note_used(arrangement.described())
    with _autocast_allowed(arrangement, query.device.type):
        out = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=causal and mask is None,
            scale=scale,
            enable_gqa=key.shape[1] != query.shape[1],
        )
    return out.to(dtype)


def _autocast_allowed(arrangement: Arrangement, kind: str) -> contextlib.AbstractContextManager[Any]:
    """Return a context without autocast where it would undo the cast to float32."""
    return torch.autocast(kind, enabled=False) if arrangement.in_float32 else contextlib.nullcontext()


def same_type(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return queries, keys and values in one type.

    Under autocast, rotated queries may be float32 beside values in 16 bits; the ordinary function casts them too.
    """
    kind = tensors[0].device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensors[-1].dtype
    return tuple(tensor.to(dtype) for tensor in tensors)


def repeat_heads(heads: torch.Tensor, groups: int) -> torch.Tensor:
    """Return as many heads as queries have, of [rows, key heads, keys, width]."""
    if groups == 1:
        return heads
    num_rows, num_heads, num_keys, width = heads.shape
    wide = heads[:, :, None].expand(num_rows, num_heads, groups, num_keys, width)
    return wide.reshape(num_rows, num_heads * groups, num_keys, width)


# ---------------------------------------------------------------- the models' own attention


def install() -> None:
    """Arrange the attention of all models that run by transformers' "sdpa" function, from now on; nothing on a CPU."""
    if torch.cuda.is_available():
        AttentionInterface.register(SDPA, attention)


class _Ungrouped:
    """Hold what transformers' function reads of an attention module, for keys that are repeated already."""

    def __init__(self, module: Any) -> None:
        self.is_causal = getattr(module, "is_causal", True)


def attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """The function behind the name "sdpa": transformers' own, with what it is given arranged on a GPU.

    A single query has few scores, and what else transformers may pass (a paged cache, a position bias) is left to it.
    """
    own = options.get("cache") is None and options.get("position_bias") is None
    if query.shape[2] == 1 or not own:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, is_causal=is_causal, **options
        )
    query, key, value = same_type(query, key, value)
    dtype, causal = query.dtype, getattr(module, "is_causal", True) if is_causal is None else is_causal
    arrangement, query, key, value = arranged(
        query, key, value, mask=attention_mask, dropout=dropout, causal=bool(causal)
    )
    note_used(arrangement.described())
    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.to(query.dtype)
    seen_by = _Ungrouped(module) if arrangement.repeated else module
    with _autocast_allowed(arrangement, query.device.type):
        out, weights = sdpa_attention_forward(
            seen_by, query, key, value, attention_mask, dropout=dropout, is_causal=is_causal, **options
        )
    return out.to(dtype), weights
