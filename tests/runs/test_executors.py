"""One study on this machine, on Slurm's jobs and on a Ray cluster of two nodes: the same results, and no orphans."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from bench.cli import main as cli
from bench.records import store
from bench.sweeps import forecasts, node_check, ray_executor
from bench.sweeps.resources import Resources
from scripts.benchmarks.ray_nodes import RayNodes
from tests.helpers import libraries
from tests.helpers.launching import QUIET, ROOT, environment, losses, read_lines

libraries.needed("ray")
RECIPE = str(ROOT / "recipes" / "tiny" / "bert-full.yaml")
FEW = "limit={train: 24, test: 16}"
COMMON = ["training.epochs=null", "training.log_every=1", FEW, "save=false"]
SHORT = [*COMMON, "training.steps=3"]
LONG = [*COMMON, "training.steps=100000", "checkpoints.every_steps=5"]
PROBE = [str(ROOT / "recipes" / "tiny" / "none-tfidf.yaml"), FEW]
SEEDS = ["--seeds", "13,14"]


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUIET.items():
            patch.setenv(name, value)
        patch.chdir(ROOT)
        yield


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two nodes of one core each; after all tests, no process of a run is left on them."""
    with RayNodes(nodes=2, folder=tmp_path_factory.mktemp("cluster")) as nodes:
        yield nodes
        assert nodes.processes_of_runs() == []


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The study on this machine."""
    out = tmp_path_factory.mktemp("local")
    assert sweep(RECIPE, *SEEDS, *SHORT, "--out", out, "--jobs", 2) == 0
    return out


def sweep(*words):
    return cli.main(["sweep", *map(str, words), "--config", "cpu"])


def on_ray(cluster, *words):
    return sweep(*words, "--on", "ray", "--address", cluster.address)


def results(out):
    """What must be the same wherever a study is run, by seed."""
    found = {}
    for path in store.find([out]):
        record = store.read(path)
        kept = record.model_dump(include={"name", "seed", "method", "status", "study", "scores", "checks", "notes"})
        kept |= {"recipe": record.recipe.hash, "path": record.recipe.path, "losses": losses(path.parent)}
        predictions = sorted((path.parent / "predictions").iterdir())
        kept["predictions"] = {one.name: read_lines(one) for one in predictions}
        found[record.seed] = kept
    return found


def wait_until(true, limit_s=120):
    end = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < end, "nothing came of it"
        time.sleep(0.1)


def steps(out):
    """Training steps that the runs of a sweep have logged, of the slowest."""
    logs = [path.parent / "train_log.jsonl" for path in out.glob("*/.lock")]
    return min((len(read_lines(log)) if log.exists() else 0 for log in logs), default=0)


def test_jobs_of_slurm_give_what_this_machine_gives(local, tmp_path, capsys):
    words = [RECIPE, *SEEDS, *SHORT, "--out", tmp_path, "--on", "slurm", "--slurm-cluster", "local", "--jobs", 2]
    assert sweep(*words) == 0
    assert results(tmp_path) == results(local)
    assert "each with 2." in capsys.readouterr().out  # GiB, by the forecast
    assert not list(tmp_path.glob(".*"))


def test_a_node_is_lost_and_everything_finishes(cluster, local, tmp_path, capsys):
    def lose():
        with contextlib.suppress(AssertionError):
            wait_until(lambda: len(list(tmp_path.glob("*/.lock"))) == 2)
            cluster.lose_a_node()

    loser = threading.Thread(target=lose)
    loser.start()
    assert on_ray(cluster, RECIPE, *SEEDS, *SHORT, "--out", tmp_path) == 0
    loser.join()
    said = capsys.readouterr().out.replace("\n", " ")
    assert "again (2 of 3): seed 1" in said
    assert "was lost" in said
    assert results(tmp_path) == results(local)
    cluster.add_a_node()
    # Whatever executor has made them, finished runs are left out.
    assert sweep(RECIPE, *SEEDS, *SHORT, "--out", tmp_path) == 0
    assert "2 runs, 2 already finished" in capsys.readouterr().out.replace("\n", " ")


def test_a_run_over_two_nodes_meets(cluster, write, tmp_path):
    config = (ROOT / "accelerate_configs" / "ddp_cpu2.yaml").read_text(encoding="utf-8")
    write("two.yaml", config.replace("num_machines: 1", "num_machines: 2"))
    words = ["sweep", RECIPE, *SHORT, "--config", str(tmp_path / "two.yaml"), "--out", str(tmp_path / "out")]
    assert cli.main([*words, "--on", "ray", "--address", cluster.address]) == 0
    (found,) = map(store.read, store.find([tmp_path / "out"]))
    assert (found.status, found.launch.num_machines, found.launch.world_size) == ("ok", 2, 2)


def test_files_come_from_a_node_that_does_not_see_the_folder(cluster, tmp_path, capsys, monkeypatch):
    @contextlib.contextmanager
    def unseen(out):
        yield str(tmp_path / "elsewhere" / "token"), "x"

    scratch = set(Path(tempfile.gettempdir()).glob("finetune-bench-*"))
    monkeypatch.setattr(ray_executor, "token_in", unseen)
    assert on_ray(cluster, *PROBE, "--out", tmp_path / "out") == 0
    assert "its files are fetched when it ends" in capsys.readouterr().out.replace("\n", " ")
    (found,) = store.find([tmp_path / "out"])
    assert store.read(found).status == "ok"
    assert {"predictions", "report.md"} <= set(os.listdir(found.parent))
    (log,) = (tmp_path / "out" / "logs").iterdir()
    assert str(found.parent.name) in log.read_text(encoding="utf-8")
    assert sorted(os.listdir(tmp_path / "out")) == sorted([found.parent.name, "logs", "sweep.json"])
    wait_until(lambda: set(Path(tempfile.gettempdir()).glob("finetune-bench-*")) <= scratch, 20)


def test_a_sweep_that_is_stopped_or_lost_leaves_checkpoints_and_no_process(cluster, tmp_path):
    words = [sys.executable, "-m", "bench", "sweep", RECIPE, *LONG, "--config", "cpu", "--on", "ray"]
    drivers = {}
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            command = [*words, "--address", cluster.address, "--out", str(tmp_path / number.name)]
            drivers[number] = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL)
        ended = [driver.poll for driver in drivers.values()]
        outs = [tmp_path / number.name for number in drivers]
        wait_until(lambda: all(steps(out) > 2 for out in outs) or any(poll() is not None for poll in ended))
        assert [poll() for poll in ended] == [None, None]
        for number, driver in drivers.items():
            driver.send_signal(number)
            driver.wait(60)
    finally:
        for driver in drivers.values():
            driver.kill()
            driver.wait()
    wait_until(lambda: not cluster.processes_of_runs())
    for out in outs:
        (found,) = store.find([out])
        assert store.read(found).status == "interrupted"
        assert list(found.parent.glob("checkpoints/step-*"))


def test_bad_input_is_one_sentence_before_anything_starts(cluster, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"

    def refused(*words, code=2, **options):
        assert on_ray(cluster, *PROBE, "--out", out, *words, **options) == code
        assert not list(out.glob("*"))
        return capsys.readouterr().err.replace("\n", " ")

    ours = dict(node_check.fingerprint())
    with monkeypatch.context() as patch:
        patch.setattr(node_check, "fingerprint", lambda: {**ours, "code": "other"})
        said = refused()
        assert said.count("its code of finetune-bench") == 2
        assert "nothing was started" in said
    with monkeypatch.context() as patch:
        patch.setattr(node_check, "fingerprint", lambda: {**ours, "torch": "1.0"})
        assert f"torch is {ours['torch']} there and 1.0 here" in refused()
    with monkeypatch.context() as patch:
        large = Resources(cpus=1, host_bytes=2**40, source="by the forecast of `bench plan`")
        patch.setattr(forecasts, "of_jobs", lambda jobs, *_: {job.folder: large for job in jobs})
        assert "asks for 1,024 GiB of memory, 1 core, and none of 2 nodes holds that" in refused()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "--on ray: no cluster at 127.0.0.1:1 (Connection refused)"),
        ("nowhere", "--address nowhere: expected HOST:PORT"),
        ("ray://127.0.0.1:10001", "that is Ray's client"),
        ("local", "that would start a cluster"),
    ],
)
def test_no_cluster_at_an_address(address, said, tmp_path, capsys):
    assert sweep(*PROBE, "--out", tmp_path / "out", "--on", "ray", "--address", address) == 2
    assert said in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "out").exists()
