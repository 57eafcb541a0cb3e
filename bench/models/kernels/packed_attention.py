"""Attention that keeps texts apart which follow one another in one row, without any pad between them."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional

from bench.models.kernels import fused, patch

# Of the attention function in transformers' interface.
NAME = "bench_unpadded"


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Places of a padded batch's real tokens [rows, columns] in one row, shortest texts first.

    places: [tokens], of each in the flattened batch. runs: (texts, their length), for neighbours of equal length.
    """

    shape: tuple[int, int]
    places: torch.Tensor
    runs: tuple[tuple[int, int], ...]
    configs: Sequence[Any]
    _memo: dict[Any, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, mask: torch.Tensor, configs: Sequence[Any]) -> "Packing | None":
        """Pack by an attention mask [rows, columns]; None where there is nothing to gain: no pad, or an empty row."""
        host = mask.bool().cpu()  # the only time that the host waits for the device
        lengths = host.sum(1)
        if int(lengths.min()) == 0 or int(lengths.min()) == host.shape[1]:
            return None
        order = lengths.argsort(stable=True)
        row, column = host[order].nonzero(as_tuple=True)
        sizes, texts = lengths.unique(return_counts=True)
        return cls(
            shape=(host.shape[0], host.shape[1]),
            places=(order[row] * host.shape[1] + column).to(mask.device, non_blocking=True),
            runs=tuple(zip(texts.tolist(), sizes.tolist(), strict=True)),
            configs=configs,
        )

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Keep these texts apart in the model's attention, inside of the `with`."""
        token = ACTIVE.set(self)
        try:
            with patch.attention_function(self.configs, NAME):
                yield
        finally:
            ACTIVE.reset(token)

    def packed(self, batch: torch.Tensor) -> torch.Tensor:
        """Return [1, tokens, ...] of a padded batch [rows, columns, ...]."""
        return batch.flatten(0, 1).index_select(0, self.places)[None]

    def padded(self, row: torch.Tensor) -> torch.Tensor:
        """Return [rows, columns, width], with zeros for pads, of a row [1, tokens, width]."""
        grid = row.new_zeros(self.shape[0] * self.shape[1], row.shape[-1])
        return grid.index_copy(0, self.places, row[0]).view(*self.shape, row.shape[-1])

    def kept(self, name: Any, make: Callable[[], Any]) -> Any:
        """Return what is the same for all layers of a forward, made once."""
        if name not in self._memo:
            self._memo[name] = make()
        return self._memo[name]


ACTIVE: ContextVar[Packing | None] = ContextVar("bench_unpad", default=None)


def recomputing() -> tuple[contextlib.AbstractContextManager[Any], contextlib.AbstractContextManager[Any]]:
    """Return `context_fn` of torch's checkpoint: the packing of a layer's forward holds when it is recomputed."""
    packing = ACTIVE.get()
    return contextlib.nullcontext(), contextlib.nullcontext() if packing is None else packing.active()


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """The registered function. query: [1, heads, tokens, width]; returns [1, tokens, heads, width]."""
    packing = ACTIVE.get()
    if packing is None:
        raise RuntimeError(f"attention {NAME!r} is used outside of a forward without pads")
    if attention_mask is not None:
        raise patch.UnsupportedError("makes an attention mask of its own")
    patch.refuse_unknown(others)
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    query, key, value = fused.same_type(query, key, value)
    kernel = PackedAttention(
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        dropout=dropout,
        window=sliding_window,
        softcap=softcap,
        causal=bool(causal),
    )
    if kernel.takes_any_lengths(query, key, value):
        fused.note_used(fused.VARLEN)
        return kernel.varlen(query, key, value, packing), None
    if query.device.type != "cpu" or query.dtype == torch.float32:
        return kernel.by_runs(query, key, value, packing), None
    # On a CPU the kernel in 16 bits is no faster forward, and twice as slow backward.
    with torch.autocast("cpu", enabled=False):
        out = kernel.by_runs(query.float(), key.float(), value.float(), packing)
    return out.to(query.dtype), None


