"""runner/warnings_of_scores.py: prompted scores against chance, scores after training against those before."""

from types import SimpleNamespace

import numpy as np
import pytest

from bench.evaluation import scoring
from bench.evaluation.baselines import baselines, constants
from bench.evaluation.metric_set import MetricSet, Predictions
from bench.models.initial_values import InitialValues
from bench.records.record import Data, Model, Prompts, RecipePart, Record
from bench.runner import warnings_of_scores

METRICS = MetricSet(("accuracy",), multi_label=False, num_labels=2)
REFERENCES = np.array([0, 1] * 100)
TRAIN = np.array([0, 1, 1])


def answered(right):
    """Predictions of which so many are right, of both labels alike."""
    predicted = REFERENCES.copy()
    wrong = len(REFERENCES) - right
    predicted[:wrong] = 1 - predicted[:wrong]
    return Predictions(
        ids=tuple(f"{number:03}" for number in range(len(REFERENCES))),
        predictions=predicted,
        references=REFERENCES,
        scores=np.full((len(REFERENCES), 2), 0.5),
    )


def warned(right, *, stage="before", trains="gradient", prompted=True, weights="pretrained", fresh=(), head=()):
    """Codes and sentences of one scored split."""
    record = Record(name="s--m--x", started_at="2026-01-01", recipe=RecipePart(path="x"))
    record.model = Model(
        id="m", weights=weights, class_="X", attention=None, parameters={}, dtypes={}, newly_initialized=list(fresh)
    )
    if prompted:
        record.prompts = Prompts(format="plain", answer="label_likelihood", signature="s", template_hash="h")
    scored = answered(right)
    record.scores = {stage: {"test": METRICS.scores(scored)}}
    record.baselines = {"test": baselines(METRICS, TRAIN, scored)}
    inputs = SimpleNamespace(
        corpus=SimpleNamespace(labels=("a", "b")),
        scoring=SimpleNamespace(metrics=METRICS),
        plan=SimpleNamespace(trains=trains),
    )
    run = SimpleNamespace(record=record, inputs=inputs, initial=InitialValues(head=tuple(head)))
    warnings_of_scores.warn(run, stage, "test", scored, constants(METRICS, TRAIN, scored))
    return {warning.code: warning.sentence for warning in record.warnings}


def test_a_prompted_model_at_chance_is_named_before_training():
    sentence = warned(104)["within_chance"]
    assert sentence.startswith("before test: accuracy 0.520 on 200 examples (95 % interval 0.451 to 0.588) can't be")
    assert "answers without a model (random 0.5" in sentence or "(majority 0.500, random 0.5" in sentence
    assert "Usual causes: the prompt or its answers do not suit the model" in sentence


@pytest.mark.parametrize(
    "case",
    [
        {"right": 150},
        {"right": 104, "weights": "random"},
        {"right": 104, "fresh": ["score.weight"]},
        {"right": 104, "stage": "after"},  # it was trained: held against the constants alone
    ],
)
def test_others_are_not(case):
    assert "within_chance" not in warned(**case)


@pytest.mark.parametrize(("right", "said"), [(104, "can't be distinguished from"), (60, "is below")])
def test_a_head_that_its_checkpoint_brought_is_named_at_chance_and_below_it(right, said):
    sentence = warned(right, prompted=False)["kept_head_within_chance"]
    assert f"{said} answers without a model" in sentence
    assert "Usual causes: its outputs stand for other labels, or for these in another order" in sentence
    assert "kept_head_within_chance" in warned(right, prompted=False, stage="before", trains="nothing")


@pytest.mark.parametrize(
    "case",
    [
        {"right": 150},
        {"right": 104, "head": ["classifier"]},  # an MLP head in place of the checkpoint's
        {"right": 104, "trains": "features"},  # a probe
        {"right": 104, "fresh": ["classifier.weight"]},
        {"right": 104, "weights": "random"},
        {"right": 104, "stage": "after"},
    ],
)
def test_other_heads_are_not(case):
    assert "kept_head_within_chance" not in warned(**case, prompted=False)


def test_a_prompted_model_as_it_is_is_named_once():
    found = warned(104, stage="after", trains="nothing")
    assert list(found) == ["not_better_than_baseline"]
    assert "is not significantly better than the baseline majority, 0.500" in found["not_better_than_baseline"]
    assert warned(150, stage="after", trains="nothing") == {}


# ---------------------------------------------------------------- lost by training


def trained(folder, before, after):
    """Codes of the warnings, and the notes, of a run with so many right answers before and after training."""
    record = Record(name="s--m--x", started_at="2026-01-01", recipe=RecipePart(path="x"))
    record.data = Data(id="d", labels=["a", "b"])
    inputs = SimpleNamespace(
        corpus=SimpleNamespace(labels=("a", "b")),
        scoring=SimpleNamespace(metrics=METRICS),
        plan=SimpleNamespace(trains="gradient"),
    )
    run = SimpleNamespace(record=record, inputs=inputs, folder=folder, initial=None)
    for stage, right in (("before", before), ("after", after)):
        scored = answered(right)
        record.scores[stage] = {"test": METRICS.scores(scored)}
        record.baselines = {"test": baselines(METRICS, TRAIN, scored)}
        path = folder / "predictions" / f"{stage}-test.jsonl"
        scoring.write_predictions(path, scored, METRICS, ("a", "b"))
        record.artifacts[f"predictions_{stage}_test"] = str(path.relative_to(folder))
        warnings_of_scores.warn(run, stage, "test", scored, constants(METRICS, TRAIN, scored))
    return [warning.code for warning in record.warnings], record.notes


def test_a_loss_by_training_is_a_warning_and_one_that_may_be_chance_a_note(tmp_path):
    found, notes = trained(tmp_path, 180, 140)
    assert (found, notes) == (["worse_than_before"], [])
    found, (note,) = trained(tmp_path, 150, 148)
    assert found == []
    assert note.startswith(
        "after test: accuracy 0.740 on 200 examples is worse than before training, 0.750 (difference"
    )
    assert note.endswith("): not significant")
    assert trained(tmp_path, 140, 180) == ([], [])
