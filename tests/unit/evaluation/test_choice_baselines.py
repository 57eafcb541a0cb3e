"""Baselines of multiple choice by hand: a choice at random, the longest one, the most frequent place."""

import numpy as np
import pytest

from bench.evaluation import baselines, exhibits
from bench.evaluation.metric_set import MetricSet, Predictions

LENGTHS = [[3, 9], [5, 5, 1], [2, 8, 4, 6]]
REFERENCES = np.array([1, 0, 3])


def predictions_of(numbers, *, by_likelihood=True):
    extra = []
    for own in LENGTHS:
        row = {"choice_characters": own, "choice_bytes": own}
        if by_likelihood:
            row |= {
                "log_likelihoods": [-float(place + 1) for place in range(len(own))],
                "choice_tokens": [1] * len(own),
            }
        extra.append(row)
    scores = np.zeros((3, 4))
    for row, number in zip(scores, numbers, strict=True):
        row[number] = 1
    return Predictions(
        ids=("a", "b", "c"), predictions=np.array(numbers), references=REFERENCES, scores=scores, extra=tuple(extra)
    )


def test_values_by_hand():
    metrics = MetricSet(("accuracy", "choice_accuracy", "loss"), multi_label=False, num_labels=4)
    found = baselines.baselines(metrics, np.array([3, 3, 0]), predictions_of([0, 0, 0]))
    chance = (1 / 2 + 1 / 3 + 1 / 4) / 3
    shares = ("accuracy", "acc", "acc_norm", "acc_bytes", "acc_tokens")
    assert list(found) == ["chance", "longest_choice", "majority"]
    assert found["chance"] == pytest.approx({**dict.fromkeys(shares, chance), "loss": np.log([2, 3, 4]).mean()})
    # The longest: B, then of two equal ones A, then B: two of three are right.
    assert [found["longest_choice"][name] for name in shares] == [2 / 3] * 5
    # The place D, or else the last one: B, C, D, of which the first and the last one are right.
    assert [found["majority"][name] for name in shares] == [2 / 3] * 5
    assert found["longest_choice"]["loss"] == pytest.approx(np.log([2, 3, 4]).mean())


def test_without_a_training_split_and_by_a_head():
    metrics = MetricSet(("accuracy", "loss"), multi_label=False, num_labels=4)
    split = predictions_of([1, 0, 1], by_likelihood=False)
    found = baselines.baselines(metrics, None, split)
    assert list(found) == ["chance", "longest_choice", "split_majority"]
    assert set(found["chance"]) == {"accuracy", "loss"}
    # It chooses as the longest one does.
    findings = exhibits.not_better("after test", metrics, split, baselines.constants(metrics, None, split))
    assert any("than the baseline longest_choice, 0.667" in finding.sentence for finding in findings)


def test_accuracies_by_likelihood_are_held_against_them_too():
    """Also where no metric reads the predicted numbers."""
    split = predictions_of([0, 0, 0])
    # Per character the likeliest ones are the longest: -2 / 9, -1 / 5 or -3 / 1, and -2 / 8 of the four.
    for names, name, value in (
        (("choice_accuracy",), "acc_norm", "0.667"),
        (("choice_accuracy", "accuracy"), "accuracy", "0.333"),
    ):
        metrics = MetricSet(names, multi_label=False, num_labels=4)
        findings = exhibits.not_better("after test", metrics, split, baselines.constants(metrics, None, split))
        expected = f"{name} {value} on 3 examples is no better than the baseline longest_choice, 0.667"
        assert any(expected in finding.sentence for finding in findings), (name, findings)
