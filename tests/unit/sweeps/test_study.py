"""Studies as they are written: what they expand to, their small variants, equal budgets for tuning, what is refused."""

import re

import pytest

from bench.config import overrides, resolve
from bench.errors import RecipeError
from bench.sweeps import study
from bench.sweeps.study import SweepRequest

BASE = "title: T\nmetric: accuracy\n"
RUNS = "runs: [{recipe: tiny/bert-full}]\n"
MINI = "mini: {models: {tiny_bert: tiny_roberta}, datasets: {reviews: reviews}}\n"
BAND = "{accuracy: {low: 0.5, high: 0.9, source: Somebody 2020}}"


@pytest.fixture
def planned(write):
    """planned(text, **what is asked) -> the systems of that study, in the folder `own`."""

    def plan(text, **asked):
        return study.plan([write("own/study.yaml", BASE + text)], SweepRequest(**asked)).systems

    return plan


@pytest.fixture
def refused(planned, tmp_path):
    """The message with which a study is refused, its folder taken off."""

    def message(text, **asked):
        with pytest.raises(RecipeError) as caught:
            planned(text, **asked)
        assert "\n" not in str(caught.value)
        return str(caught.value).replace(f"{tmp_path}/", "")

    return message


def values(system, *keys):
    found = dict(text.partition("=")[::2] for text in system.overrides)
    return [found.get(key) for key in keys]


# What it expands to


def test_a_matrix_is_every_model_with_every_method(planned):
    systems = planned(
        "matrix: {recipe: tiny/bert-full, models: [tiny_bert, tiny_roberta], "
        "methods: [full, {name: lora, config: {r: 4, target_modules: all-linear}}], set: {training.epochs: 1}}\n"
        "seeds: 2\n"
    )
    found = [(one.resolved.model_name, one.resolved.recipe.method.name) for one in systems]
    assert found == [("tiny_bert", "full"), ("tiny_bert", "lora"), ("tiny_roberta", "full"), ("tiny_roberta", "lora")]
    assert {one.resolved.recipe.training.epochs for one in systems} == {1}
    assert [run.seed for one in systems for run in one.runs()] == [13, 14] * 4
    assert systems[1].resolved.options.config == {"r": 4, "target_modules": "all-linear"}


def test_runs_and_a_matrix_go_together(planned):
    found = planned(RUNS + "matrix: {recipe: tiny/gpt2-scratch}\n")
    assert [one.resolved.model_name for one in found] == ["tiny_bert", "tiny_gpt2"]


def test_recipes_beside_the_study_come_before_the_shipped_ones(planned, write):
    beside = write("own/mine.yaml", "dataset: reviews\nmodel: tiny_albert\nmethod: full\n")
    (system,) = planned("runs: [{recipe: mine}]\n")
    assert (system.path, system.resolved.study) == (beside, "own")


@pytest.mark.parametrize(
    ("text", "asked", "expected"),
    [
        (RUNS, {}, (13,)),
        (RUNS + "seeds: 3\n", {}, (13, 14, 15)),
        (RUNS + "seeds: [5, 7]\n", {}, (5, 7)),
        ("runs: [{recipe: tiny/bert-full, seeds: 2}]\nseeds: 5\n", {}, (13, 14)),
        ("runs: [{recipe: tiny/bert-full, seeds: 2}]\n", {"seeds": (1,)}, (1,)),
        (RUNS + MINI + "seeds: 5\n", {"mini": True}, (13, 14)),
        (RUNS + MINI, {"mini": True, "seeds": 4}, (13, 14, 15, 16)),
    ],
)
def test_seeds(planned, text, asked, expected):
    (system,) = planned(text, **asked)
    assert system.seeds == expected
    assert tuple(run.resolved.recipe.seed for run in system.runs()) == expected


def test_a_methods_settings_are_for_its_runs_and_a_runs_own_win(planned):
    text = "runs: [{recipe: tiny/bert-full}, {recipe: tiny/bert-full, set: {training.learning_rate: 3e-3}}, "
    text += "{recipe: tiny/t5-head}]\nsettings: {full: {training.learning_rate: 9e-3, training.epochs: 1}}\n"
    found = [(one.resolved.recipe.training.learning_rate, one.resolved.recipe.training.epochs) for one in planned(text)]
    assert found == [(9e-3, 1), (3e-3, 1), (3e-2, 8)]


