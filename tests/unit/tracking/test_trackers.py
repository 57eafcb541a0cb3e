"""tracking/: each service's own reader gives back what a run sent."""

import pytest

from bench.errors import SetupError
from bench.records import store
from bench.tracking import fan_out, mlflow_, tensorboard_, tracker
from tests.helpers import libraries, pages, tracked

ROWS = [
    {"step": 1, "epoch": 0.5, "loss": 0.7, "learning_rate": 1e-3, "seconds": 1.0},
    {"step": 2, "epoch": 1.0, "validation_accuracy": 0.8, "validation_loss": None, "seconds": 2.0},
]


def record():
    made = pages.full()
    made.recipe.resolved = {"training": {"learning_rate": 0.001}, "dataset": {"labels": ["a", "b"]}}
    return made


def sent(name, folder, **changes):
    """Run one tracker from start to end, as a run does."""
    notes, made = [], record()
    trackers = fan_out.Trackers(notes.append)
    folder.mkdir(exist_ok=True)
    store.write(made, folder)
    trackers.start((name,), made, folder)
    for row in ROWS:
        trackers.log(row)
    for field, value in changes.items():
        setattr(made, field, value)
    trackers.finish(made, [folder / store.FILE])
    trackers.finish(made, [])  # a run is ended once, whoever asks
    assert notes == []
    return made


def test_what_is_sent():
    assert tracker.logged(ROWS[0]) == {"epoch": 0.5, "train/loss": 0.7, "train/learning_rate": 1e-3}
    assert tracker.logged(ROWS[1]) == {"epoch": 1.0, "validation/accuracy": 0.8}
    settings = tracker.settings(record())
    assert settings["training.learning_rate"] == 0.001
    assert settings["dataset.labels"] == "['a', 'b']"
    assert (settings["seed"], settings["git_commit"]) == (13, "abcdef")
    values = tracker.summary(record())
    score = record().scores["after"]["test"]["accuracy"]
    assert (values["after/test/accuracy"], values["after/test/accuracy_low"]) == (score.value, score.low)
    assert "before/test/mcc" in values
    assert all(isinstance(value, float | int) for value in values.values())


def test_tensorboards_reader_gives_back_the_run(tmp_path, monkeypatch):
    libraries.needed("tensorboard")
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    made = sent("tensorboard", tmp_path / "run")
    found = tracked.tensorboard(tmp_path / "run" / "tensorboard")
    assert found.history["train/loss"] == [(1, pytest.approx(0.7))]
    assert found.history["validation/accuracy"] == [(2, pytest.approx(0.8))]
    (final,) = found.history["after/test/accuracy"]
    assert final == (2, pytest.approx(made.scores["after"]["test"]["accuracy"].value))
    assert found.settings["training.learning_rate"] == 0.001
    assert found.settings["method"] == "lora"


def test_runs_of_one_name_have_folders_of_their_own(tmp_path, monkeypatch):
    """In TENSORBOARD_LOGGING_DIR: six settings of LoRA in a study have one name, and would be drawn as one curve."""
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path))
    for digest in ("a" * 64, "b" * 64):
        made = record()
        made.recipe.hash = digest
        one = tensorboard_.TRACKER()
        one.start(made, tmp_path / "run")
        one.finish(made, {}, [])
    assert [path.name.rpartition("--")[2] for path in sorted(tmp_path.iterdir())] == ["a" * 8, "b" * 8]


def test_names_that_mlflow_refuses_are_changed():
    assert mlflow_.allowed("after/test/lm_eval:acc,none_low") == "after/test/lm_eval_acc_none_low"
    assert mlflow_.allowed("training.learning_rate") == "training.learning_rate"


