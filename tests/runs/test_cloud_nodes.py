"""scripts/cloud/on_node: what pods and SkyPilot's nodes start, here two nodes of this machine, each with its home."""

import os
import signal
import subprocess

import pytest

from bench.records import store
from tests.helpers import hosts
from tests.helpers.launching import ROOT, environment

ON_NODE = ROOT / "scripts" / "cloud" / "on_node"
NODES = "127.0.0.1 127.0.0.2"
SECRET = "0123456789abcdef" * 4
RECIPE = ["recipes/tiny/bert-full.yaml", "training.epochs=null", "training.log_every=1", "limit={train: 24, test: 16}"]


def variables(home, rank, **changes):
    """The environment of a node whose home is new: of an indexed Job."""
    home.mkdir(parents=True)
    given = {"HOME": str(home), "NODE_HOSTS": NODES, "JOB_COMPLETION_INDEX": str(rank), "CONFIG": "ddp_cpu2"}
    return {**given, "PROCESSES_PER_NODE": "1", "BENCH_LAUNCH_SECRET": SECRET, "MAIN_PORT": "29731", **changes}


def test_a_run_over_two_nodes_goes_on_where_both_were_replaced(tmp_path):
    out, log = tmp_path / "out", tmp_path / "out" / "train_log.jsonl"
    words = [ON_NODE, *RECIPE, "training.steps=100000", "checkpoints.every_steps=5", "--out", out]
    for launch in (1, 2):
        before = len(log.read_text(encoding="utf-8").splitlines()) if log.exists() else 0
        homes = [variables(tmp_path / f"home{launch}{rank}", rank) for rank in (0, 1)]
        with hosts.Launched(words, out, **homes[0]) as first, hosts.Launched(words, out, **homes[1]) as second:
            hosts.wait_for_steps(out, first, second, steps=before + 2)
            os.kill(second.process.pid, signal.SIGTERM)  # as the kubelet does it: to the first process of a pod
            assert second.end() != 0
            assert first.end() == 130  # the record's: SkyPilot starts such a run again
        record = store.read(out)
        assert record.status == "interrupted", first.text[-3000:]
        assert record.launch.num_machines == 2
        assert bool(record.resumed) == (launch == 2)
    # The key was made of the secret, and not of a home that is gone.
    assert not [note for note in record.notes if "not signed" in note]
    keys = {
        (tmp_path / f"home{one}/.finetune-bench-cloud/finetune-bench/key").read_text("ascii") for one in (10, 11, 21)
    }
    assert len(keys) == 1
    assert len(keys.pop()) == 64


def test_the_code_is_the_run_s_own(tmp_path):
    """By it Kubernetes knows what is not to be started again; accelerate's launcher would end with 1."""
    given = {**environment(), **variables(tmp_path / "home", 0, NODE_HOSTS="", CONFIG="cpu")}
    words = [ON_NODE, "recipes/tiny/bert-full.yaml", "training.epoch=1", "--out", tmp_path / "out"]
    done = subprocess.run(words, cwd=ROOT, env=given, capture_output=True, text=True, check=False)
    assert (done.returncode, "training.epoch: unknown key" in done.stderr) == (2, True), done.stderr[-2000:]


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"BENCH_LAUNCH_SECRET": ""}, 2, "BENCH_LAUNCH_SECRET is not set; 2 nodes need the same one"),
        (
            {"NODE_HOSTS": "127.0.0.1 no-such-host.invalid", "WAIT_S": "0"},
            1,
            "no-such-host.invalid is not there after 0 s",
        ),
    ],
)
def test_nodes_that_can_t_meet_are_told(changes, code, said, tmp_path):
    given = {**environment(), **variables(tmp_path / "home", 0, **changes)}
    done = subprocess.run([ON_NODE, *RECIPE], cwd=ROOT, env=given, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert said in done.stderr
    assert SECRET not in done.stdout + done.stderr
