"""Model families of today: built from a checkpoint, trained, saved, and loaded again, here and by plain libraries."""

import contextlib
import json
import warnings

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file

from bench.config.cards import ModelCard
from bench.models import build as builder
from bench.models import card_from_config, checkpoint_head, choice_head, heads, own_heads, saving, text_part
from tests.helpers import families, tiny_cards
from tests.helpers import models as tiny
from tests.helpers.families import FAMILIES

WRAPPED = [name for name, family in FAMILIES.items() if family.wrapped]
WRITERS = [name for name, family in FAMILIES.items() if family.writer]
# Models for images and text, to plain transformers, though a text part writes by itself here.
FOR_IMAGES = ("mistral3", "qwen2_5_vl", "qwen3_vl")
SEQUENCE_CLASSES = "AutoModelForSequenceClassification"
pytestmark = [
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False"),
    pytest.mark.filterwarnings("ignore:.*tie_word_embeddings"),
]


def tokens_of(family):
    return tiny_cards.trained_tokenizer("wordpiece", families.VOCABULARY, family.kind)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """checkpoint("gemma3") -> the folder of a tiny random checkpoint, written by transformers alone; made once."""
    made = {}

    def make(name):
        if name not in made:
            made[name] = families.write(name, tmp_path_factory.mktemp(name))
        return made[name]

    return make


def card_of(name, folder):
    """A card for the folder, as a person would write it."""
    family = FAMILIES[name]
    return ModelCard(id=str(folder), family=family.kind, licence="none", attention=family.attention)


def settings_for(name, method):
    return {"compute_dtype": "float32"} if method == "qlora" else {}


def trained(name, folder, out, method, *, text=False, settings=None):
    """A model of a checkpoint trained for a step and saved, as a run does it; (model, its logits of a few texts)."""
    family, known = FAMILIES[name], card_of(name, folder)
    module, options = tiny.options(method, settings or settings_for(name, method))
    plan, tokens = module.load_plan(options), tokens_of(family)
    build = tiny.text_build if text else tiny.build
    model = module.adapt(build(known, out, plan, tokenizer=tokens), options)
    inputs = text_batch(name) if text else tiny.batch(tokens)
    tiny.train_a_little(model, inputs, steps=2)
    saving.save(model, tokens, out, tiny.description(model, known, method, plan, text))
    return model, tiny.logits(model, asked(name, text))


def asked(name, text):
    """What trained models are compared on."""
    inputs = text_batch(name) if text else tiny.batch(tokens_of(FAMILIES[name]))
    kept = ("input_ids", "attention_mask", "decoder_input_ids")
    return {key: value for key, value in inputs.items() if key in kept}


def text_batch(name):
    family = FAMILIES[name]
    rows = []
    for number, row in enumerate(tiny.tokenizers.encode(tokens_of(family), tiny.TEXTS)):
        answer = [7 + number, 8, 3]
        if family.kind == "encoder_decoder":
            rows.append({"input_ids": row["input_ids"], "token_labels": answer})
        else:
            marked = [-100] * len(row["input_ids"]) + answer
            rows.append({"input_ids": row["input_ids"] + answer, "token_labels": marked})
    return tiny.collate_answers(rows, 0, 0 if family.kind == "encoder_decoder" else None)


