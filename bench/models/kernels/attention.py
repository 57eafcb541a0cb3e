"""Scaled dot-product attention that also tells the log-sum-exp of its scores, so that parts of it can be merged."""

from dataclasses import dataclass
from typing import Any

import torch

from bench.models.kernels import fused
from bench.models.kernels.fused import repeat_heads
from bench.models.library_internals import torch_internals

# Scores held at once by the plain kernel: 64 MiB in float32.
SCORES = 2**24


def merge(left: torch.Tensor, left_lse: torch.Tensor, right: torch.Tensor, right_lse: torch.Tensor) -> torch.Tensor:
    """Return attention to two sets of keys together, from the attention to each.

    left, right: [..., queries, width]; their log-sum-exp of scores: [..., queries], -inf where no key is seen. Each
    side's share of the softmax's denominator is exp(lse), so the sides' weights are a sigmoid of the difference.
    """
    lowest = torch.finfo(left_lse.dtype).min  # -inf - -inf would be NaN
    share = torch.sigmoid(left_lse.clamp(min=lowest) - right_lse.clamp(min=lowest)).unsqueeze(-1).to(left.dtype)
    return torch.lerp(right, left, share)


@dataclass(frozen=True, kw_only=True)
class AttentionWithLse:
    """Attention that also returns the log-sum-exp of scores. Everything is exact up to rounding."""

    scale: float
    softcap: float | None = None

    def __call__(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        seen: torch.Tensor | None = None,
        causal: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """query: [rows, heads, queries, width]; key, value: [rows, key heads, keys, width]; heads divide by key heads.

        seen: bool, broadcast to [rows, 1, queries, keys]. causal: as many queries as keys, and none sees a later key,
        nor may `seen` show it one.
        Returns [rows, heads, queries, width] and float32 [rows, heads, queries]: 0 and -inf where no key is seen.
        """
        regular = self.softcap is None and query.shape[-1] == value.shape[-1] and query.shape[-1] % 8 == 0
        if regular and query.device.type == "cpu":
            return self._cpu(query, key, value, seen, causal and seen is None)
        if regular and query.device.type == "cuda" and seen is None:
            done = self.on_gpu(query, key, value, causal=causal)
            if done is not None:
                return done
        return self.plain(query, key, value, seen=seen, causal=causal)

    def _cpu(self, query: Any, key: Any, value: Any, seen: Any, causal: bool) -> tuple[torch.Tensor, torch.Tensor]:
        groups = query.shape[1] // key.shape[1]
        num_rows, _, num_queries, _ = query.shape
        key, value = repeat_heads(key, groups), repeat_heads(value, groups)
        bias = None
        if seen is not None:
            bias = torch.zeros(seen.shape, dtype=query.dtype).masked_fill_(~seen, -torch.inf)
            bias = bias.expand(num_rows, 1, num_queries, key.shape[2])
        out, lse = torch_internals.attention_on_cpu(query, key, value, bias=bias, causal=causal, scale=self.scale)
        return out, _without_key(lse, seen)

    def on_gpu(self, query: Any, key: Any, value: Any, *, causal: bool) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Compute it by a fused kernel of a GPU; None where neither of those that tell the log-sum-exp takes it."""
        groups, num_queries, dtype = query.shape[1] // key.shape[1], query.shape[2], query.dtype
        key, value = repeat_heads(key, groups), repeat_heads(value, groups)
        arrangement, query, key, value = fused.arranged(query, key, value, causal=causal)
        if arrangement.kernel not in (fused.FLASH, fused.EFFICIENT):
            return None
        fused.note_used(arrangement.described())
        out, lse = torch_internals.attention_on_gpu(
            query, key, value, flash=arrangement.kernel == fused.FLASH, causal=causal, scale=self.scale
        )
        return out.to(dtype), lse[:, :, :num_queries]  # one of the two pads it

    def plain(
        self, query: Any, key: Any, value: Any, *, seen: torch.Tensor | None = None, causal: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the same by matrix products, a part of the queries at a time: for caps, odd widths, masks on GPUs."""
        groups = query.shape[1] // key.shape[1]
        key, value = repeat_heads(key, groups), repeat_heads(value, groups)
        num_rows, num_heads, num_queries, _ = query.shape
        step = max(1, SCORES // (num_rows * num_heads * key.shape[2]))
        parts = []
        for start in range(0, num_queries, step):
            end = min(start + step, num_queries)
            # A causal part sees no key behind its own last query.
            last = end if causal else key.shape[2]
            visible = seen[:, :, start:end, :last] if seen is not None and seen.shape[2] > 1 else seen
            if causal and seen is None:
                visible = torch.ones(end - start, last, dtype=torch.bool, device=query.device).tril_(start)[None, None]
            parts.append(self._part(query[:, :, start:end], key[:, :, :last], value[:, :, :last], visible))
        return torch.cat([out for out, _ in parts], 2), torch.cat([lse for _, lse in parts], 2)

    def _part(self, query: Any, key: Any, value: Any, seen: Any) -> tuple[torch.Tensor, torch.Tensor]:
        scores = torch.matmul(query, key.transpose(-1, -2)).float().mul_(self.scale)
        if self.softcap is not None:
            scores = scores.div_(self.softcap).tanh_().mul_(self.softcap)
        if seen is not None:
            scores.masked_fill_(~seen, -torch.inf)
        # A query that sees nothing has no highest score to subtract.
        highest = scores.amax(-1, keepdim=True).clamp_(min=torch.finfo(scores.dtype).min)
        weights = scores.sub_(highest).exp_()
        total = weights.sum(-1, keepdim=True)
        out = torch.matmul(weights.to(value.dtype), value) / total.clamp(min=1e-30).to(value.dtype)
        return out, (highest + total.log())[..., 0]


def _without_key(lse: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
    """Return -inf for a query that sees no key, where the CPU kernel says 0."""
    return lse if seen is None else lse.masked_fill(~seen.any(-1), -torch.inf)
