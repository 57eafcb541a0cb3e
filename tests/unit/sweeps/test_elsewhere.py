"""Runs on other machines: what they take, how they are sent, watched, ended and gathered; without a cluster."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from bench.cli import main as cli
from bench.errors import BenchError, DataError, SetupError
from bench.records import record, store
from bench.runner import run_folder
from bench.sweeps import (
    executors,
    forecasts,
    gathering,
    jobs,
    node_agent,
    node_check,
    processes,
    scheduler,
    slurm_executor,
    supervisor,
)
from bench.sweeps.resources import Node, Resources, why_none_holds
from tests.helpers import libraries
from tests.helpers.cases import together
from tests.helpers.launching import ROOT
from tests.helpers.one_run import CPU, RECIPE, one_job

GIB = 2**30
NODES = [
    Node(name="a", gpus=1, gpu_bytes=16 * GIB, host_bytes=64 * GIB, cpus=8),
    Node(name="b", gpus=8, gpu_bytes=80 * GIB, host_bytes=512 * GIB, cpus=64),
]


# ---------------------------------------------------------------- what a run takes


@together(
    "asked, said",
    [
        (Resources(gpus=8, gpu_bytes=70 * GIB, host_bytes=500 * GIB, cpus=64), None),
        (Resources(gpus=9), "9 GPUs, 1 core, and none of 2 nodes holds that; a would have to give 9 GPUs of its 1"),
        (Resources(gpus=1, gpu_bytes=81 * GIB), "1 GPU with 81 GiB, 1 core, and none of 2 nodes holds that"),
        (Resources(host_bytes=513 * GIB), "a would have to give 513 GiB of its 64 GiB of memory"),
        (Resources(cpus=65), "give 65 cores of its 8"),
        (Resources(gpus=2, nodes=2), "2 GPUs, 1 core on each of 2 nodes, and 1 of 2 nodes hold that; a would"),
        (Resources(gpus=1, nodes=2), None),
        (Resources(nodes=3), "1 core on each of 3 nodes, and 2 of 2 nodes hold that"),
    ],
)
def test_a_run_that_no_node_can_hold_is_told_why(asked, said):
    why = why_none_holds(asked, NODES)
    assert (why is None) == (said is None)
    assert (said or "") in (why or "")


def test_without_nodes_nothing_is_held_and_what_is_not_known_is_not_checked():
    assert why_none_holds(Resources(), []) == "it asks for 1 core, and there are no nodes"
    assert why_none_holds(Resources(gpus=1, gpu_bytes=10**15), [replace(NODES[1], gpu_bytes=None)]) is None


def test_runs_that_differ_in_their_seed_share_a_forecast(tmp_path, monkeypatch, capsys):
    asked = []

    def forecast(resolved, *_):
        asked.append(resolved.hash)
        return 10 * GIB, 3 * GIB

    monkeypatch.setattr(forecasts, "_bytes", forecast)
    both = [one_job(tmp_path, seed) for seed in (13, 14)]
    found = forecasts.of_jobs(both, CPU, NODES)
    assert len(asked) == 1
    # On a CPU what a GPU would hold is the host's, too.
    assert {(one.gpus, one.gpu_bytes, one.host_bytes, one.cpus) for one in found.values()} == {(0, 0, 13 * GIB, 1)}
    two = jobs.Machine(config=jobs.CONFIGS / "ddp.yaml", per_run=2, processes=2, options=("--num_processes", "2"))
    found = forecasts.of_jobs(both, two, NODES)
    # A core is a GPU's share of a node that has so many GPUs, at most 8 for each.
    assert {(one.gpus, one.gpu_bytes, one.cpus) for one in found.values()} == {(2, 10 * GIB, 16)}
    with pytest.raises(
        SetupError, match=r"seed 13, .* seed 14: it asks for 2 GPUs with 10 GiB each, .* \(by the forecast of"
    ):
        forecasts.refuse_too_large(both, found, NODES[:1])
    assert capsys.readouterr().err == ""


def test_what_can_t_be_forecast_is_said(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise SetupError("its config is not here")

    monkeypatch.setattr(forecasts, "_bytes", refuse)
    job = one_job(tmp_path)
    assert forecasts.of_jobs([job], CPU, NODES)[job.folder].host_bytes == 0
    said = capsys.readouterr().err.replace("\n", " ")
    assert "its memory can't be forecast: its config is not here; no memory is reserved" in said


def test_the_forecast_of_a_tiny_run_is_that_of_bench_plan(tmp_path):
    job = one_job(tmp_path)
    asked = forecasts.of_jobs([job], CPU, NODES)[job.folder]
    assert 2 * GIB < asked.host_bytes < 3 * GIB
    assert asked.source == "by the forecast of `bench plan`"


def test_processes_are_the_same_on_each_node(write, tmp_path):
    config = "distributed_type: MULTI_GPU\nnum_machines: 2\nnum_processes: {}\n"
    write("even.yaml", config.format(16))
    write("odd.yaml", config.format(5))
    write("torn.yaml", "num_machines: many\n")
    even = jobs.Machine(config=tmp_path / "even.yaml", processes=16, per_run=16)
    assert forecasts._shape(even, NODES) == Resources(nodes=2, gpus=8, cpus=64)
    with pytest.raises(SetupError, match="5 processes are not the same number on each of 2 nodes"):
        forecasts._shape(replace(even, config=tmp_path / "odd.yaml", processes=5), NODES)
    with pytest.raises(SetupError, match="num_machines: expected a positive integer, got 'many'"):
        forecasts._shape(replace(even, config=tmp_path / "torn.yaml"), NODES)


SINFO = """a1|64|515000|gpu:a100:8(S:0-1)
a1|64|515000|gpu:a100:8(S:0-1)
b2|128+|257000|(null)
c3|32|128000|gpu:4,mps:400
torn
d4|many|1|gpu:1
"""


def test_nodes_of_slurm_are_read():
    found = [(node.name, node.gpus, node.cpus, node.host_bytes) for node in slurm_executor.read_nodes(SINFO)]
    assert found == [
        ("node a1", 8, 64, 515000 * 2**20),
        ("node b2", 0, 128, 257000 * 2**20),
        ("node c3", 4, 32, 128000 * 2**20),
    ]


# ---------------------------------------------------------------- how it is sent


def test_a_run_elsewhere_is_the_command_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_PASSPHRASE", "another_secret")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("BENCH_COSTS", "mine.yaml")
    job = one_job(tmp_path / "out")
    with node_agent.token_in(tmp_path) as token:
        run = node_agent.remote_run(job, CPU, Resources(), token)
        agent = node_agent.NodeAgent(run)
        assert agent.place().refused == ""
        assert agent.place().is_shared
        launch = agent.prepared()
        assert launch.command == CPU.command(job)
        assert (launch.cwd, launch.log, launch.scratch) == (str(ROOT), str(job.log), "")
        assert launch.environment["BENCH_COSTS"] == "mine.yaml"
        assert not {"HF_TOKEN", "HF_PASSPHRASE"} & run.environment.keys()
        assert run.environment["TOKENIZERS_PARALLELISM"] == "false"  # it only contains the word
    elsewhere = node_agent.NodeAgent(run)  # the token is gone: this node does not see the folder
    place = elsewhere.place()
    assert (place.refused, place.is_shared) == ("", False)
    launch = elsewhere.prepared()
    at = launch.command.index("--out") + 1
    assert launch.command[at] == f"{launch.scratch}/{job.folder.name}"
    assert [*launch.command[:at], str(job.folder), *launch.command[at + 1 :]] == CPU.command(job)
    elsewhere.clean()
    assert not Path(launch.scratch).exists()
    assert os.listdir(tmp_path) == []


def test_several_nodes_meet_at_the_first(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    two = jobs.Machine(config=jobs.CONFIGS / "ddp_cpu2.yaml", processes=4, on_cpu=True)
    with node_agent.token_in(tmp_path) as token:
        run = node_agent.remote_run(one_job(tmp_path), two, Resources(nodes=2, cpus=2), token)
        launches = [node_agent.NodeAgent(run).prepared(rank, "10.0.0.1", 29500) for rank in (0, 1)]
    for rank, launch in enumerate(launches):
        words = " ".join(launch.command)
        assert f"--num_machines 2 --num_processes 4 --machine_rank {rank} --main_process_ip 10.0.0.1" in words
        assert "--main_process_port 29500" in words
    assert launches[0].log != launches[1].log
    secrets = {launch.environment["BENCH_LAUNCH_SECRET"] for launch in launches}
    assert len(secrets) == 1
    assert len(secrets.pop()) == 64


def test_a_recipe_that_a_node_does_not_have_is_refused(write, tmp_path):
    path = write("mine.yaml", RECIPE.read_text(encoding="utf-8"))
    sent = node_agent.SentFile.of(tmp_path / "mine.yaml")
    assert sent.find(tmp_path) == str(tmp_path / "mine.yaml")
    (tmp_path / "mine.yaml").write_text("changed", encoding="utf-8")
    with pytest.raises(SetupError, match=r"mine\.yaml is not there, or is another file; put it where all nodes see"):
        sent.find(tmp_path)
    # What comes with the package is found in the node's own copy.
    shipped = replace(node_agent.SentFile.of(RECIPE), path="/nowhere/bert-full.yaml")
    assert shipped.find(tmp_path) == str(RECIPE)
    del path


@together(
    "theirs, said",
    [
        ({}, []),
        ({"torch": "1.0"}, ["torch is 1.0 there and 2.0 here"]),
        ({"peft": None}, ["peft is missing there and 3.0 here"]),
        ({"code": "y"}, ["its code of finetune-bench 1 differs from that here"]),
        ({"bench": "2", "code": "y"}, ["bench is 2 there and 1 here"]),
    ],
)
def test_other_software_is_named(theirs, said):
    ours = {"python": "3.11", "bench": "1", "code": "x", "torch": "2.0", "peft": "3.0"}
    node = {name: value for name, value in {**ours, **theirs}.items() if value is not None}
    assert node_check.problems(ours, node) == said


# ---------------------------------------------------------------- how it is ended


TALKS = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("told", flush=True), sys.exit(7)))
print("begun", flush=True)
time.sleep(600)
"""