@contextlib.contextmanager
def all_weights_found():
    """PEFT only warns of weights that an adapter lacks, or that have no place."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*adapter keys")
        yield


def same(found, expected, tolerance=1e-5):
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


def plain_class(name, text):
    """The class that plain transformers is asked for; an own one as `how_to_load` writes it."""
    family = FAMILIES[name]
    if text:
        return getattr(transformers, builder.GENERATIVE_CLASSES[family.kind])
    return transformers.AutoModelForSequenceClassification


# ---------------------------------------------------------------- every family


@pytest.mark.parametrize("name", FAMILIES)
def test_a_head_is_trained_and_loaded_by_anyone(name, checkpoint, tmp_path):
    family = FAMILIES[name]
    model, expected = trained(name, checkpoint(name), tmp_path, "full")
    assert type(model).__name__ == family.head
    assert own_heads.is_own(model) == family.own
    assert expected.std(0).min() > 1e-4  # texts get different logits, so that a lost weight shows
    ours, _, _ = saving.load(tmp_path)
    same(tiny.logits(ours, asked(name, text=False)), expected)
    if family.own:
        scope = {"folder": tmp_path, "__name__": "__main__"}
        exec(own_heads.how_to_load(model), scope)  # as a reader of the record's note would type it
        plain = scope["model"]
        assert not own_heads.is_own(plain)
    else:
        assert own_heads.how_to_load(model) is None
        plain = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
        assert type(plain).__module__.startswith("transformers.")
    same(tiny.logits(plain, asked(name, text=False)), expected)


@pytest.mark.parametrize("name", WRITERS)
def test_an_adapter_of_a_writer_is_loaded_by_anyone(name, checkpoint, tmp_path):
    family = FAMILIES[name]
    model, expected = trained(name, checkpoint(name), tmp_path, "lora", text=True)
    assert type(heads.unwrapped(model)).__name__ == family.writer
    ours, _, _ = saving.load(tmp_path)
    same(tiny.logits(ours, asked(name, text=True)), expected)
    kind = plain_class(name, text=True)
    if name in FOR_IMAGES:
        kind = transformers.AutoModelForImageTextToText
    with all_weights_found():
        plain = peft.PeftModel.from_pretrained(kind.from_pretrained(checkpoint(name)), tmp_path)
    same(tiny.logits(plain, asked(name, text=True)), expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_config_alone_gives_what_a_person_would_write(name, checkpoint):
    """Field by field, the card that is made of a folder is the one that is written by hand."""
    family = FAMILIES[name]
    written = {"id": str(checkpoint(name)), "family": family.kind, "licence": None, "attention": family.attention}
    written |= {"dtype": "float32", "max_length": families.context(name), "revision": None}
    assert card_from_config.make({"path": str(checkpoint(name))}).card == written


# ---------------------------------------------------------------- the text part of wrapped checkpoints


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("text", [False, True], ids=["head", "text"])
def test_the_text_part_is_the_checkpoints(name, text, checkpoint, tmp_path):
    """The same hidden states as the whole model, which transformers loads by itself; nothing else is there."""
    build = tiny.text_build if text else tiny.build
    model = build(card_of(name, checkpoint(name)), tmp_path, tokenizer=tokens_of(FAMILIES[name]))
    assert getattr(model, builder.MISSING) == ([] if text else ["score.weight"])
    whole = getattr(transformers, FAMILIES[name].wrapped).from_pretrained(checkpoint(name)).eval()
    inputs = asked(name, text=True)
    real = inputs["attention_mask"].bool()
    decoder = whole.get_decoder()
    with torch.no_grad():
        theirs = getattr(decoder, "model", decoder)(**inputs).last_hidden_state[real]
        ours = model.get_submodule("model")(**inputs).last_hidden_state[real]
        same(ours, theirs, 1e-6)
        if text:
            same(model(**inputs).logits[real], whole(**inputs).logits[real], 1e-6)
    assert not any("vision" in part or "visual" in part or "projector" in part for part, _ in model.named_modules())
    (finding,) = [item for item in checkpoint_head.findings(model) if "text part" in item.sentence]
    assert "its vision part is not loaded" in finding.sentence


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "o_proj"], r".*\.(q|v|out)_proj"], ids=str)
def test_no_adapter_lands_on_the_vision_part(targets, checkpoint, tmp_path):
    for name in WRAPPED:
        settings = {"config": {"r": 4, "target_modules": targets}}
        model, expected = trained(name, checkpoint(name), tmp_path / name, "lora", text=True, settings=settings)
        whole = sum(
            p.numel()
            for p in getattr(transformers, FAMILIES[name].wrapped).from_pretrained(checkpoint(name)).parameters()
        )
        counted = builder.count_parameters(model)
        assert counted["total"] - counted["trainable"] < whole
        saved = load_file(tmp_path / name / saving.ADAPTER)
        assert saved
        assert not any("vision" in key or "visual" in key for key in saved)
        same(tiny.logits(saving.load(tmp_path / name)[0], asked(name, text=True)), expected)


@pytest.mark.parametrize("name", WRAPPED)
def test_four_bits_of_the_text_part(name, tmp_path):
    model, expected = trained(name, families.write(name, tmp_path / "wide", wide=True), tmp_path, "qlora")
    assert "nf4" in builder.dtypes(model)
    same(tiny.logits(saving.load(tmp_path)[0], asked(name, text=False)), expected)


@pytest.mark.parametrize("name", ["gemma3", "qwen3_5"])
def test_an_adapter_with_a_head_goes_on_the_whole_model(name, checkpoint, tmp_path):
    """Where transformers has a class with a head for the whole: the adapter's names are those inside of it."""
    _, expected = trained(name, checkpoint(name), tmp_path, "lora")
    names = dict(enumerate(tiny.LABELS))
    base = transformers.AutoModelForSequenceClassification.from_pretrained(
        checkpoint(name), id2label=names, label2id={label: number for number, label in names.items()}
    )
    base.config.get_text_config().pad_token_id = 0
    with all_weights_found():
        plain = peft.PeftModel.from_pretrained(base, tmp_path)
    same(tiny.logits(plain, asked(name, text=False)), expected)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert all(module.startswith("model.language_model.layers.") for module in config["target_modules"])