def test_the_command_line_wins(planned):
    (system,) = planned("runs: [{recipe: tiny/bert-full, set: {training.epochs: 2}}]\n", sets=("training.steps=3",))
    assert (system.resolved.recipe.training.steps, system.resolved.recipe.training.epochs) == (3, None)


def test_a_folder_is_its_study_and_other_files_are_recipes(write):
    path = write("own/study.yaml", BASE + RUNS)
    assert study.is_study(path)
    assert study.is_study(path.parent)
    assert study.is_study(write("other/mine.yaml", BASE + RUNS))
    assert not study.is_study(resolve.SHIPPED / "tiny")
    assert not study.is_study(resolve.SHIPPED / "tiny" / "bert-full.yaml")


def test_what_a_method_cannot_use_is_named_where_it_was_typed(planned, refused):
    text = "runs: [{recipe: tiny/bert-full}, {recipe: tiny/albert-probe}]\n"
    learns, probe = planned(text, sets=("training.steps=3", "save=false"))
    assert (learns.left_out, probe.left_out) == ((), ("training.steps=3",))
    assert (learns.overrides, probe.overrides) == (("training.steps=3", "save=false"), ("save=false",))
    own = "runs: [{recipe: tiny/albert-probe, set: {training.steps: 3}}]\n"
    assert refused(own).startswith("own/study.yaml: training.steps: method 'probe' is not trained by gradients")
    alone = "runs: [{recipe: tiny/albert-probe}]\n"
    assert refused(alone, sets=("training.steps=3",)).startswith("command line: training.steps: method 'probe'")


# The small variant


def test_the_small_variant_swaps_cards_first_and_then_what_is_about_them(planned):
    text = "runs: [{recipe: tiny/bert-full, set: {model.architecture.hidden_size: 32, max_length: 64, "
    text += "training.epochs: 3}, mini: {max_length: 16}}]\n"
    text += "mini: {models: {tiny_bert: tiny_roberta}, datasets: {reviews: posts}, set: {max_length: 32, seed: 5}, "
    text += "settings: {full: {training.epochs: 1, max_length: 24}, lora: {training.epochs: 7}}, seeds: 1}\n"
    (system,) = planned(text, mini=True)
    resolved = system.resolved
    assert (resolved.model_name, resolved.dataset_name) == ("tiny_roberta", "posts")
    # Not the other model's size; the run's own length before its method's and before everybody's.
    assert (resolved.recipe.model.architecture["hidden_size"], resolved.recipe.max_length) == (64, 16)
    assert (resolved.recipe.training.epochs, system.seeds) == (1, (5,))
    (full,) = planned(text)
    assert (full.resolved.model_name, full.resolved.recipe.max_length) == ("tiny_bert", 64)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[1, 1]", "seeds: 1 is listed twice"),
        ("[-5]", "seeds.0: expected a number greater than or equal to 0, got -5"),
        ("[99999999999]", "seeds.0: expected a number less than 4294967296, got 99999999999"),
        ("20240101", "seeds: expected a number less than or equal to 10000 or a list, as in [a, b], got 20240101"),
        ("0", "seeds: expected a number greater than 0 or a list"),
    ],
)
def test_wrong_seeds_are_named_where_they_stand(refused, value, message):
    said = refused(RUNS + f"seeds: {value}\n")
    assert message in said
    assert "own/study.yaml:" in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RUNS, "own/study.yaml: this study defines no `mini` variant"),
        (RUNS + "mini: {datasets: {reviews: reviews}}\n", "mini: no replacement for the model 'tiny_bert'"),
        (RUNS + "mini: {models: {tiny_bert: tiny_bert}}\n", "mini: no replacement for the dataset 'reviews'"),
        (RUNS + MINI.replace("tiny_roberta", "tiny_robert"), "there is no model card 'tiny_robert'. Did you mean"),
    ],
)
def test_a_small_variant_that_is_not_whole_is_refused(refused, text, message):
    assert message in refused(text, mini=True)


def test_recipes_have_no_small_variant():
    path = resolve.SHIPPED / "tiny" / "bert-full.yaml"
    with pytest.raises(RecipeError, match="--mini needs a study"):
        study.plan([path], SweepRequest(mini=True))


# Settings that are chosen

TUNE = "tune: {full: {training.learning_rate: [1e-3, 3e-3]}, lora: {training.learning_rate: [5e-3, 9e-3]}}\n"
BOTH = "runs: [{recipe: tiny/bert-full}, {recipe: tiny/mistral-lora}, {recipe: tiny/albert-probe}]\n"


