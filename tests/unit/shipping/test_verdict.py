"""Tests of a form being the same model: changed answers, Tango's interval, and the verdict within a margin."""

import numpy as np
import pytest

from bench.analysis.stats import multiple, paired
from bench.analysis.stats.sums import Line, tally
from bench.errors import DataError
from bench.shipping import verdict
from bench.shipping.verdict import Answers
from tests.helpers.cases import together

LABELS = ("no", "yes", "maybe")


def answers(predictions, references, metric="accuracy"):
    lines = {
        str(number): Line(prediction=one, reference=other, value=float(one == other))
        for number, (one, other) in enumerate(zip(predictions, references, strict=True))
    }
    return Answers(lines=lines, tally=tally(metric, [*lines.values()], LABELS, multi_label=False))


def flipped(examples, right_to_wrong, wrong_to_right, wrong=0):
    """Answers of a form and of its model, with so many flips of each kind among examples of the label "yes"."""
    model = ["no"] * (wrong_to_right + wrong) + ["yes"] * (examples - wrong_to_right - wrong)
    form = ["yes"] * wrong_to_right + ["maybe"] * wrong + ["yes"] * (examples - wrong_to_right - wrong)
    form[-right_to_wrong:] = ["no"] * right_to_wrong if right_to_wrong else form[-right_to_wrong:]
    gold = ["yes"] * examples
    return answers(form, gold), answers(model, gold)


@together("examples, lost, won, other, expected", [
    (872, 0, 0, 0, "equivalent"),
    (100, 0, 0, 0, "undecided"),
    (872, 12, 10, 3, "undecided"),
    (20000, 110, 100, 50, "equivalent"),
    (872, 60, 10, 0, "not equivalent"),
    (872, 37, 22, 0, "not equivalent"),  # MiniLM with a LoRA scale that is twice the right one
    (872, 25, 18, 0, "undecided"),
    (20000, 330, 150, 0, "undecided"),  # lower, but by less than the margin as far as is seen
    (872, 5, 60, 0, "not equivalent"),
])  # fmt: skip
def test_the_verdict_goes_by_the_interval_and_the_margin(examples, lost, won, other, expected):
    found = verdict.compare(*flipped(examples, lost, won, other), "accuracy", 0.01)
    assert found.verdict == expected
    assert found.difference == pytest.approx((won - lost) / examples)
    assert found.low < found.difference < found.high
    assert found.p == paired.mcnemar(lost, won)
    changes = found.changes
    assert (changes.right_to_wrong, changes.wrong_to_right, changes.wrong_to_other) == (lost, won, other)
    assert changes.changed == lost + won + other
    assert changes.low <= changes.changed / examples <= changes.high


def test_the_interval_holds_what_the_score_test_does_not_reject():
    level = multiple.equivalence_confidence(1)
    for first, second, examples in ((12, 10, 872), (0, 0, 872), (0, 7, 50), (3, 0, 40), (60, 10, 872), (20, 20, 40)):
        low, high = paired.matched_score_interval(first, second, examples, level)
        assert low < (first - second) / examples < high
        for end, sign in ((low, 1), (high, -1)):
            assert paired.matched_score(first, second, examples, end) == pytest.approx(sign * 1.6448536, abs=1e-4)
        mirrored = paired.matched_score_interval(second, first, examples, level)
        assert mirrored == pytest.approx((-high, -low), abs=1e-6)
        for margin in (0.005, 0.01, 0.05, 0.1, 0.3):
            within = -margin < low and high < margin
            assert within == paired.matched_equivalent(first, second, examples, margin, level)
    square = 1.6448536**2
    _, high = paired.matched_score_interval(0, 0, 872, level)
    assert high == pytest.approx(square / (872 + square), rel=1e-4)
    assert paired.matched_score_interval(40, 0, 40)[1] == 1
    with pytest.raises(ValueError, match="discordant"):
        paired.matched_score_interval(30, 20, 40)


