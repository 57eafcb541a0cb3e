"""`bench.run_recipe` and `bench.load_records`: a program of somebody else's goes on as it was."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

import bench
from bench.errors import DataError, DivergedError, RecipeError, SetupError
from bench.records import store
from tests.helpers.cases import together
from tests.helpers.launching import ROOT

SMALL = {"training__steps": 2, "training__epochs": None, "limit": {"train": 16, "test": 8}, "save": False}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, bare_runs):
    """Three records: two seeds of one recipe, and one that was refused."""
    folder = tmp_path_factory.mktemp("runs")
    before = signal.getsignal(signal.SIGTERM), sys.stdout, os.environ.get("BENCH_INCLUDE")
    records = [bench.run_recipe("tiny/bert-full", out=folder / str(seed), seed=seed, **SMALL) for seed in (3, 4)]
    assert (signal.getsignal(signal.SIGTERM), sys.stdout, os.environ.get("BENCH_INCLUDE")) == before
    bad = folder / "study" / "bad.yaml"
    bad.parent.mkdir()
    bad.write_text("dataset: reviews\nmodel: tiny_bert\nmethod: full\nsed: 3\n")
    with pytest.raises(RecipeError, match="Did you mean 'seed'"):
        bench.run_recipe(bad, out=folder / "refused")
    return folder, records


def test_the_record_is_that_of_the_folder(runs):
    folder, records = runs
    for seed, record in zip((3, 4), records, strict=True):
        assert record == store.read(folder / str(seed))
        assert (record.status, record.seed, record.training.steps) == ("ok", seed, 2)
    assert "training.steps=2" in records[0].recipe.overrides
    assert records[0].environment.packages["finetune-bench"] == bench.__version__


def test_a_finished_run_is_not_replaced(runs):
    folder, records = runs
    with pytest.raises(SetupError, match="holds a finished run; give --overwrite"):
        bench.run_recipe("tiny/bert-full", out=folder / "3", seed=3, **SMALL)
    assert store.read(folder / "3") == records[0]


def test_a_table_has_a_row_a_score(runs):
    folder, (record, _) = runs
    frame = bench.load_records(folder)
    own = frame[(frame["run"] == str(folder / "3")) & (frame["metric"] == "accuracy") & (frame["stage"] == "after")]
    score = record.scores["after"]["test"]["accuracy"]
    (row,) = own.to_dict("records")
    assert (row["value"], row["low"], row["high"]) == (score.value, score.low, score.high)
    assert (row["examples"], row["seed"], row["split"], row["signature"]) == (8, 3, "test", score.signature)
    assert (row["study"], row["method"], row["dataset"]) == ("tiny", "full", record.data.id)
    refused = frame[frame["run"] == str(folder / "refused")]
    assert refused["status"].tolist() == ["invalid"]
    assert refused["value"].isna().all()
    assert "sed: unknown key" in refused["reason"].iloc[0]
    num_scores = sum(
        not isinstance(score.value, list) for stage in record.scores.values() for split in stage.values()
        for score in split.values()
    )  # fmt: skip
    assert len(frame) == 2 * num_scores + 1
    assert str(frame["value"].dtype) == "float64"


def test_a_record_that_cannot_be_read_is_warned_of(runs, tmp_path):
    (tmp_path / "record.json").write_text("{")
    with pytest.warns(UserWarning, match="is left out: not a whole record"):
        frame = bench.load_records([runs[0] / "3", tmp_path])
    assert list(frame.attrs["unreadable"]) == [str(tmp_path / "record.json")]
    with pytest.raises(DataError, match="no such file or folder"):
        bench.load_records(tmp_path / "none")


def test_a_recipe_that_is_a_mapping(runs, tmp_path, monkeypatch):
    """With cards of the working folder, and data relative to it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    for split in ("train", "test"):
        rows = [{"text": f"word {number % 2} {split} {number}", "label": number % 2} for number in range(12)]
        (tmp_path / "texts" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "mine.yaml").write_text(
        "task: text_classification\nlicence: none\nlabels: ['no', 'yes']\n"
        "source: {kind: jsonl, folder: texts, files: {train: train.jsonl, test: test.jsonl}}\n"
        "splits: {train: train, test: test}\n"
    )
    recipe = {"dataset": "mine", "model": "tiny_bert", "method": {"name": "full"}, "training": {"epochs": 1}}
    record = bench.run_recipe(recipe, training={"global_batch": 4}, save=False, out="out")
    assert (record.status, record.study, record.data.splits["train"].examples) == ("ok", "inline", 12)
    assert record.recipe.as_written["dataset"] == "mine"
    with pytest.raises(RecipeError, match=r"recipe: trainin: unknown key. Did you mean 'training'\?"):
        bench.run_recipe({**recipe, "trainin": {}}, out="out2")


@together(
    "keys, error, words",
    [
        ({"training__stesp": 3}, RecipeError, "training.stesp: unknown key. Did you mean 'steps'"),
        ({"training": {"steps": "x"}}, RecipeError, "training.steps: expected a whole number"),
        ({"seed": object()}, RecipeError, "is not a value of a recipe"),
        ({"out": ""}, SetupError, "an empty path"),
    ],
)
def test_wrong_arguments_are_the_harness_own_errors(keys, error, words):
    with pytest.raises(error, match=words):
        bench.run_recipe("tiny/bert-full", **keys)


def test_a_run_that_fails_raises_with_its_record(tmp_path, bare_runs):
    # Steps of this size leave no finite loss.
    keys = {**SMALL, "training__steps": 20, "training__learning_rate": 1e30, "training__clip_norm": 0}
    with pytest.raises(DivergedError) as raised:
        bench.run_recipe("tiny/bert-full", out=tmp_path / "run", training__log_every=1, **keys)
    assert raised.value.record == store.read(tmp_path / "run")
    assert raised.value.record.status == "diverged"


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SetupError, match="in this process alone"):
        bench.run_recipe("tiny/bert-full")


def test_a_run_in_another_thread_leaves_signals_alone(tmp_path, bare_runs):
    found = []
    thread = threading.Thread(
        target=lambda: found.append(bench.run_recipe("tiny/bert-full", out=tmp_path / "run", **SMALL))
    )
    thread.start()
    thread.join()
    assert found[0].status == "ok"


def test_importing_the_package_loads_nothing():
    code = (
        "import sys, bench; assert {'run_recipe', 'load_records'} <= set(dir(bench))\n"
        "print(sorted({'torch', 'pandas', 'pydantic', 'yaml', 'bench.api'} & set(sys.modules)))\n"
        "bench.load_records; print(sorted({'torch', 'pandas'} & set(sys.modules)))\n"
        "try: bench.nothing\nexcept AttributeError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n[]\nmodule 'bench' has no attribute 'nothing'\n", done.stderr
