"""evaluation/metric_set.py: scores equal scikit-learn's, lie within their intervals, and say how they were made."""

import dataclasses
import math

import numpy as np
import pytest
from sklearn import metrics as sklearn

from bench.analysis.stats import intervals
from bench.config import foreign_code, registry
from bench.data.examples import per_row
from bench.errors import ScoreError, SetupError
from bench.evaluation.baselines import baselines
from bench.evaluation.metric_set import MetricSet, Predictions

SINGLE = ("accuracy", "f1", "precision", "recall", "mcc", "loss", "confusion_matrix", "per_label_accuracy")
SEVERAL = ("jaccard", "f1", "hamming_accuracy", "subset_accuracy", "loss", "per_label_accuracy")
OF_ANSWERS = ("squad_v2", "bleu", "rouge", "meteor")
TUNED = {f"squad_v2_best_{name}" for name in ("exact", "exact_thresh", "f1", "f1_thresh")}
COUNTED = {"squad_v2_HasAns_total", "squad_v2_NoAns_total", "squad_v2_missing", "bleu_left_out"}
SAME = """
import datasets
import evaluate


class Same(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        features = datasets.Features({"predictions": text, "references": datasets.Sequence(text)})
        return evaluate.MetricInfo(description="d", citation="c", inputs_description="i", features=features)

    def _compute(self, predictions, references):
        assert {type(item) for item in references} == {list}
        same = [text in (golds or [""]) for text, golds in zip(predictions, references, strict=True)]
        return {"same": sum(same) / len(same)}
"""
SHARE = """
import datasets
import evaluate
import numpy as np


class Share(evaluate.Metric):
    def _info(self):
        kind = datasets.Value("int64")
        kind = datasets.Sequence(kind) if self.config_name == "multilabel" else kind
        features = datasets.Features({"predictions": kind, "references": kind})
        return evaluate.MetricInfo(description="d", citation="c", inputs_description="i", features=features)

    def _compute(self, predictions, references, average="binary", scale=SCALE):
        right = np.asarray(predictions) == np.asarray(references)
        return VALUES
"""


def single(examples=60, seed=0):
    generator = np.random.default_rng(seed)
    references = generator.integers(0, 3, examples)
    scores = generator.dirichlet(np.ones(3), examples)
    scores[np.arange(examples), references] += 0.5
    scores /= scores.sum(1, keepdims=True)
    return Predictions(
        ids=tuple(f"{number:03}" for number in range(examples)),
        predictions=scores.argmax(1),
        references=references,
        scores=scores,
    )


def several(examples=60, seed=0):
    generator = np.random.default_rng(seed)
    references = (generator.random((examples, 3)) < [0.2, 0.5, 0.7]).astype(int)
    scores = np.clip(0.6 * references + 0.4 * generator.random((examples, 3)) - 0.05, 0.01, 0.99)
    scores = np.where(generator.random((examples, 3)) < 0.2, 1 - scores, scores)
    return Predictions(
        ids=tuple(f"{number:03}" for number in range(examples)),
        predictions=(scores >= 0.5).astype(int),
        references=references,
        scores=scores,
    )


def in_words(examples=60, seed=0, unanswerable=0.3, probabilities=True):
    """Answers of one to six words, a good part of them right; two golds each, or none."""
    generator = np.random.default_rng(seed)

    def text():
        return " ".join(generator.choice(["cat", "sat", "on", "mat", "Zürich", "well-known"], generator.integers(1, 7)))

    references = [[] if generator.random() < unanswerable else [text(), text()] for _ in range(examples)]
    kinds = generator.choice(3, examples, p=[0.6, 0.3, 0.1])
    answers = [((golds or [""])[-1], text(), "")[kind] for kind, golds in zip(kinds, references, strict=True)]
    return Predictions(
        ids=tuple(f"{number:03}" for number in range(examples)),
        predictions=per_row(answers),
        references=per_row(references),
        scores=generator.random((examples, int(probabilities))),
    )


