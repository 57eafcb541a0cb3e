"""Recipes of a method without a model: they name none; whatever else is said of one has no effect, and is noted."""

import json

import pytest

from bench.cli.main import main
from bench.config import without_model
from bench.config.cards import NO_MODEL
from bench.config.resolve import load
from bench.errors import RecipeError
from bench.memory import fitting, report
from bench.sweeps import study, try_study

PLAIN = "dataset: reviews\nmethod: tfidf\n"
WITH_MODEL = "dataset: reviews\nmodel: tiny_bert\nmethod: full\n"


def test_it_needs_no_model_key(write):
    found = load(write("own/words.yaml", PLAIN))
    assert (found.name, found.model_name) == ("own--none--tfidf", NO_MODEL)
    assert found.unused_notes == ()
    assert not any(name.startswith("models/") for name in found.files)
    assert found.hash == load(write("other/place.yaml", PLAIN)).hash


def test_what_a_study_or_the_command_line_says_of_a_model_is_noted(write):
    plain = load(write("own/words.yaml", PLAIN))
    found = load(write("own/bert.yaml", WITH_MODEL), ("method=tfidf", "model=tiny_gpt2", "model.max_length=64"))
    assert found.unused_notes == (
        "model has no effect: method 'tfidf' uses no model",
        "model.max_length has no effect: method 'tfidf' uses no model",
        "model of the recipe's file has no effect: method 'tfidf' uses no model",
    )
    assert found.hash == plain.hash
    assert found.as_written["model"] == "tiny_bert"
    with pytest.raises(RecipeError, match="this key is required"):
        load(write("own/words.yaml", PLAIN), ("method=full",))


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ("model: tiny_bert\n", "words.yaml:3: model: method 'tfidf' uses no model; remove this key"),
        ("max_length: 64\n", "max_length: has no effect: method 'tfidf' reads whole texts"),
        ("training: {epochs: 2}\n", "training.epochs: method 'tfidf' is not trained by gradients"),
        ("head: {kind: mlp}\n", "head.kind: method 'tfidf' is not trained by gradients"),
        ("objective: text\n", "method 'tfidf' has no objective 'text'; set objective: head"),
    ],
)
def test_the_recipe_itself_is_refused(write, more, problem):
    with pytest.raises(RecipeError) as caught:
        load(write("own/words.yaml", PLAIN + more))
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ("{classifier: naive_bayes, C: 2}", "config.C: not for `classifier: naive_bayes`; remove it"),
        ("{alpha: 0.5}", "config.alpha: not for `classifier: logistic_regression`; remove it"),
        ("{ngram_range: [2, 1]}", "the first must not be more than the second"),
        ("{classifier: svm}", "config.classifier: expected"),
        ("{ngrams: 2}", "config.ngrams: unknown key"),
    ],
)
def test_its_options_are_checked(write, config, problem):
    with pytest.raises(RecipeError) as caught:
        load(write("own/words.yaml", f"dataset: reviews\nmethod: {{name: tfidf, config: {config}}}\n"))
    assert problem in str(caught.value)


@pytest.mark.parametrize("data", ["passages", "ratings", "notices", "endings", "sums"])
def test_tasks_without_labels_of_texts_are_refused(write, data):
    with pytest.raises(RecipeError, match=r"method 'tfidf' (fits a classifier of texts|has no objective)|no objective"):
        load(write("own/words.yaml", f"dataset: {data}\nmethod: tfidf\n"))


def test_plans_need_no_gpu(write):
    path = write("own/words.yaml", PLAIN)
    answer = report.answer(report.PlanRequest(path=path, gpu="12GiB"))
    assert answer.fits
    assert answer.lines[0].startswith("fits any GPU: method 'tfidf' uses no model and no GPU")
    assert fitting.fit(path, (), "12GiB").fits


def test_it_is_tried_beside_methods_of_a_model(tmp_path):
    request = try_study.TryRequest(model="tiny_bert", data="reviews", out=tmp_path, methods=("full", "tfidf"))
    tried = try_study.write_recipes(request)
    assert [path.stem for path in tried.recipes] == ["full", "tfidf"]
    assert "model" not in (tmp_path / "try" / "tfidf.yaml").read_text(encoding="utf-8")
    request = try_study.TryRequest(model="tiny_bert", data="ratings", out=tmp_path, methods=("full", "tfidf"))
    assert any("tfidf is left out" in sentence for sentence in try_study.write_recipes(request).sentences)


def test_a_study_has_it_in_its_matrix_and_its_mini_variant(write):
    write("own/bert.yaml", WITH_MODEL)
    path = write(
        "own/study.yaml",
        "title: A\nmetric: accuracy\nmatrix: {recipe: bert, methods: [full, tfidf]}\n"
        "mini: {models: {tiny_bert: tiny_albert}, datasets: {reviews: reviews}}\n",
    )
    for mini in (False, True):
        systems = study.plan([path], study.SweepRequest(mini=mini)).systems
        assert [one.resolved.model_name for one in systems] == ["tiny_albert" if mini else "tiny_bert", NO_MODEL]


def test_list_and_schema_know_it(capsys):
    assert main(["list", "methods"]) == 0
    assert "tfidf" in capsys.readouterr().out
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["anyOf"][0] == {"required": ["model"]}
    assert without_model.uses_model("full")
    assert without_model.uses_model("no_such_method")
