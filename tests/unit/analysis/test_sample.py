"""analysis/sample.py: which examples of a run are chosen, in which order, and by what."""

import json
import time

from bench.analysis import sample
from bench.analysis.sample import BEST, RIGHT, WORST, WRONG
from bench.config.cards import GENERATION_TASK, NUMBERS_TASK, TAGS_TASK

LABELS = "text_classification"


def line(identity, prediction, reference, scores=None, **more):
    metrics = more.pop("metrics", {})
    return {
        "id": identity,
        "prediction": prediction,
        "reference": reference,
        "scores": scores,
        "metrics": metrics,
    } | more


def ids(found):
    return {group: [one.row["id"] for one in chosen] for group, chosen in found.groups.items()}


def test_the_worst_by_loss_come_first_and_equals_by_place():
    losses = [0.1, 3.0, 0.2, 3.0, 2.0, 5.0, 4.0, 0.9, 0.3, 6.0]
    rows = [
        line(f"e{number}", "a", "b" if loss > 1 else "a", metrics={"accuracy": float(loss <= 1), "loss": loss})
        for number, loss in enumerate(losses)
    ]
    found = sample.choose(rows, LABELS, "accuracy")
    assert found.measure == "loss"
    assert ids(found) == {WRONG: ["e9", "e5", "e6", "e1", "e3"], RIGHT: ["e7", "e8", "e2"]}
    assert found.counts == {WRONG: 6, RIGHT: 4}
    assert [one.value for one in found.groups[WRONG]] == [6.0, 5.0, 4.0, 3.0, 3.0]


def test_without_a_loss_of_every_example_the_probability_of_the_right_label_orders():
    rows = [
        line("x", "a", "b", {"a": 0.9, "b": 0.1}, metrics={"loss": 2.3}),
        line("y", "a", "b", {"a": 0.99, "b": 0.01}, metrics={"loss": float("nan")}),
        line("z", "a", "a", {"a": 0.6, "b": 0.4}),
    ]
    found = sample.choose(rows, LABELS, "accuracy")
    assert (found.measure, ids(found)) == ("probability of the reference", {WRONG: ["y", "x"], RIGHT: ["z"]})


def test_without_any_measure_the_first_by_id_are_shown():
    rows = [line(f"e{number}", None, "a") for number in range(9)]
    found = sample.choose(rows, LABELS, "accuracy")
    assert (found.measure, ids(found)) == ("", {WRONG: ["e0", "e1", "e2", "e3", "e4"]})
    rows = [row | {"metrics": {"accuracy": 0.0}} for row in rows]  # says no more than right or wrong
    assert sample.choose(rows, LABELS, "accuracy").measure == ""
    assert found.groups[WRONG][0].value is None
    assert sample.choose([], LABELS, None).groups == {}


def test_several_labels_are_right_as_a_set():
    rows = [
        line("x", ["b", "a"], ["a", "b"], metrics={"loss": 0.2, "jaccard_samples": 1.0}),
        line("y", ["a"], ["a", "b"], metrics={"loss": 0.1, "jaccard_samples": 0.5}),
        line("z", [], [], metrics={"loss": 0.3, "jaccard_samples": 1.0}),
    ]
    assert ids(sample.choose(rows, LABELS, "jaccard_samples")) == {WRONG: ["y"], RIGHT: ["z", "x"]}
    assert ids(sample.choose(rows, LABELS, "f1_macro")) == {WRONG: ["y"], RIGHT: ["z", "x"]}  # exact match


def test_answers_to_questions_are_ordered_by_their_f1():
    rows = [
        line("x", "Tuesday", ["Tuesday"], metrics={"squad_f1": 1.0}),
        line("y", "on Tuesday", ["Tuesday"], metrics={"squad_f1": 0.67}),
        line("z", "There", ["Tuesday"], metrics={"squad_f1": 0.0}),
    ]
    found = sample.choose(rows, "question_answering", "squad_f1")
    assert (found.measure, ids(found)) == ("squad_f1", {WRONG: ["z", "y"], RIGHT: ["x"]})


def test_tags_are_ordered_by_how_many_are_wrong():
    rows = [
        line("x", ["O", "B-PER"], ["B-PER", "O"]),  # the same tags, at other words
        line("y", ["O", "O"], ["O", "B-PER"]),
        line("z", ["O"], ["O"]),
    ]
    found = sample.choose(rows, TAGS_TASK, "entity_f1")
    assert (found.measure, ids(found)) == ("wrong tags", {WRONG: ["x", "y"], RIGHT: ["z"]})


def test_numbers_have_largest_and_smallest_errors():
    rows = [line(f"e{number}", float(number) if number else None, 2.0) for number in range(4)]
    found = sample.choose(rows, NUMBERS_TASK, "pearson")
    assert (found.measure, found.counts) == ("absolute error", {WORST: 4, BEST: 4})
    assert ids(found) == {WORST: ["e0", "e1", "e3", "e2"], BEST: ["e2", "e1", "e3"]}


def test_written_texts_are_better_or_worse_unless_the_metric_knows_right_from_wrong():
    rows = [
        line("x", "one", ["one"], metrics={"chrf": 100.0, "m": 1.0}, reference_nll=4.0, reference_tokens=2),
        line("y", "two", ["one"], metrics={"chrf": 20.0, "m": 0.0}, reference_nll=3.0, reference_tokens=1),
    ]
    found = sample.choose(rows, GENERATION_TASK, "chrf")
    assert found.measure == "loss of the reference per token"
    assert ids(found) == {WORST: ["y", "x"], BEST: ["x", "y"]}
    assert ids(sample.choose(rows, GENERATION_TASK, "m")) == {WRONG: ["y"], RIGHT: ["x"]}
    for row in rows:
        del row["reference_nll"]
    assert sample.choose(rows, GENERATION_TASK, "chrf").measure == "chrf"


def test_a_metric_of_which_less_is_better_makes_nothing_right():
    rows = [line("x", "a", "b", metrics={"errors": 7.0}), line("y", "b", "b", metrics={"errors": 0.0})]
    found = sample.choose(rows, LABELS, "errors", higher_is_better=False)
    assert (found.measure, ids(found)) == ("errors", {WRONG: ["x"], RIGHT: ["y"]})


def test_twenty_five_thousand_lines_take_a_moment():
    text = json.dumps(line("e", "a", "b", {"a": 0.75, "b": 0.25}, metrics={"accuracy": 0.0, "loss": 1.4}))
    rows = [json.loads(text) for _ in range(25_000)]
    started_s = time.process_time()
    sample.choose(rows, LABELS, "accuracy")
    assert time.process_time() - started_s < 0.5
