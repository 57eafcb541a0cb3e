"""Runs as the trackers' own readers give them back: settings, values by step, final values, status and files."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field

from tests.helpers import libraries

# For a server that hangs, not for one that is slow to start.
LIMIT_S = 240


@dataclass(frozen=True, kw_only=True)
class Tracked:
    """A run. history: name -> [(step, value)]; final: name -> the last value; files: names."""

    name: str
    settings: dict
    history: dict
    final: dict
    status: str | None = None
    project: str | None = None
    group: str | None = None
    files: list = field(default_factory=list)


def tensorboard(folder):
    """The run whose event files lie in a folder, read by TensorBoard's accumulator; values are of float32."""
    libraries.needed("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    events = EventAccumulator(str(folder))
    events.Reload()
    history = {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    settings = {key: getattr(value, value.WhichOneof("kind")) for key, value in start.hparams.items()}
    return Tracked(name=folder.name, settings=settings, history=history, final=_last(history))


def mlflow(experiment):
    """The only run of an experiment, read by MLflow's client from the store or server that its variables name."""
    client = libraries.needed("mlflow").MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    history = {
        name: [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
        if name.startswith(("train/", "validation/"))
    }
    files = sorted(one.path for one in client.list_artifacts(run.info.run_id))
    return Tracked(
        name=run.info.run_name, settings=run.data.params, history=history, final=run.data.metrics,
        status=run.info.status, files=files,
    )  # fmt: skip


def trackio(project):
    """The only run of a project, read by trackio's Api and its store."""
    library = libraries.needed("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = library.Api().runs(project)
    rows, history = SQLiteStorage.get_logs(project, run.name, run_id=run.id), {}
    for row in rows:
        for name, value in row.items():
            if name not in ("step", "timestamp"):
                history.setdefault(name, []).append((row["step"], value))
    final = _last(history)
    return Tracked(
        name=run.name, settings=run.config, history=history, final=final, status=final.get("status"),
    )  # fmt: skip


def wandb(folder):
    """The run of the only offline file in a folder, by the messages that W&B itself defines for it."""
    libraries.needed("wandb")
    from wandb.proto import wandb_internal_pb2

    (place,) = folder.glob("offline-run-*/run-*.wandb")
    records = [wandb_internal_pb2.Record.FromString(data) for data in _leveldb_records(place.read_bytes())]
    (run,) = (one.run for one in records if one.HasField("run"))
    history, final = {}, {}
    for one in records:
        if one.HasField("history"):
            row = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in one.history.item}
            for name, value in row.items():
                if not name.startswith("_"):
                    history.setdefault(name, []).append((row["_step"], value))
        if one.HasField("summary"):
            final |= {item.key: json.loads(item.value_json) for item in one.summary.update}
    return Tracked(
        name=run.display_name,
        project=run.project,
        group=run.run_group,
        settings={item.key: json.loads(item.value_json) for item in run.config.update},
        history=history,
        final=final,
        status=final.get("status"),
        files=sorted(
            entry.path for one in records if one.HasField("artifact") for entry in one.artifact.manifest.contents
        ),
    )


def _last(history):
    return {name: values[-1][1] for name, values in history.items()}


def _leveldb_records(content):
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


def free_port():
    """A port of this machine that nothing listens at."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


@contextlib.contextmanager
def mlflow_server(folder):
    """Yield the address of an `mlflow server` with its store and artifacts in a folder, which runs until the end."""
    libraries.needed("mlflow")
    address = f"http://127.0.0.1:{(port := free_port())}"
    words = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder / 'server.db'}",
        "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    # Its jobs judge texts of language models, by processes of their own.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log = folder / "server.log"
    with log.open("wb") as out:
        started = subprocess.Popen(words, env=environment, stdout=out, stderr=out, start_new_session=True)
    try:
        _wait_for(f"{address}/health", started, log)
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()


def _wait_for(address, started, log):
    ends = time.monotonic() + LIMIT_S
    while time.monotonic() < ends and started.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=10):
            return
        time.sleep(0.1)
    raise AssertionError(f"mlflow server did not start: {log.read_text(encoding='utf-8')[-2000:]}")
