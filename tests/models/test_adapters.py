"""Every method on every family: what it trains, that gradients reach all of it, and what it refuses."""

import math

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from bench.errors import SetupError
from bench.models import build
from bench.training import memory_saving
from tests.helpers import models as tiny
from tests.helpers.cases import cover

pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")

HEAD_PARAMETERS = {name: ["score.weight"] for name in tiny.DECODERS} | {
    "albert": ["classifier.bias", "classifier.weight"],
    "bert": ["classifier.bias", "classifier.weight"],
    "distilbert": ["classifier.bias", "classifier.weight", "pre_classifier.bias", "pre_classifier.weight"],
    "roberta": [f"classifier.{part}.{kind}" for part in ("dense", "out_proj") for kind in ("bias", "weight")],
    "t5": [f"classification_head.{part}.{kind}" for part in ("dense", "out_proj") for kind in ("bias", "weight")],
}
LAST_BLOCK = dict.fromkeys(tiny.DECODERS, "model.layers.1.") | {
    "albert": "albert.encoder.albert_layer_groups.0.",
    "bert": "bert.encoder.layer.1.",
    "distilbert": "distilbert.transformer.layer.1.",
    "gpt2": "transformer.h.1.",
    "roberta": "roberta.encoder.layer.1.",
    "t5": "transformer.decoder.block.1.",
}
# IA3's own defaults do not know every family: keys, and what the second layer of a feed-forward part reads.
IA3 = {
    "albert": (["key", "ffn_output"], ["ffn_output"]),
    "bert": (["key", "output.dense"], ["output.dense"]),
    "distilbert": (["k_lin", "lin2"], ["lin2"]),
    "gpt2": (["c_attn", "mlp.c_proj"], ["mlp.c_proj"]),
    "roberta": (["key", "output.dense"], ["output.dense"]),
    "t5": (["k", "wo"], ["wo"]),
}
DECODERS_IA3 = (["k_proj", "down_proj"], ["down_proj"])
PEFT_METHODS = {
    "lora": ("lora", lambda name: {}),
    "dora": ("lora", lambda name: {"config": {"use_dora": True, "r": 4}}),
    "rslora": ("lora", lambda name: {"config": {"use_rslora": True, "r": 4, "lora_alpha": 8}}),
    "ia3": ("lora", lambda name: {"peft": "IA3Config", "config": ia3(name)}),
    "vera": ("lora", lambda name: {"peft": "VeraConfig", "config": {"target_modules": "all-linear", "r": 8}}),
    "qlora": ("qlora", lambda name: {"compute_dtype": "float32"}),
}


def ia3(name):
    targets, feedforward = IA3.get(name, DECODERS_IA3)
    return {"target_modules": targets, "feedforward_modules": feedforward}