def test_each_method_that_learns_has_its_candidates(planned):
    full, lora, probe = planned(BOTH + TUNE)
    assert full.candidates == (("training.learning_rate=0.001",), ("training.learning_rate=0.003",))
    assert len(lora.candidates) == 2
    assert (probe.candidates, probe.trials()) == ((), {})


def test_candidates_are_all_combinations(planned):
    (system,) = planned(RUNS + "tune: {full: {training.learning_rate: [1e-3, 3e-3], training.epochs: [1, 2, 3]}}\n")
    assert len(system.candidates) == len(set(system.candidates)) == 6


def test_trials_see_validation_data_alone_and_no_published_number(planned):
    text = f"runs: [{{recipe: tiny/bert-full, published: {BAND}}}]\n" + TUNE.replace("lora", "scratch")
    text = text.replace(", scratch: {training.learning_rate: [5e-3, 9e-3]}", "")
    (system,) = planned(text + "seeds: 3\n")
    trials = system.trials()
    assert list(trials) == list(system.candidates)
    for run in trials.values():
        found = run.resolved.recipe
        assert (found.evaluation.splits, found.evaluation.before, found.save) == (("validation",), False, False)
        assert (run.seed, found.published) == (13, {})
    chosen = system.runs(system.candidates[1])
    assert [run.resolved.recipe.training.learning_rate for run in chosen] == [3e-3] * 3
    assert all(set(run.resolved.recipe.published) == {"accuracy"} for run in chosen)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            BOTH + TUNE.replace("[5e-3, 9e-3]", "[5e-3, 7e-3, 9e-3]"),
            "own/study.yaml: tune: all methods need the same number of candidate settings, but full has 2, lora has 3",
        ),
        (
            BOTH + "tune: {full: {training.learning_rate: [1e-3, 3e-3]}}\n",
            "own/study.yaml: tune: candidates for full, but none for lora; give every method",
        ),
        (RUNS + TUNE, "own/study.yaml: settings for method 'lora', which no run of this study uses"),
        (
            "runs: [{recipe: tiny/bert-full, set: {evaluation.splits: [test, validation]}}]\n"
            "tune: {full: {training.learning_rate: [1e-3, 3e-3]}}\n",
            "own/study.yaml: tune: the validation split selects settings, so it must not be evaluated as well",
        ),
        (
            RUNS + "tune: {full: {training.learning_rate: [1e-3]}}\n",
            "own/study.yaml:4: tune.full.training.learning_rate: ",
        ),
        (
            RUNS + "tune: {full: {training.learning_rate: [1e-3, 1e-3]}}\n",
            "own/study.yaml:4: tune.full.training.learning_rate: ",
        ),
        (
            RUNS + "tune: {full: {limit.validation: [8, 16]}}\n",
            "own/study.yaml: tune: limit.validation can't be tuned, since it changes what is evaluated or sampled",
        ),
    ],
)
def test_unfair_choices_are_refused(refused, text, message):
    assert refused(text).startswith(message)


# Published numbers


def test_bands_reach_the_run_and_move_no_hash(planned):
    with_band, without = planned(f"runs: [{{recipe: tiny/bert-full, published: {BAND}}}, {{recipe: tiny/bert-full}}]\n")
    (band,) = with_band.runs()[0].resolved.recipe.published.values()
    assert (band.low, band.high, band.source) == (0.5, 0.9, "Somebody 2020")
    assert with_band.resolved.hash == without.resolved.hash


@pytest.mark.parametrize("sets", ["limit.train=24", "dataset=posts", "method=head", "evaluation.splits=[validation]"])
def test_bands_are_not_for_other_runs(planned, sets):
    text = f"runs: [{{recipe: tiny/bert-full, published: {BAND}}}]\n" + MINI
    assert planned(text, sets=(sets,))[0].resolved.recipe.published == {}
    assert planned(text, mini=True)[0].resolved.recipe.published == {}
    assert planned(text, sets=("training.epochs=1",))[0].resolved.recipe.published != {}


@pytest.mark.parametrize("override", ["limit.train=24", "model=tiny_roberta", "model.max_length=64", "method=head"])
def test_a_recipes_own_bands_are_dropped_where_another_run_is_asked_for(write, override):
    text = f"dataset: reviews\nmodel: tiny_bert\nmethod: full\nmax_length: 64\npublished: {BAND}\n"
    path = write("own/mine.yaml", text)
    assert set(resolve.load(path).recipe.published) == set(resolve.load(path, ("training.epochs=1",)).recipe.published)
    assert resolve.load(path).recipe.published
    assert resolve.load(path, (override,)).recipe.published == {}


