"""scripts/retention_study.py: its recipes are valid, and its text is that of the articles, each paragraph once."""

import json

from bench.config import resolve
from scripts import retention_study

FOLDER = "dataset.source.folder=data/any"


def test_its_recipes_are_valid(tmp_path):
    (tmp_path / "base.yaml").write_text(retention_study.BASE.replace("EPOCHS", "8"), encoding="utf-8")
    base = resolve.load(tmp_path / "base.yaml", (FOLDER,)).recipe
    assert (base.objective, base.training.loss_on, base.model.weights) == ("text", "all", "random")
    known = retention_study.TUNED.replace(
        "{id: BASE, family: decoder, licence: Apache-2.0, max_length: 256}", "tiny_gpt2"
    )
    assert "BASE" not in known
    for name, (method, rate) in retention_study.METHODS.items():
        text = known.replace("METHOD", method).replace("RATE", rate).replace("TEXT", "a.txt").replace("TRAIN", "10")
        (tmp_path / f"{name}.yaml").write_text(text.replace("max_length: 192", "max_length: 128"), encoding="utf-8")
        recipe = resolve.load(tmp_path / f"{name}.yaml", (FOLDER,)).recipe
        assert [getattr(entry, "name", entry) for entry in recipe.evaluation.also] == ["sst2_local", "perplexity:a.txt"]


def test_each_paragraph_is_read_once(tmp_path):
    paragraphs = [{"context": text, "qas": []} for text in ("One.", "Two.", "One.")]
    (tmp_path / "squad_v1.1").mkdir()
    file = tmp_path / "squad_v1.1" / "eval.json"
    file.write_text(json.dumps({"data": [{"title": "t", "paragraphs": paragraphs}]}), encoding="utf-8")
    assert retention_study.neutral_text(tmp_path) == "One.\n\nTwo."