def body_layers(model, name):
    """Names of the linear layers outside of the head."""
    layers = [key for key, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    return sorted(key for key in layers if key.split(".")[0] not in head_modules(name))


def head_modules(name):
    return {parameter.split(".")[0] for parameter in HEAD_PARAMETERS[name]}


def bare(names):
    """Parameter names without what PEFT puts around them; base model names are not mistaken for its prefix."""
    return [name.removeprefix("base_model.model.").replace(".modules_to_save.default", "") for name in names]


def adapt(name, folder, method, **changes):
    kind, settings = PEFT_METHODS[method]
    known = four_bit_card(name, **changes) if method == "qlora" else tiny.card(name, **changes)
    return tiny.adapted(known, folder, kind, settings(name))


def four_bit_card(name, **changes):
    """The tiny card; bitsandbytes can't compute a layer of 32 inputs on every CPU, which the tiny ALBERT has."""
    sizes = {"embedding_size": 64} if name == "albert" else {}
    return tiny.card(name, architecture={**tiny.card(name).architecture, **sizes}, **changes)


# ---------------------------------------------------------------- what is trained


@pytest.mark.parametrize(("name", "method"), cover(tiny.FAMILIES, ["full", "scratch"]))
def test_full_trains_everything(name, method, tmp_path):
    model = tiny.adapted(tiny.card(name), tmp_path, method)
    assert len(tiny.trainable(model)) == len(list(model.parameters()))
    tiny.backward(model, tiny.batch(tiny.tokenizer(tiny.card(name))))
    assert tiny.without_gradient(model) == []


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_head_trains_the_head(name, tmp_path):
    model = tiny.adapted(tiny.card(name), tmp_path, "head")
    assert sorted(tiny.trainable(model)) == HEAD_PARAMETERS[name]
    tiny.backward(model, tiny.batch(tiny.tokenizer(tiny.card(name))))
    assert tiny.without_gradient(model) == []


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_last_layers_trains_the_last_block_and_the_head(name, tmp_path):
    model = tiny.adapted(tiny.card(name), tmp_path, "last_layers", {"blocks": 1})
    block = [key for key, _ in model.named_parameters() if key.startswith(LAST_BLOCK[name])]
    assert len(block) > 5
    assert sorted(tiny.trainable(model)) == sorted([*block, *HEAD_PARAMETERS[name]])
    tiny.backward(model, tiny.batch(tiny.tokenizer(tiny.card(name))))
    assert tiny.without_gradient(model) == []


def test_last_layers_with_the_final_norm_of_a_classifier(tmp_path):
    plain, normed = (
        tiny.adapted(tiny.card("llama"), tmp_path, "last_layers", {"final_norm": trained}) for trained in (False, True)
    )
    assert set(tiny.trainable(normed)) - set(tiny.trainable(plain)) == {"model.norm.weight"}
    with pytest.raises(SetupError, match=r"method\.final_norm is true, but this model has no norm"):
        tiny.adapted(tiny.card("bert"), tmp_path, "last_layers", {"final_norm": True})


def test_last_layers_counts_from_the_output(tmp_path):
    model = tiny.adapted(tiny.narrow("bert", num_hidden_layers=4), tmp_path, "last_layers", {"blocks": 2})
    assert {key.split(".")[3] for key in tiny.trainable(model) if "layer" in key} == {"2", "3"}


@pytest.mark.parametrize(
    ("name", "blocks", "sentence"),
    [
        ("bert", 3, "method.blocks is 3, but the model has 2 block(s)"),
        ("albert", 2, "method.blocks is 2, but the model has 1 block(s) (ALBERT's layers share one block)"),
        ("t5", 3, "method.blocks is 3, but the model has 2 block(s)"),
    ],
)
def test_more_blocks_than_there_are(name, blocks, sentence, tmp_path):
    with pytest.raises(SetupError) as error:
        tiny.adapted(tiny.card(name), tmp_path, "last_layers", {"blocks": blocks})
    assert str(error.value) == sentence


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_probe_trains_nothing_by_gradient_but_a_linear_layer(name, tmp_path):
    probe = tiny.adapted(tiny.card(name), tmp_path, "probe")
    assert tiny.trainable(probe) == []
    counts = build.count_parameters(probe)
    assert counts["trainable"] == (64 + 1) * len(tiny.LABELS)
    assert counts["total"] == counts["trainable"] + sum(parameter.numel() for parameter in probe.base.parameters())
    assert build.num_trainable_names(probe) == 2


@pytest.mark.parametrize("name", tiny.DECODERS)
def test_a_decoders_first_token_is_no_feature(name, tmp_path):
    with pytest.raises(SetupError, match="a decoder's first token sees no other one"):
        tiny.adapted(tiny.card(name), tmp_path, "probe", {"pooling": "first"})


@pytest.mark.parametrize(("name", "method"), cover(tiny.FAMILIES, ["lora", "dora", "qlora"], ["gpt2", "t5"]))
def test_lora_adapts_the_bodys_linear_layers_and_trains_the_head(name, method, tmp_path):
    layers = body_layers(tiny.build(tiny.card(name), tmp_path), name)
    parts = ["lora_A.default.weight", "lora_B.default.weight"]
    if method == "dora":
        parts.append("lora_magnitude_vector.default.weight")
    expected = [f"{layer}.{part}" for layer in layers for part in parts] + HEAD_PARAMETERS[name]
    assert sorted(bare(tiny.trainable(adapt(name, tmp_path, method)))) == sorted(expected)


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("roberta", ["dense"]),
        ("roberta", r".*(dense|out_proj)"),
        ("t5", ["dense", "out_proj", "q"]),
        ("distilbert", ["pre_classifier", "q_lin"]),
        ("bert", r".*(classifier|query)"),
        ("llama", ["score", "q_proj"]),
    ],
)
def test_no_head_is_wrapped_and_also_trained(name, targets, tmp_path):
    model = tiny.adapted(tiny.card(name), tmp_path, "lora", {"config": {"target_modules": targets}})
    trained = bare(tiny.trainable(model))
    assert [key for key in trained if "lora_" not in key] == [
        key for key, _ in tiny.build(tiny.card(name), tmp_path).named_parameters() if key in HEAD_PARAMETERS[name]
    ]
    assert not any("lora_" in key for key in trained if key.split(".")[0] in head_modules(name))


