"""Tiny random versions of model families: what a person may come with by name, 2 layers and width 32 each."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

VOCABULARY = 300
ENCODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
DECODER = {**ENCODER, "max_position_embeddings": 128}
GROUPED = {**DECODER, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
ALTERNATING = ["sliding_attention", "full_attention"]
WINDOWED = {**GROUPED, "sliding_window": 16, "layer_types": ALTERNATING}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
MODERN_BERT = {**ENCODER, "layer_types": ALTERNATING, "local_attention": 16, "cls_token_id": 1, "sep_token_id": 2}
GEMMA3 = {**WINDOWED, "query_pre_attn_scalar": 8}
GEMMA4 = {
    **WINDOWED,
    "global_head_dim": 16,
    "num_global_key_value_heads": 2,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCABULARY,
}
GEMMA4_VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "patch_size": 8,
    "position_embedding_size": 16,
}
QWEN3_5 = {
    **GROUPED,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 1.0,
        "mrope_section": [2, 1, 1],
    },
}
QWEN3_5_VISION = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_heads": 2,
    "patch_size": 8,
    "out_hidden_size": 32,
    "num_position_embeddings": 16,
}
ROPE_OF_THREE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
QWEN2_5_VISION = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_heads": 2,
    "patch_size": 8,
    "out_hidden_size": 32,
}
LLAMA4 = {
    **GROUPED,
    "intermediate_size_mlp": 48,
    "num_local_experts": 2,
    "interleave_moe_layer_step": 2,
    "attention_chunk_size": 64,
}
LLAMA4_VISION = {
    **VISION,
    "vision_output_dim": 32,
    "projector_input_dim": 32,
    "projector_output_dim": 32,
    "pixel_shuffle_ratio": 0.5,
}


@dataclass(frozen=True, kw_only=True)
class Family:
    """A model type, and what a model of it is expected to be.

    head, writer: classes that a run builds; None for none. own: whether the class of the head is this package's own.
    wrapped: the class that a checkpoint is written with, where it holds other parts beside the text.
    """

    model_type: str
    settings: dict[str, Any]
    kind: str
    head: str
    writer: str | None = None
    own: bool = False
    wrapped: str | None = None
    attention: str = "sdpa"


def _encoder(model_type: str, head: str, settings: dict[str, Any], **extra: Any) -> Family:
    return Family(model_type=model_type, settings=settings, kind="encoder", head=head, **extra)


def _decoder(model_type: str, name: str, settings: dict[str, Any], **extra: Any) -> Family:
    given = {"head": f"{name}ForSequenceClassification", "writer": f"{name}ForCausalLM", **extra}
    return Family(model_type=model_type, settings=settings, kind="decoder", **given)


def _seq2seq(model_type: str, name: str, settings: dict[str, Any]) -> Family:
    head, writer = f"{name}ForSequenceClassification", f"{name}ForConditionalGeneration"
    return Family(model_type=model_type, settings=settings, kind="encoder_decoder", head=head, writer=writer)


FAMILIES: dict[str, Family] = {
    "bert": _encoder("bert", "BertForSequenceClassification", ENCODER),
    "roberta": _encoder("roberta", "RobertaForSequenceClassification", ENCODER),
    "xlm-roberta": _encoder("xlm-roberta", "XLMRobertaForSequenceClassification", ENCODER),
    "albert": _encoder("albert", "AlbertForSequenceClassification", {**ENCODER, "embedding_size": 16}),
    "distilbert": _encoder(
        "distilbert",
        "DistilBertForSequenceClassification",
        {
            "vocab_size": VOCABULARY,
            "dim": 32,
            "hidden_dim": 48,
            "n_layers": 2,
            "n_heads": 2,
            "max_position_embeddings": 64,
        },
    ),
    "electra": _encoder("electra", "ElectraForSequenceClassification", {**ENCODER, "embedding_size": 16}),
    "deberta-v2": _encoder(
        "deberta-v2",
        "DebertaV2ForSequenceClassification",
        {**ENCODER, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False},
        attention="eager",
    ),
    "modernbert": _encoder("modernbert", "ModernBertForSequenceClassification", MODERN_BERT),
    "eurobert": _encoder("eurobert", "EuroBertForSequenceClassification", {**ENCODER, "num_key_value_heads": 2}),
    "gpt2": _decoder(
        "gpt2",
        "GPT2",
        {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128},
        writer="GPT2LMHeadModel",
    ),
    "llama": _decoder("llama", "Llama", GROUPED),
    "llama4_text": _decoder("llama4_text", "Llama4", LLAMA4, own=True),
    "llama4": _decoder(
        "llama4",
        "Llama4",
        {"text_config": LLAMA4, "vision_config": LLAMA4_VISION},
        own=True,
        wrapped="Llama4ForConditionalGeneration",
    ),
    "mistral": _decoder("mistral", "Mistral", {**GROUPED, "sliding_window": None}),
    "ministral": _decoder("ministral", "Ministral", WINDOWED),
    "mistral3": _decoder(
        "mistral3",
        "Ministral3",
        {
            "text_config": {"model_type": "ministral3", **GROUPED},
            "vision_config": {"model_type": "pixtral", **VISION, "head_dim": 8},
        },
        wrapped="Mistral3ForConditionalGeneration",
    ),
    "qwen2": _decoder("qwen2", "Qwen2", {k: v for k, v in GROUPED.items() if k != "head_dim"}),
    "qwen3": _decoder("qwen3", "Qwen3", GROUPED),
    "qwen3_moe": _decoder(
        "qwen3_moe", "Qwen3Moe", {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    ),
    "qwen3_5": _decoder(
        "qwen3_5",
        "Qwen3_5",
        {"text_config": QWEN3_5, "vision_config": QWEN3_5_VISION},
        head="Qwen3_5TextForSequenceClassification",
        wrapped="Qwen3_5ForConditionalGeneration",
    ),
    "qwen2_5_vl": _decoder(
        "qwen2_5_vl",
        "Qwen2_5_VLText",
        {"text_config": {**GROUPED, "rope_parameters": ROPE_OF_THREE}, "vision_config": QWEN2_5_VISION},
        own=True,
        wrapped="Qwen2_5_VLForConditionalGeneration",
    ),
    "qwen3_vl": _decoder(
        "qwen3_vl",
        "Qwen3VLText",
        {
            "text_config": {**GROUPED, "rope_parameters": ROPE_OF_THREE},
            "vision_config": {**QWEN3_5_VISION, "deepstack_visual_indexes": [0]},
        },
        own=True,
        wrapped="Qwen3VLForConditionalGeneration",
    ),
    "gemma": _decoder("gemma", "Gemma", GROUPED),
    "gemma2": _decoder("gemma2", "Gemma2", {**WINDOWED, "query_pre_attn_scalar": 8}, attention="eager"),
    "gemma3_text": _decoder("gemma3_text", "Gemma3", GEMMA3, head="Gemma3TextForSequenceClassification"),
    "gemma3": _decoder(
        "gemma3",
        "Gemma3",
        {"text_config": GEMMA3, "vision_config": VISION, "mm_tokens_per_image": 4},
        head="Gemma3TextForSequenceClassification",
        wrapped="Gemma3ForConditionalGeneration",
    ),
    "gemma4_text": _decoder("gemma4_text", "Gemma4", GEMMA4, own=True),
    "gemma4": _decoder(
        "gemma4",
        "Gemma4",
        {"text_config": GEMMA4, "vision_config": GEMMA4_VISION, "audio_config": None},
        own=True,
        wrapped="Gemma4ForConditionalGeneration",
    ),
    "smollm3": _decoder("smollm3", "SmolLM3", {**GROUPED, "no_rope_layers": [1, 0]}),
    "olmo2": _decoder("olmo2", "Olmo2", GROUPED),
    "olmo3": _decoder("olmo3", "Olmo3", WINDOWED),
    "granite": _decoder("granite", "Granite", GROUPED, own=True),
    "phi3": _decoder("phi3", "Phi3", GROUPED),
    "cohere2": _decoder("cohere2", "Cohere2", WINDOWED, own=True),
    "lfm2": _decoder(
        "lfm2", "Lfm2", {**DECODER, "num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]}, own=True
    ),
    "gpt_neox": _decoder("gpt_neox", "GPTNeoX", DECODER),
    "opt": _decoder("opt", "OPT", {**DECODER, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "falcon": _decoder("falcon", "Falcon", DECODER),
    "mixtral": _decoder("mixtral", "Mixtral", {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "t5": _seq2seq(
        "t5", "T5", {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    ),
    "mt5": _seq2seq(
        "mt5", "MT5", {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    ),
    "bart": _seq2seq(
        "bart",
        "Bart",
        {
            "vocab_size": VOCABULARY,
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "max_position_embeddings": 64,
        },
    ),
}


# Widths that a 4-bit layer computes rightly on every CPU: multiples of 64.
WIDE = {
    **dict.fromkeys(("hidden_size", "intermediate_size", "intermediate_size_mlp", "hidden_size_per_layer_input"), 64),
    **dict.fromkeys(("head_dim", "linear_key_head_dim", "linear_value_head_dim"), 16),
    "global_head_dim": 32,
}


def write(name: str, folder: Path, *, wide: bool = False) -> Path:
    """Write a tiny random checkpoint of a family with transformers alone, and return its folder.

    wide: with the text part of a wrapped model in WIDE.
    """
    family = FAMILIES[name]
    settings = dict(family.settings)
    if wide:
        known = settings["text_config"]
        settings["text_config"] = {**known, **{key: size for key, size in WIDE.items() if key in known}}
        if "mrope_section" in known.get("rope_parameters", {}):
            rotary = {**known["rope_parameters"], "mrope_section": [4, 2, 2]}
            settings["text_config"]["rope_parameters"] = rotary
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    if "text_config" in settings:
        settings["text_config"] = {**settings["text_config"], **ids}
    if family.kind == "encoder_decoder":
        settings["decoder_start_token_id"] = 0
    config = transformers.AutoConfig.for_model(family.model_type, **settings, **ids)
    torch.manual_seed(13)
    kind = getattr(transformers, family.wrapped) if family.wrapped else _auto_class(family)
    make = kind._from_config if family.wrapped else kind.from_config
    model = make(config, attn_implementation=family.attention)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0.0, 0.1, generator=generator)
    model.save_pretrained(folder)
    return folder


def context(name: str) -> int | None:
    """Tokens that a family's tiny model reads at most; None where positions are relative."""
    settings = FAMILIES[name].settings
    known = settings.get("text_config", settings)
    positions = known.get("max_position_embeddings") or known.get("n_positions")
    # RoBERTa and its kin count from behind the pad, whose id is 0 here.
    return positions - 1 if name in ("roberta", "xlm-roberta") else positions


def _auto_class(family: Family) -> Any:
    names = {"decoder": "AutoModelForCausalLM", "encoder_decoder": "AutoModelForSeq2SeqLM"}
    return getattr(transformers, names.get(family.kind, "AutoModel"))
