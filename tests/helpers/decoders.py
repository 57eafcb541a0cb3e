"""Small random decoders of many architectures, also of those that the harness has no card for."""

from typing import Any

import torch
import transformers
from transformers.utils import logging

VOCABULARY = 97
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    # Wide enough for log-likelihoods to differ by whole nats.
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ALTERNATING = ["sliding_attention", "full_attention", "sliding_attention"]
GPT2 = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 128,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OTHERS = {key: value for key, value in SMALL.items() if key not in ("head_dim", "num_key_value_heads")}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
# Windows of 3 and 5 end inside of rows, those of 20 inside of prefixes, those of 60 nowhere.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", GPT2),
    "llama": ("llama", SMALL),
    "mistral-3": ("mistral", {**SMALL, "sliding_window": 3}),
    "mistral-20": ("mistral", {**SMALL, "sliding_window": 20}),
    "mistral-60": ("mistral", {**SMALL, "sliding_window": 60}),
    "gemma": ("gemma", SMALL),
    "gemma2-5": ("gemma2", {**SMALL, "sliding_window": 5, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 3.0}),
    "gemma2-20": ("gemma2", {**SMALL, "sliding_window": 20, "final_logit_softcapping": 2.0}),
    "gemma3": ("gemma3_text", {**SMALL, "sliding_window": 5, "layer_types": ALTERNATING}),
    "qwen2": ("qwen2", SMALL),
    "qwen3": ("qwen3", SMALL),
    "gpt_neox": ("gpt_neox", OTHERS),
    "phi3": ("phi3", SMALL),
    "opt": ("opt", {**OTHERS, "ffn_dim": 48, "word_embed_proj_dim": 32, "init_std": 0.2}),
    "cohere": ("cohere", {**SMALL, "logit_scale": 0.5}),
    "granite": ("granite", {**SMALL, "logits_scaling": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.5}),
    "mixtral": ("mixtral", {**SMALL, **EXPERTS}),
}
REFUSED = {
    "bloom": ("bloom", {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4}, "of its own"),
    "gpt_oss": ("gpt_oss", {**SMALL, **EXPERTS, "sliding_window": 5, "layer_types": ALTERNATING}, "adds something"),
    "t5": ("t5", {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2}, "encoder-decoder"),
}
logging.set_verbosity_error()
torch.set_num_threads(1)


def build(kind: str, settings: dict[str, Any]) -> Any:
    """A random model, in evaluation mode."""
    torch.manual_seed(13)
    config = transformers.AutoConfig.for_model(kind, **settings)
    family = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    return family.from_config(config).eval()
