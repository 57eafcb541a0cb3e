"""A fitted temperature: found again where it is known, changes no answer, and is refused where it can't be fitted."""

import numpy as np
import pytest

from bench.analysis.stats import probabilities
from bench.config import resolve
from bench.errors import RecipeError
from tests.helpers.cases import together
from tests.helpers.launching import ROOT

RECIPE = ROOT / "recipes" / "tiny" / "bert-full.yaml"
FITTED = "evaluation.temperature=fitted"


def softmax(logits):
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


@together("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_of_a_model_that_is_too_sure_is_found_again(temperature):
    generator = np.random.default_rng(0)
    logits = 2 * generator.normal(size=(20000, 4))
    references = np.array([generator.choice(4, p=row) for row in softmax(logits)])
    scores = softmax(logits * temperature)
    found = probabilities.fitted_temperature(scores, references)
    assert found == pytest.approx(temperature, rel=0.05)
    np.testing.assert_allclose(
        probabilities.tempered(scores, temperature, multi_label=False), softmax(logits), atol=1e-9
    )
    scaled = probabilities.tempered(scores, found, multi_label=False)
    assert (scaled.argmax(axis=1) == scores.argmax(axis=1)).all()
    losses = [probabilities.negative_log_likelihood(each, references) for each in (scores, scaled)]
    assert losses[1] <= losses[0] + 1e-9


def test_several_labels_are_scaled_each_by_itself():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(9000, 3))
    references = (generator.random((9000, 3)) < 1 / (1 + np.exp(-logits))).astype(int)
    scores = 1 / (1 + np.exp(-3 * logits))
    assert probabilities.fitted_temperature(scores, references) == pytest.approx(3, rel=0.05)
    scaled = probabilities.tempered(scores, 3.0, multi_label=True)
    np.testing.assert_allclose(scaled, 1 / (1 + np.exp(-logits)), atol=1e-9)


def test_certain_predictions_stay_numbers():
    for several in (False, True):
        scaled = probabilities.tempered(np.eye(3), 4.0, multi_label=several)
        np.testing.assert_array_equal(scaled, np.eye(3))
    # All right: the loss falls to 0 as the temperature does; all wrong and sure: as it rises.
    sure = softmax(np.eye(3)[[0, 1, 2]] * 3)
    assert probabilities.fitted_temperature(sure, np.array([0, 1, 2])) < 0.15
    assert probabilities.fitted_temperature(sure, np.array([1, 2, 0])) == pytest.approx(50, rel=0.01)


@together(
    "overrides, sentence",
    [
        (["evaluation.validation=dev"], "evaluation.validation, but the data set has no split 'dev'"),
        (["evaluation.splits=[validation]"], "evaluation.temperature: 'validation' is scored too, and would be fitted"),
        (["evaluation.metrics=[accuracy]"], "changes probabilities alone, and no metric reads them; name one"),
        (["model=tiny_gpt2", "objective=text", "prompting.answer=generate"], "no metric reads them"),
    ],
)
def test_what_has_no_temperature_is_refused(overrides, sentence):
    with pytest.raises(RecipeError) as refused:
        resolve.load(RECIPE, (FITTED, *overrides))
    assert sentence in str(refused.value)


def test_it_is_part_of_the_hash_where_it_is_asked_for():
    plain = resolve.load(RECIPE).hash
    assert resolve.load(RECIPE, ("evaluation.temperature=null",)).hash == plain
    assert resolve.load(RECIPE, (FITTED,)).hash != plain


def test_a_metric_of_labels_is_refused_for_choices_of_a_rows_own_and_log_loss_is_called_loss():
    choices = ("dataset=endings", "model=tiny_bert")
    for name in ("auroc", "average_precision", "top_k_accuracy"):
        with pytest.raises(RecipeError, match=f"metric '{name}' needs the same labels in all examples"):
            resolve.load(RECIPE, (*choices, f"evaluation.metrics=[{name}]"))
    resolve.load(RECIPE, (*choices, "evaluation.metrics=[ece, brier]"))
    with pytest.raises(RecipeError, match="Did you mean 'loss'"):
        resolve.load(RECIPE, ("evaluation.metrics=[log_loss]",))
