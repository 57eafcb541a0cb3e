"""Recipes of regression and token classification: what does not fit is refused, and no other recipe's hash moves."""

import pytest

from bench.config import resolve
from bench.errors import RecipeError
from tests.helpers.cases import together
from tests.helpers.launching import ROOT

RATINGS, NOTICES = (ROOT / "recipes" / "tiny" / f"bert-{name}.yaml" for name in ("ratings", "notices"))
LLAMA = ("model=tiny_llama", "objective=text")


@together(
    "recipe, overrides, message",
    [
        (RATINGS, ["evaluation.metrics=[accuracy]"], "metric 'accuracy' is for labels; task 'regression' has numbers"),
        (
            RATINGS,
            ["evaluation.metrics=[entity_f1]"],
            "'entity_f1' is for tags of words; task 'regression' has numbers",
        ),
        (NOTICES, ["evaluation.metrics=[loss]"], "'loss' is for labels; task 'token_classification' has tags of words"),
        (NOTICES, ["evaluation.metrics=[squad]"], "metric 'squad' is for text answers; task"),
        (RATINGS, ["method=probe"], "method 'probe' fits a classifier of texts; task 'regression' needs method: head"),
        (NOTICES, ["method=probe"], "method 'probe' fits a classifier of texts; task 'token_classification'"),
        (RATINGS, ["training.label_smoothing=0.1"], "label smoothing is not defined for numbers"),
        (NOTICES, ["objective=text"], "task 'token_classification' has no objective 'text'; it has head"),
        (RATINGS, [*LLAMA], "the likelihood of an answer is not defined for numbers, .*set answer: generate"),
        (RATINGS, [*LLAMA, "prompting.answer=entailment"], "entailment is not defined for numbers"),
        (RATINGS, ["training.best=accuracy", "training.evaluate_every=9"], "no metric computes 'accuracy'"),
        (NOTICES, ["spans.n_best=3"], "`spans` is only for task question_answering"),
        (RATINGS, ["dataset.scheme=IOB2"], "only task 'token_classification' has tags of words"),
        (NOTICES, ["dataset.scheme=IOB3"], "dataset.scheme"),
    ],
)
def test_what_does_not_fit_is_refused(recipe, overrides, message):
    with pytest.raises(RecipeError, match=message):
        resolve.load(recipe, tuple(overrides))


def test_what_fits_is_resolved():
    assert resolve.load(RATINGS).metric_names == ("pearson", "spearman", "mse", "mae")
    assert resolve.load(NOTICES).metric_names == ("entity_f1", "token_accuracy")
    assert (
        resolve.load(RATINGS, ("training.best=pearson", "training.evaluate_every=10")).recipe.training.best == "pearson"
    )
    text = resolve.load(RATINGS, (*LLAMA, "prompting.answer=generate"))
    assert text.recipe.dataset.prompt.decimals == 1
    assert resolve.load(NOTICES, ("training.label_smoothing=0.1",)).recipe.training.label_smoothing == 0.1


def test_the_official_metrics_of_the_hub_s_cards_are_their_default():
    assert resolve.load(RATINGS, ("dataset=stsb",)).metric_names == ("pearson", "spearman", "mse", "mae")
    assert resolve.load(NOTICES, ("dataset=conll2003",)).metric_names == ("entity_f1", "token_accuracy")


def test_hashes_of_other_recipes_are_those_of_before():
    # Of a version without these keys; baselines and unfinished runs are found by them.
    hashes = {
        "tiny/bert-full": "45eae70712d6eb42",
        "passages/llama-text_full": "0ea3d0268523bad1",
    }
    for name, expected in hashes.items():
        assert resolve.load(ROOT / "recipes" / f"{name}.yaml").hash[:16] == expected
    assert resolve.load(NOTICES).hash != resolve.load(NOTICES, ("dataset.scheme=IOB2",)).hash
    decimals = [*LLAMA, "prompting.answer=generate"]
    assert (
        resolve.load(RATINGS, tuple(decimals)).hash
        != resolve.load(RATINGS, (*decimals, "dataset.prompt.decimals=3")).hash
    )
