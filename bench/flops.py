"""Model FLOPs of a training step: frozen weights, adapters and a partly trained stack are charged for what they need.

A multiply-add counts as two operations. Forward: 2 per weight and token (Kaplan et al. 2020, section 2.1) plus
attention scores. Backward: 2 per weight and token for the gradient of the input, where anything trainable lies before
it, and 2 for the gradient of the weight, where that is trained. Recomputation is not model work and is not counted.
"""

import math
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from bench.heads import transformer_blocks

# Families whose tokens attend only to earlier ones: half of the score matrix is work.
CAUSAL = {"gpt2", "llama", "mistral", "gemma", "gemma2", "gemma3_text", "qwen2", "qwen3", "phi3"}


def step_flops(model: Any, lengths: list[int]) -> float:
    """FLOPs of forward and backward for sequences of the given real lengths (one entry per example)."""
    tokens, squares = sum(lengths), sum(length * length for length in lengths)
    total = 0.0
    trains_before = False
    for name, module in _weighted_modules(model):
        trained = module.weight.requires_grad
        if not isinstance(module, nn.Embedding):
            forward = 2.0 * _weight_size(module.weight) * (len(lengths) if _is_pooled(name) else tokens)
            total += forward * (1 + trains_before + trained)
        trains_before |= trained
    return total + _attention(model, squares)


def _weighted_modules(model: Any) -> list[tuple[str, Any]]:
    kinds = (nn.Linear, Conv1D, nn.Embedding)
    return [(name, module) for name, module in model.named_modules() if isinstance(module, kinds)]


def _weight_size(weight: Any) -> int:
    state = getattr(weight, "quant_state", None)
    return math.prod(state.shape) if state is not None else weight.numel()


def _is_pooled(name: str) -> bool:
    # Encoder heads and poolers run on one token of each text; a decoder's `score` on every token.
    parts = name.removeprefix("base_model.model.").split(".")
    return parts[0] in ("classifier", "pre_classifier", "classification_head", "linear") or "pooler" in parts


def _attention(model: Any, squares: int) -> float:
    """Scores and weighted values: 4 operations per pair of tokens, hidden unit and layer; twice that backward."""
    config = model.config
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or getattr(config, "d_kv", None) or config.hidden_size // heads)
    # An encoder-decoder has self-attention in both stacks and cross-attention in the second.
    layers = config.num_hidden_layers + 2 * (getattr(config, "num_decoder_layers", None) or 0)
    forward = 4.0 * width * squares * layers * (0.5 if config.model_type in CAUSAL else 1.0)
    return forward * (1 + 2 * _share_of_blocks_with_gradients(model))


def _share_of_blocks_with_gradients(model: Any) -> float:
    """Share of blocks that a gradient passes: from the first trained one on; all when an embedding is trained."""
    blocks = transformer_blocks(model)
    if any(part.weight.requires_grad for _, part in _weighted_modules(model) if isinstance(part, nn.Embedding)):
        return 1.0
    trained = [index for index, block in enumerate(blocks) if any(p.requires_grad for p in block.parameters())]
    return (len(blocks) - trained[0]) / len(blocks) if trained else 0.0