@pytest.mark.parametrize(
    ("band", "message"),
    [
        ("{accurcy: {low: 0, high: 1, source: x}}", "no metric computes 'accurcy'. Did you mean 'accuracy'?"),
        ("{accuracy: {low: 0.9, high: 0.5, source: x}}", "0.9 is more than `high`, 0.5"),
        ("{accuracy: {low: 0.9, high: 0.95}}", "published.accuracy.source: this key is required"),
        ("{accuracy: 0.9}", "expected a mapping of keys to values, got 0.9"),
    ],
)
def test_bands_are_checked(refused, write, band, message):
    assert message in refused(f"runs: [{{recipe: tiny/bert-full, published: {band}}}]\n")
    path = write("own/mine.yaml", f"dataset: reviews\nmodel: tiny_bert\nmethod: full\npublished: {band}\n")
    with pytest.raises(RecipeError) as caught:
        resolve.load(path)
    assert message in str(caught.value)


# Settings that others published

PUBLISHED = """
as_published:
  source: Somebody 2020
  precision: fp16
  runs:
    - {recipe: tiny/bert-full, set: {training.epochs: 1}, published: BAND}
    - {recipe: tiny/bert-full, source: Other 2021, precision: float32, but_for: ["their code"], mini: {max_length: 16}}
  settings: {full: {training.clip_norm: 0}}
  mini: {set: {max_length: 32}}
""".replace("BAND", BAND)


def of_others(system):
    return system.resolved.recipe.as_published


def test_settings_of_others_are_a_variant_of_the_same_study(planned):
    text = RUNS + "settings: {full: {training.weight_decay: 0.1}}\n" + PUBLISHED
    (own,) = planned(text)
    assert (of_others(own), own.resolved.name) == (None, "tiny--tiny_bert--full")
    first, second = planned(text, variant="as_published")
    for one in (first, second):
        training = one.resolved.recipe.training
        # Nothing of the study's own settings.
        assert (training.weight_decay, training.clip_norm, one.seeds) == (0.0, 0.0, (13,))
        assert (one.resolved.name, one.resolved.study) == ("tiny-as_published--tiny_bert--full", "tiny")
    assert (of_others(first).source, of_others(first).precision, of_others(first).but_for) == (
        "Somebody 2020",
        "fp16",
        (),
    )
    assert of_others(second).model_dump() == {
        "source": "Other 2021", "precision": "float32", "but_for": ("their code",)
    }  # fmt: skip
    assert set(first.resolved.recipe.published) == {"accuracy"}
    both = planned(text, variant="all")
    assert [one.resolved.name for one in both] == [own.resolved.name, first.resolved.name, second.resolved.name]


def test_whose_settings_they_are_moves_no_hash(planned):
    (own,) = planned(RUNS)
    same = "as_published: {source: S, runs: [{recipe: tiny/bert-full}]}\n"
    (published,) = planned(RUNS + same, variant="as_published")
    assert published.resolved.hash == own.resolved.hash
    assert published.runs()[0].folder_name != own.runs()[0].folder_name


def test_the_small_variant_of_settings_of_others_says_what_is_different(planned):
    text = RUNS + MINI.replace("mini: {", "mini: {set: {training.epochs: 7}, ") + PUBLISHED
    first, second = planned(text, mini=True, variant="as_published", sets=("training.log_every=3",))
    given = ["model: tiny_roberta for tiny_bert", "dataset: reviews for reviews"]
    assert list(of_others(first).but_for) == [*given, "max_length: 32", "training.log_every: 3"]
    assert list(of_others(second).but_for) == ["their code", *given, "max_length: 16", "training.log_every: 3"]
    assert (first.resolved.recipe.training.epochs, first.resolved.recipe.published, first.seeds) == (1, {}, (13,))
    # A key is named once, with the value that it has.
    shorter, _ = planned(text, mini=True, variant="as_published", sets=("max_length=8",))
    assert list(of_others(shorter).but_for) == [*given, "max_length: 8"]
    assert first.resolved.model_name == "tiny_roberta"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RUNS, "own/study.yaml: this study defines no variant `as_published`"),
        (RUNS + "as_published: {source: S, runs: []}\n", "own/study.yaml:4: as_published.runs: "),
        (RUNS + "as_published: {runs: [{recipe: tiny/bert-full}]}\n", "as_published.source: this key is required"),
        (RUNS + PUBLISHED.replace("fp16", "fp8"), "own/study.yaml:7: as_published.precision: expected "),
        (RUNS + PUBLISHED.replace("source: Other", "sauce: Other"), "sauce: unknown key. Did you mean 'source'?"),
        (RUNS + PUBLISHED.replace("training.epochs: 1", "training.epoch: 1"), "unknown key. Did you mean 'epochs'?"),
    ],
)
def test_wrong_settings_of_others_are_named_where_they_stand(refused, text, message):
    assert message in refused(text, variant="as_published")