def test_modules_to_save_of_the_recipe_are_kept(tmp_path):
    config = {"modules_to_save": ["word_embeddings"], "exclude_modules": ["query"]}
    trained = bare(tiny.trainable(tiny.adapted(tiny.card("bert"), tmp_path, "lora", {"config": config})))
    assert "bert.embeddings.word_embeddings.weight" in trained
    assert "classifier.weight" in trained
    assert not any("query" in key for key in trained)


def test_rslora_scales_by_the_root_of_the_rank(tmp_path):
    scales = {}
    for method in ("lora", "rslora"):
        config = {"r": 4, "lora_alpha": 8, "use_rslora": method == "rslora"}
        model = tiny.adapted(tiny.card("bert"), tmp_path, "lora", {"config": config})
        layer = model.get_base_model().bert.encoder.layer[0].attention.self.query
        scales[method] = layer.scaling["default"]
    assert scales == {"lora": 2.0, "rslora": 8 / math.sqrt(4)}


def test_the_seed_decides_an_adapters_weights(tmp_path):
    first, second = (adapt("bert", tmp_path, "lora").state_dict() for _ in range(2))
    assert all(torch.equal(value, second[key]) for key, value in first.items())


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize(("name", "method"), cover(tiny.FAMILIES, PEFT_METHODS, tiny.KINDS))
def test_gradients_reach_every_adapter(name, method, tmp_path):
    model = adapt(name, tmp_path, method)
    inputs = tiny.batch(tiny.tokenizer(tiny.card(name)))
    if method != "ia3":
        assert len(tiny.trainable(model)) > len(HEAD_PARAMETERS[name]) + 5
    tiny.backward(model, inputs)
    assert tiny.without_gradient(model) == []


@pytest.mark.parametrize(
    ("name", "method"),
    cover(
        [name for name in tiny.FAMILIES if name != "albert"],
        ["full", "head", "last_layers", *PEFT_METHODS],
        ["gpt2", "t5"],
    ),
)
def test_gradients_with_checkpointing_are_the_same(name, method, tmp_path):
    gradients = []
    for checkpointing in (False, True):
        if method in PEFT_METHODS:
            model = adapt(name, tmp_path, method)
        else:
            model = tiny.adapted(tiny.card(name), tmp_path, method)
        if checkpointing:
            memory_saving.checkpoint_activations(model)
        torch.manual_seed(0)
        tiny.backward(model, tiny.batch(tiny.tokenizer(tiny.card(name))))
        assert tiny.without_gradient(model) == []
        gradients.append({key: p.grad for key, p in model.named_parameters() if p.requires_grad})
    for key, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], value, atol=1e-6, rtol=1e-4, msg=key)


def test_checkpointing_is_refused_where_a_model_can_not(tmp_path):
    with pytest.raises(SetupError, match=r"training\.gradient_checkpointing: .* does not support it"):
        memory_saving.checkpoint_activations(tiny.adapted(tiny.card("albert"), tmp_path, "full"))


@pytest.mark.parametrize(("name", "method"), cover(tiny.FAMILIES, ["qlora", "head", "lora", "ia3"], ["gpt2", "t5"]))
def test_a_16_bit_body_with_float32_adapters_and_head(name, method, tmp_path):
    if method == "head":
        model = tiny.adapted(tiny.card(name, dtype="bfloat16"), tmp_path, method)
    else:
        model = adapt(name, tmp_path, method, dtype="bfloat16")
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert build.dtypes(model)["bfloat16"] > 60_000  # the embedding at least
    tiny.backward(model, tiny.batch(tiny.tokenizer(tiny.card(name))))
    assert tiny.without_gradient(model) == []


