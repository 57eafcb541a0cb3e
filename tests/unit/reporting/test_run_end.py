"""reporting/run_end.py: the scores of a run in a small table, the next command, and the line of a validation."""

import math
from pathlib import Path

import pytest

from bench.records.record import Score
from bench.reporting import run_end
from tests.helpers.pages import full


def score(value, low=None, high=None):
    return Score(value=value, low=low, high=high, examples=400, signature="s")


def record(scores, baselines, **more):
    return full(scores=scores, baselines=baselines, **more)


BEFORE = {"accuracy": score(0.4875, 0.4388, 0.5364), "f1_micro": score(0.4875), "loss": score(0.7)}
AFTER = {
    "loss": score(0.31, 0.25, 0.38), "accuracy": score(0.9125, 0.8808, 0.9364), "f1_micro": score(0.9125),
    "accuracy_per_label": score([0.9, 0.92]), "f1_macro": score(0.91, 0.88, 0.94), "mcc": score(None),
}  # fmt: skip
FLOORS = {"majority": {"accuracy": 0.5325, "loss": 0.691}, "random": {"accuracy": 0.5}}


def test_a_run_s_scores_stand_in_one_small_table():
    table = run_end.scores_table(record({"before": {"test": BEFORE}, "after": {"test": AFTER}}, {"test": FLOORS}))
    assert table == [
        "metric    majority baseline  before  after   95 % interval",
        "accuracy              0.532   0.487  0.912  0.881 to 0.936",
        "f1_macro                  –       –  0.910  0.880 to 0.940",
        "mcc                       –       –      –               –",
        "loss                  0.691   0.700  0.310  0.250 to 0.380",
    ]


def test_other_splits_have_a_row_and_baselines_their_names():
    scores = {"after": {"validation": AFTER, "test": AFTER}}
    floors = {"test": {"majority": {"accuracy": 0.5}, "longest_choice": {"loss": 0.6}}, "validation": {}}
    lines = run_end.scores_table(record(scores, floors))
    assert lines[0].split() == ["split", "metric", "baseline", "after", "95", "%", "interval"]
    assert [line.split()[:3] for line in lines[1:]] == [
        ["test", "accuracy", "0.500"], ["test", "f1_macro", "–"], ["test", "mcc", "–"], ["test", "loss", "0.600"],
        ["validation", "accuracy", "–"],
    ]  # fmt: skip
    assert "0.500 (majority)" in lines[1]
    assert "0.600 (longest_choice)" in lines[4]


def test_a_run_without_scores_has_no_table():
    assert run_end.scores_table(record({}, {})) == []


@pytest.mark.parametrize(
    ("artifacts", "columns", "command"),
    [
        ({"model": "model"}, {"text": "t"}, 'python -m bench predict "runs/a b" --text "..."'),
        ({"model": "model"}, {"text_pair": "q"}, 'python -m bench predict "runs/a b" --text "..." --text-pair "..."'),
        ({"model": "model"}, {"choices": ["a", "b"]}, "python -m bench report runs -o runs/report"),
        ({}, {}, "python -m bench report runs -o runs/report"),
    ],
)
def test_one_command_comes_next(artifacts, columns, command):
    found = full(artifacts=artifacts)
    found.recipe.resolved = {"dataset": {"columns": columns}}
    assert run_end.next_command(found, Path("runs/a b")).replace("'", '"') == command
    found.status = "diverged"
    assert run_end.next_command(found, Path("runs/a b")) is None


def test_a_validation_says_what_chooses_first():
    values = {"loss": 0.41, "f1_micro": 0.8, "mcc": 0.6, "accuracy": 0.8, "f1_macro": 0.79, "reference_tokens": 9.0}
    line = run_end.validation_line("dev", 50, values, None)
    assert line == "validate dev at step 50: accuracy 0.8000, f1_macro 0.7900, loss 0.4100"
    assert run_end.validation_line("dev", 50, values, "mcc").startswith("validate dev at step 50: mcc 0.6000, accuracy")
    assert run_end.validation_line("dev", 50, values, "loss").endswith("50: loss 0.4100, accuracy 0.8000")


@pytest.mark.parametrize(
    ("best", "value", "said"),
    [
        ("accuracy", 0.8, "accuracy 0.8000, loss 0.4000, the best accuracy so far"),
        ("accuracy", 0.7, "accuracy 0.7000, loss 0.4000 (best accuracy so far: 0.7500 at step 20)"),
        ("accuracy", 0.75, "accuracy 0.7500, loss 0.4000 (best accuracy so far: 0.7500 at step 20)"),
        ("accuracy", math.nan, "accuracy nan, loss 0.4000 (best accuracy so far: 0.7500 at step 20)"),
        ("loss", 0.7, "loss 0.4000, accuracy 0.7000 (best loss so far: 0.3000 at step 10)"),
        (None, 0.8, "accuracy 0.8000, loss 0.4000, the best accuracy so far"),
        ("unheard_of", 0.8, "unheard_of 0.8000, loss 0.4000"),
    ],
)
def test_a_validation_stands_beside_the_best_one(best, value, said):
    rows = [
        {"step": 10, "loss": 0.9},
        {"step": 10, "validation_accuracy": 0.5, "validation_loss": 0.3, "validation_unheard_of": 0.1},
        {"step": 20, "validation_accuracy": 0.75, "validation_loss": None},
        {"step": 25, "validation_accuracy": 0.75},
    ]
    name = best if best == "unheard_of" else "accuracy"
    values = {name: value, "loss": 0.4}
    assert run_end.validation_line("dev", 30, values, best, rows) == f"validate dev at step 30: {said}"
    assert (
        run_end.validation_line("dev", 30, values, best)
        == f"validate dev at step 30: {said.split(', the')[0].split(' (')[0]}"
    )
