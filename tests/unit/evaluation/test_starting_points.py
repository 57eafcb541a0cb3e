"""evaluation/starting_points.py: each warning is raised where its cause is there, and only there."""

import math

import pytest

from bench.evaluation import starting_points
from bench.records import causes
from bench.records.record import Record, Score

# ---------------------------------------------------------------- what began at random


@pytest.mark.parametrize(
    ("modules", "method", "trains", "is_trained", "reason"),
    [
        (("score",), "zero_shot", "nothing", False, "method zero_shot trains nothing: it was never trained"),
        (("dense", "out"), "mine", "gradient", False, "method mine leaves it frozen: it was never trained"),
        (("score",), "full", "gradient", True, None),
        (("score",), "probe", "features", False, None),
        ((), "zero_shot", "nothing", False, None),
    ],
)
def test_a_new_head_that_nothing_trains(modules, method, trains, is_trained, reason):
    found = starting_points.untrained_head(modules, method=method, trains=trains, is_trained=is_trained)
    if reason is None:
        assert found is None
    else:
        assert found.code == "untrained_head"
        assert found.sentence == (f"the task head ({', '.join(modules)}) is new, with random values, and {reason}")


def test_a_body_without_its_weights():
    def body(weights, meant=False, random=1000, names=("bert.encoder.layer.0.output.dense.weight",)):
        return starting_points.weights_not_loaded(
            weights, method="lora", meant=meant, random=random, total=4000, names=names
        )

    found = body("random", random=4000)
    assert found.code == "weights_not_loaded"
    assert found.sentence == (
        "no pretrained weights were loaded (model.weights: random): all 4,000 parameters of the body began at random, "
        "and method lora is meant for a pretrained model"
    )
    found = body("pretrained")
    assert found.code == "weights_missing"
    assert found.sentence == (
        "1,000 of 4,000 parameters of the body (25.0%) are not in the checkpoint and began at random, e.g. "
        "bert.encoder.layer.0.output.dense.weight"
    )
    assert body("random", meant=True, random=4000) is None
    assert body("pretrained", random=0, names=()) is None


# ---------------------------------------------------------------- the first loss


def labelled(labels):
    return [{"input_ids": [1, 2], "labels": label} for label in labels]


def test_labels_of_the_first_step_are_read_for_each_kind_of_head():
    one = starting_points.first_labels(labelled([0, 1, 2, 0]), 4, multi_label=False)
    assert (one.outcomes, one.count, one.expected) == ("4 labels", 4, math.log(4))
    assert one.constant == pytest.approx(1.5 * math.log(2))
    several = starting_points.first_labels(labelled([[1, 0, 0], [0, 0, 0]]), 3, multi_label=True)
    assert (several.count, several.expected) == (6, math.log(2))
    assert several.constant == pytest.approx(math.log(2) / 3)
    tags = [{"input_ids": [1], "word_labels": [-100, 0, 0, 1]}, {"input_ids": [1], "word_labels": [1, -100]}]
    words = starting_points.first_labels(tags, 5, multi_label=False)
    assert (words.count, words.expected) == (4, math.log(5))
    assert words.constant == pytest.approx(math.log(2))
    pairs = [{"input_ids": [1], "pairs": [{}, {}], "labels": 1}, {"input_ids": [1], "pairs": [{}] * 4, "labels": 1}]
    choices = starting_points.first_labels(pairs, 0, multi_label=False)
    assert choices.expected == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert choices.constant == 0


@pytest.mark.parametrize("labels", [[0.5, 1.5], [[3, 5], [1, 1]], []])
def test_numbers_and_spans_have_no_such_loss(labels):
    assert starting_points.first_labels(labelled(labels), 2, multi_label=False) is None


BALANCED = starting_points.first_labels(labelled([0, 1] * 16), 2, multi_label=False)
RARE = starting_points.first_labels(labelled([0] * 31 + [1]), 2, multi_label=False)
SIX = starting_points.first_labels(labelled([0, 1, 2, 3, 4, 5] * 4), 6, multi_label=False)
SINGLE = starting_points.first_labels(labelled([1] * 32), 2, multi_label=False)
FEW = starting_points.first_labels(labelled([0, 1] * 2), 2, multi_label=False)