# ---------------------------------------------------------------- four bits


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_what_qlora_quantises(name, tmp_path):
    layers = body_layers(tiny.build(tiny.card(name), tmp_path), name)
    model = tiny.adapted(four_bit_card(name, dtype="bfloat16"), tmp_path, "qlora", {"compute_dtype": "bfloat16"})
    packed = {key: m for key, m in model.get_base_model().named_modules() if hasattr(m, "compute_dtype")}
    # transformers holds T5's `wo` in float32: it overflows in fewer bits.
    expected = [layer for layer in layers if not layer.endswith(".wo")]
    assert sorted(key.removesuffix(".base_layer") for key in packed) == expected
    assert {module.compute_dtype for module in packed.values()} == {torch.bfloat16}
    assert {module.weight.quant_state.quant_type for module in packed.values()} == {"nf4"}
    assert all(module.weight.quant_state.nested for module in packed.values())
    norms = [m for m in model.modules() if "norm" in type(m).__name__.lower()]
    assert len(norms) > 1
    assert {p.dtype for norm in norms for p in norm.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["llama", "bert", "t5"])
def test_an_evaluation_does_not_change_the_gradients_that_follow(name, tmp_path):
    inputs = tiny.batch(tiny.tokenizer(tiny.card(name)))
    gradients = []
    for evaluate in (False, True):
        model = adapt(name, tmp_path, "qlora")
        if evaluate:
            tiny.logits(model, inputs)
        torch.manual_seed(0)
        tiny.backward(model, inputs)
        gradients.append({key: p.grad for key, p in model.named_parameters() if p.requires_grad})
    for key, value in gradients[0].items():
        assert torch.equal(gradients[1][key], value), key


def test_a_pooler_that_the_checkpoint_lacks_is_trained_by_adapters_too(tmp_path):
    whole = tiny.build(tiny.card("bert"), tmp_path)
    whole.bert.pooler = None
    whole.bert.save_pretrained(tmp_path / "headless")
    for method in ("lora", "ia3", "qlora"):
        model = adapt("bert", tmp_path, method, id=str(tmp_path / "headless"), weights="pretrained", dtype="bfloat16")
        pooler = [key for key in tiny.trainable(model) if "pooler" in key]
        assert bare(pooler) == ["bert.pooler.dense.weight", "bert.pooler.dense.bias"]
        assert {model.get_parameter(key).dtype for key in pooler} == {torch.float32}
        tiny.backward(model, tiny.batch(tiny.tokenizer(tiny.card("bert"))))
        assert tiny.without_gradient(model) == []


# ---------------------------------------------------------------- prompts and prefixes