@pytest.mark.parametrize("name", ["gemma3", "mistral3", "gemma4"])
def test_an_adapter_that_scores_choices_is_loaded_again(name, checkpoint, tmp_path):
    """Of the text part, with its weights; where transformers has a class with a head for the whole, also on that."""
    tokens, known = tokens_of(FAMILIES[name]), card_of(name, checkpoint(name))
    module, options = tiny.options("lora", {})
    plan = module.load_plan(options)
    base = tiny.build(known, tmp_path, plan, auto_class=choice_head.AUTO_CLASS, labels=("fit",), tokenizer=tokens)
    assert getattr(base, builder.MISSING) == ["score.weight"]
    assert base.config.problem_type is None
    model = module.adapt(base, options)
    group = {key: value[None] for key, value in tiny.batch(tokens).items() if key != "labels"}
    tiny.train_a_little(model, {**group, "labels": torch.tensor([1])}, steps=1)
    said = {**tiny.description(model, known, "lora", plan, False), "task": "multiple_choice", "outputs": ["fit"]}
    saving.save(model, tokens, tmp_path, said)
    expected = tiny.logits(model, group)
    assert expected.shape == (1, len(tiny.TEXTS))
    same(tiny.logits(saving.load(tmp_path)[0], group), expected)
    names = set(load_file(tmp_path / saving.ADAPTER))
    trained(name, checkpoint(name), tmp_path / "labels", "lora")
    assert names == set(load_file(tmp_path / "labels" / saving.ADAPTER))
    if name == "gemma3":
        whole = transformers.AutoModelForSequenceClassification.from_pretrained(checkpoint(name), num_labels=1)
        whole.config.get_text_config().pad_token_id = 0
        with all_weights_found():
            plain = peft.PeftModel.from_pretrained(whole, tmp_path)
        same(tiny.logits(plain, asked(name, text=False)).flatten(), expected.flatten())


def test_choices_of_a_family_without_a_class_say_how_they_are_loaded(checkpoint, tmp_path):
    name = "granite"
    tokens = tokens_of(FAMILIES[name])
    model = tiny.build(
        card_of(name, checkpoint(name)),
        tmp_path,
        auto_class=choice_head.AUTO_CLASS,
        labels=("fit",),
        tokenizer=tokens,
    )
    line = own_heads.how_to_load(model)
    assert line is not None
    assert any(line in finding.sentence for finding in checkpoint_head.findings(model))
    model.save_pretrained(tmp_path / "saved")
    scope = {"folder": tmp_path / "saved", "__name__": "__main__"}
    exec(line, scope)  # as a reader of the record's note would type it
    same(tiny.logits(scope["model"], asked(name, text=False)), tiny.logits(model, asked(name, text=False)))


@pytest.mark.parametrize("name", ["gemma3", "llama4", "granite", "lfm2"])
def test_heads_for_spans_and_for_tags_are_made_too(name, checkpoint, tmp_path):
    """With the checkpoint's body: all that is new is the head."""
    whole = tiny.text_build(card_of(name, checkpoint(name)), tmp_path, tokenizer=tokens_of(FAMILIES[name]))
    inputs = asked(name, text=True)
    real = inputs["attention_mask"].bool()
    for auto_class, head in (
        ("AutoModelForQuestionAnswering", "qa_outputs"),
        ("AutoModelForTokenClassification", "score"),
    ):
        model = tiny.build(
            card_of(name, checkpoint(name)), tmp_path, auto_class=auto_class, tokenizer=tokens_of(FAMILIES[name])
        )
        assert own_heads.is_own(model)
        assert getattr(model, builder.MISSING) == [f"{head}.bias", f"{head}.weight"]
        with torch.no_grad():
            bodies = [item.base_model(**inputs).last_hidden_state[real] for item in (model, whole)]
        same(*bodies, 1e-6)
        model.save_pretrained(tmp_path / head)
        again = type(model).from_pretrained(tmp_path / head)
        assert all(torch.equal(weight, again.get_parameter(key)) for key, weight in model.named_parameters())


def test_a_text_part_whose_logits_are_changed_behind_its_head_is_refused_for_text_alone():
    config = transformers.AutoConfig.for_model("granite_docling")
    refusal = (
        "no language model for the text part .granite_docling_text.*GraniteDoclingForConditionalGeneration changes"
    )
    with pytest.raises(Exception, match=f"{refusal}.*objective: head"):
        text_part.of(config, "AutoModelForCausalLM")
    for auto_class in (SEQUENCE_CLASSES, choice_head.AUTO_CLASS):
        assert text_part.of(config, auto_class).model_type == "granite_docling_text"
