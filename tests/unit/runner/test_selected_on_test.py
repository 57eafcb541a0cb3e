"""runner/selected_on_test.py: what is scored chooses nothing, under whatever name, or every page says so."""

from types import SimpleNamespace

import pytest

from bench.config.recipe import Recipe
from bench.data.dataset import Corpus
from bench.data.rows import Split
from bench.errors import SetupError
from bench.records.record import RecipePart, Record
from bench.runner import selected_on_test

CARD = {
    "task": "text_classification", "licence": "none", "source": {"kind": "builtin", "id": "x"},
    "splits": {"train": "train", "dev": "dev", "test": "test"},
}  # fmt: skip
MODEL = {"id": "x", "family": "encoder", "licence": "none"}


def run_of(*, best="accuracy", allowed=False, validation="dev"):
    recipe = Recipe.model_validate(
        {
            "dataset": CARD, "model": MODEL, "method": {"name": "full"},
            "training": {"evaluate_every": 1, "best": best},
            "evaluation": {"validation": validation, "allow_selection_on_test": allowed},
        }
    )  # fmt: skip
    record = Record(name="s--m--full", started_at="2026-01-01", recipe=RecipePart(path="x"))
    return SimpleNamespace(resolved=SimpleNamespace(recipe=recipe), record=record)


def corpus(dev, test):
    splits = {"dev": dev, "test": test}
    rows = {
        name: [{"id": f"{name}-{text}", "text": text, "text_pair": None, "label": 0} for text in texts]
        for name, texts in splits.items()
    }
    return Corpus(splits={name: Split(name=name, rows=rows[name]) for name in splits}, labels=("a", "b"), notes=())


APART = corpus(["one", "two", "three", "four"], ["five", "six", "seven"])
SAME = {
    "the same rows": corpus(["one", "two"], ["one", "two"]),
    "another order": corpus(["two", "one"], ["one", "two"]),
    "a part of it": corpus(["one", "two", "three", "four"], ["two"]),
    "more than it": corpus(["one"], ["two", "one", "three"]),
    "half of it": corpus(["one", "two"], ["two", "three"]),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_data_under_another_name_are_refused(name):
    with pytest.raises(SetupError, match="the split 'dev' chooses the best step, and holds the data of 'test'"):
        selected_on_test.check(run_of(), SAME[name], by_gradients=True)


@pytest.mark.parametrize("name", SAME)
def test_or_marked_where_the_recipe_allows_it(name):
    run = run_of(allowed=True)
    selected_on_test.check(run, SAME[name], by_gradients=True)
    assert run.record.selected_on == ["test"]
    (warning,) = run.record.warnings
    assert warning.code == "selection_on_test"
    assert "by 'accuracy', the best step may have been chosen on the same data" in warning.sentence


def test_one_split_by_name_and_settings_of_a_study():
    run = run_of(allowed=True, best=None, validation="test")
    selected_on_test.check(run, APART, by_gradients=True)
    assert run.record.selected_on == ["test"]
    assert "settings may have been chosen" in run.record.warnings[0].sentence


def test_other_data_choose_as_ever():
    for run in (run_of(), run_of(best=None)):
        selected_on_test.check(run, APART, by_gradients=True)
        assert (run.record.selected_on, run.record.warnings, run.record.notes) == ([], [], [])
    # A validation that chooses nothing is only looked at.
    run = run_of(best=None)
    selected_on_test.check(run, SAME["the same rows"], by_gradients=True)
    selected_on_test.check(run_of(), SAME["the same rows"], by_gradients=False)
    assert run.record.warnings == []


def test_a_few_shared_texts_and_a_key_without_effect_are_noted():
    run = run_of()
    few = corpus([str(number) for number in range(10)], ["9", *(str(number) for number in range(20, 29))])
    selected_on_test.check(run, few, by_gradients=True)
    assert run.record.notes == ["10.0% of the texts of 'dev', which chooses the best step, are in 'test' too"]
    run = run_of(allowed=True)
    selected_on_test.check(run, APART, by_gradients=True)
    assert run.record.notes[0].startswith("evaluation.allow_selection_on_test has no effect")


def test_training_texts_that_choose_are_a_warning():
    with_train = corpus(["one", "two"], ["five", "six"])
    for name, rows in (("train", with_train.splits["dev"].rows), ("train", []), ("dev", with_train.splits["dev"].rows)):
        run = run_of(validation=name)
        given = {**with_train.splits, "train": Split(name="train", rows=rows)}
        selected_on_test.check(run, Corpus(splits=given, labels=("a", "b"), notes=()), by_gradients=True)
        (warning,) = run.record.warnings
        assert warning.code == "selection_on_train"
        assert f"the split {name!r}, which chooses the best step, holds the training texts" in warning.sentence
        given["train"] = Split(name="train", rows=with_train.splits["test"].rows)
        run = run_of()
        selected_on_test.check(run, Corpus(splits=given, labels=("a", "b"), notes=()), by_gradients=True)
        assert run.record.warnings == []
