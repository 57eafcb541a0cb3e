"""saving.py: what was saved predicts the same when it is loaded again, here and by plain transformers and peft."""

import json
import os
import shutil

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from bench.config.contracts import LoadPlan
from bench.config.recipe import Head
from bench.errors import DataError, SetupError
from bench.models import heads, saving
from tests.helpers import models as tiny
from tests.helpers.cases import cover, together
from tests.helpers.saved_models import METHODS, MLP, OWN, TEXTS, describe, loaded_logits, train_and_save

FEW = ["gpt2", "gemma2", "llama", "t5"]
KINDS = ["bert", "roberta", "t5", "llama"]
pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")


def plain(folder, plan, kind=None):
    """The same by transformers and peft alone."""
    kind = kind or transformers.AutoModelForSequenceClassification
    if not plan.adapter:
        return kind.from_pretrained(folder)
    extra = {}
    if plan.quantization is not None:
        spared = json.loads((folder / saving.DESCRIPTION).read_text())["unquantized"]
        settings = transformers.BitsAndBytesConfig(**plan.quantization, llm_int8_skip_modules=spared)
        extra = {"quantization_config": settings}
    model = peft.PeftModel.from_pretrained(kind.from_pretrained(folder / "base", **extra), folder)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # another kernel, with bfloat16 inside
    return model


def test_gpt2_without_attention_biases_is_loaded_by_anyone(tmp_path):
    known = tiny.narrow("gpt2", attention_bias=False)
    expected, _ = train_and_save(known, tmp_path, "scratch")
    model, _, _ = saving.load(tmp_path)
    names = [name for name, _ in model.named_parameters() if ".attn." in name]
    assert names
    assert not any(name.endswith("bias") for name in names)
    torch.testing.assert_close(loaded_logits(tmp_path), expected, atol=1e-6, rtol=0)
    tokens = transformers.AutoTokenizer.from_pretrained(tmp_path)
    own = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert all(not part.any() for name, part in own.named_parameters() if ".attn." in name and name.endswith("bias"))
    torch.testing.assert_close(tiny.logits(own, tiny.batch(tokens, TEXTS)), expected, atol=1e-6, rtol=0)


def test_an_mlp_head_with_a_norm_is_loaded_again(tmp_path):
    head = Head(kind="mlp", hidden=64, dropout=0.1, norm=True)
    for method in ("full", "lora"):
        expected, _ = train_and_save(tiny.card("llama"), tmp_path / method, method, head=head)
        torch.testing.assert_close(loaded_logits(tmp_path / method), expected, atol=1e-6, rtol=0)


# AutoTokenizer takes a tiny Qwen2's tokenizer for another: see test_a_foreign_tokenizer_of_qwen2.
@pytest.mark.parametrize(
    ("name", "method"), cover([name for name in tiny.FAMILIES if name != "qwen2"], METHODS, tiny.KINDS)
)
def test_own_heads_are_loaded_by_anyone(name, method, tmp_path):
    # bitsandbytes can't compute the tiny ALBERT's layer of 32 inputs on every CPU.
    known = tiny.narrow(name, embedding_size=64) if (name, method) == ("albert", "qlora") else tiny.card(name)
    expected, plan = train_and_save(known, tmp_path, method)
    torch.testing.assert_close(loaded_logits(tmp_path), expected, atol=1e-6, rtol=0)
    tokens = transformers.AutoTokenizer.from_pretrained(tmp_path)
    model = plain(tmp_path, plan)
    tolerance = 1e-5 if plan.quantization else 1e-6
    torch.testing.assert_close(tiny.logits(model, tiny.batch(tokens, TEXTS)), expected, atol=tolerance, rtol=0)
    assert expected.std(0).min() > 1e-5  # told apart, so that a lost weight shows