@pytest.fixture(autouse=True)
def confirmed():
    """As by --trust-remote-code: the metrics of these tests are files of their own."""
    foreign_code.confirm(True)
    yield
    foreign_code.confirm(False)


def metric_file(folder, name="share", values='{"share": float(right.mean()), "vector": right}', scale=2):
    path = folder / f"{name}.py"
    path.write_text(SHARE.replace("VALUES", values).replace("SCALE", str(scale)))
    return f"evaluate:{path}"


# ---------------------------------------------------------------- values


def test_single_label_scores_are_scikit_learns():
    found = single()
    reference, predicted = found.references, found.predictions
    expected = {
        "accuracy": sklearn.accuracy_score(reference, predicted),
        "mcc": sklearn.matthews_corrcoef(reference, predicted),
        "loss": sklearn.log_loss(reference, found.scores),
        "confusion_matrix": sklearn.confusion_matrix(reference, predicted),
    }
    for average in ("macro", "micro", "weighted"):
        expected[f"f1_{average}"] = sklearn.f1_score(reference, predicted, average=average)
        expected[f"precision_{average}"] = sklearn.precision_score(reference, predicted, average=average)
        expected[f"recall_{average}"] = sklearn.recall_score(reference, predicted, average=average)
    scores = MetricSet(SINGLE, multi_label=False, num_labels=3).scores(found)
    for name, value in expected.items():
        np.testing.assert_allclose(scores[name].value, value, atol=1e-12, err_msg=name)


def test_scores_of_several_labels_are_scikit_learns():
    found = several()
    reference, predicted = found.references, found.predictions
    expected = {
        "jaccard_samples": sklearn.jaccard_score(reference, predicted, average="samples", zero_division=1),
        "hamming_accuracy": 1 - sklearn.hamming_loss(reference, predicted),
        "subset_accuracy": sklearn.accuracy_score(reference, predicted),
        "f1_macro": sklearn.f1_score(reference, predicted, average="macro"),
        "f1_micro": sklearn.f1_score(reference, predicted, average="micro"),
        "loss": np.mean([sklearn.log_loss(reference[:, k], found.scores[:, k], labels=[0, 1]) for k in range(3)]),
    }
    scores = MetricSet(SEVERAL, multi_label=True, num_labels=3).scores(found)
    for name, value in expected.items():
        np.testing.assert_allclose(scores[name].value, value, atol=1e-9, err_msg=name)


@pytest.mark.parametrize(("names", "make"), [(SINGLE, single), (SEVERAL, several)], ids=["single", "several"])
def test_every_score_lies_in_its_interval_and_has_its_signature(names, make):
    metrics = MetricSet(names, multi_label=make is several, num_labels=3)
    scores, signatures = metrics.scores(make()), metrics.signatures()
    assert set(signatures) == set(scores)
    assert len(set(signatures.values())) == len(signatures)
    for name, found in scores.items():
        assert found.examples == 60
        assert found.signature == signatures[name]
        if name == "confusion_matrix":
            assert found.low is None
            continue
        assert found.interval in ("wilson 95 %", "bootstrap 95 %, 2000 draws by example")
        low, value, high = (np.asarray(part, dtype=float) for part in (found.low, found.value, found.high))
        assert (low <= value).all(), name
        assert (value <= high).all(), name
        assert (low < high).all(), name
    assert {name for name in scores if scores[name].interval == "wilson 95 %"} >= {
        "accuracy" if make is single else "subset_accuracy"
    }


