"""models/own_heads.py: a language model's checkpoint becomes a reader of spans, and comes back as it was saved."""

import json
import re
import subprocess
import sys

import pytest
import torch
import transformers
from safetensors import safe_open
from transformers.models.auto.modeling_auto import MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES

from bench.config.contracts import LoadPlan
from bench.errors import SetupError
from bench.models import build, own_heads
from tests.helpers import models as tiny
from tests.helpers.launching import ROOT, environment

# Those with a class of transformers' own; Gemma and Gemma 2 get theirs from us.
KNOWN = ["bert", "gpt2", "llama", "mistral", "qwen2"]
MADE = ["gemma", "gemma2"]
SPANS = "AutoModelForQuestionAnswering"
HEAD = ["qa_outputs.bias", "qa_outputs.weight"]
FOUR_BITS = {"load_in_4bit": True, "bnb_4bit_compute_dtype": "float32"}
# A fresh process: what was registered in this one is not there.
PLAIN = """
import sys, torch, transformers
if sys.argv[3] == "made":
    from bench.models import own_heads
    own_heads.register("AutoModelForQuestionAnswering", transformers.AutoConfig.from_pretrained(sys.argv[1]))
reader = transformers.AutoModelForQuestionAnswering.from_pretrained(sys.argv[1]).eval()
inputs = torch.load(sys.argv[2])
with torch.no_grad():
    torch.save([reader(**item).start_logits for item in inputs], sys.argv[2])
"""


def reader(known, folder, plan=None, **changes):
    """The model that a run would build for questions."""
    options = {"auto_class": SPANS, "labels": ("start", "end"), **changes}
    return tiny.build(known, folder, plan, **options)


def pretrained(name, place, **changes):
    return tiny.card(name, id=str(place), weights="pretrained", **changes)


def start_logits(model, inputs):
    with torch.no_grad():
        return model.eval()(**inputs).start_logits


def inputs_for(name):
    batch = tiny.batch(tiny.tokenizer(tiny.card(name)), tiny.TEXTS[:3])
    return {key: value for key, value in batch.items() if key != "labels"}


@pytest.fixture
def writer(tmp_path):
    """writer("llama") -> a tiny model as pretraining leaves it, and the folder that it is saved in."""

    def make(name):
        if name == "bert":
            shapes = tiny.card(name).architecture
            config = transformers.BertConfig(**{key: item for key, item in shapes.items() if key != "model_type"})
            model = tiny.liven(transformers.BertForMaskedLM(config))
        else:
            model = tiny.liven(tiny.text_build(tiny.card(name), tmp_path))
        model.save_pretrained(tmp_path / name)
        return model.eval(), tmp_path / name

    return make


def weights_in(folder):
    with safe_open(folder / "model.safetensors", "pt") as stored:
        return {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (no mapping)


def bodies(model):
    """Weights of a model's body, under the names that they have inside it."""
    return dict(model.base_model.named_parameters())


@pytest.mark.parametrize("name", [*KNOWN, *MADE])
def test_the_body_is_the_checkpoints_and_only_the_head_is_new(name, writer, tmp_path):
    source, place = writer(name)
    found = reader(pretrained(name, place), tmp_path)
    assert type(found).__name__.endswith("ForQuestionAnswering")
    assert getattr(found, build.MISSING) == HEAD
    theirs, ours = bodies(source), bodies(found)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(weight, theirs[key]) for key, weight in ours.items())
    inputs = inputs_for(name)
    with torch.no_grad():
        hidden = [model.base_model(**inputs).last_hidden_state for model in (found, source)]
    real = inputs["attention_mask"].bool()
    assert torch.equal(hidden[0][real], hidden[1][real])
    assert hidden[0][real].std(0).min() > 0.01  # the tokens are told apart


@pytest.mark.parametrize("name", [*KNOWN, *MADE])
def test_what_is_saved_is_stored_under_the_classes_own_names(name, writer, tmp_path):
    found = reader(pretrained(name, writer(name)[1]), tmp_path)
    found.save_pretrained(tmp_path / "saved")
    stored = weights_in(tmp_path / "saved")
    assert stored.keys() == {key for key, _ in found.named_parameters()}
    assert all(torch.equal(weight, stored[key]) for key, weight in found.named_parameters())