@pytest.mark.parametrize(
    ("name", "method"),
    cover(["bert", "distilbert", "roberta", "t5", "gpt2", "llama"], ["full", "head", "lora", "qlora"], ["roberta"]),
)
def test_mlp_heads_are_loaded_here_and_refused_elsewhere(name, method, tmp_path):
    expected, plan = train_and_save(tiny.card(name), tmp_path, method, MLP)
    torch.testing.assert_close(loaded_logits(tmp_path), expected, atol=1e-6, rtol=0)
    with pytest.raises((ValueError, KeyError), match="_with_bench_mlp_head"):
        plain(tmp_path, plan)


@pytest.mark.parametrize(
    ("name", "method", "head"),
    [
        *((*pair, OWN) for pair in cover(KINDS, ["head", "lora", "qlora", "probe"], ["llama"])),
        *((*pair, MLP) for pair in cover(KINDS, ["qlora", "probe", "head", "lora"])),
    ],
)
def test_a_16_bit_body_keeps_its_float32_head(name, method, head, tmp_path):
    expected, _ = train_and_save(tiny.card(name, dtype="bfloat16"), tmp_path, method, head)
    assert torch.equal(loaded_logits(tmp_path), expected)


@pytest.mark.parametrize("name", ["albert", "distilbert", "gpt2", "t5"])
def test_probes(name, tmp_path):
    expected, _ = train_and_save(tiny.card(name), tmp_path, "probe")
    assert torch.equal(loaded_logits(tmp_path), expected)
    transformers.AutoModel.from_pretrained(tmp_path)
    assert load_file(tmp_path / saving.PROBE)["weight"].shape == (3, 64)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("bert", {"peft": "IA3Config"}),
        ("llama", {"peft": "IA3Config"}),
        ("bert", {"peft": "VeraConfig", "config": {"target_modules": "all-linear", "r": 8}}),
        ("roberta", {"peft": "LoHaConfig", "config": {"target_modules": ["query", "value"]}}),
        ("gpt2", {"peft": "PrefixTuningConfig", "config": {"num_virtual_tokens": 3}}),
        ("bert", {"peft": "PromptTuningConfig", "config": {"num_virtual_tokens": 3}}),
        ("llama", {"config": {"init_lora_weights": "pissa"}}),
    ],
)
def test_other_adapters(name, settings, tmp_path):
    expected, plan = train_and_save(tiny.card(name), tmp_path, "lora", settings=settings)
    torch.testing.assert_close(loaded_logits(tmp_path), expected, atol=1e-6, rtol=0)
    tokens = transformers.AutoTokenizer.from_pretrained(tmp_path)
    torch.testing.assert_close(
        tiny.logits(plain(tmp_path, plan), tiny.batch(tokens, TEXTS)), expected, atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("method", ["full", "head", "last_layers", "lora", "qlora"])
def test_a_pooler_that_the_checkpoint_lacked_is_saved(method, tmp_path):
    whole = tiny.liven(tiny.build(tiny.card("bert"), tmp_path))
    whole.bert.pooler = None
    whole.bert.save_pretrained(tmp_path / "headless")
    known = tiny.card("bert", id=str(tmp_path / "headless"), weights="pretrained")
    expected, plan = train_and_save(known, tmp_path / "run", method)
    if plan.adapter:
        kept = load_file(tmp_path / "run" / "adapter_model.safetensors")
        assert "base_model.model.bert.pooler.dense.weight" in kept
    torch.manual_seed(99)  # a pooler drawn anew would be another one
    torch.testing.assert_close(loaded_logits(tmp_path / "run"), expected, atol=1e-6, rtol=0)


def test_a_foreign_tokenizer_of_qwen2(tmp_path):
    for method in ("full", "lora"):
        expected, _ = train_and_save(tiny.card("qwen2"), tmp_path / method, method)
        torch.testing.assert_close(loaded_logits(tmp_path / method), expected, atol=1e-6, rtol=0)


def test_weights_in_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr(transformers.PreTrainedModel, "save_pretrained", in_shards(), raising=True)
    expected, _ = train_and_save(tiny.card("bert"), tmp_path, "full", MLP)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    torch.testing.assert_close(loaded_logits(tmp_path), expected, atol=1e-6, rtol=0)


def in_shards():
    whole = transformers.PreTrainedModel.save_pretrained
    return lambda self, folder, **options: whole(self, folder, **{**options, "max_shard_size": "200KB"})


# ---------------------------------------------------------------- language models


def train_and_save_text(known, folder, method):
    """Logits of the trained language model after it was saved into a folder, and how it was loaded."""
    name, settings = METHODS[method]
    module, options = tiny.options(name, settings)
    plan = module.load_plan(options)
    model = tiny.text_build(known, folder, plan)
    if plan.adapter and plan.quantization is None and known.weights == "random":
        model.save_pretrained(folder / "base")
    model = module.adapt(model, options)
    tiny.train_a_little(model, tiny.text_batch(known))
    description = {**describe(model, known, name, plan, OWN), "objective": "text"}
    saving.save(model, tiny.tokenizer(known), folder, description)
    return tiny.logits(model, tiny.text_batch(known)), plan


@pytest.mark.parametrize(
    ("name", "method"),
    [
        *((name, method) for name in tiny.WRITERS for method in ("full", "qlora")),
        *((name, method) for name in FEW for method in ("lora", "last_layers")),
    ],
)
def test_language_models_are_loaded_by_anyone(name, method, tmp_path):
    known = tiny.card(name)
    expected, plan = train_and_save_text(known, tmp_path, method)
    model, _, description = saving.load(tmp_path)
    assert (model.training, description["objective"]) == (False, "text")
    assert heads.is_generative(model)
    torch.testing.assert_close(tiny.logits(model, tiny.text_batch(known)), expected, atol=1e-6, rtol=0)
    kind = getattr(transformers, "AutoModelForSeq2SeqLM" if name == "t5" else "AutoModelForCausalLM")
    found = tiny.logits(plain(tmp_path, plan, kind), tiny.text_batch(known))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)  # T5's attention is another kernel there