@pytest.mark.parametrize(
    ("loss", "labels", "is_new", "code"),
    [
        (0.69, BALANCED, True, None),
        (1.2, BALANCED, True, None),  # of a decoder's new head, whose inputs are large
        (1.79, SIX, True, None),
        (2.5, BALANCED, True, "first_loss_high"),
        (22.2, BALANCED, True, "first_loss_high"),  # summed over 32 examples
        (4.2, SIX, True, "first_loss_high"),
        (2.5, BALANCED, False, "first_loss_high"),  # a head whose labels are in another order
        (0.2, BALANCED, True, "first_loss_low"),
        (0.2, BALANCED, False, None),  # it was trained before
        (0.2, RARE, True, None),  # as a head may that happens to favour the frequent label
        (0.01, SINGLE, True, None),
        (0.2, FEW, True, None),
    ],
)
def test_a_first_loss_is_held_against_equal_probabilities(loss, labels, is_new, code):
    found = starting_points.first_loss(loss, labels, is_new=is_new)
    assert (found and found.code) == code
    if found is not None:
        assert f"the loss of the first step is {loss:.3f}, while equal probabilities for {labels.outcomes}" in (
            found.sentence
        )
        assert f"give {labels.expected:.3f}" in found.sentence


# ---------------------------------------------------------------- scores at chance


def chance(score, floors, up=True):
    found = starting_points.within_chance("before test", "accuracy", score, floors, higher_is_better=up)
    return found and found.sentence


def scored(value, low=None, high=None, examples=400):
    return Score(value=value, low=low, high=high, examples=examples, signature="s")


FLOORS = {"majority": 0.55, "random": 0.5, "chance": None}


def test_a_score_whose_interval_holds_a_baseline_is_at_chance():
    assert chance(scored(0.52, 0.47, 0.57), FLOORS) == (
        "before test: accuracy 0.520 on 400 examples (95 % interval 0.470 to 0.570) can't be distinguished from "
        "answers without a model (majority 0.550, random 0.500)"
    )
    assert chance(scored(0.62, 0.57, 0.67), FLOORS) is None
    assert chance(scored(0.58, 0.53, 0.63), FLOORS).endswith("(majority 0.550)")
    assert "(95 % interval 0.320 to 0.420) is below answers without a model" in chance(scored(0.37, 0.32, 0.42), FLOORS)
    assert chance(scored(0.9, 0.85, 0.95), {"majority": None}) is None


def test_few_examples_make_no_strong_claim():
    sentence = chance(scored(0.6, 0.38, 0.78, examples=20), FLOORS)
    assert "on 20 examples (95 % interval 0.380 to 0.780) can't be distinguished from" in sentence
    assert sentence.endswith("; so few examples leave it open: score more before concluding anything")


def test_losses_and_scores_without_an_interval():
    assert chance(scored(1.2, 1.1, 1.3), {"majority": 1.0}, up=False).startswith("before test: accuracy 1.200")
    assert chance(scored(0.8, 0.7, 0.9), {"majority": 1.0}, up=False) is None
    assert "(no interval) is not above" in chance(scored(0.5), FLOORS)
    assert chance(scored(0.6), FLOORS) is None
    assert chance(scored(None), FLOORS) is None


# ---------------------------------------------------------------- causes


def test_a_warning_says_what_usually_causes_it_once():
    record = Record(name="r", started_at="now", recipe={"path": "r.yaml"})
    for _ in range(2):
        record.warn("first_loss_high", "the loss is 9")
        record.warn("of_no_known_cause", "something")
    told, other = (warning.sentence for warning in record.warnings)
    assert told.startswith("the loss is 9. Usual causes: labels in another order")
    assert other == "something"
    record.warn("first_loss_high", told)
    assert len(record.warnings) == 2
    assert causes.explained("first_loss_high", told) == told
