"""Model FLOPs of a training step: frozen weights, adapters and a partly trained stack are charged for what they need.

A multiply-add counts as two operations. Forward: 2 per weight and token (Kaplan et al. 2020, section 2.1), and per
layer of attention 4 per pair of tokens and unit of its heads' width (scores, weighted values), half of that where a
token attends only to earlier ones. Backward: as much again for the gradient of the input, where anything trainable
lies before it, and as much again for the gradient of the weight, where that is trained; both for attention whose
queries, keys or values depend on anything trainable.

Left out: recomputation (it is no model work), norms, activations, softmax, look-ups of embeddings, positional terms,
sliding windows, quantising and dequantising, the virtual tokens of prompt methods, adapters that are no linear layers
(DoRA's norms, IA3's and VeRA's vectors), and experts of a mixture that are not linear layers of their own. An
encoder-decoder is charged for its input in both stacks, as transformers' classifiers feed it.
"""

import math
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from bench.heads import head_names, transformer_blocks

# Layers that read the same input as the one before them, in the naming of the families: what is trained in that one
# does not make their input depend on anything trained.
PARALLEL = {"key", "value", "k_lin", "v_lin", "k_proj", "v_proj", "k", "v", "up_proj", "wi_1"}


def step_flops(model: Any, lengths: list[int]) -> float:
    """FLOPs of forward and backward for sequences of the given real lengths (one entry per example)."""
    walk = _Walk(model, lengths)
    walk.through(walk.inner, "", trains=False)
    return walk.total


class _Walk:
    """Goes through a model's layers in the order in which they run, and adds up what each costs."""

    def __init__(self, model: Any, lengths: list[int]) -> None:
        self.inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.total = 0.0
        self.texts, self.tokens = len(lengths), sum(lengths)
        self.pairs = sum(length * length for length in lengths)
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

    def through(self, module: nn.Module, name: str, *, trains: bool, times: float = 1.0, once: bool = False) -> bool:
        """Whether what `module` gives depends on anything trained; `trains`: whether what it is given does.

        times: how often it runs. once: on one token of each text, not on all.
        """
        once = once or name in self.pooled
        times *= self.repeats.get(id(module), 1.0)
        if hasattr(module, "is_causal") or id(module) in self.unmarked:
            trained = any(parameter.requires_grad for parameter in module.parameters())
            share = 0.5 if getattr(module, "is_causal", False) else 1.0
            self.total += 4.0 * share * self.width * self.pairs * times * (1 + 2 * (trains or trained))
        if isinstance(module, nn.Linear | Conv1D):
            forward = 2.0 * _weight_size(module.weight) * (self.texts if once else self.tokens) * times
            self.total += forward * (1 + trains + module.weight.requires_grad)
        own = trains or any(parameter.requires_grad for parameter in module.parameters(recurse=False))
        given = trains
        # Llama and its kin name their first norm last.
        for child_name, child in sorted(module.named_children(), key=lambda item: item[0] != "input_layernorm"):
            if child_name == "original_module":  # what PEFT keeps of a module that is trained in full; it does not run
                continue
            given = given if child_name in PARALLEL else own
            own |= self.through(child, child_name, trains=given, times=times, once=once)
        return own


def _weight_size(weight: Any) -> int:
    state = getattr(weight, "quant_state", None)
    return math.prod(state.shape) if state is not None else weight.numel()
