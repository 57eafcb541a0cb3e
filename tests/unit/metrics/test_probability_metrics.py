"""Metrics of probabilities against scikit-learn, numbers worked out by hand, draws made one by one, and odd inputs."""

import importlib
import inspect
import warnings

import evaluate
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from bench.analysis.stats import probabilities, sums
from bench.analysis.stats.sums import Line
from bench.config import contracts, registry
from bench.errors import DataError
from bench.evaluation.metric_set import MetricSet, Predictions
from tests.helpers.cases import together

RANKED = ("auroc", "average_precision", "ece")
NAMES = (*RANKED, "brier", "top_k_accuracy")
LABELS = ("a", "b", "c", "d", "e", "f")


def metric(name, config="default"):
    module = importlib.import_module(f"bench.metrics.{name}")
    kinds = [kind for kind in vars(module).values() if inspect.isclass(kind) and issubclass(kind, evaluate.Metric)]
    return kinds[0](config_name=config, keep_in_memory=True)


def single(num_labels, seed=0, examples=60):
    """Probabilities with ties, and references of which every label occurs."""
    generator = np.random.default_rng(seed)
    references = np.concatenate([np.arange(num_labels), generator.integers(num_labels, size=examples - num_labels)])
    shares = (generator.dirichlet(np.ones(num_labels), size=examples) + np.eye(num_labels)[references]) / 2
    return np.stack([generator.multinomial(20, share) / 20 for share in shares]), references


def several(seed=0, examples=50):
    generator = np.random.default_rng(seed)
    references = (generator.random((examples, 3)) < 0.4).astype(int)
    return np.round(np.clip(generator.random((examples, 3)) * 0.6 + references * 0.3, 0, 1), 2), references


@together("seed", range(3))
def test_areas_equal_scikit_learn(seed):
    scores, references = single(2, seed)
    expected = {
        "auroc": sklearn_metrics.roc_auc_score(references, scores[:, 1]),
        "average_precision": sklearn_metrics.average_precision_score(references, scores[:, 1]),
    }
    for name, value in expected.items():
        got = metric(name).compute(predictions=scores, references=references)
        assert got[name] == pytest.approx(value, abs=1e-12)
        assert got[f"{name}_per_label"][1] == got[name]
    scores, references = single(4, seed)
    got = metric("auroc").compute(predictions=scores, references=references)
    expected = sklearn_metrics.roc_auc_score(references, scores, average="macro", multi_class="ovr")
    assert got["auroc"] == pytest.approx(expected, abs=1e-12)
    assert np.mean(got["auroc_per_label"]) == pytest.approx(expected, abs=1e-12)
    got = metric("average_precision").compute(predictions=scores, references=references)
    expected = sklearn_metrics.average_precision_score(np.eye(4)[references], scores, average="macro")
    assert got["average_precision"] == pytest.approx(expected, abs=1e-12)
    scores, references = several(seed)
    for name, function in (("auroc", "roc_auc_score"), ("average_precision", "average_precision_score")):
        got = metric(name, "multilabel").compute(predictions=scores, references=references)
        expected = getattr(sklearn_metrics, function)(references, scores, average="macro")
        assert got[name] == pytest.approx(expected, abs=1e-12)


@together("num_labels", [2, 3, 6])
def test_brier_and_top_k_equal_scikit_learn(num_labels):
    scores, references = single(num_labels)
    labels = list(range(num_labels))
    got = metric("brier").compute(predictions=scores, references=references, num_labels=num_labels)["brier"]
    truth, probability = (references, scores[:, 1]) if num_labels == 2 else (references, scores)
    expected = sklearn_metrics.brier_score_loss(truth, probability, labels=labels)
    assert got == pytest.approx(expected, abs=1e-12)
    untied = np.random.default_rng(1).dirichlet(np.ones(num_labels), size=len(references))
    got = metric("top_k_accuracy").compute(predictions=untied, references=references, num_labels=num_labels)
    for k in (3, 5):
        if num_labels > k:
            expected = sklearn_metrics.top_k_accuracy_score(references, untied, k=k, labels=labels)
            assert got[f"top_{k}_accuracy"] == pytest.approx(expected, abs=1e-12)
        else:
            assert np.isnan(got[f"top_{k}_accuracy"])


