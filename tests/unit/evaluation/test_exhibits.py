"""evaluation/exhibits.py: collapsed models are named with their counts, and sound ones are not."""

import numpy as np
import pytest

from bench.config import foreign_code
from bench.data.examples import per_row
from bench.evaluation import exhibits
from bench.evaluation.baselines import constants
from bench.evaluation.metric_set import MetricSet, Predictions
from bench.records.record import Score

NAMES = ("neg", "neu", "pos")


def labelled(predicted, references):
    number = len(references)
    return Predictions(
        ids=tuple(map(str, range(number))),
        predictions=np.array(predicted),
        references=np.array(references),
        scores=np.full((number, 3), 1 / 3),
    )


def worded(answers, golds):
    return Predictions(
        ids=tuple(map(str, range(len(golds)))),
        predictions=per_row(answers),
        references=per_row(golds),
        scores=np.empty((len(golds), 0)),
    )


def codes(found):
    return [(item.code, item.sentence) for item in found]


GOLDS = [["Paris"], ["1889"], [], ["a tower"]] * 5
MIXED = [0, 1, 2, 0, 1] * 20
COLLAPSED = {
    "one label": (
        labelled([1] * 6, [0, 1, 2, 0, 1, 1]),
        "one_label_predicted",
        "after test: all 6 predictions are the label 'neu', while at most 3 of 6 examples have one label, of 3",
    ),
    "one label of two": (
        labelled([2] * 4, [0, 0, 2, 0]),
        "one_label_predicted",
        "after test: all 4 predictions are the label 'pos', while at most 3 of 4 examples have one label, of 2",
    ),
    "nearly one label": (
        labelled([1] * 99 + [0], MIXED),
        "one_label_predicted",
        "after test: 99 of 100 predictions are the label 'neu', while at most 40 of 100 examples have one label, of 3",
    ),
    "unreadable answers": (
        labelled([0, -1, -1, 2], [0, 1, 2, 0]),
        "unreadable_answers",
        "after test: 2 of 4 answers could not be read as a label; they count as wrong",
    ),
    "one set": (
        labelled([[1, 0, 1]] * 3, [[1, 0, 0], [0, 0, 1], [1, 0, 1]]),
        "one_label_predicted",
        "after test: all 3 predictions are the labels 'neg', 'pos', while at most 1 of 3 examples have one answer",
    ),
    "the empty set": (
        labelled([[0, 0, 0]] * 3, [[1, 0, 0], [0, 0, 1], [0, 0, 0]]),
        "one_label_predicted",
        "after test: all 3 predictions are no label, while at most 1 of 3 examples have one answer",
    ),
    "unreadable sets": (
        labelled([[-1, -1, -1], [1, 0, 0], [0, 1, 0]], [[1, 0, 0]] * 3),
        "unreadable_answers",
        "after test: 1 of 3 answers could not be read as a label; they count as the empty set",
    ),
    "empty answers": (
        worded([""] * 20, GOLDS),
        "no_answers",
        "after test: all 20 answers are empty, while 15 of the questions have one",
    ),
    "nearly all empty": (
        worded(["", "", "", ""] * 4 + ["Paris", "", "", ""], GOLDS),
        "no_answers",
        "after test: 14 of 15 questions that have an answer got an empty one",
    ),
    "blanks": (worded([" \n"] * 20, GOLDS), "no_answers", "after test: all 20 answers are empty, while 15 of the"),
    "constant text": (
        worded(["the the"] * 10 + [" the  the "] * 10, GOLDS),
        "constant_answer",
        "after test: all 20 answers that are not empty are 'the the', of 3 right ones",
    ),
    "missing answers": (
        worded([None] * 3 + ["Paris"] * 8 + ["1889"] * 9, GOLDS),
        "unreadable_answers",
        "after test: 3 of 20 answers are missing or could not be read; they count 0",
    ),
}


@pytest.mark.parametrize("kind", COLLAPSED)
def test_a_collapsed_model_is_named_with_its_counts(kind):
    predictions, code, sentence = COLLAPSED[kind]
    found = codes(exhibits.of_predictions("after test", predictions, NAMES))
    assert [one for one, _ in found] == [code]
    assert found[0][1].startswith(sentence)


@pytest.mark.parametrize(
    "predictions",
    [
        labelled([0, 1, 2, 0, 1, 1], [0, 1, 2, 0, 1, 1]),
        labelled([1] * 6, [1] * 6),  # as the references are
        labelled([0] * 95 + [1] * 5, [0] * 96 + [1] * 4),
        labelled([0, 1] * 10 + [-1], [0, 1] * 10 + [2]),  # a slip
        labelled([[1, 0, 0], [0, 0, 0]], [[1, 0, 0], [0, 1, 0]]),
        worded(["Paris", "1889", "", "tower"] * 5, GOLDS),
        worded([""] * 4, [[]] * 4),
        worded(["yes"] * 4, [["yes"]] * 4),
        labelled([], []),
    ],
)
def test_a_sound_model_is_not(predictions):
    assert exhibits.of_predictions("after test", predictions, NAMES) == []


def compared(names, predictions, train, several=False):
    metrics = MetricSet(names, multi_label=several, num_labels=3)
    return codes(exhibits.not_better("after test", metrics, predictions, constants(metrics, train, predictions)))


