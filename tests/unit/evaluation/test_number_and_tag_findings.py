"""Baselines, ceilings and findings of numbers and of tags, and how both are written and shown."""

import json

import numpy as np
import pytest

from bench.analysis import accessors
from bench.data.examples import as_array, kind_of
from bench.evaluation import baselines, ceilings, exhibits, scoring
from bench.evaluation.metric_set import MetricSet, Predictions

TAGS = ("O", "B-A", "I-A", "B-B")
NUMBERS = MetricSet(("pearson", "spearman", "mse", "mae"), multi_label=False, num_labels=0)
ENTITIES = MetricSet(("entity_f1", "token_accuracy"), multi_label=False, num_labels=4, tags=TAGS)


def numbers(predicted, references):
    rows = len(references)
    return Predictions(
        ids=tuple(f"{number:03d}" for number in range(rows)),
        predictions=np.array(predicted, dtype=float),
        references=np.array(references, dtype=float),
        scores=np.zeros((rows, 0)),
    )


def tagged(predicted, references):
    rows = len(references)
    return Predictions(
        ids=tuple(f"{number:03d}" for number in range(rows)),
        predictions=as_array([tuple(tags) for tags in predicted], texts=True),
        references=as_array([tuple(tags) for tags in references], texts=True),
        scores=np.zeros((rows, 1)),
    )


SOME = tagged([["B-A", "I-A", "O"], ["O", "B-B"]], [["B-A", "I-A", "O"], ["O", "O"]])


def test_what_references_hold_is_known_by_themselves():
    assert kind_of(SOME.references) == "tags"
    assert kind_of(numbers([1], [2]).references) == "numbers"
    assert kind_of(as_array([["a"], []], texts=True)) == "answers"
    assert kind_of(np.array([0, 1])) == kind_of(np.array([[0, 1]])) == "labels"


def test_the_mean_of_training_is_the_baseline_of_numbers():
    split = numbers([1, 2, 3, 4], [2, 2, 4, 4])
    floors = baselines.baselines(NUMBERS, np.array([1.0, 2.0, 6.0]), split)
    assert floors.keys() == {"mean"}
    assert (floors["mean"]["mse"], floors["mean"]["mae"]) == (1.0, 1.0)
    assert np.isnan(floors["mean"]["pearson"])
    own = baselines.baselines(NUMBERS, None, split)
    assert own["split_mean"]["mse"] == 1.0
    assert {"mean", "split_mean", "all_o"} <= set(accessors.CONSTANT_BASELINES)


def test_no_entity_is_the_baseline_of_tags():
    floors = baselines.baselines(ENTITIES, np.array([[1, 1, 0, 0]]), SOME)
    assert floors == {
        "all_o": {
            **dict.fromkeys(("entity_f1", "entity_precision", "entity_recall", "entity_f1_macro"), 0.0),
            "token_accuracy": 3 / 5,
        }
    }


def test_neither_has_a_ceiling():
    assert ceilings.ceilings(NUMBERS, np.array([1.0])) == ceilings.ceilings(ENTITIES, SOME.references) == {}


def test_one_number_for_all_texts_is_found():
    (finding,) = exhibits.of_predictions("after test", numbers([2, 2, 2], [1, 2, 3]), ())
    assert finding.code == "constant_prediction"
    assert finding.sentence == ("after test: all 3 predicted numbers are 2, while the references go from 1 to 3")
    assert exhibits.of_predictions("after test", numbers([2, 2.1, 2], [1, 2, 3]), ()) == []
    assert exhibits.of_predictions("after test", numbers([2, 2, 2], [1, 1, 1]), ()) == []


def test_answers_without_a_number_are_found():
    (finding,) = exhibits.of_predictions("after test", numbers([2, np.nan, 1], [1, 2, 3]), ())
    assert finding.code == "unreadable_answers"
    assert finding.sentence.endswith(
        "1 of 3 answers hold no number; errors count them as the farther end of the references' range, correlations as "
        "the median of the other answers"
    )


def test_a_model_that_writes_no_number_is_not_better_than_the_mean():
    gold = np.random.default_rng(0).normal(0, 1, 200)
    mean, silent = {"mean": numbers(np.full(200, gold.mean()), gold)}, numbers(np.full(200, np.nan), gold)
    assert [item.code for item in exhibits.not_better("after test", NUMBERS, silent, mean)] == [
        "not_better_than_baseline"
    ]
    values = NUMBERS.values(silent)
    assert values["mse"] > 2 * NUMBERS.values(mean["mean"])["mse"]
    assert np.isnan([values["pearson"], values["spearman"]]).all()


def test_no_entity_at_all_is_found():
    (finding,) = exhibits.of_predictions("after test", tagged([["O"] * 3, ["O"] * 2], SOME.references), TAGS)
    assert (finding.code, finding.sentence) == (
        "no_entities_predicted",
        "after test: every word of 2 sentences is tagged O, while 2 words belong to entities",
    )
    assert exhibits.of_predictions("after test", SOME, TAGS) == []


def test_numbers_are_compared_with_the_baseline_by_their_error():
    generator = np.random.default_rng(0)
    gold = generator.normal(0, 1, 200)
    mean = {"mean": numbers(np.full(200, gold.mean()), gold)}
    (finding,) = exhibits.not_better("after test", NUMBERS, numbers(generator.normal(0, 1, 200), gold), mean)
    assert finding.code == "not_better_than_baseline"
    assert finding.sentence.startswith("after test: mse ")
    good = numbers(gold + generator.normal(0, 0.1, 200), gold)
    assert exhibits.not_better("after test", NUMBERS, good, mean) == []


def test_tags_are_compared_with_the_baseline_by_their_entities():
    gold = [["B-A", "O"]] * 60
    constants = {"all_o": tagged([["O", "O"]] * 60, gold)}
    assert exhibits.not_better("after test", ENTITIES, tagged(gold, gold), constants) == []
    none = exhibits.not_better("after test", ENTITIES, tagged([["O", "B-B"]] * 60, gold), constants)
    assert [finding.code for finding in none] == ["not_better_than_baseline"]


@pytest.mark.parametrize(("predictions", "metrics", "first"), [
    (numbers([1.5, np.nan], [2, 4]), NUMBERS, {"prediction": 1.5, "reference": 2.0}),
    (SOME, ENTITIES, {"prediction": ["B-A", "I-A", "O"], "reference": ["B-A", "I-A", "O"]}),
])  # fmt: skip
def test_the_file_of_predictions(predictions, metrics, first, tmp_path):
    scoring.write_predictions(tmp_path / "after-test.jsonl", predictions, metrics, TAGS)
    rows = [json.loads(line) for line in (tmp_path / "after-test.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {key: rows[0][key] for key in first} == first
    assert [row["scores"] for row in rows] == [None, None]
    if metrics is NUMBERS:
        assert rows[1]["prediction"] is None
        assert rows[0]["metrics"] == {"mse": 0.25, "mae": 0.5}