def test_brier_of_several_labels_is_the_mean_over_all_pairs():
    scores, references = several()
    got = metric("brier", "multilabel").compute(predictions=scores, references=references)["brier"]
    assert got == pytest.approx(((scores - references) ** 2).mean(), abs=1e-12)


def test_equally_likely_labels_rank_by_their_order_as_the_predicted_label_does():
    scores = np.full((6, 6), 1 / 6)
    got = metric("top_k_accuracy").compute(predictions=scores, references=np.arange(6))
    assert got == {"top_3_accuracy": 3 / 6, "top_5_accuracy": 5 / 6}


def test_known_calibration_errors():
    # 30 examples, two in each bin of equal mass: all say 0.6, 0.61 ..., of which in each bin one is right.
    confidence = np.repeat(0.6 + np.arange(15) / 100, 2)
    scores, references = np.stack([confidence, 1 - confidence], axis=1), np.tile([0, 1], 15)
    got = metric("ece").compute(predictions=scores, references=references)["ece"]
    assert got == pytest.approx(np.mean(confidence - 0.5), abs=1e-12)
    # By the definition: sorted, cut into 15 parts of equal size; here without ties.
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.5, 1, size=150)
    right = generator.random(150) < confidence**2
    scores, references = np.stack([confidence, 1 - confidence], axis=1), np.where(right, 0, 1)
    parts = np.split(np.argsort(confidence), 15)
    expected = np.mean([abs(confidence[part].mean() - right[part].mean()) for part in parts])
    assert metric("ece").compute(predictions=scores, references=references)["ece"] == pytest.approx(expected, abs=1e-12)
    # Certain of everything: one bin, whatever its size.
    certain = np.eye(2)[np.zeros(10, dtype=int)]
    got = metric("ece").compute(predictions=certain, references=[0] * 7 + [1] * 3)
    assert got == {"ece": pytest.approx(0.3), "ece_by_chance": 0.0}


def test_a_perfectly_calibrated_model_has_the_error_that_chance_gives_and_an_interval_from_0():
    generator = np.random.default_rng(3)
    confidence = generator.uniform(0.5, 1, size=500)
    references = (generator.random(500) > confidence).astype(int)
    scores = np.stack([confidence, 1 - confidence], axis=1)
    found = MetricSet(("ece",), multi_label=False, num_labels=2).scores(predictions_of(scores, references))
    assert found["ece"].value == pytest.approx(found["ece_by_chance"].value, abs=0.02)
    assert found["ece"].value > 0.02
    assert found["ece"].low == 0
    assert found["ece"].low < found["ece"].value <= found["ece"].high
    assert found["ece_by_chance"].low is None
    # One that is far too sure has an interval above 0 that holds its own error.
    sure = np.stack([np.full(500, 0.97) + generator.uniform(0, 0.02, 500), np.zeros(500)], axis=1)
    sure[:, 1] = 1 - sure[:, 0]
    ece = MetricSet(("ece",), multi_label=False, num_labels=2).scores(predictions_of(sure, references))["ece"]
    assert 0.1 < ece.low < ece.value < ece.high


def predictions_of(scores, references):
    predicted = (scores >= 0.5).astype(int) if references.ndim == 2 else scores.argmax(axis=1)
    ids = tuple(f"{number:04}" for number in range(len(references)))
    return Predictions(ids=ids, predictions=predicted, references=references, scores=scores)


@together("name", RANKED)
@together("config", ["default", "multilabel"])
def test_a_weighted_draw_equals_the_examples_repeated(name, config):
    scores, references = single(3) if config == "default" else several()
    measured = metric(name, config)
    assert isinstance(measured, contracts.WeightedMetric)
    assert not isinstance(measured, contracts.AdditiveMetric)
    rows = measured.rows(*measured.checked(scores, references, 3), 3)
    weights = np.random.default_rng(0).multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=5).astype(float)
    drawn = measured.weighted_values(rows, weights)
    for number, weight in enumerate(weights.astype(int)):
        repeated = measured.compute_values(np.repeat(scores, weight, 0), np.repeat(references, weight, 0), 3)
        for value, values in drawn.items():
            np.testing.assert_allclose(values[number], repeated[value], atol=1e-12)


