"""tracking/: each service's own reader gives back what a run sent."""

import json

import pytest

from bench.errors import SetupError
from bench.records import store
from bench.tracking import fan_out, mlflow_, tensorboard_, tracker
from tests.helpers import pages

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


def leveldb_records(content):
    """The records of W&B's offline file: blocks of 32 KiB after 7 bytes, of parts with CRC, length and type."""
    assert content[:4] == b":W&B"
    block, place, parts = 2**15, 7, []
    while place + 7 <= len(content):
        left = block - place % block
        if left < 7:  # no room for a header
            place += left
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        if not kind:
            break
        parts.append(content[place + 7 : place + 7 + length])
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


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
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    made = sent("tensorboard", tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, pytest.approx(0.7))]
    assert [(event.step, event.value) for event in events.Scalars("validation/accuracy")] == [(2, pytest.approx(0.8))]
    (final,) = events.Scalars("after/test/accuracy")
    assert final.value == pytest.approx(made.scores["after"]["test"]["accuracy"].value)
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    assert start.hparams["training.learning_rate"].number_value == 0.001
    assert start.hparams["method"].string_value == "lora"


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
    pytest.importorskip("wandb", reason="wandb is not installed")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    made = sent("wandb", tmp_path / "run")
    (place,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    found = [wandb_internal_pb2.Record.FromString(data) for data in leveldb_records(place.read_bytes())]
    (run,) = (one.run for one in found if one.HasField("run"))
    assert (run.project, run.run_group) == ("sst2", "sst2--minilm--lora")
    assert run.display_name == "sst2--minilm--lora--seed13"
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["training.learning_rate"] == 0.001
    history = [
        {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in one.history.item}
        for one in found if one.HasField("history")
    ]  # fmt: skip
    assert [(row["_step"], row.get("train/loss"), row.get("validation/accuracy")) for row in history] == [
        (1, 0.7, None), (2, None, 0.8),
    ]  # fmt: skip
    final = {
        item.key: json.loads(item.value_json)
        for one in found if one.HasField("summary") for item in one.summary.update
    }  # fmt: skip
    assert final["after/test/accuracy"] == made.scores["after"]["test"]["accuracy"].value
    assert final["status"] == "ok"
    assert any(one.HasField("artifact") or one.HasField("request") for one in found)


@pytest.mark.parametrize("status", ["ok", "oom"])
def test_mlflows_client_gives_back_the_run(tmp_path, monkeypatch, status):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    made = sent("mlflow", tmp_path / "run", status=status)
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("sst2")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "sst2--minilm--lora--seed13"
    assert run.info.status == ("FINISHED" if status == "ok" else "FAILED")
    assert run.data.params["training.learning_rate"] == "0.001"
    assert run.data.metrics["after/test/accuracy"] == made.scores["after"]["test"]["accuracy"].value
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(1, 0.7)]
    assert [one.path for one in client.list_artifacts(run.info.run_id)] == [store.FILE]


def test_trackios_own_store_gives_back_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    pytest.importorskip("trackio", reason="trackio is not installed")
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    made = sent("trackio", tmp_path / "run")
    (run,) = trackio.Api().runs("sst2")
    assert run.name == "sst2--minilm--lora--seed13"
    assert run.config["training.learning_rate"] == 0.001
    logs = SQLiteStorage.get_logs("sst2", run.name, run_id=run.id)
    assert [(row["step"], row["train/loss"]) for row in logs if "train/loss" in row] == [(1, 0.7)]
    assert logs[-1]["after/test/accuracy"] == made.scores["after"]["test"]["accuracy"].value


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
    monkeypatch.setattr(fan_out.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match="the tracker 'wandb' is not installed: pip install wandb"):
        fan_out.Trackers(notes.append).start(("wandb",), made, tmp_path)
