"""models/initial_values.py: what of a model began at random, and whether its new head is trained."""

import shutil

import pytest
from safetensors.torch import load_file, save_file

from bench.models import heads, initial_values
from tests.helpers import models as tiny

CARD = tiny.card("bert")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A classifier's checkpoint without a head, as a body that was pretrained has it."""
    folder = tmp_path_factory.mktemp("bert")
    model = tiny.build(CARD, folder, tiny.options("full")[0].load_plan(tiny.options("full")[1]))
    model.save_pretrained(folder)
    cut(folder, "classifier.")
    return folder


def cut(folder, *begins):
    """Take weights out of a checkpoint."""
    path = folder / "model.safetensors"
    kept = {name: value for name, value in load_file(path).items() if not name.startswith(begins)}
    save_file(kept, path, metadata={"format": "pt"})


def built(folder, method, settings=None):
    module, options = tiny.options(method, settings)
    known = CARD.model_copy(update={"id": str(folder), "weights": "pretrained"})
    model = tiny.build(known, folder, module.load_plan(options), weights="pretrained")
    initial = initial_values.of_model(model, "pretrained")
    return initial, initial_values.trains_head(module.adapt(model, options), initial)


@pytest.mark.parametrize("method", ["full", "head", "lora", "probe"])
def test_a_new_head_on_a_pretrained_body_is_trained(checkpoint, method):
    initial, trained = built(checkpoint, method)
    assert (initial.head, initial.body, initial.body_size) == (("classifier",), (), 0)
    assert trained


def test_new_parameters_have_the_names_of_the_head_that_is_there(checkpoint):
    module, options = tiny.options("full")
    known = CARD.model_copy(update={"id": str(checkpoint), "weights": "pretrained"})
    model = tiny.build(known, checkpoint, module.load_plan(options), weights="pretrained")
    assert initial_values.new_names(model, "pretrained") == ["classifier.bias", "classifier.weight"]
    heads.attach_mlp(model, 8, 0.1, norm=True)
    layers = ["mlp_in.bias", "mlp_in.weight", "mlp_norm.bias", "mlp_norm.weight", "mlp_out.bias", "mlp_out.weight"]
    assert initial_values.new_names(model, "pretrained") == [f"classifier.{name}" for name in layers]
    setattr(model, heads.MISSING, [])  # the checkpoint had a head, which is replaced
    assert initial_values.new_names(model, "pretrained") == [f"classifier.{name}" for name in layers]
    assert initial_values.new_names(model, "random") == []


def test_a_new_head_that_is_frozen_is_not(checkpoint):
    module, options = tiny.options("zero_shot")
    known = CARD.model_copy(update={"id": str(checkpoint)})
    model = tiny.build(known, checkpoint, module.load_plan(options), weights="pretrained")
    initial = initial_values.of_model(model, "pretrained")
    assert not initial_values.trains_head(module.adapt(model, options), initial)


def test_a_body_whose_weights_are_missing_is_counted_but_not_its_pooler(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "bert")
    cut(tmp_path / "bert", "bert.pooler.", "bert.encoder.layer.0.output.")
    initial, _ = built(tmp_path / "bert", "full")
    assert initial.body == (
        "bert.encoder.layer.0.output.LayerNorm.bias", "bert.encoder.layer.0.output.LayerNorm.weight",
        "bert.encoder.layer.0.output.dense.bias", "bert.encoder.layer.0.output.dense.weight",
    )  # fmt: skip
    hidden, inner = CARD.architecture["hidden_size"], CARD.architecture["intermediate_size"]
    assert initial.body_size == 3 * hidden + hidden * inner


def test_a_model_from_its_config_is_random_as_a_whole(tmp_path):
    module, options = tiny.options("full")
    model = tiny.build(CARD, tmp_path, module.load_plan(options))
    initial = initial_values.of_model(model, "random")
    assert initial.head == ("classifier",)
    assert initial.body_size == sum(part.numel() for part in model.bert.parameters()) - sum(
        part.numel() for part in model.bert.pooler.parameters()
    )
    assert heads.head_names(model) == ["classifier"]


def test_an_mlp_head_is_new_whatever_the_checkpoint_brought(tmp_path):
    module, options = tiny.options("full")
    model = tiny.build(CARD, tmp_path, module.load_plan(options))
    model.save_pretrained(tmp_path)
    heads.attach_mlp(model, 8, 0.0)
    setattr(model, heads.MISSING, [])
    assert initial_values.of_model(model, "pretrained").head == ("classifier",)
