"""A decoder as litgpt builds it, for plans of its jobs: one matrix for queries, keys and values, and LoRA of its own.

    model = GPT(shape_of(config), lora=Lora(rank=8, dropout=0.05, on=("query", "value")))
    chunks = model(ids)  # logits of CHUNK places each, in float32

Shapes and the order of operations are those of Lightning-AI/litgpt (model.py, lora.py, finetune/lora.py), as far as
they hold memory; numbers mean nothing. Keys and values are repeated for each head before attention, as there. Embedding
and output head are two matrices, whatever the checkpoint ties.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from bench.errors import SetupError
from bench.memory.meta_device import Fused

# Places of a text whose logits are one chunk.
CHUNK = 128
PARTS = ("query", "key", "value", "projection", "mlp", "head")
# model_type of transformers -> (norm, gated MLP, residual in parallel, one norm for both, biases, bias of the head).
_KINDS = {
    "llama": ("rms", True, False, False, False, False),
    "mistral": ("rms", True, False, False, False, False),
    "phi3": ("rms", True, False, False, False, False),
    "qwen2": ("rms", True, False, False, False, False),
    "gemma": ("rms", True, False, False, False, False),
    "gemma2": ("rms", True, False, False, False, False),
    "phi": ("layer", False, True, True, True, True),
    "falcon": ("layer", False, True, True, False, False),
    "gpt_neox": ("layer", False, True, False, True, False),
}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a decoder. groups: heads of keys. rotary: of a head's width, the part that is rotated.

    after: whether attention and MLP have a norm behind them, too. cap_scores, cap_logits: soft caps, as in Gemma 2.
    """

    layers: int
    width: int
    heads: int
    groups: int
    head_size: int
    inner: int
    vocabulary: int
    rotary: int
    rms: bool
    gated: bool
    parallel: bool
    shared_norm: bool
    bias: bool
    head_bias: bool
    scaled: bool = False
    after: bool = False
    cap_scores: bool = False
    cap_logits: bool = False


@dataclass(frozen=True, kw_only=True)
class Lora:
    """litgpt's LoRA: rank, dropout, and the PARTS that have one."""

    rank: int
    dropout: float
    on: tuple[str, ...]


def shape_of(config: Any) -> Shape:
    """Return the sizes of a transformers config. Raises SetupError for a family that litgpt's code is not known of."""
    kind = config.model_type
    if kind not in _KINDS:
        raise SetupError(
            f"code litgpt: a model of type {kind!r} is not known to be built there; take {', '.join(_KINDS)}"
        )
    norm, gated, parallel, shared, bias, head_bias = _KINDS[kind]
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    if kind == "falcon" and config.multi_query:
        groups = 1
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    share = (getattr(config, "rope_parameters", None) or {}).get("partial_rotary_factor", 1.0)
    inner = config.ffn_hidden_size if kind == "falcon" else config.intermediate_size
    return Shape(
        layers=config.num_hidden_layers, width=config.hidden_size, heads=heads, groups=groups, head_size=head_size,
        inner=inner, vocabulary=config.vocab_size, rotary=int(share * head_size), rms=norm == "rms", gated=gated,
        parallel=parallel, shared_norm=shared, bias=bias, head_bias=head_bias, scaled=kind in ("gemma", "gemma2"),
        after=kind == "gemma2", cap_scores=kind == "gemma2", cap_logits=kind == "gemma2",
    )  # fmt: skip