@pytest.mark.parametrize(("name", "method"), cover(FEW, ["full", "lora"]))
def test_a_saved_language_model_writes(name, method, tmp_path):
    known = tiny.card(name)
    train_and_save_text(known, tmp_path, method)
    model, _, _ = saving.load(tmp_path)
    batch = tiny.text_batch(known, tiny.TEXTS[:1])
    written = model.generate(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=5)
    assert written.shape[1] > 1
    if name != "t5":
        step = tiny.logits(model, {"input_ids": batch["input_ids"]})[0, -1].argmax()
        assert written[0, batch["input_ids"].shape[1]] == step


@pytest.mark.parametrize(("name", "method"), cover(FEW, ["lora", "qlora"]))
def test_a_16_bit_language_model_keeps_its_output_head(name, method, tmp_path):
    known = tiny.card(name, dtype="bfloat16")
    expected, _ = train_and_save_text(known, tmp_path, method)
    model, _, _ = saving.load(tmp_path)
    assert heads.unwrapped(model).get_output_embeddings().weight.dtype == torch.bfloat16
    assert torch.equal(tiny.logits(model, tiny.text_batch(known)), expected)
    kept = load_file(tmp_path / "adapter_model.safetensors")
    assert not any("lm_head" in key or "embed" in key or "shared" in key for key in kept)


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_an_adapter_on_a_pretrained_language_model(method, tmp_path):
    tiny.liven(tiny.text_build(tiny.card("llama"), tmp_path)).save_pretrained(tmp_path / "origin")
    known = tiny.card("llama", id=str(tmp_path / "origin"), weights="pretrained")
    expected, _ = train_and_save_text(known, tmp_path / "run", method)
    model, _, _ = saving.load(tmp_path / "run")
    torch.testing.assert_close(tiny.logits(model, tiny.text_batch(known)), expected, atol=1e-6, rtol=0)
    assert not (tmp_path / "run" / "base").exists()