@pytest.mark.parametrize("labels", [2, 3, 40])
def test_values_that_are_accuracy_have_its_interval(labels):
    """Of one label an example: f1_micro, recall_micro, recall_weighted; precision_micro where all are answered."""
    draw = np.random.default_rng(labels)
    references = draw.integers(labels, size=80)
    predicted = np.where(draw.random(80) < 0.8, references, draw.integers(labels, size=80))
    found = Predictions(
        ids=tuple(map(str, range(80))), predictions=predicted, references=references, scores=np.ones((80, labels))
    )
    metrics = MetricSet(("accuracy", "f1", "precision", "recall"), multi_label=False, num_labels=labels)
    scores = metrics.scores(found)
    for name in ("f1_micro", "recall_micro", "recall_weighted", "precision_micro"):
        same = ("value", "low", "high", "interval", "examples")
        assert [getattr(scores[name], part) for part in same] == [getattr(scores["accuracy"], part) for part in same]
    # Without all answers f1_micro is another number.
    predicted[:9] = -1
    scores = metrics.scores(dataclasses.replace(found, predictions=predicted))
    assert scores["f1_micro"].value != scores["accuracy"].value
    assert scores["f1_micro"].interval == "bootstrap 95 %, 2000 draws by example"
    assert scores["recall_weighted"].low == scores["accuracy"].low


def test_values_of_a_single_flag_have_the_interval_of_subset_accuracy():
    found = several()
    one = dataclasses.replace(
        found, predictions=found.predictions[:, :1], references=found.references[:, :1], scores=found.scores[:, :1]
    )
    scores = MetricSet(("subset_accuracy", "hamming_accuracy", "jaccard"), multi_label=True, num_labels=1).scores(one)
    for name in ("hamming_accuracy", "jaccard_samples"):
        assert scores[name].value == scores["subset_accuracy"].value
        assert (scores[name].low, scores[name].high) == (scores["subset_accuracy"].low, scores["subset_accuracy"].high)


def test_scores_are_the_same_twice():
    metrics = MetricSet(SINGLE, multi_label=False, num_labels=3)
    assert metrics.scores(single()) == metrics.scores(single())


def test_bare_values_are_the_scores_single_numbers():
    metrics = MetricSet(SINGLE, multi_label=False, num_labels=3)
    scores = metrics.scores(single())
    bare = metrics.values(single())
    assert bare == {name: pytest.approx(found.value) for name, found in scores.items() if np.ndim(found.value) == 0}
    assert "f1_per_label" not in bare


def test_an_undefined_score_is_null():
    found = Predictions(
        ids=("a",), predictions=np.array([1]), references=np.array([1]), scores=np.array([[0.1, 0.8, 0.1]])
    )
    scores = MetricSet(SINGLE, multi_label=False, num_labels=3).scores(found)
    assert any(None in score.value for score in scores.values() if isinstance(score.value, list))
    assert not any("NaN" in score.model_dump_json() for score in scores.values())


def test_a_score_that_no_draw_changes_has_wilsons_interval_or_none():
    right = Predictions(
        ids=tuple(map(str, range(80))), predictions=per_row(["Paris"] * 80), references=per_row([["Paris"]] * 80),
        scores=np.zeros((80, 0)),
    )  # fmt: skip
    for answers, value, ends in (("Paris", 1, intervals.wilson(80, 80)), ("Rome", 0, intervals.wilson(0, 80))):
        found = dataclasses.replace(right, predictions=per_row([answers] * 80))
        scores = MetricSet(("squad", "rouge"), multi_label=False, num_labels=2).scores(found)
        for name in ("squad_f1", "rougeL"):
            assert (scores[name].value, scores[name].low, scores[name].high) == (value, *ends)
            assert scores[name].interval == f"wilson 95 %, as every example scores {value}"
    assert ends[1] == pytest.approx(0.0458, abs=1e-4)
    labels = Predictions(
        ids=tuple("abcd"),
        predictions=np.ones(4, dtype=int),
        references=np.ones(4, dtype=int),
        scores=np.ones((4, 2)) / 2,
    )
    scores = MetricSet(("mcc", "f1", "loss", "accuracy"), multi_label=False, num_labels=2).scores(labels)
    for name in ("mcc", "f1_macro", "loss"):
        assert (scores[name].low, scores[name].high) == (None, None)
        assert scores[name].interval == "none: 2000 draws by example gave one value"
    assert scores["accuracy"].low == intervals.wilson(4, 4)[0]
    assert scores["f1_per_label"].low == [None, None]


