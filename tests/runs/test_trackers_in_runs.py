"""Scores and losses of a run, read back by the interfaces of the four trackers that it sent them to."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from bench.analysis import accessors
from bench.records import store
from bench.runner import inputs, lifecycle
from bench.tracking import mlflow_
from tests.helpers import libraries, tracked
from tests.helpers.launching import ROOT, losses

RECIPE = ROOT / "recipes" / "tiny" / "bert-full.yaml"
FAST = ["training.epochs=null", "training.steps=3", "training.log_every=1", "limit={train: 32, test: 16}", "save=false"]
NAMES = ("mlflow", "trackio", "tensorboard", "wandb")
FILES = ["record.json", "report.md", "train_log.jsonl"]
pytestmark = pytest.mark.usefixtures("bare_runs")


def run_here(project, folder, *arguments):
    """The exit code of a run in a study of this name, which is the trackers' project."""
    recipe = folder.parent / project / RECIPE.name
    recipe.parent.mkdir()
    shutil.copy(RECIPE, recipe)
    return lifecycle.main([str(recipe), *FAST, *arguments, "--out", str(folder)])


@pytest.fixture(scope="module")
def run(bare_runs, tmp_path_factory):
    """A run that was sent to all four, each with its own default store."""
    for name in NAMES:
        libraries.needed(name)
    place = tmp_path_factory.mktemp("tracked")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "TENSORBOARD_LOGGING_DIR", "WANDB_PROJECT"):
            patch.delenv(variable, raising=False)
        patch.setenv("WANDB_MODE", "offline")
        assert run_here("tracked", place / "run", f"trackers=[{','.join(NAMES)}]") == 0
        yield place / "run"


def read(name, folder):
    if name in ("mlflow", "trackio"):
        return getattr(tracked, name)("tracked")
    return getattr(tracked, name)(folder / name)


def expected_scores(folder, allowed=str):
    """Name on a tracker -> each score before and after and both ends of its interval, by the record on disk."""
    record, expected = store.read(folder), {}
    for stage in ("before", "after"):
        for metric, score in accessors.scalars(record, stage, "test").items():
            values = {"": score.value, "_low": score.low, "_high": score.high}
            expected |= {
                allowed(f"{stage}/test/{metric}{end}"): value for end, value in values.items() if value is not None
            }
    assert {"before/test/accuracy", "after/test/accuracy_low", "after/test/accuracy_high"} <= set(expected)
    assert expected["before/test/loss"] != expected["after/test/loss"]
    return expected


@pytest.mark.parametrize("name", NAMES)
def test_scores_before_and_after_with_intervals_and_losses_are_read_back(run, name):
    found = read(name, run)
    expected = expected_scores(run, mlflow_.allowed if name == "mlflow" else str)
    # TensorBoard keeps 32 bits of a value.
    close = {key: pytest.approx(value, rel=1e-6 if name == "tensorboard" else 0) for key, value in expected.items()}
    assert {key: value for key, value in found.final.items() if key in expected} == close
    assert found.history["train/loss"] == [
        (step, pytest.approx(loss, rel=1e-6)) for step, loss in enumerate(losses(run), start=1)
    ]
    assert found.settings["training.steps"] in (3, "3")
    assert found.settings["recipe_hash"] == store.read(run).recipe.hash
    assert found.name == ("tensorboard" if name == "tensorboard" else f"{store.read(run).name}--seed13")
    assert found.status == {"mlflow": "FINISHED", "tensorboard": None}.get(name, "ok")
    assert found.files == (FILES if name in ("mlflow", "wandb") else [])


def test_a_server_of_mlflow_gives_back_the_run(tmp_path, monkeypatch):
    mlflow = libraries.needed("mlflow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    with tracked.mlflow_server(tmp_path) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert run_here("served", tmp_path / "run", "trackers=[mlflow]") == 0
        found = tracked.mlflow("served")
        client = mlflow.MlflowClient()
        (sent,) = client.search_runs([client.get_experiment_by_name("served").experiment_id])
        copy = client.download_artifacts(sent.info.run_id, store.FILE, str(tmp_path))
    served = json.loads((tmp_path / "run" / store.FILE).read_text(encoding="utf-8"))
    expected = expected_scores(tmp_path / "run", mlflow_.allowed)
    assert {key: value for key, value in found.final.items() if key in expected} == expected
    assert [value for _, value in found.history["train/loss"]] == losses(tmp_path / "run")
    assert (found.status, found.files) == ("FINISHED", FILES)
    assert json.loads(Path(copy).read_text(encoding="utf-8"))["scores"] == served["scores"]
    assert not (tmp_path / "mlflow.db").exists()  # nothing went to the default store


def refused(folder, capsys, *arguments):
    """The sentence with which a run was refused before any data were read."""
    assert run_here("refused", folder, *arguments) == 2
    record = store.read(folder)
    assert (record.status, record.failed_in) == ("invalid", "load")
    assert record.reason in capsys.readouterr().err
    return record.reason


@pytest.fixture
def _no_data(monkeypatch):
    def read_data(*_):
        raise AssertionError("the data were read")

    monkeypatch.setattr(inputs, "_load_corpus", read_data)


@pytest.mark.usefixtures("_no_data")
@pytest.mark.parametrize("name", NAMES)
def test_a_tracker_that_is_not_installed_is_refused_before_the_data_are_read(tmp_path, monkeypatch, capsys, name):
    monkeypatch.setitem(sys.modules, name, None)  # as where there is none
    told = refused(tmp_path / "run", capsys, f"trackers=[{name}]")
    assert told == f"the tracker '{name}' is not installed: pip install {name}"


@pytest.mark.usefixtures("_no_data")
def test_a_server_that_does_not_answer_is_refused_before_the_data_are_read(tmp_path, monkeypatch, capsys):
    libraries.needed("mlflow")
    libraries.needed("tensorboard")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{tracked.free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    told = refused(tmp_path / "run", capsys, "trackers=[tensorboard,mlflow]")
    assert told.startswith("the tracker 'mlflow' can't start: MlflowException: ")
    assert "Connection refused" in told
