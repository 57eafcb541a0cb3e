"""A tiny random model of every decoder of the installed transformers, as far as its config can be made small."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCABULARY = 97
# Of a field's names in the configs of many families; each takes those that it has.
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "embed_dim", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "decoder_ffn_dim", "d_ff"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "n_head_kv"), 2),
    **dict.fromkeys(("head_dim", "attention_head_dim", "v_head_dim", "d_kv"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx"), 128),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "num_experts_per_token"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 16),
    "n_group": 1,
    "topk_group": 1,
    "rotary_dim": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "first_k_dense_replace": 1,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "sliding_window": 5,
    "initializer_range": 0.2,
    "init_std": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
# A larger one is not made: it would take the test's time.
MOST_PARAMETERS = 3_000_000


def kinds() -> list[str]:
    """Return every model type of which transformers has a decoder that writes text."""
    return sorted(kind for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if kind in CONFIG_MAPPING)


def make(kind: str) -> Any:
    """Return a tiny random model of a type, in evaluation mode. Raises whatever its class makes of small sizes."""
    family = CONFIG_MAPPING[kind]
    known = family().to_dict()
    fields = {name: value for name, value in SMALL.items() if name in {*known, *family.attribute_map}}
    for name, size in (("layer_types", 2), ("mlp_layer_types", 2)):
        if isinstance(known.get(name), list):
            fields[name] = [known[name][0], known[name][-1]][:size]
    config = family(**fields)
    with torch.device("meta"):
        size = sum(part.numel() for part in AutoModelForCausalLM.from_config(config).parameters())
    if size > MOST_PARAMETERS:
        raise ValueError(f"{size:,} parameters")
    torch.manual_seed(13)
    model = AutoModelForCausalLM.from_config(config).eval()
    if getattr(config, "vocab_size", None) != VOCABULARY or config.is_encoder_decoder:
        raise ValueError("no small vocabulary, or an encoder-decoder")
    return model