def test_other_metrics_go_by_a_bootstrap_or_by_unchanged_answers():
    generator = np.random.default_rng(0)
    gold = [LABELS[place] for place in generator.integers(3, size=600)]
    model = [one if generator.random() < 0.8 else "no" for one in gold]
    form = [one if generator.random() < 0.97 else "maybe" for one in model]
    same = verdict.compare(answers(model, gold, "f1_macro"), answers(model, gold, "f1_macro"), "f1_macro", 0.01)
    assert (same.verdict, same.interval, same.difference) == ("equivalent", "no answer changed", 0)
    assert same.high == pytest.approx(1 - 0.05 ** (1 / 600))
    other = verdict.compare(answers(form, gold, "f1_macro"), answers(model, gold, "f1_macro"), "f1_macro", 0.5)
    assert (other.verdict, other.interval, other.p) == ("equivalent", "bootstrap, BCa", None)
    assert other.low < other.difference < other.high
    far = verdict.compare(answers(["no"] * 600, gold, "f1_macro"), answers(model, gold, "f1_macro"), "f1_macro", 0.01)
    assert far.verdict == "not equivalent"


def unsure(probability, metric, examples=300):
    """Answers that are all right, of a model that is so sure of each."""
    lines = {}
    for number in range(examples):
        right, other = ("yes", "no") if number % 2 else ("no", "yes")
        scores = {right: probability, other: 1 - probability}
        value = (1 - probability) ** 2 if metric == "brier" else -float(np.log(probability))
        value = None if metric == "ece" else value
        lines[str(number)] = Line(prediction=right, reference=right, value=value, scores=scores)
    return Answers(lines=lines, tally=tally(metric, [*lines.values()], ("no", "yes"), multi_label=False))


@together("metric", ["ece", "brier", "loss"])
def test_probabilities_may_change_where_answers_do_not(metric):
    found = verdict.compare(unsure(0.6, metric), unsure(0.99, metric), metric, 0.02)
    assert (found.changes.changed, found.verdict) == (0, "not equivalent")
    unseen = (1 - 0.05 ** (1 / 300)) * (2 if metric == "brier" else 1)
    assert found.difference > 0.1
    assert (found.low, found.high) == pytest.approx((found.difference - unseen, found.difference + unseen))
    near = verdict.compare(unsure(0.99 - 1e-7, metric), unsure(0.99, metric), metric, 0.02)
    assert near.verdict == "equivalent"
    assert near.low < near.difference < near.high
    # Few examples leave open what their unchanged answers do.
    assert verdict.compare(unsure(0.99, metric, 20), unsure(0.99, metric, 20), metric, 0.02).verdict == "undecided"


def test_texts_are_right_by_their_value_and_numbers_are_not_counted():
    def line(text, value):
        return Line(prediction=text, reference=["Turin"], value=value)

    model = [line("Turin", 1.0), line("Porto", 0.0), line("", 0.0), line("Turin", 1.0)]
    form = [line("Torino", 0.0), line("Leeds", 0.0), line("Turin", 1.0), line("Turin", 1.0)]
    changes = verdict.changes_of(form, model)
    assert (changes.changed, changes.right_to_wrong, changes.wrong_to_right, changes.wrong_to_other) == (3, 1, 1, 1)
    unknown = verdict.changes_of([line("a", None)], [line("b", None)])
    assert (unknown.changed, unknown.right_to_wrong) == (1, None)
    assert verdict.changes_of([Line(prediction=1.0, reference=2.0)], [Line(prediction=1.5, reference=2.0)]) is None


def test_margins_fit_the_metric_and_examples_must_be_the_same():
    assert verdict.default_margin("accuracy") == 0.01
    assert verdict.default_margin("chrf") == 1
    with pytest.raises(DataError, match="mse has no largest value"):
        verdict.default_margin("mse")
    with pytest.raises(DataError, match="not scored on the same examples"):
        verdict.compare(answers(["no"], ["no"]), answers(["no"] * 2, ["no"] * 2), "accuracy", 0.01)