def test_wandbs_offline_file_gives_back_the_run(tmp_path, monkeypatch):
    libraries.needed("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    made = sent("wandb", tmp_path / "run")
    found = tracked.wandb(tmp_path / "run" / "wandb")
    assert (found.project, found.group) == ("sst2", "sst2--minilm--lora")
    assert found.name == "sst2--minilm--lora--seed13"
    assert found.settings["training.learning_rate"] == 0.001
    assert (found.history["train/loss"], found.history["validation/accuracy"]) == ([(1, 0.7)], [(2, 0.8)])
    assert found.final["after/test/accuracy"] == made.scores["after"]["test"]["accuracy"].value
    assert found.status == "ok"
    assert found.files == [store.FILE]


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A store of MLflow, which takes seconds to make."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/own.db"


@pytest.mark.parametrize("status", ["ok", "oom"])
def test_mlflows_client_gives_back_the_run(tmp_path, monkeypatch, database, status):
    libraries.needed("mlflow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", f"runs that end {status}")
    made = sent("mlflow", tmp_path / "run", status=status)
    found = tracked.mlflow(f"runs that end {status}")
    assert found.name == "sst2--minilm--lora--seed13"
    assert found.status == ("FINISHED" if status == "ok" else "FAILED")
    assert found.settings["training.learning_rate"] == "0.001"
    assert found.final["after/test/accuracy"] == made.scores["after"]["test"]["accuracy"].value
    assert found.history["train/loss"] == [(1, 0.7)]
    assert found.files == [store.FILE]


def test_more_values_than_mlflow_takes_at_once_all_come(tmp_path, monkeypatch, database):
    libraries.needed("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "many")
    one = mlflow_.MlflowTracker()
    one.start(record(), tmp_path)
    many = {f"after/test/label {number}/f1": number / 1200 for number in range(1200)}
    one.finish(record(), many, [])
    assert tracked.mlflow("many").final == many


def test_trackios_own_store_gives_back_the_run(tmp_path):
    libraries.needed("trackio")
    made = sent("trackio", tmp_path / "run")
    found = tracked.trackio("sst2")
    assert found.name == "sst2--minilm--lora--seed13"
    assert found.settings["training.learning_rate"] == 0.001
    assert found.history["train/loss"] == [(1, 0.7)]
    assert found.final["after/test/accuracy"] == made.scores["after"]["test"]["accuracy"].value
    assert found.status == "ok"


@pytest.mark.parametrize(
    ("name", "variable", "value"),
    [
        ("mlflow", "MLFLOW_TRACKING_URI", "gopher://nowhere"),
        ("tensorboard", "TENSORBOARD_LOGGING_DIR", "FILE/below"),
        ("wandb", "WANDB_PROJECT", "no/project"),
    ],
)
def test_a_service_that_can_not_start_is_refused_by_name(tmp_path, monkeypatch, name, variable, value):
    libraries.needed(name)
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    monkeypatch.setenv(variable, value.replace("FILE", str(tmp_path / "file")))
    with pytest.raises(SetupError, match=f"the tracker '{name}' can't start: [A-Za-z]+: "):
        fan_out.Trackers(lambda _: None).start((name,), record(), tmp_path)


def test_a_tracker_that_can_not_start_is_refused_and_one_that_fails_later_ends_no_run(tmp_path, monkeypatch):
    class Odd:
        ended = 0

        def start(self, made, folder):
            pass

        def log(self, values, step):
            raise OSError("no route to hf_" + "a1B2" * 9)

        def finish(self, made, summary, files):
            Odd.ended += 1

    class Refusing(Odd):
        def start(self, made, folder):
            raise ValueError("no key\nwas given")

    import importlib
    import types

    classes = {"mlflow": Odd, "wandb": Refusing}
    monkeypatch.setattr(fan_out.importlib.util, "find_spec", lambda name: object())
    own = importlib.import_module
    monkeypatch.setattr(
        fan_out.importlib, "import_module",
        lambda name: types.SimpleNamespace(TRACKER=classes[name.split(".")[-1].removesuffix("_")])
        if name.startswith("bench.tracking.") else own(name),
    )  # fmt: skip
    notes, made = [], record()
    with pytest.raises(SetupError, match="the tracker 'wandb' can't start: ValueError: no key was given"):
        fan_out.Trackers(notes.append).start(("mlflow", "wandb"), made, tmp_path)
    assert Odd.ended == 1
    trackers = fan_out.Trackers(notes.append)
    trackers.start(("mlflow",), made, tmp_path)
    trackers.log(ROWS[0])
    trackers.log(ROWS[1])
    trackers.finish(made, [])
    assert notes == ["the tracker 'mlflow' got no more values: OSError: no route to <removed>"]
    told = fan_out._sentence(OSError("first " + "x" * 900 + " last"))
    assert (told[:15], told[-6:], len(told)) == ("OSError: first ", "x last", 9 + fan_out.MOST_CHARACTERS + 3)
    monkeypatch.setattr(fan_out.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match="the tracker 'wandb' is not installed: pip install wandb"):
        fan_out.Trackers(notes.append).start(("wandb",), made, tmp_path)