def test_means_that_have_wilsons_interval_are_means_over_examples_from_0_to_1():
    answers = MetricSet(("squad_v2", "rouge", "rouge_unicode", "meteor"), multi_label=False, num_labels=2)
    found = {**answers.per_example(in_words()), "squad_v2_HasAns_f1": np.array([0, 1])}
    found |= MetricSet(("squad",), multi_label=False, num_labels=2).per_example(in_words(unanswerable=0))
    found |= MetricSet(("jaccard", "hamming_accuracy"), multi_label=True, num_labels=3).per_example(several())
    literals = [registry.literals("metrics", metric) for metric in registry.names("metrics")]
    names = [name for literal in literals for name in literal.get("unit_means", ())]
    assert len(names) >= 11
    for name in names:
        assert found[name].min() >= 0
        assert found[name].max() <= 1


def test_which_way_is_better():
    metrics = MetricSet(SINGLE, multi_label=False, num_labels=3)
    assert metrics.higher_is_better("accuracy")
    assert metrics.higher_is_better("f1_macro")
    assert not metrics.higher_is_better("loss")
    assert not metrics.higher_is_better("evaluate:word_error_rate")
    assert not metrics.higher_is_better("evaluate:perplexity")
    assert metrics.higher_is_better("evaluate:bleu")


def test_values_of_single_examples():
    found = single()
    per_example = MetricSet(SINGLE, multi_label=False, num_labels=3).per_example(found)
    assert per_example["accuracy"].tolist() == (found.predictions == found.references).tolist()
    chosen = found.scores[np.arange(60), found.references]
    np.testing.assert_allclose(per_example["loss"], -np.log(chosen))


# ---------------------------------------------------------------- metrics of other people


def test_a_metric_from_a_local_file(tmp_path):
    metrics = MetricSet(("accuracy", metric_file(tmp_path)), multi_label=False, num_labels=3)
    found = metrics.scores(single())
    assert set(found) == {"accuracy", "evaluate:share"}
    assert found["evaluate:share"].value == pytest.approx(found["accuracy"].value)
    assert found["evaluate:share"].low < found["evaluate:share"].value < found["evaluate:share"].high
    assert found["evaluate:share"].interval == "bootstrap 95 %, 200 draws by example"
    assert metrics.values(single())["evaluate:share"] == found["evaluate:share"].value


def test_a_local_metric_of_several_labels(tmp_path):
    metrics = MetricSet((metric_file(tmp_path),), multi_label=True, num_labels=3)
    found = several()
    assert metrics.values(found) == {"evaluate:share": pytest.approx((found.predictions == found.references).mean())}
    assert metrics.scores(found)["evaluate:share"].low < 1


def test_the_signature_holds_settings_and_code_but_no_folder(tmp_path):
    import evaluate

    places = [tmp_path / "here", tmp_path / "there", tmp_path / "changed"]
    signatures = []
    for place, scale in zip(places, (2, 2, 3), strict=True):
        place.mkdir()
        metrics = MetricSet((metric_file(place, scale=scale),), multi_label=False, num_labels=3)
        signatures.append(metrics.signatures())
    assert signatures[0] == signatures[1]
    assert signatures[0] != signatures[2]
    (name,) = signatures[0]
    assert name == "evaluate:share"
    assert '{"average": "macro", "scale": 2}' in signatures[0][name]
    assert f"evaluate:{evaluate.__version__}" in signatures[0][name]
    assert str(tmp_path) not in str(signatures)


def test_a_metric_without_a_number_is_refused(tmp_path):
    metrics = MetricSet((metric_file(tmp_path, "vectors", '{"rows": right}'),), multi_label=False, num_labels=3)
    with pytest.raises(ScoreError, match="'evaluate:share' gives no single number: rows"):
        metrics.values(single())


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SetupError, match=r"the metric 'evaluate:.*/nothing\.py' can't be loaded: "):
        MetricSet((f"evaluate:{tmp_path}/nothing.py",), multi_label=False, num_labels=3)


