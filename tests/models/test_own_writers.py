"""Language models of text parts that transformers has none for: trained in full, saved as the whole, loaded by it."""

import json
from types import SimpleNamespace

import peft
import pytest
import torch
import transformers
from safetensors import safe_open
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from bench.config.cards import ModelCard
from bench.distributed import sharding
from bench.errors import DataError, SetupError
from bench.models import build as builder
from bench.models import card_from_config, checkpoint_head, own_writers, saving, text_part
from bench.runner import run_folder
from tests.helpers import models as tiny
from tests.helpers import tiny_cards
from tests.helpers.families import GROUPED, QWEN2_5_VISION, QWEN3_5_VISION, ROPE_OF_THREE, VOCABULARY

GLM_VISION = {**QWEN2_5_VISION, "image_size": 16}
DEEP_VISION = {**QWEN3_5_VISION, "deepstack_visual_indexes": [0]}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
IDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
# Type of the whole checkpoint -> settings of its text part and of its vision part.
TYPES = {
    "qwen2_vl": (
        {**GROUPED, "rope_parameters": ROPE_OF_THREE},
        {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "patch_size": 8, "mlp_ratio": 2},
    ),
    "qwen3_vl": ({**GROUPED, "rope_parameters": ROPE_OF_THREE}, DEEP_VISION),
    "qwen3_vl_moe": ({**GROUPED, **EXPERTS, "rope_parameters": ROPE_OF_THREE}, DEEP_VISION),
    "glm4v": ({**GROUPED, "rope_parameters": ROPE_OF_THREE}, GLM_VISION),
}
INPUTS = {
    "input_ids": torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 0, 0]]),
    "attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2]),
}


def write(model_type, folder, tied=False):
    """Write a tiny random checkpoint of the whole with transformers alone."""
    text, vision = TYPES[model_type]
    config = transformers.AutoConfig.for_model(
        model_type,
        text_config={**text, **IDS, "tie_word_embeddings": tied},
        vision_config=vision,
        tie_word_embeddings=tied,
        **IDS,
    )
    torch.manual_seed(13)
    model = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]._from_config(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0.0, 0.1, generator=generator)
    model.save_pretrained(folder, max_shard_size="60KB" if model_type == "qwen3_vl" else "1GB")
    return folder


def tokens():
    return tiny_cards.trained_tokenizer("wordpiece", VOCABULARY, "decoder")


def card_of(folder):
    return ModelCard(id=str(folder), family="decoder", licence="none")


def trained(folder, out, method="full"):
    module, options = tiny.options(method, {})
    plan = module.load_plan(options)
    model = module.adapt(tiny.text_build(card_of(folder), out, plan, tokenizer=tokens()), options)
    inputs = {**INPUTS, "labels": INPUTS["input_ids"].masked_fill(INPUTS["attention_mask"] == 0, -100)}
    optimizer = torch.optim.SGD([item for item in model.parameters() if item.requires_grad], lr=0.5)
    model.train()
    for _ in range(2):
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    saving.save(model.eval(), tokens(), out, tiny.description(model, card_of(folder), method, plan, text=True))
    return model


