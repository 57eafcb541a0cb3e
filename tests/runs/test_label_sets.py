"""Runs on labels that disagree: what is found stands in the record; a filter narrows all that follows."""

import json

import pytest
import yaml

from bench.config import resolve
from bench.memory import state_sizes
from bench.records import store
from bench.runner import lifecycle

pytestmark = pytest.mark.usefixtures("bare_runs")


@pytest.fixture
def project(write):
    """project(train, test, recipe={...}, **card) -> a recipe on CSV files with these labels; texts name their label."""

    def make(train, test, recipe=None, **card):
        for name, labels in (("train", train), ("test", test)):
            rows = "".join(f"{name} {number} word{label.strip()},{label}\n" for number, label in enumerate(labels))
            write(f"{name}.csv", "text,label\n" + rows)
        source = {"kind": "csv", "folder": ".", "files": {"train": "train.csv", "test": "test.csv"}}
        content = {"task": "text_classification", "licence": "none", "source": source}
        content |= {"splits": {"train": "train", "test": "test"}, **card}
        write("datasets/mine.yaml", yaml.safe_dump(content))
        keys = {"dataset": "mine", "model": "tiny_bert", "method": "full", "max_length": 32}
        keys["training"] = {"steps": 2, "global_batch": 8, "learning_rate": 1e-3}
        return write("study/own.yaml", json.dumps({**keys, **(recipe or {})}))

    return make


def record_of(recipe, tmp_path, *arguments):
    assert lifecycle.main([str(recipe), *arguments, "--out", str(tmp_path / "out")]) == 0
    return store.read(tmp_path / "out")


def test_labels_that_disagree_are_warned_of_in_the_record(project, tmp_path):
    left = record_of(project(["neg", " pos", "nan"] * 8, ["neg", "pos", "neu"] * 4), tmp_path)
    # Two steps leave it at one answer, too.
    assert {warning.code for warning in left.warnings} - {"one_label_predicted"} == {
        "missing_value_label", "label_not_in_training", "label_not_scored", "weights_not_loaded",
    }  # fmt: skip
    assert "train: labels in another spelling are read: ' pos' as 'pos' (8)" in left.notes
    assert left.data.labels == ["nan", "neg", "neu", "pos"]


@pytest.mark.parametrize("objective", ["head", "text"])
def test_a_filter_narrows_all_that_follows(project, tmp_path, objective):
    text = {"model": "tiny_llama", "objective": "text"} if objective == "text" else {}
    card = {"labels": ["neg", "neu", "pos"], "filters": {"labels": ["pos", "neg"]}}
    prompt = {"template": "Text: {text}\nOne of {labels}:", "answers": {"neu": "neg", "pos": "good"}}
    recipe = project(["neg", "neu", "pos"] * 8, ["pos", "neu", "neg"] * 4, text, prompt=prompt, **card)
    left = record_of(recipe, tmp_path)
    assert left.data.labels == ["neg", "pos"]
    assert left.data.splits["test"].labels == {"neg": 4, "pos": 4}
    scores = left.scores["after"]["test"]
    assert len(scores["f1_per_label"].value) == 2
    assert len(scores["confusion_matrix"].value) == 2
    assert left.baselines["test"]["majority"]["accuracy"] == 0.5
    lines = (tmp_path / "out" / "predictions" / "after-test.jsonl").read_text(encoding="utf-8").splitlines()
    assert all(set(json.loads(line)["scores"]) == {"neg", "pos"} for line in lines)
    described = json.loads((tmp_path / "out" / "model" / "bench.json").read_text(encoding="utf-8"))
    assert described["labels"] == ["neg", "pos"]
    if objective == "text":
        assert "one of neg, good:" in left.prompts.example
    else:
        assert state_sizes.outline(resolve.load(recipe)).classifier.out_features == 2
