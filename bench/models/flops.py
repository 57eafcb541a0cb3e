"""Model FLOPs of a training step: frozen weights, adapters and a partly trained stack are charged for what they need.

A multiply-add counts as two operations. Forward: 2 per weight and token (Kaplan et al. 2020, section 2.1), and per
layer of attention 4 per pair of tokens and unit of its heads' width (scores, weighted values), half of that where a
token attends only to earlier ones. Backward: as much again for the gradient of the input, where anything trainable
lies before it, and as much again for the gradient of the weight, where that is trained; both for attention whose
queries, keys or values depend on anything trainable.

Left out: recomputation (it is no model work), norms, activations, softmax, look-ups of embeddings, positional terms,
sliding windows, quantising and dequantising, the virtual tokens of prompt methods, adapters that are no linear layers
(DoRA's norms, IA3's and VeRA's vectors), and experts of a mixture that are not linear layers of their own. The output
head of a language model is charged for every token, though TRL spares itself those without a label on a GPU. An
encoder-decoder that writes is charged for the prompt in the encoder and for the answer in the decoder; one that
classifies, for its input in both, as transformers' classifiers feed it.
"""

import math
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from bench.models.heads import head_names, transformer_blocks, unwrapped

# Layers that read the same input as the one before them, in the naming of the families: what is trained in that one
# does not make their input depend on anything trained.
PARALLEL = {"key", "value", "k_lin", "v_lin", "k_proj", "v_proj", "k", "v", "up_proj", "wi_1"}
# A decoder's attention to the encoder: keys and values are made of the encoder's tokens.
CROSS = {"EncDecAttention", "encoder_attn", "crossattention"}


def step_flops(model: Any, lengths: list[int], answers: list[int] | None = None) -> float:
    """Return the FLOPs of forward and backward for sequences of the given real lengths (one entry per example).

    answers: for an encoder-decoder that writes, the lengths of the answers, and `lengths` are those of the prompts; a
    decoder's lengths are those of prompt and answer together.
    """
    walk = _Walk(model, lengths, lengths if answers is None else answers)
    walk.through(walk.inner, _Place(walk.decoder), trains=False)
    return walk.total


@dataclass(frozen=True)
class _Sizes:
    """tokens: how many a layer runs on. pairs: of tokens, summed over the texts, that attention compares."""

    tokens: int
    pairs: int


@dataclass(frozen=True)
class _Place:
    """Where a module stands. times: how often it runs. once: on one token of each text, not on all.

    crossing: inside of a decoder's attention to the encoder.
    """

    sizes: _Sizes
    times: float = 1.0
    once: bool = False
    crossing: bool = False


class _Walk:
    """A walk through a model's layers in the order in which they run, that adds up what each costs."""

    def __init__(self, model: Any, lengths: list[int], answers: list[int]) -> None:
        self.inner = unwrapped(model)
        self.total = 0.0
        self.texts = len(lengths)
        self.encoder = _Sizes(sum(lengths), sum(length * length for length in lengths))
        self.decoder = _Sizes(sum(answers), sum(length * length for length in answers))
        self.cross = _Sizes(sum(answers), sum(one * other for one, other in zip(lengths, answers, strict=True)))
        self.encoder_trains = False
        config = self.inner.config
        heads = config.num_attention_heads
        self.width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
        # Encoder heads and poolers run on one token of each text; a decoder's `score` on every token.
        self.pooled = {name for name in head_names(self.inner) if name != "score"} | {"pooler"}
        blocks = transformer_blocks(self.inner)
        # ALBERT runs its shared blocks several times.
        shared = blocks and not config.is_encoder_decoder and len(blocks) < config.num_hidden_layers
        self.repeats = {id(block): config.num_hidden_layers / len(blocks) for block in blocks} if shared else {}
        self.unmarked = [id(block) for block in blocks if not any(hasattr(m, "is_causal") for m in block.modules())]

    def through(self, module: nn.Module, place: _Place, *, trains: bool) -> bool:
        """Return whether what `module` gives depends on anything trained; `trains`: whether what it is given does."""
        sizes = place.sizes
        if hasattr(module, "is_causal") or id(module) in self.unmarked:
            trained = any(parameter.requires_grad for parameter in module.parameters())
            share = 0.5 if getattr(module, "is_causal", False) else 1.0
            self.total += 4.0 * share * self.width * sizes.pairs * place.times * (1 + 2 * (trains or trained))
        if isinstance(module, nn.Linear | Conv1D):
            tokens = self.texts if place.once else sizes.tokens
            forward = 2.0 * _weight_size(module.weight) * tokens * place.times
            self.total += forward * (1 + trains + module.weight.requires_grad)
        own = trains or any(parameter.requires_grad for parameter in module.parameters(recurse=False))
        given = trains
        # Llama and its kin name their first norm last.
        for name, child in sorted(module.named_children(), key=lambda item: item[0] != "input_layernorm"):
            if name == "original_module":  # what PEFT keeps of a module that is trained in full; it does not run
                continue
            inside = self._inside(place, name, child)
            if place.crossing and name in PARALLEL:
                given = self.encoder_trains
            elif name not in PARALLEL:
                given = own
            gives = self.through(child, inside, trains=given)
            if name == "encoder" and self.inner.config.is_encoder_decoder:
                self.encoder_trains = gives
            own |= gives
        return own

    def _inside(self, place: _Place, name: str, child: nn.Module) -> _Place:
        sizes = place.sizes
        if self.inner.config.is_encoder_decoder:
            if name == "encoder" or (place.crossing and name in PARALLEL):
                sizes = self.encoder
            elif name in CROSS:
                sizes = self.cross
        times = place.times * self.repeats.get(id(child), 1.0)
        return _Place(sizes, times, place.once or name in self.pooled, place.crossing or name in CROSS)


def _weight_size(weight: Any) -> int:
    state = getattr(weight, "quant_state", None)
    return math.prod(state.shape) if state is not None else weight.numel()