def weights(folder):
    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as stored:
            found |= {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (no mapping)
    return found


def logits(model):
    with torch.no_grad():
        return model(**INPUTS).logits[INPUTS["attention_mask"].bool()]


@pytest.mark.parametrize("model_type", TYPES)
def test_a_text_part_is_trained_in_full_and_saved_as_the_whole(model_type, tmp_path):
    folder = write(model_type, tmp_path / "checkpoint", tied=model_type == "qwen2_vl")
    before = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    untrained = tiny.text_build(card_of(folder), tmp_path, tokenizer=tokens())
    torch.testing.assert_close(logits(untrained), logits(before), atol=1e-6, rtol=0)
    (folder / "preprocessor_config.json").write_text("{}")
    model = trained(folder, tmp_path / "saved")
    assert own_writers.is_made(model)
    written = [f"model/{path.name}" for path in (tmp_path / "saved").iterdir()]
    assert "model/preprocessor_config.json" in written
    assert all(run_folder.is_made(name) for name in written)
    expected = logits(model)
    assert (expected - logits(before)).abs().max() > 1e-3
    plain, loading = transformers.AutoModelForImageTextToText.from_pretrained(
        tmp_path / "saved", output_loading_info=True
    )
    assert type(plain) is type(before)
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    torch.testing.assert_close(logits(plain.eval()), expected, atol=1e-5, rtol=0)
    kept, old = dict(plain.named_parameters()), dict(before.named_parameters())
    others = [name for name in old if "language_model" not in name and name != "lm_head.weight"]
    assert others
    assert all(torch.equal(kept[name], old[name]) for name in others)
    ours, _, _ = saving.load(tmp_path / "saved")
    assert own_writers.is_made(ours)
    torch.testing.assert_close(logits(ours), expected, atol=1e-5, rtol=0)
    assert ours.config.pad_token_id == 0


def test_what_a_run_says_of_it_and_what_its_card_is(tmp_path):
    folder = write("qwen3_vl", tmp_path / "checkpoint")
    model = tiny.text_build(card_of(folder), tmp_path, tokenizer=tokens())
    sentences = [finding.sentence for finding in checkpoint_head.findings(model)]
    assert "its vision part is not loaded" in sentences[0]
    assert "plain transformers loads it with AutoModelForImageTextToText.from_pretrained" in sentences[1]
    assert builder.count_parameters(model)["total"] == sum(item.numel() for item in model.parameters())
    assert card_from_config.make({"path": str(folder)}).card["family"] == "decoder"
    prompt = torch.tensor([[5, 6, 7]])
    whole = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    written = [item.generate(prompt, max_new_tokens=4, do_sample=False) for item in (model, whole)]
    assert torch.equal(*written)


def test_fsdp_shards_the_layers_that_are_there(tmp_path, monkeypatch):
    """The family names those of the vision part too, and accelerate refuses a class that it does not find."""
    model = tiny.text_build(card_of(write("qwen3_vl", tmp_path / "checkpoint")), tmp_path, tokenizer=tokens())
    monkeypatch.setattr(sharding, "requested_backend", lambda: "fsdp")
    plugin = SimpleNamespace(mixed_precision_policy=None, transformer_cls_names_to_wrap=None)
    accelerator = SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin))
    sharding.choose_units(SimpleNamespace(accelerator=accelerator, model=model))
    assert plugin.transformer_cls_names_to_wrap == ["Qwen3VLTextDecoderLayer"]


def test_an_adapter_never_lands_on_another_part_and_goes_on_the_whole(tmp_path):
    folder = write("glm4v", tmp_path / "checkpoint")
    model = trained(folder, tmp_path / "saved", "lora")
    names = set(weights(tmp_path / "saved"))
    assert names
    assert all(name.startswith("base_model.model.model.language_model.layers.") for name in names)
    base = transformers.AutoModelForImageTextToText.from_pretrained(folder)
    plain = peft.PeftModel.from_pretrained(base, tmp_path / "saved").eval()
    torch.testing.assert_close(logits(plain), logits(model), atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_what_was_loaded_again_is_saved_as_the_whole(method, tmp_path):
    """An adapter merged into it, as an export does."""
    folder = write("qwen3_vl", tmp_path / "checkpoint")
    expected = logits(trained(folder, tmp_path / "saved", method))
    again, _, description = saving.load(tmp_path / "saved")
    again = again.merge_and_unload() if method == "lora" else again
    again.save_pretrained(tmp_path / "whole")
    saving.complete(again, tmp_path / "whole", description)
    plain = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "whole").eval()
    torch.testing.assert_close(logits(plain), expected, atol=1e-5, rtol=0)


def test_faults_have_a_sentence(tmp_path):
    folder = write("qwen3_vl", tmp_path / "checkpoint")
    config = json.loads((folder / "config.json").read_text())
    model = tiny.text_build(card_of(folder), tmp_path, tokenizer=tokens())
    model.save_pretrained(tmp_path / "alone")
    with pytest.raises(SetupError, match=r"saved inside of its whole checkpoint, and '.*gone' can't be read"):
        own_writers.complete(model, tmp_path / "alone", str(tmp_path / "gone"), None)
    trained(folder, tmp_path / "saved")
    min((tmp_path / "saved").glob("model-00001-of-*.safetensors")).unlink()
    with pytest.raises(DataError, match="can't be loaded"):
        saving.load(tmp_path / "saved")
    for path in folder.glob("*.safetensors"):  # as a checkpoint with names that are not known
        path.unlink()
    (folder / "model.safetensors.index.json").unlink()
    whole = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[transformers.Qwen3VLConfig]._from_config(
        transformers.AutoConfig.for_model(**config)
    )
    strange = {f"strange.{name}": value.contiguous() for name, value in whole.state_dict().items()}
    transformers.modeling_utils.safe_save_file(strange, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SetupError, match=r"the text part of .* can't be loaded by itself: the checkpoint has no model"):
        tiny.text_build(card_of(folder), tmp_path, tokenizer=tokens())


def test_a_class_of_transformers_comes_first_where_it_lists_the_whole_type(tmp_path):
    config = transformers.AutoConfig.for_model("mllama", pad_token_id=0)
    assert text_part.of(config, "AutoModelForCausalLM").model_type == "mllama_text_model"
    known = transformers.AutoModelForCausalLM._model_mapping
    assert known[type(config.get_text_config())] is transformers.MllamaForCausalLM