def test_accuracy_is_held_against_the_majority_baseline():
    references = [0] * 60 + [1] * 40
    right = labelled([0] * 55 + [1] * 45, references)
    assert compared(("accuracy", "f1"), right, np.array([0, 0, 1])) == []
    poor = labelled([0] * 90 + [1] * 10, references)  # 70 of 100, ten more than the baseline: significant
    assert compared(("accuracy", "f1"), poor, np.array([0, 0, 1])) == []
    for predicted, what in (([0] * 97 + [1] * 3, "not significantly better"), ([1] * 100, "no better")):
        ((code, sentence),) = compared(("accuracy", "f1"), labelled(predicted, references), np.array([0, 0, 1]))
        assert code == "not_better_than_baseline"
        assert f"on 100 examples is {what} than the baseline majority, 0.600 (difference " in sentence
        assert "95 % interval" in sentence


def test_the_loss_and_macro_f1_and_several_labels_are_held_against_it_too():
    generator = np.random.default_rng(0)
    references = generator.integers(3, size=90)
    assert compared(("f1",), labelled(references, references), np.array([0, 1, 1])) == []
    ((_, sentence),) = compared(("f1",), labelled([0] * 90, references), np.array([0, 0, 1]))
    assert "f1_macro" in sentence
    assert "is no better than the baseline majority" in sentence
    probabilities = labelled(references, references)
    ((_, sentence),) = compared(("loss",), probabilities, references)
    assert "loss 1.099 on 90 examples is no better than" in sentence
    sets = generator.integers(2, size=(90, 3))
    ((code, sentence),) = compared(("jaccard",), labelled(np.zeros((90, 3), int), sets), sets, several=True)
    assert (code, "jaccard_samples" in sentence) == ("not_better_than_baseline", True)


def test_answers_are_held_against_no_answer_and_the_most_frequent_one():
    golds = per_row([["Paris"], [], ["Rome"], []] * 10)
    found = compared(("squad_v2",), worded([""] * 40, list(golds)), golds)
    assert [code for code, _ in found] == ["not_better_than_baseline"]
    assert "squad_v2_f1 0.500 on 40 examples is no better than the baseline no_answer, 0.500" in found[0][1]
    assert compared(("squad_v2",), worded(["Paris", "", "Rome", ""] * 10, list(golds)), golds) == []
    golds = per_row([["Paris"], ["Rome"]] * 10)
    ((_, sentence),) = compared(("squad",), worded(["Rome"] * 20, list(golds)), golds)
    assert "than the baseline majority, 0.500" in sentence


def score(value, examples=10):
    return Score(value=value, examples=examples, signature="s")


def test_scores_that_are_null_are_said():
    scores = {
        "accuracy": score(0.5), "squad_v2_HasAns_f1": score(None, 0), "squad_v2_NoAns_exact": score(None, 0),
        "evaluate:odd": score(None), "accuracy_per_label": score([0.5, None, None]), "bleu": score(None, 0),
    }  # fmt: skip
    notes, findings = exhibits.undefined("after test", scores)
    assert notes == [
        "after test: squad_v2_HasAns_f1 is null: no question of the split has an answer",
        "after test: squad_v2_NoAns_exact is null: no question of the split has no answer",
        "after test: accuracy_per_label is null for 2 of 3 labels: no example of the split has the label",
        "after test: bleu is null: no question of the split has an answer",
    ]
    assert codes(findings) == [
        ("undefined_score", "after test: evaluate:odd is null: its value over 10 examples is not a finite number")
    ]


def test_infinite_values_are_null(tmp_path, monkeypatch):
    monkeypatch.setattr(foreign_code, "is_confirmed", lambda: True)
    (tmp_path / "odd.py").write_text(
        "import datasets\n"
        "import evaluate\n"
        "class Odd(evaluate.Metric):\n"
        "    def _info(self):\n"
        "        kind = datasets.Value('int64')\n"
        "        features = datasets.Features({'predictions': kind, 'references': kind})\n"
        "        return evaluate.MetricInfo(description='d', citation='c', inputs_description='i', features=features)\n"
        "    def _compute(self, predictions, references):\n"
        "        return {'odd': float('inf'), 'other': float('nan')}\n"
    )
    metrics = MetricSet((f"evaluate:{tmp_path}/odd.py",), multi_label=False, num_labels=3)
    scores = metrics.scores(labelled([0, 1], [1, 1]))
    assert [item.value for item in scores.values()] == [None, None]
    assert [code for code, _ in codes(exhibits.undefined("after test", scores)[1])] == ["undefined_score"] * 2


def test_labels_without_an_example_are_counted():
    scores = {"accuracy": score(1.0), "f1_macro": score(0.5), "recall_macro": score(0.5)}
    note = exhibits.absent_labels("test", scores, np.array([0, 0, 2]), NAMES)
    assert note == (
        "test: 1 of 3 labels have no example ('neu'); the macro averages (f1_macro, recall_macro) are over all labels "
        "and count 0 for each of them"
    )
    several = exhibits.absent_labels("test", scores, np.array([[0, 0, 1], [0, 0, 0]]), NAMES)
    assert several.startswith("test: 2 of 3 labels have no example ('neg', 'neu');")
    assert exhibits.absent_labels("test", scores, np.array([0, 1, 2]), NAMES) is None
    assert exhibits.absent_labels("test", {"accuracy": score(1.0)}, np.array([0]), NAMES) is None
    many = exhibits.absent_labels("test", scores, np.array([0]), [f"l{number}" for number in range(9)])
    assert "8 of 9 labels have no example ('l1', 'l2', 'l3', 'l4', 'l5' and 3 more)" in many


def test_a_loss_by_training_is_said_with_both_values():
    found = exhibits.worse_than_before("after test", "f1_macro", score(0.6, 80), score(0.4, 80), (-0.3, -0.1))
    assert found.code == "worse_than_before"
    assert found.sentence == (
        "after test: f1_macro 0.400 on 80 examples is worse than before training, 0.600 (difference -0.200, 95 % "
        "interval -0.300 to -0.100)"
    )