def supervised(tmp_path, scratch=""):
    code = ["sh", "-c", '"$@" & wait; wait', "launcher", sys.executable, "-c", TALKS]
    launch = supervisor.Launch(command=code, log=str(tmp_path / "log"), cwd="/", environment=dict(os.environ))
    words = [sys.executable, "-P", supervisor.__file__]
    process = subprocess.Popen(words, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdin.write(replace(launch, scratch=scratch).as_json().encode() + b"\n")
    process.stdin.flush()
    group = json.loads(process.stdout.readline())["started"]
    wait_until(lambda: b"begun" in (tmp_path / "log").read_bytes())
    return process, group


def wait_until(true, limit_s=30):
    end = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_run_ends_when_nobody_speaks_to_its_supervisor(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process, group = supervised(tmp_path, str(scratch))
    process.stdin.close()
    assert process.wait(10) == 0  # only what started it; the supervisor itself is nobody's child
    wait_until(lambda: not scratch.exists())
    assert "told" in (tmp_path / "log").read_text(encoding="utf-8")
    wait_until(lambda: not psutil.pid_exists(group))
    process.stdout.close()


def test_a_run_ends_by_order(tmp_path):
    process, group = supervised(tmp_path)
    process.stdin.write(b"kill\n")
    process.stdin.flush()
    assert json.loads(process.stdout.readline()) == {"ended": -signal.SIGKILL}
    wait_until(lambda: not psutil.pid_exists(group))
    process.stdin.close()
    process.stdout.close()
    process.wait()


def test_a_run_that_another_process_has_is_not_launched(tmp_path):
    launch = supervisor.Launch(command=["false"], log=str(tmp_path / "log"), cwd="/", environment={})
    with (tmp_path / "log").open("w") as log:
        import fcntl

        fcntl.flock(log, fcntl.LOCK_EX)
        assert supervisor.run(launch, lambda: "") == supervisor.TAKEN
    assert supervisor.run(launch, lambda: "") == 1


def test_a_silent_sweep_stops_its_runs_and_a_living_one_gives_orders(tmp_path, monkeypatch):
    monkeypatch.setattr(slurm_executor, "LOST_S", 0.4)
    monkeypatch.setattr(slurm_executor, "BEAT_S", 0.05)
    with slurm_executor.Beat(tmp_path) as beat:
        mine, other = (slurm_executor.Listener(beat.path, name) for name in ("mine", "other"))
        for _ in range(10):
            assert (mine.heard(), other.heard()) == ("", "")
            time.sleep(0.1)
        beat.order("mine", supervisor.KILL)
        assert (mine.heard(), other.heard()) == (supervisor.KILL, "")
        monkeypatch.setattr(slurm_executor, "BEAT_S", 60.0)
        wait_until(lambda: other.heard() == supervisor.STOP, 5)  # as one that hangs, or was killed
    assert other.heard() == supervisor.STOP
    assert os.listdir(tmp_path) == []
    # On its node the order is heard while the run goes on.
    process = processes.launch(["sleep", "600"], tmp_path / "log", tmp_path, {"PATH": os.environ["PATH"]})
    assert supervisor._until_end(process, other) == -signal.SIGTERM


# ---------------------------------------------------------------- how its files come


def a_run(folder, text="{}"):
    """A folder as a run leaves it, with a checkpoint."""
    contents = {"record.json": text, "predictions/after-test.jsonl": "1\n", "report.md": "x", ".lock": ""}
    for name, content in {**contents, "checkpoints/step-00000005/loop.json": "{}"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def reading(folder):
    def read(name, offset, size):
        return (folder / name).read_bytes()[offset : offset + min(size, 1)]

    return read


def test_files_come_whole_and_without_checkpoints(tmp_path):
    there, here = a_run(tmp_path / "there"), tmp_path / "out" / "run"
    listing = gathering.manifest(there)
    assert listing["record.json"] == (2, hashlib.sha256(b"{}").hexdigest())
    gathering.gather(here, listing, reading(there))
    assert sorted(listing) == ["predictions/after-test.jsonl", "record.json", "report.md"]
    assert gathering.manifest(here) == listing
    assert sorted(gathering.results(listing)) == ["predictions/after-test.jsonl", "record.json"]
    # Into a folder with the files of an earlier launch, and one of the reader's own.
    a_run(here, "old")
    for name in ("traceback.txt", "mine.txt"):
        (here / name).write_text("x", encoding="utf-8")
    gathering.gather(here, listing, reading(there))
    assert gathering.manifest(here) == listing
    assert (here / "mine.txt").exists()
    assert os.listdir(tmp_path / "out") == ["run"]


@together("wrong", ["other", "short", "outside"])
def test_files_that_come_otherwise_change_nothing(wrong, tmp_path_factory):
    folder = tmp_path_factory.mktemp(wrong)
    there, here = a_run(folder / "there"), a_run(folder / "out" / "run", "old")
    listing, read = gathering.manifest(there), reading(there)
    if wrong == "outside":
        listing["../../evil"] = listing["record.json"]
    elif wrong == "other":
        read = lambda *_: b"#"  # noqa: E731
    else:
        read = lambda *_: b""  # noqa: E731
    with pytest.raises(DataError, match=r"did not come from its node as it lies there|not in its run's folder"):
        gathering.gather(here, listing, read)
    assert (here / "record.json").read_text(encoding="utf-8") == "old"
    assert os.listdir(folder / "out") == ["run"]
    assert sorted(os.listdir(folder)) == ["out", "there"]


def test_a_shared_folder_must_show_what_the_node_wrote(tmp_path):
    there = a_run(tmp_path / "run")
    listing = gathering.manifest(there)
    gathering.check(there, listing, 0.0)
    (there / "predictions" / "after-test.jsonl").write_text("2\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"predictions/after-test\.jsonl not as the run's node wrote them"):
        gathering.check(there, listing, 0.0)


# ---------------------------------------------------------------- the scheduler


@dataclass
class Scripted:
    """An executor whose runs end as a list says."""

    ends: list
    collected: int = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def prepare(self, jobs):
        pass

    def take(self, waiting, running):
        return waiting.pop(0) if not running else None

    def start(self, job):
        self.job = job
        return self

    def flush(self):
        pass

    def poll(self):
        end = self.ends.pop(0)
        if end in ("ok", "lost at its end"):
            resolved = self.job.planned.resolved
            part = record.RecipePart(path=str(RECIPE), hash=resolved.hash)
            made = record.Record(name=resolved.name, seed=self.job.planned.seed, started_at="x", recipe=part)
            made.status, made.finished_at = "ok", "y"
            self.job.folder.mkdir(parents=True, exist_ok=True)
            store.write(made, self.job.folder)
            return executors.Ended() if end == "ok" else LOST
        if isinstance(end, BaseException):
            raise end
        return end

    def stop(self):
        pass

    def kill(self):
        pass

    def collect(self):
        self.collected += 1
        if self.collected == -1:
            raise DataError("it did not come")


LOST = executors.Ended(returncode=-9, lost="node b was lost")
DISPLACED = executors.Ended(is_unstarted=True, lost="node b was gone before it took the run")


@pytest.mark.parametrize(
    ("ends", "state", "said"),
    [
        ([LOST, "ok"], "ok", "again (2 of 3): "),
        ([LOST, LOST, LOST], "crashed", "node b was lost, and so it was 3 times"),
        ([DISPLACED, DISPLACED, DISPLACED, LOST, "ok"], "ok", "placed anew: "),
        ([executors.Ended(returncode=1, why="no space there")], "crashed", "no space there"),
    ],
)
def test_a_run_whose_node_is_lost_is_launched_again(ends, state, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scheduler, "POLL_S", 0.01)
    job, executor = one_job(tmp_path), Scripted(list(ends))
    scheduler.run_all([job], CPU, executor=executor)
    assert job.state == state
    assert said in f"{job.reason} {capsys.readouterr().out}".replace("\n", " ")
    assert executor.collected == len(ends)
    assert store.read(job.folder).status == state


def test_a_run_that_was_finished_when_its_node_was_lost_is_not_launched_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scheduler, "POLL_S", 0.01)
    job = one_job(tmp_path)
    scheduler.run_all([job], CPU, executor=Scripted(["lost at its end"]))
    assert (job.state, job.left_out) == ("ok", True)
    assert "ok (already finished): " in capsys.readouterr().out


def test_files_that_did_not_come_are_no_result(tmp_path, monkeypatch):
    monkeypatch.setattr(scheduler, "POLL_S", 0.01)
    job, executor = one_job(tmp_path), Scripted(["ok"], collected=-2)
    scheduler.run_all([job], CPU, executor=executor)
    assert (job.state, job.reason) == ("crashed", "it did not come")


def test_what_was_withdrawn_from_a_queue_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(scheduler, "POLL_S", 0.01)
    executor = Scripted([KeyboardInterrupt(), executors.Ended(is_unstarted=True)])
    with pytest.raises(KeyboardInterrupt):
        scheduler.run_all([one_job(tmp_path)], CPU, executor=executor)
    assert list(tmp_path.iterdir()) == []


@together(
    "words, said",
    [
        (["--slurm", "--on", "ray"], "--slurm submits a job array and ends, --on ray runs the sweep there"),
        (["--address", "a:1"], "--address is of a Ray cluster"),
        (["--slurm-cluster", "local", "--on", "ray"], "--slurm-cluster needs --on slurm"),
        (["--on", "slurm"], "this machine has no Slurm (sbatch and srun were not found)"),
    ],
)
def test_options_that_contradict_one_another(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["sweep", str(RECIPE), "--out", str(tmp_path / "out"), "--config", "cpu", *words]) == 2
    assert said in capsys.readouterr().err.replace("\n", " ")


def test_submitit_leaves_the_logging_of_others_as_it_is():
    code = """if True:
        import logging
        from bench.sweeps import slurm_executor
        closed = []
        handler = logging.StreamHandler()
        handler.close = lambda: closed.append(handler)
        logging.getLogger("other").addHandler(handler)
        slurm_executor._submitit()
        assert not closed
        logging.shutdown()
        assert closed"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@together("module, words", [("ray", ["--on", "ray"]), ("submitit", ["--on", "slurm", "--slurm-cluster", "local"])])
def test_a_library_that_is_missing_is_one_sentence(module, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    assert cli.main(["sweep", str(RECIPE), "--out", str(tmp_path / "out"), "--config", "cpu", *words]) == 2
    assert "is not installed; pip install 'finetune-bench[" in capsys.readouterr().err.replace("\n", " ")


# ---------------------------------------------------------------- what nobody meant


EMPTY = (0, hashlib.sha256(b"").hexdigest())


@together(
    "listing, said",
    [
        ({"mine.txt": EMPTY}, "no file of a run"),
        ({".git/hooks/post-checkout": EMPTY}, "no file of a run"),
        ({"predictions/after-\0.jsonl": EMPTY}, "no file of a run"),
        ({"checkpoints/best.safetensors": EMPTY}, "no file of a run"),
        ({5: EMPTY}, "no file of a run"),
        ({"record.json": ("0", "x")}, "neither its size nor its SHA-256"),
        ({"record.json": ()}, "neither its size nor its SHA-256"),
    ],
)
def test_a_listing_that_lies_brings_nothing(listing, said, tmp_path_factory):
    here = a_run(tmp_path_factory.mktemp("lies") / "run", "old")
    (here / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(DataError, match=said):
        gathering.gather(here, {**gathering.manifest(here), **listing}, lambda *_: b"")
    assert (here / "mine.txt").read_text(encoding="utf-8") == "mine"
    assert os.listdir(here.parent) == ["run"]


@pytest.mark.parametrize("kind", ["a file", "a link", "a run that goes on"])
def test_where_files_would_come_nothing_of_others_is_touched(kind, tmp_path):
    there, here = a_run(tmp_path / "there"), a_run(tmp_path / "out" / "run", "old")
    place, held = tmp_path / "out" / gathering.INCOMING / "run", None
    if kind == "a file":
        place.mkdir(parents=True)
        (place / "mine.txt").write_text("x", encoding="utf-8")
    elif kind == "a link":
        place.parent.symlink_to(a_run(tmp_path / "other" / "run").parent)
    else:
        held = run_folder.lock(here)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(BenchError, match=r"move it away|is being written by another run"):
        gathering.gather(here, gathering.manifest(there), reading(there))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    if held is not None:
        held.close()


def test_what_a_killed_sweep_left_goes_and_what_is_named_alike_stays(tmp_path):
    (tmp_path / ".token-mineaaaa").write_text("my token", encoding="utf-8")
    (tmp_path / ".token-bbbbbbbb").mkdir()
    (tmp_path / ".sweep-mineaaaa.json").write_text("[1]", encoding="utf-8")
    (tmp_path / ".sweep-bbbbbbbb.json").mkdir()
    kept = sorted(os.listdir(tmp_path))
    (tmp_path / ".token-0123abcd").write_text("0" * 32, encoding="utf-8")
    (tmp_path / ".sweep-0123abcd.json").write_text('{"beat": 1, "lost_s": 60, "orders": {}}', encoding="utf-8")
    with node_agent.token_in(tmp_path), slurm_executor.Beat(tmp_path):
        assert len(os.listdir(tmp_path)) == len(kept) + 2
    assert sorted(os.listdir(tmp_path)) == kept


def test_a_value_with_a_password_is_not_sent_and_a_setting_with_one_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_ENDPOINT", "https://me:correct-horse@hub.example.com")
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "20")
    job = one_job(tmp_path)
    sent = node_agent.remote_run(job, CPU, Resources(), ("", "")).environment
    assert ("HF_ENDPOINT" in sent, sent["HF_HUB_ETAG_TIMEOUT"]) == (False, "20")
    node_agent.say_withheld()
    said = capsys.readouterr().err.replace("\n", " ")
    assert "HF_ENDPOINT has what looks like a token or a password, and is not sent to nodes" in said
    assert said.count("warning") == 1
    secret = "hf_" + "aB3" * 12
    job.planned = replace(job.planned, overrides=(f"dataset.homepage={secret}",))
    monkeypatch.setattr(jobs.shutil, "which", lambda _: "/bin/sbatch")
    sending = (
        lambda: node_agent.remote_run(job, CPU, Resources(), ("", "")),
        lambda: jobs.submit([job], CPU.config, tmp_path, None),
    )
    for send in sending:
        with pytest.raises(SetupError, match=r"dataset\.homepage has what looks like a token") as caught:
            send()
        assert secret not in str(caught.value)
    assert list(tmp_path.glob("array-*")) == []


def test_a_task_of_an_array_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs.shutil, "which", lambda _: "/bin/sbatch")
    job = one_job(tmp_path)
    job.planned = replace(job.planned, overrides=("dataset.homepage=a\nrecipes/other.yaml --seed 1",))
    (tmp_path / "array-mine.txt").write_bytes(b"\xff")
    (tmp_path / "array-folder.txt").mkdir()
    jobs._warn_of_repetition(["x"], tmp_path)
    with pytest.raises(SetupError, match="a task of an array is one line"):
        jobs.submit([job], CPU.config, tmp_path, None)


def test_the_job_that_a_sweep_is_in_does_not_bind_what_it_submits(monkeypatch):
    inside = {"SLURM_JOB_ID": "7", "SLURM_MEM_PER_NODE": "1", "SLURM_CONF": "/etc/slurm.conf", "SBATCH_PARTITION": "a"}
    assert jobs.outside_of_slurm(inside) == {"SLURM_CONF": "/etc/slurm.conf", "SBATCH_PARTITION": "a"}
    assert jobs.outside_of_slurm({"SLURM_CLUSTERS": "a"}) == {"SLURM_CLUSTERS": "a"}
    for name, value in inside.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with slurm_executor._for_submission({node_agent.SECRET: "x"}):
        assert ("SLURM_MEM_PER_NODE" in os.environ, os.environ[node_agent.SECRET]) == (False, "x")
    assert dict(os.environ) == before


@together("name", ["50%j", "100%", "a\\b", "a\nrm -rf b"])
def test_a_folder_that_slurm_would_read_as_a_pattern_is_refused(name, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    with pytest.raises(SetupError, match="has a meaning of its own for Slurm"):
        slurm_executor.SlurmExecutor(CPU, out / name, None, "local")
    slurm_executor.SlurmExecutor(CPU, out / "a b, 'c' \"d\" é", None, "local")


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """An executor for Slurm, and the arrays that it submits."""
    libraries.needed("submitit")
    monkeypatch.setattr(slurm_executor.shutil, "which", lambda _: "/bin/true")
    monkeypatch.setattr(slurm_executor, "_nodes", list)
    monkeypatch.setattr(slurm_executor, "most_of_an_array", lambda: 2)
    arrays = []

    class Submitter:
        def __init__(self, asked):
            self.asked = asked

        def submit_array(self, runs):
            arrays.append((self.asked, runs, os.environ.get(node_agent.SECRET)))
            return [SimpleNamespace(job_id=f"{len(arrays)}_{number}") for number in range(len(runs))]

    made = slurm_executor.SlurmExecutor(CPU, tmp_path / "out", 2)
    monkeypatch.setattr(made, "_submitter", Submitter)
    return made, arrays


def prepared(executor, monkeypatch, tmp_path, needs):
    all_ = [one_job(tmp_path / "out", seed) for seed in range(len(needs))]
    asked = {job.folder: need for job, need in zip(all_, needs, strict=True)}
    monkeypatch.setattr(forecasts, "of_jobs", lambda *_: asked)
    executor.prepare(all_)
    return all_


def test_arrays_are_as_long_as_slurm_allows_and_not_more_run_than_asked_for(slurm, tmp_path, monkeypatch):
    executor, arrays = slurm
    waiting = prepared(executor, monkeypatch, tmp_path, [Resources()] * 3)
    assert executor.take(waiting, 1) is not None
    assert executor.take(waiting, 2) is None  # two arrays would have a limit each
    waiting = prepared(executor, monkeypatch, tmp_path, [Resources()] * 2)
    assert executor.take(waiting, 2) is not None  # of one array Slurm keeps the limit
    executor._most = None
    for job in prepared(executor, monkeypatch, tmp_path, [Resources()] * 5):
        executor.start(job)
    executor.flush()
    assert [len(runs) for _, runs, _ in arrays] == [2, 2, 1]


def test_the_secret_of_several_nodes_is_in_no_file(slurm, tmp_path, monkeypatch):
    executor, arrays = slurm
    for job in prepared(executor, monkeypatch, tmp_path, [Resources(nodes=2), Resources()]):
        executor.start(job)
    executor.flush()
    (_, (run,), secret), (_, _, none) = arrays
    assert len(secret) == 64
    assert none is None
    assert node_agent.SECRET not in run.run.environment


def test_a_job_that_was_never_submitted_is_withdrawn_at_once(slurm, tmp_path, monkeypatch):
    executor, _ = slurm
    (job,) = prepared(executor, monkeypatch, tmp_path, [Resources()])
    run = executor.start(job)
    assert run.poll() is None
    run.stop()
    assert run.poll() == executors.Ended(is_unstarted=True)


def test_when_slurm_refuses_a_later_array_the_earlier_ones_are_cancelled(slurm, tmp_path, monkeypatch):
    monkeypatch.setattr(scheduler, "POLL_S", 0.01)
    executor, cancelled = slurm[0], []
    executor._most = None
    all_ = prepared(executor, monkeypatch, tmp_path, [Resources()] * 5)

    class Job(SimpleNamespace):
        def cancel(self, check):
            cancelled.append(self.job_id)

    def submit_array(runs):
        if len(runs) == 1:
            raise RuntimeError("sbatch: error: the queue is full")
        return [Job(job_id=run.name) for run in runs]

    monkeypatch.setattr(executor, "_submitter", lambda _: SimpleNamespace(submit_array=submit_array))
    (tmp_path / "out").mkdir()
    with pytest.raises(SetupError, match="can't be submitted: sbatch: error: the queue is full"):
        scheduler.run_all(all_, CPU, executor=executor)
    assert cancelled == [job.folder.name for job in all_[:4]]
    assert {job.state for job in all_} == {"waiting"}
    assert os.listdir(tmp_path / "out") == []


def test_how_long_an_array_may_be_is_asked(monkeypatch):
    told = SimpleNamespace(stdout="MaxArrayTasks = 3\nMaxArraySize            = 4001\n")
    monkeypatch.setattr(slurm_executor.subprocess, "run", lambda *_, **__: told)
    assert slurm_executor.most_of_an_array() == 4001
    told.stdout = "torn"
    assert slurm_executor.most_of_an_array() == slurm_executor.MOST_OF_AN_ARRAY


def test_the_run_that_stops_a_sweep_keeps_no_other_from_ending(tmp_path, monkeypatch):
    monkeypatch.setattr(scheduler, "POLL_S", 0.01)
    refused = SetupError("node b: other software")
    good, bad = Scripted([None, None, None, None, "ok"]), Scripted([refused] * 9)

    class Both(Scripted):
        def take(self, waiting, running):
            return waiting.pop(0) if waiting else None

        def start(self, job):
            return (bad if job.planned.seed == 14 else good).start(job)

    both = [one_job(tmp_path, seed) for seed in (13, 14)]
    with pytest.raises(SetupError, match="node b"):
        scheduler.run_all(both, CPU, executor=Both([]))
    assert (good.collected, bad.collected) == (1, 1)
    assert [job.state for job in both] == ["ok", "crashed"]


def test_a_long_log_comes_in_pieces_and_a_refused_run_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(gathering, "PIECE_BYTES", 4)
    monkeypatch.setattr(node_agent.tempfile, "mkdtemp", lambda prefix: str(tmp_path / "scratch"))
    run = node_agent.remote_run(one_job(tmp_path), CPU, Resources(), ("/nowhere", ""))
    agent = node_agent.NodeAgent(run)
    (tmp_path / "scratch").mkdir()
    assert not agent.place().is_shared
    agent._log.write_bytes(b"123456789")
    assert [agent.rest_of_log() for _ in range(4)] == [b"1234", b"5678", b"9", b""]
    agent._log.unlink()
    other = node_agent.NodeAgent(replace(run, recipe=replace(run.recipe, sha256="x")))
    assert "is another file" in other.place().refused
    assert not (tmp_path / "scratch").exists()


@together("deepspeed", ["{zero_stage: auto}", "{deepspeed_config_file: ds.json}", "[1]", "{zero_stage: 4}"])
def test_a_config_whose_sharding_is_not_told_is_not_forecast(deepspeed, tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "mine.yaml"
    path.write_text(f"distributed_type: DEEPSPEED\ndeepspeed_config: {deepspeed}\n", encoding="utf-8")
    with pytest.raises(SetupError, match="the stage of ZeRO is read from zero_stage"):
        forecasts._parallelism(jobs.Machine(config=path))


def test_a_recipe_that_is_edited_while_the_sweep_runs_is_not_launched(write, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scheduler, "POLL_S", 0.01)
    job = one_job(tmp_path / "out")
    write("mine.yaml", RECIPE.read_text(encoding="utf-8"))
    job.planned = replace(job.planned, path=tmp_path / "mine.yaml")
    executor = Scripted(["ok"])
    assert not jobs.is_changed(job)
    write("mine.yaml", RECIPE.read_text(encoding="utf-8").replace("method: full", "method: head"))
    scheduler.run_all([job], CPU, executor=executor)
    assert (job.state, executor.ends) == ("crashed", ["ok"])
    assert "was changed while the sweep ran; repeat the command" in capsys.readouterr().out.replace("\n", " ")
    assert not job.folder.exists()