def test_a_hub_metric_without_a_network(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import evaluate

    monkeypatch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", True)
    sentence = r"the metric 'evaluate:nobodys_metric' can't be loaded \(offline: give the path of its file instead\): "
    with pytest.raises(SetupError, match=sentence) as error:
        MetricSet(("evaluate:nobodys_metric",), multi_label=False, num_labels=3)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- metrics of an included folder

BALANCED = """
from sklearn.metrics import balanced_accuracy_score

from bench.metrics import _base


class Balanced(_base.SklearnMetric):
    reads = "predictions"
    configs = ("default",)
    higher_is_better = {"balanced_accuracy": True}
    function = balanced_accuracy_score
"""


def include_metric(folder, monkeypatch, text):
    (folder / "metrics").mkdir(exist_ok=True)
    (folder / "metrics" / "balanced.py").write_text(text, encoding="utf-8")
    monkeypatch.setenv(registry.INCLUDE, str(folder))


def test_a_function_of_scikit_learn_is_recomputed_for_each_draw(tmp_path, monkeypatch):
    include_metric(tmp_path, monkeypatch, BALANCED)
    metrics = MetricSet(("balanced", "accuracy"), multi_label=False, num_labels=3)
    scores = metrics.scores(single())
    assert list(scores) == ["balanced_accuracy", "accuracy"]
    score, found = scores["balanced_accuracy"], single()
    assert score.value == sklearn.balanced_accuracy_score(found.references, found.predictions)
    assert score.low < score.value < score.high
    assert score.interval == "bootstrap 95 %, 200 draws by example"
    assert score.signature == metrics.signatures()["balanced_accuracy"]
    assert "balanced_accuracy" not in metrics.per_example(found)
    assert metrics.values(found)["balanced_accuracy"] == score.value


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "class Balanced(_base.SklearnMetric)",
            "class Balanced",
            r"balanced\.py must hold a class derived from one of",
        ),
        ("_base.SklearnMetric", "_base.MeanMetric", r"balanced\.py: Balanced has no signature of balanced_accuracy"),
        ("_base.SklearnMetric", "_base.AdditiveMetric", r"balanced\.py: Can't instantiate abstract class Balanced"),
        ('("default",)', '("multilabel",)', r"balanced\.py: Balanced has no config 'default'"),
    ],
)
def test_an_included_file_that_breaks_the_contract(old, new, message, tmp_path, monkeypatch):
    include_metric(tmp_path, monkeypatch, BALANCED.replace(old, new))
    with pytest.raises(SetupError, match=message):
        MetricSet(("balanced",), multi_label=False, num_labels=3)


# ---------------------------------------------------------------- baselines


def test_baselines_of_one_label():
    train = np.array([2] * 6 + [0] * 3 + [1])
    found = Predictions(
        ids=tuple("abcdef"),
        predictions=np.zeros(6, dtype=int),
        references=np.array([2, 2, 2, 0, 1, 1]),
        scores=np.full((6, 3), 1 / 3),
    )
    metrics = MetricSet(("accuracy", "f1", "loss"), multi_label=False, num_labels=3)
    lines = baselines(metrics, train, found)
    assert lines["majority"]["accuracy"] == 0.5
    assert lines["majority"]["f1_macro"] == pytest.approx((2 * 3 / (6 + 3)) / 3)
    shares = [0.3, 0.1, 0.6]
    expected_loss = -np.mean([math.log(shares[label]) for label in (2, 2, 2, 0, 1, 1)])
    assert lines["majority"]["loss"] == pytest.approx(expected_loss)
    assert lines["random"]["loss"] == pytest.approx(expected_loss)
    # The mean of 100 draws of 6 examples around 0.6 / 2 + 0.3 / 6 + 0.1 / 3.
    assert lines["random"]["accuracy"] == pytest.approx(0.6 / 2 + 0.3 / 6 + 0.1 / 3, abs=0.06)
    assert baselines(metrics, train, found) == lines