def test_a_recipe_has_no_variant():
    path = resolve.SHIPPED / "tiny" / "bert-full.yaml"
    with pytest.raises(RecipeError, match="--variant all needs a study; this is a recipe"):
        study.plan([path], SweepRequest(variant="all"))
    with pytest.raises(
        RecipeError, match=r"this is a folder; its studies are: .*studies/imdb .*studies/tweet_emotions$"
    ):
        study.plan([resolve.SHIPPED / "studies"], SweepRequest(mini=True))
    with pytest.raises(RecipeError, match=r"this is a folder of recipes$"):
        study.plan([resolve.SHIPPED / "tiny"], SweepRequest(mini=True))


def test_check_looks_at_the_settings_of_others_too(write):
    path = write("own/study.yaml", BASE + RUNS + MINI + PUBLISHED.replace("max_length: 16", "training.epoch: 1"))
    with pytest.raises(RecipeError, match=r"unknown key\. Did you mean 'epochs'"):
        study.check(path)
    study.check(write("own/study.yaml", BASE + RUNS + MINI + PUBLISHED))


# What is refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: T\n", "metric: this key is required"),
        ("title: T\nmetric: accuracy\n", "own/study.yaml: a study needs `runs` or a `matrix`"),
        (BASE + RUNS + "seed: 3\n", "own/study.yaml:4: seed: unknown key. Did you mean 'seeds'?"),
        (BASE + RUNS + "seeds: 0\n", "own/study.yaml:4: seeds: "),
        (BASE + RUNS + "seeds: [1, 1]\n", "own/study.yaml:4: seeds: "),
        (BASE + "runs: [{recipe: tiny/bert-ful}]\n", "unknown recipe 'tiny/bert-ful'. Did you mean 'tiny/bert-full'?"),
        (BASE + "runs: [{recipe: qqq}]\n", "unknown recipe 'qqq'. Name it as <folder>/<file>, without .yaml."),
        (BASE + "runs: [{recipe: tiny/bert-full, set: {training.epoch: 1}}]\n", "unknown key. Did you mean 'epochs'?"),
        (BASE + RUNS + "settings: {lora: {training.epochs: 1}}\n", "settings for method 'lora', which no run"),
        (BASE + "runs: tiny/bert-full\n", "own/study.yaml:3: runs: expected a list"),
    ],
)
def test_bad_studies_are_refused_with_one_sentence(write, tmp_path, text, message):
    path = write("own/study.yaml", text)
    with pytest.raises(RecipeError) as caught:
        study.plan([path], SweepRequest())
    said = str(caught.value).replace(f"{tmp_path}/", "")
    assert message in said
    assert "\n" not in said
    assert not re.search(r"Traceback|pydantic", said)


def test_check_looks_at_the_small_variant_too(write):
    path = write("own/study.yaml", BASE + RUNS + MINI.replace("tiny_roberta", "nobody"))
    with pytest.raises(RecipeError, match="there is no model card 'nobody'"):
        study.check(path)
    study.check(write("own/study.yaml", BASE + RUNS + MINI))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("k=1,2", [("k=1",), ("k=2",)]),
        ("k=[1, 2],[3]", [("k=[1, 2]",), ("k=[3]",)]),
        ("k={a: 1, b: 2}", [("k={a: 1, b: 2}",)]),
        ("k='a,b',c", [("k='a,b'",), ("k=c",)]),
    ],
)
def test_values_are_parted_at_commas_outside_of_brackets_and_quotes(text, expected):
    assert overrides.products([text]) == expected


def test_several_keys_give_all_combinations():
    assert overrides.products(["a=1,2", "b=3,4"]) == [("a=1", "b=3"), ("a=1", "b=4"), ("a=2", "b=3"), ("a=2", "b=4")]
    assert overrides.products([]) == [()]
    with pytest.raises(RecipeError, match="not of the form key=value"):
        overrides.products(["a"])
