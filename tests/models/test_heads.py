"""models/heads.py: which modules are a head, which the blocks; the MLP head; the probe's features."""

import pytest
import torch
import transformers
from torch import nn

from bench.config.contracts import LoadPlan
from bench.config.recipe import Head
from bench.models import heads
from tests.helpers import models as tiny

HEADS = {name: ["score"] for name in tiny.DECODERS} | {
    "albert": ["classifier"],
    "bert": ["classifier"],
    "distilbert": ["pre_classifier", "classifier"],
    "roberta": ["classifier"],
    "t5": ["classification_head"],
}
BLOCKS = {
    "albert": ("AlbertLayerGroup", 1),
    "bert": ("BertLayer", 3),
    "distilbert": ("TransformerBlock", 3),
    "gemma": ("GemmaDecoderLayer", 3),
    "gemma2": ("Gemma2DecoderLayer", 3),
    "gpt2": ("GPT2Block", 3),
    "llama": ("LlamaDecoderLayer", 3),
    "mistral": ("MistralDecoderLayer", 3),
    "qwen2": ("Qwen2DecoderLayer", 3),
    "roberta": ("RobertaLayer", 3),
    "t5": ("T5Block", 3),
}
DEPTH = {"distilbert": "n_layers", "gpt2": "n_layer", "t5": "num_decoder_layers"}


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_heads_and_blocks_of_every_family(name, tmp_path):
    depth = DEPTH.get(name, "num_hidden_layers")
    model = tiny.build(tiny.narrow(name, **{depth: 3}), tmp_path)
    assert heads.head_names(model) == HEADS[name]
    blocks = heads.transformer_blocks(model)
    assert (type(blocks[0]).__name__, len(blocks)) == BLOCKS[name]
    assert heads.reads_last_token(model) == (name in tiny.DECODERS)


def test_an_encoder_decoders_blocks_are_the_decoders_even_if_fewer(tmp_path):
    model = tiny.build(tiny.narrow("t5", num_layers=4, num_decoder_layers=1), tmp_path)
    assert heads.transformer_blocks(model) == list(model.transformer.decoder.block)


def test_layers_that_are_sharded_as_one_are_those_of_the_stacks_where_a_model_names_none(tmp_path):
    assert heads.layer_classes(tiny.build(tiny.card("t5"), tmp_path)) == {"T5Block"}
    sizes = dict.fromkeys(("d_model", "encoder_ffn_dim", "decoder_ffn_dim", "vocab_size", "decoder_vocab_size"), 8)
    counts = ("encoder_layers", "decoder_layers", "encoder_attention_heads", "decoder_attention_heads")
    layers = dict.fromkeys(counts, 1)
    special = {"pad_token_id": 0, "max_position_embeddings": 8}
    model = transformers.MarianMTModel(transformers.MarianConfig(**sizes, **layers, **special))
    assert heads.layer_classes(model) == {"MarianEncoderLayer", "MarianDecoderLayer"}


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_blocks_of_a_wrapped_model(method, tmp_path):
    model = tiny.adapted(tiny.card("t5"), tmp_path, method)
    assert [type(block).__name__ for block in heads.transformer_blocks(model)] == ["T5Block", "T5Block"]
    assert heads.unwrapped_head_names(model) == ["classification_head"]


def test_a_probe_has_no_head_to_spare(tmp_path):
    assert heads.unwrapped_head_names(tiny.adapted(tiny.card("bert"), tmp_path, "probe")) == []


# ---------------------------------------------------------------- language models

FINAL_NORMS = dict.fromkeys(tiny.DECODERS, "model.norm") | {
    "gpt2": "transformer.ln_f",
    "t5": "decoder.final_layer_norm",
}