def test_baselines_of_several_labels():
    train = np.array([[1, 0, 1], [1, 0, 0], [1, 1, 0], [0, 0, 1]])  # shares 0.75, 0.25, 0.5
    found = Predictions(
        ids=("a", "b"),
        predictions=np.zeros((2, 3), dtype=int),
        references=np.array([[1, 0, 0], [0, 0, 1]]),
        scores=np.full((2, 3), 0.5),
    )
    metrics = MetricSet(("jaccard", "hamming_accuracy", "loss"), multi_label=True, num_labels=3)
    lines = baselines(metrics, train, found)
    # Only the first label is more often set than not: right for "a", wrong for "b".
    assert lines["majority"]["jaccard_samples"] == 0.5
    assert lines["majority"]["hamming_accuracy"] == pytest.approx(4 / 6)
    loss = -np.mean([math.log(p) for p in (0.75, 0.75, 0.5, 0.25, 0.75, 0.5)])
    assert lines["majority"]["loss"] == pytest.approx(loss)
    expected = np.mean([0.75, 0.75, 0.5, 0.25, 0.75, 0.5])
    assert lines["random"]["hamming_accuracy"] == pytest.approx(expected, abs=0.06)


def test_a_label_that_training_never_saw():
    found = single()
    lines = baselines(MetricSet(("accuracy", "loss"), multi_label=False, num_labels=3), np.array([0, 1, 1]), found)
    assert lines["majority"]["accuracy"] == np.mean(found.references == 1)
    assert math.isfinite(lines["majority"]["loss"])


def test_references_of_another_shape_are_refused():
    metrics = MetricSet(("accuracy",), multi_label=False, num_labels=3)
    wrong = Predictions(ids=("a",), predictions=np.array([0]), references=np.array([[0, 1, 0]]), scores=np.ones((1, 3)))
    with pytest.raises(ScoreError, match="a baseline has the shape"):
        baselines(metrics, np.array([0, 1]), wrong)


# ---------------------------------------------------------------- answers in words


def test_a_row_for_each_list_of_golds():
    rows = per_row([["a", "b"], ["c", "d"]])
    assert rows.shape == (2,)
    assert rows[np.array([1, 0])].tolist() == [["c", "d"], ["a", "b"]]
    assert per_row([]).shape == (0,)


def test_scores_of_answers_have_intervals_and_signatures():
    metrics = MetricSet(OF_ANSWERS, multi_label=False, num_labels=2)
    found = in_words()
    scores, signatures = metrics.scores(found), metrics.signatures()
    assert set(signatures) == set(scores)
    assert len(set(signatures.values())) == len(signatures)
    assert metrics.scores(found) == scores
    for name, score in scores.items():
        assert score.signature == signatures[name]
        part = next((kind for kind in ("HasAns", "NoAns") if kind in name and "total" not in name), None)
        has = sum(bool(golds) for golds in found.references)
        of_all = has if name in ("bleu", "bleu_tokenize_none") else 60  # BLEU leaves out what has no gold
        assert score.examples == {"HasAns": has, "NoAns": 60 - has, None: of_all}[part], name
        # A number of questions is not estimated, and the best threshold is tuned on the very examples.
        if name in COUNTED | TUNED:
            assert (score.interval, score.low, score.high) == (None, None, None)
        else:
            exact = name.endswith("_exact") or name == "squad_v2_NoAns_f1"
            assert score.interval == ("wilson 95 %" if exact else "bootstrap 95 %, 2000 draws by example")
            assert score.low < score.value < score.high
    assert scores["squad_v2_HasAns_total"].value == sum(bool(golds) for golds in found.references)
    assert scores["squad_v2_NoAns_total"].value == scores["bleu_left_out"].value
    assert metrics.values(found) == pytest.approx({name: score.value for name, score in scores.items()})


def test_tuned_values_need_probabilities():
    metrics = MetricSet(("squad_v2",), multi_label=False, num_labels=2)
    with_them, without = (metrics.scores(in_words(probabilities=yes)) for yes in (True, False))
    assert set(with_them) - set(without) == TUNED
    assert set(metrics.values(in_words(probabilities=False))) == set(without)
    assert with_them["squad_v2_best_exact"].value >= with_them["squad_v2_exact"].value
    assert metrics.higher_is_better("squad_v2_f1")


