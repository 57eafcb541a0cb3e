"""Studies over parts of the data: sizes of a label curve and folds, what they expand to, and what is refused."""

import pytest

from bench.config import resolve
from bench.errors import RecipeError
from bench.sweeps import parts, study
from bench.sweeps.study import SweepRequest

BASE = "title: T\nmetric: accuracy\n"
RUNS = "runs: [{recipe: tiny/bert-full}, {recipe: tiny/llama-zero_shot}]\n"
CURVE = "label_curve: {sizes: [20, 50, all]}\n"


@pytest.fixture
def planned(write):
    """planned(text, **what is asked) -> the systems of that study, in the folder `own`."""

    def plan(text, **asked):
        return study.plan([write("own/study.yaml", BASE + text)], SweepRequest(**asked)).systems

    return plan


def sizes(systems):
    return [(one.resolved.recipe.method.name, one.resolved.recipe.data.train_examples) for one in systems]


def test_every_run_on_every_size_and_what_learns_nothing_once(planned):
    systems = planned(RUNS + CURVE + "seeds: 2\n")
    assert sizes(systems) == [("full", 20), ("full", 50), ("full", None), ("zero_shot", None)]
    hashes = {one.resolved.series_hash or one.resolved.hash for one in systems[:3]}
    assert hashes == {systems[2].resolved.hash}
    assert [run.seed for run in systems[0].runs()] == [13, 14]
    assert parts.named(systems[0].resolved).endswith("--full, 20 examples")


def test_published_results_are_of_all_the_data(planned):
    band = "{accuracy: {low: 0.5, high: 0.9, source: Somebody 2020}}"
    systems = planned(f"runs: [{{recipe: tiny/bert-full, published: {band}}}]\n" + CURVE)
    assert [sorted(one.resolved.recipe.published) for one in systems] == [[], [], ["accuracy"]]


def test_the_small_variant_has_sizes_of_its_own(planned):
    mini = "mini: {models: {tiny_bert: tiny_roberta}, datasets: {reviews: reviews}, sizes: [4, 8]}\n"
    systems = planned("runs: [{recipe: tiny/bert-full}]\n" + CURVE + mini, mini=True)
    assert sizes(systems) == [("full", 4), ("full", 8)]


def test_every_run_on_every_fold(planned):
    systems = planned("runs: [{recipe: tiny/bert-full}]\nfolds: {number: 3, of: [train, validation]}\n")
    found = [one.resolved.recipe for one in systems]
    assert [one.data.fold for one in found] == [1, 2, 3]
    assert {(one.data.folds, one.data.fold_of, one.evaluation.splits) for one in found} == {
        (3, ("train", "validation"), ("fold",))
    }
    assert len({one.resolved.series_hash for one in systems}) == 1
    assert len({run.folder_name for one in systems for run in one.runs()}) == 3
    assert parts.named(systems[1].resolved).endswith("--full, fold 2 of 3")


@pytest.mark.parametrize(
    ("text", "asked", "message"),
    [
        ("label_curve: {sizes: [50, 20]}", {}, "label_curve.sizes.1: 20 follows 50; write sizes in rising order"),
        ("label_curve: {sizes: [50, 50]}", {}, "label_curve.sizes.1: 50 is listed twice"),
        ("label_curve: {sizes: [all, 50]}", {}, "label_curve.sizes.0: `all` is the largest size; write it last"),
        ("label_curve: {sizes: [all, all]}", {}, "label_curve.sizes.0: `all` is the largest size; write it last"),
        ("label_curve: {sizes: [50]}", {}, "label_curve.sizes"),
        ("label_curve: {sizes: [0, 50]}", {}, "label_curve.sizes.0"),
        ("label_curve: {sizes: [1, 50]}", {}, "label_curve.sizes: 1 examples are fewer than the 2 labels of reviews"),
        ("label_curve: {sizes: [2, 50]}\nfolds: {number: 3}", {}, "folds: a label curve is scored on one test split"),
        ("folds: {number: 1}", {}, "folds.number"),
        ("folds: {number: 3, of: [trian]}", {}, "the data set has no split 'trian'. Did you mean 'train'?"),
        ("mini: {sizes: [5, 9]}", {}, "mini.sizes: needs `label_curve`, whose sizes these replace"),
        ("label_curve: {sizes: [5, 9]}\nmini: {sizes: [9, 5]}", {}, "mini.sizes.1: 5 follows 9"),
        (CURVE, {"sets": ("data.train_examples=9",)}, "`label_curve` of own/study.yaml sets this key for each run"),
        (CURVE + "tune: {full: {data.train_examples: [5, 9]}}", {}, "data.train_examples can't be tuned"),
    ],
)
def test_refused_with_the_place_and_what_was_expected(planned, tmp_path, text, asked, message):
    with pytest.raises(RecipeError) as caught:
        planned("runs: [{recipe: tiny/bert-full}]\n" + text + "\n", **asked)
    said = str(caught.value).replace(f"{tmp_path}/", "")
    assert message in said
    assert "own/study.yaml" in said


def test_the_shipped_curve_names_its_sizes_once_for_all_methods():
    systems = study.plan([resolve.SHIPPED / "studies" / "label_curve"], SweepRequest()).systems
    by_method = {}
    for method, size in sizes(systems):
        by_method.setdefault(method, []).append(size)
    assert set(by_method) == {"full", "lora", "head", "probe", "tfidf"}
    assert {tuple(each) for each in by_method.values()} == {(50, 100, 250, 600, 1500, None)}