@pytest.mark.parametrize(
    ("name", "peft"),
    [
        ("bert", "PromptTuningConfig"),
        ("bert", "PrefixTuningConfig"),
        ("roberta", "PromptTuningConfig"),
        ("llama", "PrefixTuningConfig"),
        ("gpt2", "PrefixTuningConfig"),
    ],
)
def test_virtual_tokens_do_not_see_the_padding(name, peft, tmp_path):
    known = tiny.card(name)
    tokens = tiny.tokenizer(known)
    model = tiny.adapted(known, tmp_path, "lora", {"peft": peft, "config": {"num_virtual_tokens": 4}})
    together = tiny.logits(model, tiny.batch(tokens))
    alone = torch.cat([tiny.logits(model, tiny.batch(tokens, [text])) for text in tiny.TEXTS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    tiny.backward(model, tiny.batch(tokens))
    assert tiny.without_gradient(model) == []


@pytest.mark.parametrize(
    ("name", "peft", "sentence"),
    [
        ("llama", "PromptTuningConfig", "would make a decoder's head read padding; PrefixTuningConfig does not"),
        ("gpt2", "PromptEncoderConfig", "would make a decoder's head read padding"),
        ("t5", "PrefixTuningConfig", "an encoder-decoder classifier can't take the virtual tokens"),
    ],
)
def test_virtual_tokens_where_they_would_be_wrong(name, peft, sentence, tmp_path):
    with pytest.raises(SetupError, match=sentence):
        tiny.adapted(tiny.card(name), tmp_path, "lora", {"peft": peft, "config": {"num_virtual_tokens": 4}})


# ---------------------------------------------------------------- language models

TEXT_BLOCK = {**LAST_BLOCK, "t5": "decoder.block.1."}
FINAL_NORM = dict.fromkeys(tiny.DECODERS, "model.norm.") | {
    "gpt2": "transformer.ln_f.",
    "t5": "decoder.final_layer_norm.",
}


@pytest.mark.parametrize("name", tiny.WRITERS)
def test_full_trains_a_whole_language_model(name, tmp_path):
    known = tiny.card(name)
    model = tiny.text_adapted(known, tmp_path, "full")
    assert len(tiny.trainable(model)) == len(list(model.parameters()))
    tiny.backward(model, tiny.text_batch(known))
    assert tiny.without_gradient(model) == []


@pytest.mark.parametrize("name", tiny.WRITERS)
def test_last_layers_of_a_language_model(name, tmp_path):
    known = tiny.card(name)
    model = tiny.text_adapted(known, tmp_path, "last_layers", {"blocks": 1})
    expected = [key for key, _ in model.named_parameters() if key.startswith((TEXT_BLOCK[name], FINAL_NORM[name]))]
    assert len(expected) > 6
    assert tiny.trainable(model) == expected
    assert not model.get_output_embeddings().weight.requires_grad
    tiny.backward(model, tiny.text_batch(known))
    assert tiny.without_gradient(model) == []


@pytest.mark.parametrize(("name", "method"), cover(tiny.WRITERS, ["lora", "qlora"], ["gpt2", "t5"]))
def test_adapters_leave_the_output_head_alone(name, method, tmp_path):
    known = tiny.card(name, dtype="bfloat16")
    layers = [
        key
        for key, module in tiny.text_build(tiny.card(name), tmp_path).named_modules()
        if isinstance(module, nn.Linear | Conv1D) and key != "lm_head"
    ]
    model = tiny.text_adapted(known, tmp_path, method)
    expected = [f"{layer}.{part}.default.weight" for layer in layers for part in ("lora_A", "lora_B")]
    assert sorted(bare(tiny.trainable(model))) == sorted(expected)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    inner = model.get_base_model()
    head, embedding = inner.get_output_embeddings(), inner.get_input_embeddings()
    assert type(head) is nn.Linear
    assert {head.weight.dtype, embedding.weight.dtype} == {torch.bfloat16}
    assert (head.weight is embedding.weight) == bool(inner.config.tie_word_embeddings)
    assert not any("modules_to_save" in key for key, _ in model.named_modules())
    tiny.backward(model, tiny.text_batch(known))
    assert tiny.without_gradient(model) == []


@pytest.mark.parametrize(("name", "kind"), [("gpt2", "CAUSAL_LM"), ("gemma2", "CAUSAL_LM"), ("t5", "SEQ_2_SEQ_LM")])
def test_peft_knows_the_task(name, kind, tmp_path):
    model = tiny.text_adapted(tiny.card(name), tmp_path, "lora")
    assert model.peft_config["default"].task_type == kind


@pytest.mark.parametrize(
    "settings",
    [
        {"config": {"target_modules": ["lm_head", "q_proj"]}},
        {"config": {"modules_to_save": ["lm_head"]}},
        {"peft": "LoHaConfig", "config": {"target_modules": ["lm_head"]}},
    ],
)
def test_an_adapter_on_the_output_head_is_refused(settings, tmp_path):
    with pytest.raises(SetupError, match="must leave the output head 'lm_head' of a language model alone"):
        tiny.text_adapted(tiny.card("llama"), tmp_path, "lora", settings)


@pytest.mark.parametrize("peft", ["PromptTuningConfig", "PrefixTuningConfig", "PromptEncoderConfig"])
@pytest.mark.parametrize("name", ["llama", "t5"])
def test_virtual_tokens_are_not_for_language_models(name, peft, tmp_path):
    with pytest.raises(
        SetupError, match=f"{peft} is not for objective: text; the scorers do not see its virtual tokens"
    ):
        tiny.text_adapted(tiny.card(name), tmp_path, "lora", {"peft": peft, "config": {"num_virtual_tokens": 4}})


def test_other_adapters_of_a_language_model(tmp_path):
    for settings in ({"peft": "IA3Config"}, {"config": {"use_dora": True, "r": 4}}, {"peft": "VeraConfig"}):
        known = tiny.card("llama")
        if settings.get("peft") == "VeraConfig":
            settings = {**settings, "config": {"target_modules": "all-linear", "r": 8}}
        model = tiny.text_adapted(known, tmp_path, "lora", settings)
        assert not any("lm_head" in key for key in tiny.trainable(model))
        tiny.backward(model, tiny.text_batch(known))
        assert tiny.without_gradient(model) == []