class _Norm(nn.Module):
    """RMSNorm, computed in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kind, x = x.dtype, x.float()
        x = x * torch.rsqrt(torch.mean(x * x, dim=-1, keepdim=True) + 1e-6)
        return (x * self.weight.float()).to(kind)


class _Linear(nn.Module):
    """A linear layer with litgpt's LoRA beside it, where it has one. sizes: of the parts of its output that have.

    old_product: whether a 4-bit product makes the whole weight and keeps its input, as bitsandbytes before 0.44 did.
    """

    def __init__(self, inner: int, sizes: tuple[int, ...], whole: int, bias: bool, lora: Lora | None) -> None:
        super().__init__()
        self.linear = nn.Linear(inner, whole, bias=bias)
        self.sizes, self.whole, self.lora, self.old_product = sizes, whole, lora if sizes else None, False
        if self.lora is not None:
            self.lora_a = nn.Parameter(torch.empty(self.lora.rank * len(sizes), inner))
            self.lora_b = nn.Parameter(torch.empty(sum(sizes), self.lora.rank))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.old_product:
            weight = x.new_empty(self.whole, x.shape[-1])
            out = _Kept.apply(self.linear(x), x)
            del weight
        else:
            out = self.linear(x)
        if self.lora is None:
            return out
        down = functional.linear(functional.dropout(x, self.lora.dropout), self.lora_a)
        if len(self.sizes) == 1 and self.sizes[0] == self.whole:
            return out + functional.linear(down, self.lora_b) * 2.0
        parts, weights = down.chunk(len(self.sizes), -1), self.lora_b.split(self.sizes)
        # Grouped convolutions of one place there, which hold as much.
        up = torch.cat([functional.linear(part, weight) for part, weight in zip(parts, weights, strict=True)], -1)
        if sum(self.sizes) < self.whole:
            places = torch.empty(sum(self.sizes), dtype=torch.long, device=x.device)
            up = up.new_zeros(*up.shape[:-1], self.whole).index_copy(-1, places, up)
        return out + up * 2.0


class _Kept(torch.autograd.Function):
    """Keeps an input as an attribute of the graph, which lives on after the backward pass as long as its outputs do."""

    @staticmethod
    def forward(ctx: Any, out: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return the output, as it is."""
        ctx.kept = x if x.requires_grad else None
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """Pass the gradient on; what is kept stays."""
        return gradient, None


class _Attention(nn.Module):
    def __init__(self, shape: Shape, lora: Lora | None) -> None:
        super().__init__()
        on = lora.on if lora is not None else ()
        of_query, of_key = shape.heads * shape.head_size, shape.groups * shape.head_size
        sizes = {"query": of_query, "key": of_key, "value": of_key}
        adapted = tuple(size for name, size in sizes.items() if name in on)
        self.shape = shape
        self.attn = _Linear(shape.width, adapted, of_query + 2 * of_key, shape.bias, lora)
        self.proj = _Linear(of_query, (shape.width,) if "projection" in on else (), shape.width, shape.bias, lora)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        rows, tokens, _ = x.shape
        shape, each = self.shape, self.shape.heads // self.shape.groups
        qkv = self.attn(x).view(rows, tokens, shape.groups, each + 2, shape.head_size).permute(0, 2, 3, 1, 4)
        query, key, value = qkv.split((each, 1, 1), dim=2)
        if shape.groups != shape.heads:
            key, value = (part.expand(-1, -1, each, -1, -1) for part in (key, value))
        query, key, value = (part.reshape(rows, -1, tokens, shape.head_size) for part in (query, key, value))
        query, key = (
            torch.cat((_rotated(part[..., : shape.rotary], cos, sin), part[..., shape.rotary :]), -1)
            for part in (query, key)
        )
        out = _capped(query, key, value) if shape.cap_scores else Fused.apply(query, key, value, False)
        return self.proj(out.transpose(1, 2).reshape(rows, tokens, shape.heads * shape.head_size))


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return (x * cos + torch.cat((-second, first), -1) * sin).to(x.dtype)