def test_an_adapter_on_a_quantised_checkpoint(tmp_path):
    settings = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "float32"}
    tiny.text_build(tiny.card("llama"), tmp_path, LoadPlan(quantization=settings)).save_pretrained(tmp_path / "origin")
    known = tiny.card("llama", id=str(tmp_path / "origin"), weights="pretrained")
    expected, plan = train_and_save_text(known, tmp_path / "run", "lora")
    assert plan.quantization is None
    model, _, _ = saving.load(tmp_path / "run")
    assert any(hasattr(module, "compute_dtype") for module in model.modules())
    torch.testing.assert_close(tiny.logits(model, tiny.text_batch(known)), expected, atol=1e-6, rtol=0)


# ---------------------------------------------------------------- what is missing


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(DataError, match="holds no saved model; the recipe needs `save: true`"):
        saving.load(tmp_path)


def test_a_head_whose_weights_are_gone(tmp_path):
    train_and_save(tiny.card("bert"), tmp_path, "full", MLP)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["classifier.mlp_out.bias"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"lacks weights of the head, e\.g\. classifier\.mlp_out\.bias"):
        saving.load(tmp_path)


def test_an_adapter_whose_base_model_is_gone(tmp_path):
    tiny.build(tiny.card("bert"), tmp_path).save_pretrained(tmp_path / "origin")
    known = tiny.card("bert", id=str(tmp_path / "origin"), weights="pretrained")
    train_and_save(known, tmp_path / "run", "lora")
    shutil.rmtree(tmp_path / "origin")
    with pytest.raises(SetupError, match=f"the base model '{tmp_path.name}/origin' can't be loaded"):
        saving.load(tmp_path / "run")


def without(folder, name, *, extra=None):
    """Take the weight whose name ends so out of a file of weights, or put another one in."""
    (path,) = [item for item in folder.glob("*.safetensors") if item.name != saving.PROBE]
    weights = load_file(path)
    (key,) = [key for key in weights if key.endswith(name)]
    if extra is not None:
        weights[extra] = weights[key].clone()
    else:
        del weights[key]
    save_file(weights, path, metadata={"format": "pt"})


@together(
    "method, name, extra, sentence",
    [
        ("lora", "layer.0.attention.self.query.lora_B.weight", None, "lacks weights: 1, e.g. base_model.model.bert"),
        ("lora", "classifier.bias", None, "lacks weights: 1, e.g. base_model.model.classifier.bias"),
        ("lora", "classifier.bias", "base_model.model.other.bias", "holds weights that its model has no place for: 1"),
        ("full", "layer.1.output.dense.bias", None, "lacks weights: 1, e.g. bert.encoder.layer.1.output.dense.bias"),
        ("full", "classifier.bias", None, "lacks weights: 1, e.g. classifier.bias"),
        ("full", "classifier.bias", "bert.other.bias", "holds weights that its model has no place for: 1, e.g. bert"),
    ],
)
def test_a_saved_model_with_other_weights_is_not_loaded(method, name, extra, sentence, tmp_path):
    folder = tmp_path / f"{method}-{name}-{extra}"
    train_and_save(tiny.card("bert"), folder, method)
    without(folder, name, extra=extra)
    with pytest.raises(DataError, match=sentence):
        saving.load(folder)


@together("mask", [0o022, 0o027, 0o077])
def test_all_files_of_a_saved_model_have_one_mode(mask, tmp_path):
    before = os.umask(mask)
    try:
        train_and_save(tiny.card("bert"), tmp_path / str(mask), "lora")
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / str(mask)).rglob("*") if path.is_file()]
    assert {"adapter_model.safetensors", "model.safetensors", "bench.json"} <= {path.name for path in files}
    assert len({path.stat().st_mode for path in files}) == 1