@dataclass(frozen=True, kw_only=True)
class PackedAttention:
    """Attention inside of each text. window: how far a token sees, itself included; back only where causal."""

    scale: float
    dropout: float = 0.0
    window: int | None = None
    softcap: float | None = None
    causal: bool = False

    def takes_any_lengths(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
        """Return whether torch's kernel for texts of any length can be used: FlashAttention, which the GPU must take.

        It knows windows, but no dropout and no cap; and nobody pads its heads to a multiple of eight.
        """
        if self.dropout or self.softcap is not None or query.shape[-1] % 8 or query.shape[-1] != value.shape[-1]:
            return False
        return fused.takes(query, key, value, causal=self.causal) == fused.FLASH

    def varlen(self, query: Any, key: Any, value: Any, packing: Packing) -> torch.Tensor:
        """Run all texts in one call, on a GPU."""
        from torch.nn.attention.varlen import varlen_attn

        ends, longest = packing.kept("ends", lambda: _ends(packing))
        far = -1 if self.window is None else self.window - 1
        heads = [part[0].transpose(0, 1).contiguous() for part in (query, key, value)]
        out = varlen_attn(
            *heads,
            ends,
            ends,
            longest,
            longest,
            scale=self.scale,
            window_size=(far, 0 if self.causal else far),
            enable_gqa=key.shape[1] != query.shape[1],
        )
        return out[None]

    def by_runs(self, query: Any, key: Any, value: Any, packing: Packing) -> torch.Tensor:
        """Run one call for each run of texts of equal length."""
        sizes = [texts * length for texts, length in packing.runs]
        # The backward of `split` joins the parts' gradients; that of a slice would fill all the rest with zeros.
        parts = zip(*(heads.transpose(1, 2).split(sizes, 1) for heads in (query, key, value)), strict=True)
        outputs = []
        for (texts, length), run in zip(packing.runs, parts, strict=True):
            one, other, third = (heads.reshape(texts, length, *heads.shape[2:]).transpose(1, 2) for heads in run)
            out = self._run(one, other, third, packing)
            outputs.append(out.transpose(1, 2).reshape(1, texts * length, *out.shape[1:2], out.shape[-1]))
        return torch.cat(outputs, 1)

    def _run(self, query: Any, key: Any, value: Any, packing: Packing) -> torch.Tensor:
        """[texts, heads, length, width] each."""
        length = query.shape[2]
        seen = None
        if self.window is not None and self.window < length:
            name = ("seen", self.window, self.causal, length)
            seen = packing.kept(name, lambda: _seen(length, self.window or 0, self.causal, query.device))
        if self.softcap is None:
            return fused.scaled_dot_product(
                query, key, value, mask=seen, dropout=self.dropout, causal=self.causal, scale=self.scale
            )
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        scores = torch.matmul(query, key.transpose(-1, -2)) * self.scale
        scores = torch.tanh(scores / self.softcap) * self.softcap
        if seen is None and self.causal:
            seen = packing.kept(("seen", length), lambda: _seen(length, length, True, query.device))
        if seen is not None:
            scores = scores.masked_fill(~seen, -torch.inf)
        weights = functional.softmax(scores, -1, dtype=torch.float32).to(query.dtype)
        return torch.matmul(functional.dropout(weights, self.dropout), value)


def _ends(packing: Packing) -> tuple[torch.Tensor, int]:
    lengths = [length for texts, length in packing.runs for _ in range(texts)]
    ends = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    return ends.to(packing.places.device, non_blocking=True), max(lengths)


def _seen(length: int, window: int, causal: bool, device: torch.device) -> torch.Tensor:
    """Return which keys of one text lie inside of the window, [queries, keys]."""
    places = torch.arange(length, device=device)
    far = places[:, None] - places
    return (far >= 0) & (far < window) if causal else far.abs() < window