def test_what_is_saved_loads_again_with_plain_transformers_in_a_fresh_process(writer, tmp_path):
    readers = {name: tiny.liven(reader(pretrained(name, writer(name)[1]), tmp_path)) for name in [*KNOWN, *MADE]}
    jobs = []
    for name, model in readers.items():
        model.save_pretrained(tmp_path / "saved" / name)
        torch.save([inputs_for(name)], tmp_path / f"{name}.pt")
        jobs.append([str(tmp_path / "saved" / name), str(tmp_path / f"{name}.pt"), "made" if name in MADE else "plain"])
    script = f"jobs = {json.dumps(jobs)}\nimport sys\nfor job in jobs:\n    sys.argv[1:] = job\n    exec({PLAIN!r})\n"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-2000:]
    # What is missing, or left over, would be told.
    assert not re.search("MISSING|UNEXPECTED|newly initialized", done.stdout + done.stderr), done.stderr[-2000:]
    for name, model in readers.items():
        (theirs,) = torch.load(tmp_path / f"{name}.pt")
        torch.testing.assert_close(theirs, start_logits(model, inputs_for(name)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", [*KNOWN, *MADE])
def test_a_reader_that_was_saved_is_built_whole(name, writer, tmp_path):
    first = tiny.liven(reader(pretrained(name, writer(name)[1]), tmp_path))
    first.save_pretrained(tmp_path / "saved")
    again = reader(pretrained(name, tmp_path / "saved"), tmp_path)
    assert getattr(again, build.MISSING) == []
    assert torch.equal(start_logits(again, inputs_for(name)), start_logits(first, inputs_for(name)))


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma"])
def test_a_body_by_itself_is_loaded_too(name, writer, tmp_path):
    source, _ = writer(name)
    source.base_model.save_pretrained(tmp_path / "body")
    found = reader(pretrained(name, tmp_path / "body"), tmp_path)
    assert getattr(found, build.MISSING) == HEAD
    theirs = bodies(source)
    assert all(torch.equal(weight, theirs[key]) for key, weight in bodies(found).items())


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2"])
def test_four_bits_are_those_of_the_checkpoint(name, writer, tmp_path):
    source, place = writer(name)
    plan = LoadPlan(frozen_body=True, adapter=True, quantization=FOUR_BITS)
    found = reader(pretrained(name, place, dtype="float32"), tmp_path, plan)
    assert getattr(found, build.MISSING) == HEAD
    assert type(found.qa_outputs) is torch.nn.Linear
    packed = [key for key, weight in bodies(found).items() if hasattr(weight, "quant_state")]
    assert len(packed) == 14  # two blocks of seven
    for key, weight in bodies(source).items():
        ours = bodies(found)[key]
        if key not in packed:
            assert torch.equal(ours, weight)
            continue
        from bitsandbytes.functional import dequantize_4bit

        unpacked = dequantize_4bit(ours.data, ours.quant_state).float()
        # Four bits are 16 steps: far nearer to the checkpoint's weights than any others would be.
        assert (unpacked - weight).norm() < 0.15 * weight.norm()


@pytest.mark.parametrize("name", [*KNOWN, "roberta", "distilbert", "albert", "t5"])
def test_a_class_of_transformers_own_is_left_as_it_is(name):
    config = transformers.AutoConfig.for_model(tiny.card(name).architecture["model_type"])
    theirs = own_heads.MODEL_FOR_QUESTION_ANSWERING_MAPPING[type(config)]
    assert not own_heads.register(SPANS, config)
    assert own_heads.MODEL_FOR_QUESTION_ANSWERING_MAPPING[type(config)] is theirs
    assert MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES[config.model_type] == theirs.__name__


@pytest.mark.parametrize("name", MADE)
def test_registering_twice_is_harmless(name):
    config = transformers.AutoConfig.for_model(tiny.card(name).architecture["model_type"])
    assert config.model_type not in MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES
    assert own_heads.register(SPANS, config)
    first = own_heads.MODEL_FOR_QUESTION_ANSWERING_MAPPING[type(config)]
    assert own_heads.register(SPANS, config)
    assert own_heads.MODEL_FOR_QUESTION_ANSWERING_MAPPING[type(config)] is first
    assert issubclass(first, transformers.PreTrainedModel)


def test_what_writes_nothing_gets_no_class():
    config = transformers.ViTConfig()
    assert not own_heads.register(SPANS, config)
    assert own_heads.key_mapping(SPANS, config) == {}


def test_only_bodies_of_two_names_are_renamed():
    found = {}
    for name in [*KNOWN, *MADE]:
        config = transformers.AutoConfig.for_model(tiny.card(name).architecture["model_type"])
        own_heads.register(SPANS, config)
        found[name] = own_heads.key_mapping(SPANS, config)
    renamed = {r"^model\.": "transformer."}
    assert found == {name: renamed if name in ("llama", "qwen2") else {} for name in [*KNOWN, *MADE]}


def test_an_encoder_without_such_a_class_is_refused(tmp_path):
    architecture = {"model_type": "esm", "vocab_size": 2048, "hidden_size": 64, "num_attention_heads": 2}
    with pytest.raises(SetupError, match="'esm' is no model for answers that are spans"):
        reader(tiny.card("bert", architecture=architecture), tmp_path)
