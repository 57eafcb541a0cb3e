"""`speed.compile`: a training step by torch.compile gives the plain one's losses, or is left as it is, with a note."""

import dataclasses
from typing import Any

import pytest
import torch

from bench.config.training import Speed
from bench.models.kernels import compiled_blocks, padding_free
from bench.training import compiling
from tests.helpers import models as tiny
from tests.helpers import text_training as texts


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: Any) -> None:
    """Trace as ever, and run the operations one by one: what a compiler makes of them costs minutes."""
    monkeypatch.setattr(compiled_blocks, "BACKEND", "eager")
    torch._dynamo.reset()


class Heard(texts.Heard):
    """And what was compiled."""

    def on_compiled(self, figures: Any) -> None:
        self.settings["compilations"] = figures

    def on_compared(self, figures: Any) -> None:
        self.settings |= figures


def trained(folder: Any, *, compiled: bool, engine: str = "loop", **settings: Any) -> tuple[Any, Any, Any]:
    """(model, {"losses", "norms"}, what was heard) of a GPT-2 with dropout, without pads."""
    known, model = texts.model_of("gpt2-full", folder, dropout=True)
    assert padding_free.attach(model) is None
    inputs = texts.inputs_of(model, known, folder, per_device_batch=4, engine=engine, **settings)
    inputs = dataclasses.replace(inputs, speed=Speed(compile=compiled), observer=Heard())
    model, found = texts.train(inputs)
    return model, found, inputs.observer


def forwards(model: Any) -> dict[str, Any]:
    return {name: vars(module).get("forward") for name, module in model.named_modules() if "forward" in vars(module)}


@pytest.mark.parametrize("recomputed", [False, True])
def test_a_compiled_step_gives_the_losses_of_the_plain_one(recomputed, tmp_path):
    _, plain, heard = trained(tmp_path, compiled=False, gradient_checkpointing=recomputed)
    assert "compile" not in heard.settings
    model, found, heard = trained(tmp_path, compiled=True, gradient_checkpointing=recomputed)
    assert found["losses"] == pytest.approx(plain["losses"], rel=1e-5)
    assert found["norms"] == pytest.approx(plain["norms"], rel=1e-4)
    assert heard.notes == []
    assert heard.settings["compile"] is True
    assert heard.settings["compiled"]["loss"]["difference"] < 1e-5
    counts = heard.settings["compilations"]
    # A block is compiled once for all lengths, and again for a batch without any pad.
    assert counts["total"] > 0
    assert counts["again"] <= counts["total"] / 2
    assert counts["seconds"] > 0
    # As it was given.
    assert not compiled_blocks.is_attached(model)
    assert not any("Compiled" in repr(one) or compiled_blocks.STATE in repr(one) for one in forwards(model).values())
    assert not any(compiled_blocks.STATE in vars(module) for module in model.modules())


def test_lengths_are_compiled_once_and_scoring_is_not(tmp_path):
    _, model = texts.model_of("gpt2-full", tmp_path)
    assert compiled_blocks.attach(model) is None
    counts = compiled_blocks.torch_internals.Compilations()
    counts.start()
    try:
        with torch.no_grad():
            model(input_ids=torch.randint(5, 90, (2, 9)))
        with compiled_blocks.switched_off(model):
            model(input_ids=torch.randint(5, 90, (2, 9)))
        assert counts.total == 0
        for length in (9, 12, 31):
            model(input_ids=torch.randint(5, 90, (2, length))).logits.sum().backward()
        once = counts.total
        for length in (8, 11, 40):
            model(input_ids=torch.randint(5, 90, (3, length))).logits.sum().backward()
        assert 0 < counts.total == once
    finally:
        counts.stop()
        compiled_blocks.detach(model)
    model(input_ids=torch.randint(5, 90, (2, 7))).logits.sum().backward()
    assert counts.total == once
    assert forwards(model) == {}


@pytest.mark.parametrize("kind", ["no compiler", "another step", "switched off", "DeepSpeed", "FSDP2", "no blocks"])
def test_what_can_not_be_compiled_is_trained_plainly_with_a_note(kind, tmp_path, monkeypatch):
    _, plain, _ = trained(tmp_path, compiled=False)
    reason = _break(kind, monkeypatch)
    with torch._dynamo.config.patch(disable=kind == "switched off"):
        model, found, heard = trained(tmp_path, compiled=True)
    assert found == plain
    assert heard.settings["compile"] is False
    assert len(heard.notes) == 1
    assert heard.notes[0].startswith(f"speed.compile: the training step is not compiled, for the model {reason}")
    assert not compiled_blocks.is_attached(model)
    assert padding_free.is_attached(model)


def _break(kind: str, monkeypatch: Any) -> str:
    def refusing(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no compiler is installed")

    def wrong(graph: Any, inputs: Any) -> Any:
        return lambda *given: [part * 1.3 if part.is_floating_point() else part for part in graph(*given)]

    if kind == "no compiler":
        monkeypatch.setattr(compiled_blocks, "BACKEND", refusing)
        return "can't be run so (BackendCompilerFailed: "
    if kind == "another step":
        monkeypatch.setattr(compiled_blocks, "BACKEND", wrong)
        return "gets another training loss so (by "
    if kind == "switched off":
        return "was run as it is by torch, which compiled nothing"
    if kind == "no blocks":
        monkeypatch.setattr(compiled_blocks, "GradientCheckpointingLayer", torch.nn.Conv3d)
        return "has no blocks that transformers declares"
    own, name = compiling._not_here, {"DeepSpeed": "deepspeed", "FSDP2": "fsdp"}[kind]
    monkeypatch.setattr(compiling, "_not_here", lambda backend: own(name if backend is None else backend))
    return f"is trained under {kind}, whose hooks are not compiled"


def test_dropout_of_a_compiled_encoder_with_a_head(tmp_path):
    known = tiny.card("bert")
    model = tiny.adapted(known, tmp_path, "full").train()
    ids = torch.randint(5, 90, (2, 12))

    def logits() -> Any:
        torch.manual_seed(3)
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits

    plain = logits()
    assert compiled_blocks.attach(model) is None
    torch.testing.assert_close(logits(), plain)
    with compiled_blocks.switched_off(model):
        torch.testing.assert_close(logits(), plain, rtol=0, atol=0)
