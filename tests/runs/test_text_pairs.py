"""Runs on pairs of texts, with a card made of a table: both texts are read, by a head and in a prompt."""

import json

import pytest
import yaml

from bench.data import card_from_source
from bench.records import store
from bench.runner import lifecycle

pytestmark = pytest.mark.usefixtures("bare_runs")


@pytest.fixture
def pairs(write, tmp_path):
    """pairs(**recipe) -> a recipe on a semicolon table of premises and hypotheses, through a made card."""

    def make(**recipe):
        # The premise alone does not tell the label: each stands there with either.
        rows = "".join(f"ground {n // 2};{'follows' if n % 2 else 'differs'} {n};{n % 2}\n" for n in range(60))
        path = write("table.csv", "premise;hypothesis;label\n" + rows)
        made = card_from_source.make({"path": str(path), "delimiter": ";", "labels": ["no", "yes"]})
        assert made.card["columns"] == {"label": "label", "text": "premise", "text_pair": "hypothesis"}
        write("datasets/mine.yaml", yaml.safe_dump(made.card))
        keys = {"dataset": "mine", "model": "tiny_bert", "method": "full", "max_length": 32}
        keys["training"] = {"steps": 2, "global_batch": 8, "learning_rate": 1e-3}
        return write("study/own.yaml", json.dumps({**keys, **recipe}))

    return make


@pytest.mark.parametrize(
    "recipe", [{}, {"model": "tiny_llama", "objective": "text", "max_length": 96}], ids=["head", "text"]
)
def test_both_texts_are_read(pairs, tmp_path, recipe):
    assert lifecycle.main([str(pairs(**recipe)), "--out", str(tmp_path / "out")]) == 0
    left = store.read(tmp_path / "out")
    assert (left.status, left.data.labels) == ("ok", ["no", "yes"])
    assert left.data.splits["train"].examples == 48
    lines = (tmp_path / "out" / "predictions" / "after-test.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == left.data.splits["test"].examples == 6
    if recipe:
        # The tokenizer of the tiny model has lower case alone.
        assert "name the label of each pair, one of: no, yes.\n\npremise: ground" in left.prompts.example
        assert "\nhypothesis: " in left.prompts.example
