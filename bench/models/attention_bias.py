"""GPT-2 without biases in its attention projections: `architecture: {attention_bias: false}`.

transformers' GPT-2 has no such field of its own. Zeros that are not parameters stand where the biases would be: nothing
trains or counts them, and a saved model is one that plain transformers loads, and that computes the same.
"""

from typing import Any

import torch

FIELD = "attention_bias"
MODEL_TYPE = "gpt2"
_PROJECTIONS = ("attn.c_attn", "attn.c_proj")


def is_own_field(model_type: str, key: str) -> bool:
    """Return whether a field of an architecture is this one, which transformers does not know of this model."""
    return model_type == MODEL_TYPE and key == FIELD


def apply(model: Any) -> None:
    """Take the biases out of a model whose config says so, in place; nothing for any other."""
    config = model.config
    if config.model_type != MODEL_TYPE or getattr(config, FIELD, True):
        return
    for name, module in model.named_modules():
        if name.endswith(_PROJECTIONS):
            kind, device = module.weight.dtype, module.bias.device
            del module.bias
            module.register_buffer("bias", torch.zeros(module.nf, dtype=kind, device=device))
