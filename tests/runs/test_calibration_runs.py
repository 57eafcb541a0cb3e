"""A run with metrics of probabilities, class weights and a fitted temperature: recomputed, drawn and shown."""

import json

import numpy as np
import pytest

from bench.analysis import predictions, verify_beside
from bench.analysis.stats import probabilities
from bench.records import store
from bench.reporting import calibration_table
from bench.reporting.figures import reliability
from bench.runner import lifecycle
from tests.helpers.launching import ROOT, read_lines

pytestmark = pytest.mark.usefixtures("bare_runs")
COMMON = [
    "training.epochs=null", "training.steps=6", "training.learning_rate=0.01", "training.global_batch=8",
    "limit={train: 32, test: 40, validation: 24}", "save=false", "evaluation.temperature=fitted",
    "training.class_weights=balanced",
]  # fmt: skip
CASES = {
    "bert": ["evaluation.metrics=[accuracy, ece, brier, auroc, average_precision, loss]"],
    "posts": ["dataset=posts", "evaluation.metrics=[jaccard, ece, brier, auroc, average_precision, loss]"],
    "labels of gpt2": [
        "model=tiny_gpt2",
        "objective=text",
        "training.class_weights=null",
        "evaluation.metrics=[accuracy, ece, brier]",
    ],
}


def refuses_other_temperatures(path, record):
    assert verify_beside.find_contradiction(path, record) is None
    for edit, says in [
        (lambda found: setattr(found, "value", found.value * 1.3), "recomputed from the predictions"),
        (lambda found: setattr(found, "value", None), "a temperature is above 0"),
        (lambda found: setattr(found, "examples", 23), "24 predictions, but the record states a temperature of 23"),
        (lambda found: setattr(found, "loss_before", 9.0), "loss_before recomputed"),
        (lambda found: setattr(found.scores["test"]["ece"], "value", 0.5), "ece with the temperature recomputed"),
        (lambda found: setattr(found.scores["test"]["brier"], "value", 0.5), "brier with the temperature recomputed"),
    ]:
        other = record.model_copy(deep=True)
        edit(other.temperature)
        said = verify_beside.find_contradiction(path, other)
        assert said is not None, says
        assert says in said, said


@pytest.mark.parametrize("case", CASES)
def test_probabilities_are_scored_with_and_without_a_temperature(case, tmp_path):
    settings = dict(text.split("=", 1) for text in [*COMMON, *CASES[case]])
    recipe = ROOT / "recipes" / "tiny" / "bert-full.yaml"
    words = [str(recipe), *(f"{key}={value}" for key, value in settings.items()), "--out", str(tmp_path)]
    assert lifecycle.main(words) == 0
    record, found = store.read(tmp_path), json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    assert predictions.find_contradiction(tmp_path / "record.json", record) is None
    refuses_other_temperatures(tmp_path / "record.json", record)
    plain, fitted = found["scores"]["after"]["test"], found["temperature"]
    assert (fitted["split"], fitted["examples"]) == ("validation", 24)
    assert fitted["loss_after"] <= fitted["loss_before"]
    assert set(fitted["scores"]["test"]) == {
        name for name in plain if name.startswith(("ece", "brier", "au", "av", "lo"))
    }
    rows = read_lines(tmp_path / "predictions" / "after-test.jsonl")
    scores = np.array([list(row["scores"].values()) for row in rows])
    names, several = list(rows[0]["scores"]), isinstance(rows[0]["reference"], list)
    if several:
        references = np.array([[int(name in row["reference"]) for name in names] for row in rows])
    else:
        references = np.array([names.index(row["reference"]) for row in rows])
    scaled = probabilities.tempered(scores, fitted["value"], multi_label=several)
    ece = probabilities.CalibrationError().score(probabilities.confidence_rows(scaled, references))
    assert fitted["scores"]["test"]["ece"]["value"] == pytest.approx(ece, abs=1e-9)
    assert sum(number for number, _, _ in found["reliability"]["after"]["test"]) == scores.size if several else 40
    assert [check["ok"] for check in found["checks"]] == [True] * len(found["checks"])
    assert bool(found["training"]["class_weights"]) == (case != "labels of gpt2")
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "## Temperature" in page
    assert calibration_table.of_run(record) in page
    curves = reliability.curves(record, "test")
    assert list(curves) == ["before training", "after training", reliability.WITH]
    reliability.reliability_diagram(curves, "test, reliability", tmp_path / "reliability.png")
    assert (tmp_path / "reliability.png").stat().st_size > 5000
