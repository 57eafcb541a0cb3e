"""Parts of training that save memory: each is written down and changes no loss."""

import json

import pytest

from bench.config import resolve
from bench.records import store
from bench.runner import lifecycle
from tests.helpers.launching import losses

TINY = [
    *("model=tiny_llama", "objective=text", "method=qlora", "training.gradient_checkpointing=true"),
    *("training.epochs=null", "training.steps=4", "training.log_every=1", "limit={train: 24, test: 16}"),
    *("evaluation.before=false", "save=false"),
]


def run_tiny(folder, *extra):
    path = resolve.SHIPPED / "tiny" / "llama-text_qlora.yaml"
    assert lifecycle.main([str(path), *TINY, *extra, "--out", str(folder), "--overwrite"]) == 0
    return store.read(folder)


@pytest.mark.parametrize("engine", ["trainer", "loop"])
def test_each_part_is_written_down_and_changes_no_loss(engine, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    chosen = f"training.engine={engine}"
    plain = run_tiny(tmp_path / "plain", chosen, "speed.drop_copies=false")
    full = run_tiny(tmp_path / "full", chosen, "training.activation_offload=true")
    assert losses(tmp_path / "full") == losses(tmp_path / "plain")
    assert plain.speed["drop_copies"] is False
    assert "activation_offload" not in plain.speed
    assert full.speed["drop_copies"] is True
    assert full.speed["activation_offload"] is False
    assert any("activations are on the host already" in note for note in full.notes)
    assert plain.model.dtypes == full.model.dtypes
    narrow = run_tiny(tmp_path / "narrow", chosen, "method.dtype=bfloat16")
    assert narrow.model.dtypes["bfloat16"] == narrow.model.parameters["trainable"]
    assert losses(tmp_path / "narrow") == pytest.approx(losses(tmp_path / "plain"), rel=0.02)
    assert losses(tmp_path / "narrow") != losses(tmp_path / "plain")
    assert json.loads((tmp_path / "narrow" / "record.json").read_text())["recipe"]["hash"] != plain.recipe.hash