def test_answers_to_questions_that_all_have_one():
    metrics = MetricSet(("squad",), multi_label=False, num_labels=2)
    found = in_words(unanswerable=0)
    scores = metrics.scores(found)
    assert set(scores) == {"squad_exact_match", "squad_f1", "squad_missing"}
    per_example = metrics.per_example(found)
    assert per_example["squad_f1"].mean() == pytest.approx(scores["squad_f1"].value)
    assert per_example["squad_exact_match"].sum() == sum(
        answer in golds for answer, golds in zip(found.predictions, found.references, strict=True)
    )


def test_the_most_frequent_answer_is_a_baseline():
    metrics = MetricSet(("squad", "bleu", "rouge"), multi_label=False, num_labels=2)
    found = in_words(unanswerable=0)
    frequent = found.references[0][0]
    train = per_row([["mat"], [frequent, "cat on"], [frequent], ["sat", "mat", "mat"], ["x y", frequent]])
    (line,) = baselines(metrics, train, found).items()
    name, values = line
    assert name == "majority"
    expected = np.mean([frequent in golds for golds in found.references])
    assert values["squad_exact_match"] == pytest.approx(expected) != 0
    assert set(values) == set(metrics.values(found))
    # Of several the shortest, then the first; of no training split, that of the scored one.
    assert baselines(metrics, per_row([["on"], ["mat"], ["cat"]]), found)["majority"] == metrics.values(
        dataclasses.replace(found, predictions=per_row(["on"] * 60))
    )
    assert set(baselines(metrics, None, found)) == {"split_majority"}


def test_baselines_without_a_training_split():
    found = single()
    lines = baselines(MetricSet(("accuracy", "loss"), multi_label=False, num_labels=3), None, found)
    assert set(lines) == {"split_majority"}
    assert lines["split_majority"]["accuracy"] == np.bincount(found.references).max() / 60
    assert set(baselines(MetricSet(("squad_v2",), multi_label=False, num_labels=2), None, in_words())) >= {"no_answer"}
    found = several()
    lines = baselines(MetricSet(("subset_accuracy",), multi_label=True, num_labels=3), None, found)
    usual = found.references.mean(0) > 0.5
    assert lines["split_majority"]["subset_accuracy"] == (found.references == usual).all(1).mean()


def test_the_most_frequent_answer_may_be_none():
    metrics, found = MetricSet(("squad_v2",), multi_label=False, num_labels=2), in_words()
    assert set(baselines(metrics, per_row([[], [], ["cat"]]), found)) == {"no_answer"}
    assert set(baselines(metrics, per_row([[], ["cat"], ["cat"]]), found)) == {"no_answer", "majority"}


def test_the_baseline_that_never_answers():
    metrics = MetricSet(("squad_v2", "rouge", "bleu"), multi_label=False, num_labels=2)
    found = in_words()
    (line,) = baselines(metrics, per_row([["cat"], [], []]), found).items()
    name, values = line
    share = np.mean([not golds for golds in found.references])
    assert name == "no_answer"
    assert 0 < share < 1
    assert values["squad_v2_exact"] == values["squad_v2_f1"] == values["rougeL"] == pytest.approx(share)
    assert (values["squad_v2_NoAns_f1"], values["squad_v2_HasAns_f1"], values["bleu"]) == (1, 0, 0)
    assert not TUNED & set(values)


def test_a_metric_of_other_people_reads_answers(tmp_path):
    (tmp_path / "same.py").write_text(SAME)
    found = in_words()
    scores = MetricSet((f"evaluate:{tmp_path}/same.py",), multi_label=False, num_labels=2).scores(found)
    expected = np.mean([a in (golds or [""]) for a, golds in zip(found.predictions, found.references, strict=True)])
    assert scores["evaluate:same"].value == pytest.approx(expected)
    assert scores["evaluate:same"].low < expected < scores["evaluate:same"].high


def test_metrics_of_answers_and_of_labels_do_not_mix():
    with pytest.raises(SetupError, match="don't go with metrics of labels: squad, accuracy"):
        MetricSet(("squad", "accuracy"), multi_label=False, num_labels=2)
