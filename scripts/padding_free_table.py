"""Which families of models run without pads: each is asked and probed as at the start of a run, and says why not.

    python scripts/padding_free_table.py [--family NAME ...] [--dtype bfloat16]

Tiny random models in the families' own architectures, one after the other on a CPU, offline, in about 20 seconds. A
model of true size goes through the same probe in every run, whose record has its figures. Prints a table in Markdown:
the largest differences between the padded and the padding-free path, of hidden states and of gradients, and the
gradient of a text by its neighbours in the row, which must be zero.
"""

import argparse
import inspect
import sys
import warnings
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # Python put this file's folder first; what is run is the package of this checkout.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import transformers

from bench import console
from bench.models.kernels import padding_free

# Sizes of a tiny model, for every field of these names that a family's config has.
SIZES: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "sliding_window": 9, "embedding_size": 16,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2,
    # Mixtures of experts.
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4, "num_experts_per_tok": 2,
    "moe_k": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "n_group": 1, "topk_group": 1,
    "n_shared_experts": 1, "first_k_dense_replace": 1,
    # Latent attention.
    "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
    # Other names for the same.
    "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64, "d_model": 32, "n_layers": 4, "n_heads": 4, "dim": 32,
    "hidden_dim": 48, "ffn_dim": 48, "word_embed_proj_dim": 32, "d_ff": 48, "num_layers": 2, "local_attention": 18,
    "num_heads": 4, "mamba_n_heads": 8, "mamba_d_head": 8, "linear_num_value_heads": 4, "linear_num_key_heads": 4,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "attention_chunk_size": 8, "intermediate_size_mlp": 48,
}  # fmt: skip
TEXT_PART = {name: SIZES[name] for name in (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "max_position_embeddings", "sliding_window", "pad_token_id", "bos_token_id", "eos_token_id",
)}  # fmt: skip
VISION_PART = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
               "image_size": 16, "patch_size": 8}  # fmt: skip
LATENT = {"num_key_value_heads": 4}
# family -> fields beside SIZES.
FAMILIES: dict[str, dict[str, Any]] = {
    # Encoders.
    "albert": {}, "bert": {}, "camembert": {}, "distilbert": {}, "electra": {}, "ernie": {}, "esm": {}, "eurobert": {},
    "modernbert": {}, "nomic_bert": {}, "roberta": {}, "roberta-prelayernorm": {}, "xlm-roberta": {}, "mpnet": {},
    "deberta-v2": {}, "t5": {},
    # Decoders.
    "apertus": {}, "arcee": {}, "bitnet": {}, "cohere": {}, "cohere2": {}, "ernie4_5": {}, "exaone4": {}, "gemma": {},
    "gemma2": {}, "gemma3_text": {}, "glm": {}, "glm4": {}, "gpt2": {}, "gpt_bigcode": {}, "gpt_neox": {},
    "granite": {}, "helium": {}, "llama": {}, "ministral": {}, "ministral3": {}, "mistral": {},
    "modernbert-decoder": {}, "nanochat": {}, "nemotron": {}, "olmo": {}, "olmo2": {}, "olmo3": {}, "phi": {},
    "phi3": {}, "qwen2": {}, "qwen3": {}, "seed_oss": {}, "smollm3": {"no_rope_layer_interval": 2}, "starcoder2": {},
    "opt": {}, "bloom": {},
    # The text parts of models for images.
    "gemma3": {"text_config": TEXT_PART, "vision_config": VISION_PART, "image_token_index": 290,
               "mm_tokens_per_image": 4},
    "gemma3n_text": {"num_kv_shared_layers": 0, "activation_sparsity_pattern": [0.0] * 4, "intermediate_size": [48] * 4,
                     "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
                     "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 300},
    "gemma4_text": {"layer_types": ["sliding_attention", "full_attention"] * 2, "global_head_dim": 16,
                    "num_kv_shared_layers": 2, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 300},
    "mistral3": {"text_config": {"model_type": "mistral", **TEXT_PART}, "image_token_index": 290,
                 "vision_config": {"model_type": "pixtral", **VISION_PART, "head_dim": 8}},
    # Mixtures of experts, and latent attention.
    "deepseek_v2": LATENT, "deepseek_v3": LATENT, "dots1": {}, "ernie4_5_moe": {}, "flex_olmo": {}, "glm4_moe": {},
    "gpt_oss": {}, "granitemoe": {}, "jetmoe": {}, "minicpm3": LATENT, "mixtral": {}, "olmoe": {}, "phimoe": {},
    "qwen2_moe": {}, "qwen3_moe": {},
    # States, convolutions, chunks.
    "jamba": {}, "lfm2": {"layer_types": ["conv", "full_attention"] * 2}, "llama4_text": {},
    "mamba": {}, "minimax": {}, "qwen3_5_text": {}, "qwen3_next": {}, "recurrent_gemma": {},
}  # fmt: skip
# Config fields of these endings are dropout; with it no two ways of computing a batch could agree.
DROPOUTS = ("dropout", "pdrop", "dropout_prob", "dropout_rate")


def tiny_config(family: str, **fields: Any) -> Any:
    """Return the family's own config with few and small layers, and without dropout. fields: beside those here."""
    kind = type(transformers.AutoConfig.for_model(family))
    known = inspect.signature(kind).parameters
    fields = {**{name: value for name, value in SIZES.items() if name in known}, **FAMILIES[family], **fields}
    config = kind(**fields)
    for name, value in config.to_dict().items():
        if name.endswith(DROPOUTS) and isinstance(value, float):
            setattr(config, name, 0.0)
    config.use_cache = False
    return config


def tiny_body(family: str, dtype: torch.dtype = torch.float32, **fields: Any) -> Any:
    """Return a random model without a head, with weights large enough for texts to differ."""
    torch.manual_seed(13)
    model = transformers.AutoModel.from_config(tiny_config(family, **fields), dtype=dtype)
    generator = torch.Generator().manual_seed(13)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0.0, 0.1, generator=generator)
    return model


def row(family: str, dtype: torch.dtype) -> list[str]:
    """Return the table's cells of one family."""
    model = tiny_body(family, dtype)
    reason = padding_free.attach(model)
    figures = padding_free.figures(model)
    shown = ["", "", "", ""]
    if figures:
        differences = [figures[name]["difference"] for name in ("hidden_states", "gradients")]
        shown = [f"{value:.1e}" for value in differences]
        shown += [f"{figures['between_texts']['gradient']:.2g}", f"{figures['seconds']:.2f}"]
    return [family, "yes" if reason is None else "no", *shown, reason or ""]


def main(arguments: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", nargs="+", choices=FAMILIES, metavar="NAME", help="only these")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the weights")
    options = parser.parse_args(arguments)
    console.quiet_libraries()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    header = ["family", "padding-free", "hidden states differ by", "gradients by", "between texts", "s", "reason"]
    rows = [row(family, getattr(torch, options.dtype)) for family in options.family or FAMILIES]
    print(f"cpu, {options.dtype}, torch {torch.__version__}, transformers {transformers.__version__}\n")
    for line in (header, ["---"] * len(header), *rows):
        print(f"| {' | '.join(line)} |")
    print(f"\n{sum(line[1] == 'yes' for line in rows)} of {len(rows)} families run without pads")
    return 0


if __name__ == "__main__":
    sys.exit(main())