@together("name", NAMES)
def test_order_of_examples_changes_nothing_and_ties_are_fair(name):
    scores, references = single(6)
    order = np.random.default_rng(5).permutation(len(references))
    measured = metric(name)
    one = measured.compute_values(scores, references, 6)
    other = measured.compute_values(scores[order], references[order], 6)
    for value in one.keys() - {"ece_by_chance"}:
        np.testing.assert_allclose(one[value], other[value], atol=1e-12)
    if name == "auroc":
        constant = measured.compute_values(np.full((60, 6), 1 / 6), references, 6)
        np.testing.assert_allclose(constant["auroc"], 0.5)


@together("name", NAMES)
def test_no_examples_nan_and_one_class(name):
    measured = metric(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(np.isnan(value).all() for value in measured.compute_values([], [], 6).values())
        scores, references = single(6)
        scores[4] = np.nan
        assert all(np.isnan(value).all() for value in measured.compute_values(scores, references, 6).values())
        scores, _ = single(6)
        alone = measured.compute_values(scores, np.zeros(60, dtype=int), 6)
    if name in ("auroc", "average_precision"):
        assert np.isnan(alone[name])
    refused = pytest.raises(ValueError, match="probabilities of shape")
    with refused:
        measured.compute_values(scores[:, :3], references, 6)


def test_a_metric_that_is_not_defined_says_so_and_is_null_with_no_interval():
    metrics = MetricSet(("auroc", "average_precision", "top_k_accuracy"), multi_label=False, num_labels=2)
    scores, _ = single(2)
    alone = predictions_of(scores, np.ones(60, dtype=int))
    found = metrics.scores(alone)
    assert found["auroc"].value is None
    assert found["auroc"].interval is None
    assert found["average_precision"].value == 1
    assert found["average_precision_per_label"].value == [None, 1.0]
    assert (found["top_3_accuracy"].value, found["top_3_accuracy"].low) == (None, None)
    assert metrics.undefined(alone, ("no", "yes")) == [
        "auroc is not defined: all examples, or none, have the label 'no', 'yes'",
        "average_precision is not defined: no example has the label 'no'",
        "top_3_accuracy, top_5_accuracy not defined: there are only 2 labels",
    ]
    assert "top_3_accuracy" not in metrics.per_example(alone)
    both = predictions_of(*single(2))
    assert metrics.undefined(both, ("no", "yes")) == [
        "top_3_accuracy, top_5_accuracy not defined: there are only 2 labels"
    ]
    low, high = metrics.scores(both)["auroc"].low, metrics.scores(both)["auroc"].high
    assert low < metrics.scores(both)["auroc"].value < high


@together("name", RANKED)
@together("config", ["default", "multilabel"])
def test_a_tally_from_the_lines_of_a_file_equals_the_metric(name, config):
    scores, references = single(3) if config == "default" else several()
    labels, multi_label = LABELS[:3], config == "multilabel"
    lines = [
        Line(
            prediction=None,
            reference=[labels[i] for i in np.flatnonzero(reference)] if multi_label else labels[reference],
            scores=dict(zip(labels, map(float, row), strict=True)),
        )
        for row, reference in zip(scores, references, strict=True)
    ]
    tally = sums.tally(name, lines, labels, multi_label=multi_label)
    expected = metric(name, config).compute_values(scores, references, 3)[name]
    assert tally.score == pytest.approx(float(expected), abs=1e-12)
    lines[0] = lines[0]._replace(scores={"other": 0.5})
    with pytest.raises(DataError, match="'other'"):
        sums.tally(name, lines, labels, multi_label=multi_label)


def test_the_names_that_are_recomputed_are_those_of_the_metrics():
    values = {value for name in RANKED for value in registry.literals("metrics", name)["settings"]}
    assert {value for value in values if not value.endswith("_per_label")} == set(probabilities.BY_PROBABILITY)


def test_reliability_bins_add_up_to_the_error():
    scores, references = single(3)
    rows = probabilities.confidence_rows(scores, references)
    bins = probabilities.reliability(rows)
    assert sum(number for number, _, _ in bins) == len(rows)
    error = sum(number * abs(mean - share) for number, mean, share in bins) / len(rows)
    assert error == pytest.approx(probabilities.CalibrationError().score(rows), abs=1e-12)
    assert probabilities.reliability(rows[:0]) == []


def test_every_config_and_signature_is_declared():
    for name in NAMES:
        for config in registry.literals("metrics", name)["configs"]:
            measured = metric(name, config)
            assert all(text.startswith(f"{value}|") for value, text in measured.signatures().items())