@pytest.mark.parametrize("name", tiny.WRITERS)
def test_an_output_head_is_no_task_head(name, tmp_path):
    depth = DEPTH.get(name, "num_hidden_layers")
    model = tiny.text_build(tiny.narrow(name, **{depth: 3}), tmp_path)
    assert heads.is_generative(model)
    assert heads.head_names(model) == []
    assert heads.output_head_names(model) == ["lm_head"]
    assert heads.unwrapped_head_names(model) == ["lm_head"]
    blocks = heads.transformer_blocks(model)
    assert (type(blocks[0]).__name__, len(blocks)) == BLOCKS[name]
    assert heads.final_norms(model) == [model.get_submodule(FINAL_NORMS[name])]


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_classifiers_do_not_write(name, tmp_path):
    model = tiny.build(tiny.card(name), tmp_path)
    assert not heads.is_generative(model)
    assert heads.output_head_names(model) == []
    assert not heads.is_generative(tiny.adapted(tiny.card(name), tmp_path, "probe"))


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_the_output_head_of_a_wrapped_model(method, tmp_path):
    for name in ("gemma2", "t5"):
        model = tiny.text_adapted(tiny.card(name), tmp_path, method)
        assert heads.is_generative(model)
        assert heads.unwrapped_head_names(model) == ["lm_head"]
        assert len(heads.transformer_blocks(model)) == 2


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ({"model_type": "opt", "ffn_dim": 64, "word_embed_proj_dim": 32}, ["model.decoder.final_layer_norm"]),
        ({"model_type": "bloom"}, ["transformer.ln_f"]),
        ({"model_type": "gpt_neox", "intermediate_size": 64}, ["gpt_neox.final_layer_norm"]),
        ({"model_type": "phi", "intermediate_size": 64}, ["model.final_layernorm"]),
        ({"model_type": "falcon"}, ["transformer.ln_f"]),
        ({"model_type": "bart", "encoder_layers": 2, "decoder_layers": 2, "d_model": 32}, []),
        (
            {"model_type": "mbart", "encoder_layers": 2, "decoder_layers": 2, "d_model": 32},
            ["model.decoder.layer_norm"],
        ),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_final_norms_of_other_families(architecture, expected):
    """Their order beside the blocks means nothing, and norms of embeddings stand there too."""
    sizes = {} if "d_model" in architecture else {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.AutoConfig.for_model(**architecture, **sizes, vocab_size=64)
    seq2seq = config.is_encoder_decoder
    kind = transformers.AutoModelForSeq2SeqLM if seq2seq else transformers.AutoModelForCausalLM
    with torch.device("meta"):
        model = kind.from_config(config)
    assert heads.final_norms(model) == [model.get_submodule(name) for name in expected]
    assert len(heads.output_head_names(model)) == 1


def test_an_output_head_takes_what_it_is_given_in_its_own_type(tmp_path):
    model = tiny.text_adapted(tiny.card("llama", dtype="bfloat16"), tmp_path, "qlora", {"compute_dtype": "float32"})
    inner = heads.unwrapped(model)
    assert {inner.lm_head.weight.dtype, inner.model.embed_tokens.weight.dtype} == {torch.bfloat16}
    assert inner.model.norm.weight.dtype == torch.float32
    assert inner.lm_head(torch.randn(2, 64)).dtype == torch.bfloat16


# ---------------------------------------------------------------- MLP head


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_mlp_head_takes_the_place_of_the_last_head_module(name, tmp_path):
    model = tiny.build(tiny.card(name), tmp_path, head=Head(kind="mlp", hidden=24, dropout=0.25))
    assert heads.head_names(model) == HEADS[name]
    head = getattr(model, HEADS[name][-1])
    assert isinstance(head, heads.MlpHead)
    assert head.first_token == (name in ("roberta", "t5"))
    assert (head.mlp_in.in_features, head.mlp_in.out_features, head.dropout.p) == (64, 24, 0.25)
    assert (head.mlp_out.in_features, head.mlp_out.out_features) == (24, 3)


def test_mlp_head_by_hand():
    torch.manual_seed(0)
    head = heads.MlpHead(4, 5, 2, dropout=0.5, first_token=True).eval()
    features = torch.randn(3, 7, 4)
    first = features[:, 0]
    expected = nn.functional.gelu(first @ head.mlp_in.weight.T + head.mlp_in.bias) @ head.mlp_out.weight.T
    torch.testing.assert_close(head(features), expected + head.mlp_out.bias)
    torch.testing.assert_close(head(first), head(features))
    assert heads.MlpHead(4, 5, 2, dropout=0.5, first_token=False)(features).shape == (3, 7, 2)


def test_mlp_head_with_a_norm_by_hand():
    torch.manual_seed(0)
    head, features = heads.MlpHead(4, 5, 2, 0.5, first_token=False, norm=True).eval(), torch.randn(3, 4)
    nn.init.normal_(head.mlp_norm.weight)
    inner = nn.functional.layer_norm(head.mlp_in(features), (5,), head.mlp_norm.weight, head.mlp_norm.bias)
    torch.testing.assert_close(head(features), head.mlp_out(nn.functional.gelu(inner)))


def test_mlp_heads_names_are_no_other_heads():
    names = {name for name, _ in heads.MlpHead(4, 5, 2, 0.0, first_token=False).named_parameters()}
    assert names == {"mlp_in.weight", "mlp_in.bias", "mlp_out.weight", "mlp_out.bias"}


# ---------------------------------------------------------------- float32 heads


@pytest.mark.parametrize(
    ("name", "head"),
    [*((name, Head()) for name in tiny.FAMILIES), *((name, Head(kind="mlp", hidden=24)) for name in tiny.KINDS)],
)
def test_a_float32_head_on_a_16_bit_body(name, head, tmp_path):
    known = tiny.card(name, dtype="bfloat16")
    model = tiny.build(known, tmp_path, LoadPlan(frozen_body=True), head=head)
    for part in HEADS[name]:
        heads.keep_in_float32(getattr(model, part))
    inputs = tiny.batch(tiny.tokenizer(known))
    answer = model(**{key: value for key, value in inputs.items() if key != "labels"}).logits
    assert answer.dtype == torch.float32
    assert answer.shape == (len(tiny.TEXTS), 3)


# ---------------------------------------------------------------- probe


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_features_are_the_mean_over_real_tokens(name, tmp_path):
    known = tiny.card(name)
    probe = tiny.adapted(known, tmp_path, "probe", {"pooling": "mean"}).eval()
    inputs = tiny.batch(tiny.tokenizer(known))
    with torch.no_grad():
        found = probe.features(inputs["input_ids"], inputs["attention_mask"])
        encoder = probe.base.encoder if name == "t5" else probe.base
        for row, (ids, mask) in enumerate(zip(inputs["input_ids"], inputs["attention_mask"], strict=True)):
            states = encoder(input_ids=ids[mask == 1][None]).last_hidden_state[0]
            torch.testing.assert_close(found[row], states.mean(0), atol=1e-5, rtol=0)


def test_features_of_the_first_token(tmp_path):
    known = tiny.card("bert")
    probe = tiny.adapted(known, tmp_path, "probe", {"pooling": "first"}).eval()
    inputs = tiny.batch(tiny.tokenizer(known))
    del inputs["labels"]
    with torch.no_grad():
        found = probe.features(**inputs)
        torch.testing.assert_close(found, probe.base(**inputs).last_hidden_state[:, 0])
        probe.linear.weight.normal_()
        torch.testing.assert_close(probe(**inputs).logits, found @ probe.linear.weight.T + probe.linear.bias)


def test_features_of_a_16_bit_body_are_float32(tmp_path):
    known = tiny.card("llama", dtype="bfloat16")
    probe = tiny.adapted(known, tmp_path, "probe")
    assert probe.base.dtype == torch.bfloat16
    assert tiny.logits(probe, tiny.batch(tiny.tokenizer(known))).dtype == torch.float32