def _capped(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return attention with a soft cap, for which there is no fused kernel."""
    scores = torch.tanh(query @ key.mT * 0.1 / 50.0) * 50.0
    scores = scores + torch.empty(query.shape[2], query.shape[2], dtype=query.dtype, device=query.device)
    return functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype) @ value


class _Mlp(nn.Module):
    def __init__(self, shape: Shape, lora: Lora | None) -> None:
        super().__init__()
        adapted = lora is not None and "mlp" in lora.on
        inner, out = ((shape.inner,), (shape.width,)) if adapted else ((), ())
        self.shape = shape
        self.fc_1 = _Linear(shape.width, inner, shape.inner, shape.bias, lora)
        self.fc_2 = _Linear(shape.width, inner, shape.inner, shape.bias, lora) if shape.gated else None
        self.proj = _Linear(shape.inner, out, shape.width, shape.bias, lora)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.fc_2 is None:
            return self.proj(functional.gelu(self.fc_1(x)))
        gate, other = self.fc_1(x), self.fc_2(x)
        return self.proj(functional.silu(gate) * other)


class _Block(nn.Module):
    def __init__(self, shape: Shape, lora: Lora | None) -> None:
        super().__init__()
        self.shape = shape
        self.norm_1, self.attn = _norm(shape), _Attention(shape, lora)
        self.norm_2, self.mlp = None if shape.shared_norm else _norm(shape), _Mlp(shape, lora)
        self.after_1, self.after_2 = (_norm(shape) if shape.after else nn.Identity() for _ in range(2))

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        normed = self.norm_1(x)
        attended = self.after_1(self.attn(normed, cos, sin))
        if self.shape.parallel:
            normed = normed if self.norm_2 is None else self.norm_2(x)
            return self.mlp(normed) + attended + x
        assert self.norm_2 is not None
        x = attended + x
        return self.after_2(self.mlp(self.norm_2(x))) + x


def _norm(shape: Shape) -> nn.Module:
    return _Norm(shape.width) if shape.rms else nn.LayerNorm(shape.width)


class GPT(nn.Module):
    """The decoder, whose forward pass gives logits as litgpt's fine-tuning has them."""

    def __init__(self, shape: Shape, lora: Lora | None = None) -> None:
        super().__init__()
        self.shape, self.checkpoints = shape, False
        self.wte = nn.Embedding(shape.vocabulary, shape.width)
        self.wte_norm: nn.LayerNorm | None = None
        self.wte_before: nn.Embedding | None = None
        self.strays: list[torch.Tensor] = []
        self.h = nn.ModuleList(_Block(shape, lora) for _ in range(shape.layers))
        self.ln_f = _norm(shape)
        adapted = (shape.vocabulary,) if lora is not None and "head" in lora.on else ()
        self.lm_head = _Linear(shape.width, adapted, shape.vocabulary, shape.head_bias, lora)
        if lora is not None:
            for name, parameter in self.named_parameters():
                parameter.requires_grad_("lora_" in name)

    def forward(self, ids: torch.Tensor) -> list[torch.Tensor]:
        """Return chunks of logits, in float32: Fabric casts whatever a model in bf16 returns."""
        cos, sin = (torch.empty(ids.shape[1], self.shape.rotary, device=ids.device) for _ in range(2))
        x = self.wte(ids)
        if self.wte_norm is not None:
            x = self.wte_norm(x)
        if self.shape.scaled:
            x = x * 2.0
        for block in self.h:
            x = checkpoint(block, x, cos, sin, use_reentrant=False) if self.checkpoints else block(x, cos, sin)
        logits = [self._capped(self.lm_head(part)) for part in self.ln_f(x).split(CHUNK, dim=1)]
        return [part.float() for part in logits]

    def replace_embedding(self) -> None:
        """Do as litgpt does with weights in 4 bits; `strays` then get gradients, and no optimizer zeroes them.

        A StableEmbedding of bitsandbytes comes in after LoRA alone was made trainable and the optimizer was built; the
        old embedding is held by a variable of `main` to the end.
        """
        shape, kind, place = self.shape, self.wte.weight.dtype, self.wte.weight.device
        self.wte_before = self.wte
        self.wte = nn.Embedding(shape.vocabulary, shape.width, dtype=kind, device=place)
        self.wte_norm = nn.LayerNorm(shape.width, dtype=kind, device=place)
        self.strays = [self.wte.weight, *self.wte_norm.parameters()]

    def _capped(self, logits: torch.Tensor) -> torch.Tensor:
        return torch.tanh(logits / 30.0) * 30.0 if self.shape.cap_logits else logits


def chunked_loss(logits: list[torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
    """Return the loss over all tokens, chunk by chunk, in float32."""
    targets = ids[:, 1:].split(CHUNK, dim=1)
    losses = [
        functional.cross_entropy(part.reshape(-1, part.shape[-1]), target.reshape(-1), reduction="none")
        for part, target in zip(logits, targets, strict=True)
    ]
    return torch.cat(losses).sum() / ids.numel()
