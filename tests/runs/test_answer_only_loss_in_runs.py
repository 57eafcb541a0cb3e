"""The record says where a language model needs all logits."""

import pytest

from bench.records import store
from bench.runner import lifecycle
from tests.helpers.launching import ROOT, losses

RUN = [
    *("training={steps: 2, global_batch: 4, log_every: 1, learning_rate: 1e-3}", "evaluation.before=false"),
    *("limit={train: 16, validation: 8, test: 8}", "save=false"),
]


def test_the_record_says_where_all_logits_were_needed(tmp_path):
    recipe = str(ROOT / "recipes" / "tiny" / "mistral-text_lora.yaml")
    experts = ["model.architecture.model_type=mixtral", "model.architecture.num_local_experts=2"]
    notes = {}
    for name, changes in {"experts": experts, "plain": [], "off": ["speed.answer_logits=false"]}.items():
        assert lifecycle.main([recipe, "--out", str(tmp_path / name), *RUN, *changes]) == 0
        found = store.read(tmp_path / name)
        notes[name] = [note for note in found.notes if "answer_logits" in note]
        assert found.speed["answer_logits"] is (name == "plain")
    assert notes["plain"] == notes["off"] == []
    assert len(notes["experts"]) == 1
    assert "is a mixture of experts" in notes["experts"][0]
    off, on = (losses(tmp_path / name) for name in ("off", "plain"))
    assert len(on) == 2
    assert on == pytest.approx(off, rel=1e-5)
