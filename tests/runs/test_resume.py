"""A run that was killed at any step and resumed equals one that never was: loss by loss, prediction by prediction."""

import errno
import json
import os
import random
import re
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench.distributed import signals
from bench.runner import lifecycle
from bench.training import checkpoint_files
from bench.training.state import Steps
from tests.helpers.launching import NO_DROPOUT, ROOT, command, environment, launch, losses, read_lines

RECIPE = ROOT / "recipes" / "tiny" / "bert-full.yaml"
STEPS, STOPPED = 8, 5
COMMON = [
    "training.epochs=null", f"training.steps={STEPS}", "training.log_every=2", "training.global_batch=8",
    "limit={train: 24, test: 16, validation: 16}", "save=false", "checkpoints.every_steps=2",
]  # fmt: skip
BEST = ["training.evaluate_every=3", "training.best=loss"]
# Dropout is on. Each engine, each way to write a model's trained part, and a schedule that is no straight line.
CASES = {
    "trainer": [*BEST, "training.schedule=cosine", "training.warmup=2"],
    "loop-lora": ["training.engine=loop", "method=lora", *BEST],
    "trainer-mlp": ["model=tiny_gpt2", "head.kind=mlp", "training.per_device_batch=4"],
    "text": ["model=tiny_gpt2", "objective=text", "evaluation.also=[endings, {perplexity: passages, limit: 3}]", *BEST],
    "text-qlora": ["model=tiny_llama", "objective=text", "method=qlora", "method.compute_dtype=float32"],
    "text-loop": ["model=tiny_t5", "objective=text", "training.engine=loop"],
}

pytestmark = pytest.mark.usefixtures("bare_runs")


def arguments(folder, *extra):
    flags = [text for text in extra if "=" not in text]
    settings = dict(text.split("=", 1) for text in [*COMMON, *extra] if "=" in text)
    return [str(RECIPE), *(f"{key}={value}" for key, value in settings.items()), *flags, "--out", str(folder)]


def record_of(folder):
    return json.loads((folder / "record.json").read_text(encoding="utf-8"))


def logged(folder):
    """Rows of the log without the clock's part of them."""
    rows = read_lines(folder / "train_log.jsonl")
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def predictions(folder):
    return {path.name: path.read_text(encoding="utf-8") for path in (folder / "predictions").iterdir()}


def assert_equal(resumed, whole):
    assert logged(resumed) == logged(whole)
    assert predictions(resumed) == predictions(whole)
    ours, theirs = record_of(resumed), record_of(whole)
    for part in ("status", "scores", "baselines", "training", "prompts", "comparability", "artifacts", "retention"):
        assert ours[part] == theirs[part], part
    assert sorted(check["name"] for check in ours["checks"]) == sorted(check["name"] for check in theirs["checks"])
    assert set(ours["throughput"]) == set(theirs["throughput"])
    assert not (resumed / checkpoint_files.FOLDER).exists()


def stop_after(monkeypatch, step, number=signal.SIGTERM, times=1):
    """Sends this process a signal in the middle of a step, in one step only."""
    start = Steps.start
    begun = []

    def begin(steps):
        begun.append(None)
        if len(begun) == step:
            for _ in range(times):
                os.kill(os.getpid(), number)
        start(steps)

    monkeypatch.setattr(Steps, "start", begin)


@pytest.fixture(scope="module")
def whole(bare_runs, tmp_path_factory):
    """Uninterrupted runs of the cases, made when they are asked for."""
    found = {}

    def run_whole(case):
        if case not in found:
            folder = tmp_path_factory.mktemp("whole") / case
            assert lifecycle.main(arguments(folder, *CASES[case])) == 0
            assert record_of(folder)["resumed"] == []
            found[case] = folder
        return found[case]

    return run_whole


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """A run of the first case that was stopped after step 5; it has checkpoints of steps 4 and 5."""
    with monkeypatch.context() as patch:
        stop_after(patch, STOPPED)
        assert lifecycle.main(arguments(tmp_path, *CASES["trainer"])) == 130
    return tmp_path


def chosen(folder, step):
    return checkpoint_files.path_of(folder / checkpoint_files.FOLDER, step)


# ---------------------------------------------------------------- stopped between two steps


@pytest.mark.parametrize("case", CASES)
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(case, whole, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        stop_after(patch, STOPPED)
        assert lifecycle.main(arguments(tmp_path, *CASES[case])) == 130
    left = record_of(tmp_path)
    assert (left["status"], left["failed_in"]) == ("interrupted", "train")
    assert left["reason"] == (
        "stopped by SIGTERM after step 5 of 8; a checkpoint was written, and the same command goes on from there"
    )
    assert [path.name for path in sorted((tmp_path / "checkpoints").glob("step-*"))] == [
        "step-00000004",
        "step-00000005",
    ]
    scored = (tmp_path / "predictions" / "before-test.jsonl").stat().st_mtime_ns
    found = {"code": "seen", "sentence": "before test: a finding on what is not scored again"}
    left["warnings"] += [found, {"code": "seen", "sentence": "after test: a finding of another stage"}]
    (tmp_path / "record.json").write_text(json.dumps(left), encoding="utf-8")
    capsys.readouterr()
    assert lifecycle.main(arguments(tmp_path, *CASES[case])) == 0
    # Its progress counts the steps of before, too; the rate is that of this launch.
    assert re.search(r"^train: epoch [\d.]+ of [\d.]+, step 8 of 8, loss \d", capsys.readouterr().out, re.MULTILINE)
    assert_equal(tmp_path, whole(case))
    assert (tmp_path / "predictions" / "before-test.jsonl").stat().st_mtime_ns == scored
    record = record_of(tmp_path)
    (resumed,) = record["resumed"]
    assert (resumed["from_step"], resumed["status"], resumed["reason"]) == (5, "interrupted", left["reason"])
    assert "before: taken over from the interrupted run" in record["notes"]
    assert [warning for warning in record["warnings"] if warning["code"] == "seen"] == [found]
    assert "save" in {phase["name"] for phase in record["phases"]}


@pytest.mark.parametrize("engine", ["trainer", "loop"])
def test_told_to_stop_in_the_step_that_ends_training(whole, tmp_path, monkeypatch, engine):
    """Nothing trained is lost, and the training that had ended does not go on: its reason is the same."""
    ends = [*BEST, "training.early_stopping={patience: 1, threshold: 9}", f"training.engine={engine}"]
    CASES[f"ends-{engine}"] = [*ends, "training.log_every=4"]
    with monkeypatch.context() as patch:
        stop_after(patch, 6)
        assert lifecycle.main(arguments(tmp_path, *CASES[f"ends-{engine}"])) == 130
    assert record_of(tmp_path)["reason"].startswith(
        "stopped by SIGTERM after step 6 of 8, with which training had ended early; a checkpoint was written"
    )
    assert lifecycle.main(arguments(tmp_path, *CASES[f"ends-{engine}"])) == 0
    other = whole(f"ends-{engine}")
    assert (logged(tmp_path), predictions(tmp_path)) == (logged(other), predictions(other))
    ours, theirs = record_of(tmp_path), record_of(other)
    assert ours["scores"] == theirs["scores"]
    training = ours["training"]
    # Nothing is left to be trained with anything.
    assert {**theirs["training"], "in_force": {}} == training
    assert (training["stopped_by"], training["steps"]) == ("early_stopping", 6)
    last = [row for row in logged(tmp_path) if "loss" in row][-1]
    assert (last["step"], last["step_loss"]) == (6, training["final_loss"])


def test_it_may_be_stopped_again_and_again(whole, tmp_path, monkeypatch):
    for step in (1, 2, 3):
        with monkeypatch.context() as patch:
            stop_after(patch, step)
            assert lifecycle.main(arguments(tmp_path, *CASES["trainer"])) == 130
    assert lifecycle.main(arguments(tmp_path, *CASES["trainer"])) == 0
    assert_equal(tmp_path, whole("trainer"))
    record = record_of(tmp_path)
    assert [resumed["from_step"] for resumed in record["resumed"]] == [1, 3, 6]
    rows = read_lines(tmp_path / "train_log.jsonl")
    assert [row["seconds"] for row in rows] == sorted(row["seconds"] for row in rows)


def test_stopped_in_the_last_step(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, STEPS)
        assert lifecycle.main(arguments(tmp_path, *CASES["trainer"])) == 130
    assert lifecycle.main(arguments(tmp_path, *CASES["trainer"], "--resume")) == 0
    assert_equal(tmp_path, whole("trainer"))
    assert record_of(tmp_path)["resumed"][0]["from_step"] == STEPS


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (signal.SIGINT, "Ctrl-C"),
        (signal.SIGHUP, "SIGHUP (its terminal was closed)"),
        (signal.SIGUSR1, "SIGUSR1"),
        (signal.SIGXCPU, "SIGXCPU"),
    ],
)
def test_every_signal_that_asks_to_end_is_heeded_alike(number, shown, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, STOPPED, number)
        assert lifecycle.main(arguments(tmp_path, *CASES["trainer"])) == 130
    assert record_of(tmp_path)["reason"] == (
        f"stopped by {shown} after step 5 of 8; a checkpoint was written, and the same command goes on from there"
    )
    if number == signal.SIGHUP:
        assert lifecycle.main(arguments(tmp_path, *CASES["trainer"])) == 0
        assert_equal(tmp_path, whole("trainer"))
        assert record_of(tmp_path)["resumed"][0]["from_step"] == STOPPED


def test_a_second_ctrl_c_ends_at_once_and_the_last_checkpoint_is_gone_on_from(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(signals, "IMPATIENT_AFTER_S", -1.0)
    with monkeypatch.context() as patch:
        stop_after(patch, STOPPED + 1, signal.SIGINT, times=2)
        assert lifecycle.main(arguments(tmp_path, *CASES["trainer"])) == 130
    assert "Ctrl-C" in record_of(tmp_path)["reason"]
    assert lifecycle.main(arguments(tmp_path, *CASES["trainer"])) == 0
    assert_equal(tmp_path, whole("trainer"))
    assert record_of(tmp_path)["resumed"][0]["from_step"] == 4


# ---------------------------------------------------------------- what can't be gone on with


def test_a_damaged_checkpoint_is_not_used_but_the_one_before(whole, stopped):
    file = chosen(stopped, 5) / checkpoint_files.OPTIMIZER
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert lifecycle.main(arguments(stopped, *CASES["trainer"])) == 0
    assert_equal(stopped, whole("trainer"))
    record = record_of(stopped)
    assert record["resumed"][0]["from_step"] == 4
    assert (
        "the checkpoint of step 5 is damaged and was not used: optimizer.safetensors is not as it was written"
        in (record["notes"])
    )


def test_without_a_whole_checkpoint_training_begins_anew(whole, stopped):
    os.truncate(chosen(stopped, 5) / checkpoint_files.TRAINED, 100)
    (chosen(stopped, 4) / checkpoint_files.MANIFEST).unlink()
    assert lifecycle.main(arguments(stopped, *CASES["trainer"], "--resume")) == 0
    assert_equal(stopped, whole("trainer"))
    record = record_of(stopped)
    assert record["resumed"] == []
    assert "--resume: there was no checkpoint to go on from, so training started from the beginning" in record["notes"]
    assert [note for note in record["notes"] if "step 4 is damaged" in note]
    # A finished run is not touched.
    assert lifecycle.main(arguments(stopped, *CASES["trainer"], "--resume")) == 2


@pytest.mark.parametrize(
    ("extra", "says"),
    [("--seed=99", "its seed is 13, this one's 99"), ("max_length=99", "its recipe's hash is ")],
)
def test_another_run_is_not_gone_on_with(extra, says, stopped, capsys):
    for flags in ([], ["--resume"]):
        capsys.readouterr()
        assert lifecycle.main([*arguments(stopped, *CASES["trainer"]), extra, *flags]) == 2
        shown = capsys.readouterr().err
        assert says in shown
        assert "give --overwrite to replace it" in shown
    assert chosen(stopped, 5).is_dir()
    assert record_of(stopped)["status"] == "interrupted"
    assert lifecycle.main([*arguments(stopped, *CASES["trainer"]), extra, "--overwrite"]) == 0
    assert record_of(stopped)["resumed"] == []


def test_other_training_data_are_refused(stopped, capsys):
    state = chosen(stopped, 5) / checkpoint_files.STATE
    content = json.loads(state.read_text(encoding="utf-8"))
    state.write_text(json.dumps({**content, "data": "of yesterday"}), encoding="utf-8")
    partial = chosen(stopped, 5).rename(checkpoint_files.partial_of(stopped / checkpoint_files.FOLDER, 5))
    (partial / checkpoint_files.MANIFEST).unlink()
    checkpoint_files.seal(partial)
    assert lifecycle.main(arguments(stopped, *CASES["trainer"])) == 2
    assert "the training data have changed" in capsys.readouterr().err


def test_another_precision_is_refused(stopped, monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert lifecycle.main(arguments(stopped, *CASES["trainer"])) == 2
    assert "written with precision no, now bf16; launch it as before" in capsys.readouterr().err


def test_a_checkpoint_that_cant_be_written_ends_no_run(whole, tmp_path, monkeypatch):
    seal = checkpoint_files.seal

    def full(partial):
        if partial.name == ".step-00000002.partial":
            raise OSError(errno.ENOSPC, "No space left on device")
        return seal(partial)

    monkeypatch.setattr(checkpoint_files, "seal", full)
    assert lifecycle.main(arguments(tmp_path, *CASES["trainer"])) == 0
    assert_equal(tmp_path, whole("trainer"))
    notes = [note for note in record_of(tmp_path)["notes"] if "checkpoint" in note]
    assert notes == ["the checkpoint of step 2 could not be written: [Errno 28] No space left on device"]


# ---------------------------------------------------------------- killed


def test_on_another_number_of_processes(whole, stopped):
    done = launch(*arguments(stopped, *CASES["trainer"]), config="ddp_cpu2")
    assert done.returncode == 0, done.stderr[-3000:]
    record = record_of(stopped)
    assert (record["launch"]["world_size"], record["resumed"][0]["from_step"]) == (2, 5)
    assert "training went on with 2 processes, after 1: its rates are of the steps since" in record["notes"]
    # Two processes draw other dropout masks; the log up to the checkpoint is the same.
    rows = logged(stopped)
    assert [row["step"] for row in rows] == [row["step"] for row in logged(whole("trainer"))]
    assert rows[:4] == logged(whole("trainer"))[:4]
    assert losses(stopped) == pytest.approx(losses(whole("trainer")), abs=0.05)


# Killed in the middle of a step that is drawn at random, but the same whenever the tests are run.
KILLED = {"cpu": random.Random(1), "ddp_cpu2": random.Random(2), "zero2_cpu2": random.Random(3)}


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """config -> (uninterrupted, killed and resumed), of real launches; two at a time."""
    folder = tmp_path_factory.mktemp("killed")

    def both(config):
        extra = [*BEST, "training.log_every=1", "training.steps=14"]
        done = launch(*arguments(folder / f"{config}-whole", *extra), config=config)
        assert done.returncode == 0, done.stderr[-3000:]
        out = folder / config
        kill_at(KILLED[config].randint(3, 10), command(*arguments(out, *extra), config=config), out)
        left = record_of(out)
        assert (left["status"], left["finished_at"]) == ("crashed", None)
        assert "before" in left["scores"]
        done = launch(*arguments(out, *extra), config=config)
        assert done.returncode == 0, done.stderr[-3000:]
        return folder / f"{config}-whole", out

    with ThreadPoolExecutor(max_workers=2) as pool:
        return dict(zip(KILLED, pool.map(both, KILLED), strict=True))


def kill_at(step, line, out):
    """Starts a launch and, once a step's line is in its log, kills all of its processes at once."""
    started = subprocess.Popen(
        line, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    log, deadline = out / "train_log.jsonl", time.monotonic() + 200
    while not (log.exists() and f'"step": {step},' in log.read_text(encoding="utf-8")):
        assert time.monotonic() < deadline, "the run never came to this step"
        assert started.poll() is None, "the run came to its end"
        time.sleep(0.005)
    for process in descendants(started.pid):
        os.kill(process, signal.SIGKILL)
    started.wait(timeout=60)


def descendants(first):
    """A process and all that came of it: the launcher gives each worker a session of its own."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # ended meanwhile
    found = [first]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found


def test_parts_of_a_sharded_training_are_read_by_another_number_of_processes(tmp_path):
    """Killed on two processes under FSDP2, resumed on one: losses and scores of an uninterrupted run without it."""
    still = [f"model.architecture.{name}=0.0" for name in NO_DROPOUT["bert"]]
    extra = [*still, *BEST, "training.log_every=1", "training.steps=14", "evaluation.before=false"]
    assert lifecycle.main(arguments(tmp_path / "whole", *extra)) == 0
    out = tmp_path / "run"
    kill_at(5, command(*arguments(out, *extra), config="fsdp2_cpu2"), out)
    newest, _ = checkpoint_files.newest(out / checkpoint_files.FOLDER)
    assert not newest.sharded  # nothing is unpickled
    assert {path.name for path in newest.path.iterdir()} >= {
        "shards-00001-of-00002.safetensors", "shards-00002-of-00002.safetensors",
    }  # fmt: skip
    done = launch(*arguments(out, *extra), config="fsdp2_cpu2", options=("--num_processes", "1"))
    assert done.returncode == 0, done.stderr[-3000:]
    found = record_of(out)
    assert (found["launch"]["world_size"], found["resumed"][0]["from_step"]) == (1, newest.step)
    assert losses(out) == pytest.approx(losses(tmp_path / "whole"), abs=1e-5)
    assert [row.get("learning_rate") for row in logged(out)] == [
        row.get("learning_rate") for row in logged(tmp_path / "whole")
    ]


STILL = [
    *(f"model.architecture.{name}=0.0" for name in NO_DROPOUT["bert"]), "training.log_every=1",
    "training.learning_rate=0.003", "evaluation.before=false",
]  # fmt: skip


def launch_in_turn(folder, names, config, processes, *extra):
    """Runs of one launch, one after another; the first one of each name that begins with `stopped` is stopped."""
    jobs = folder / f"jobs-{processes}.json"
    jobs.write_text(json.dumps([arguments(folder / name, *STILL, *extra) for name in names]), encoding="utf-8")
    script, options = ROOT / "tests" / "helpers" / "stopped_once.py", ("--num_processes", str(processes))
    return launch(jobs, config=config, script=script, options=options)


def test_an_offloaded_training_is_gone_on_with_by_any_number_of_processes(tmp_path):
    """ZeRO-3, the optimiser and the weights on the host: stopped on two processes, resumed on two and on one."""
    assert lifecycle.main(arguments(tmp_path / "plain", *STILL)) == 0
    done = launch_in_turn(tmp_path, ["stopped", "stopped", "stopped-other"], "zero3_offload_cpu2", 2)
    assert record_of(tmp_path / "stopped-other")["status"] == "interrupted", done.stderr[-3000:]
    newest, _ = checkpoint_files.newest(tmp_path / "stopped-other" / checkpoint_files.FOLDER)
    assert not newest.sharded  # nothing is unpickled
    assert len(list(newest.path.glob("shards-*-of-00002.safetensors"))) == 2
    done = launch_in_turn(tmp_path, ["stopped-other"], "zero3_offload_cpu2", 1)
    assert done.returncode == 0, done.stderr[-3000:]
    for name, processes in (("stopped", 2), ("stopped-other", 1)):
        found = record_of(tmp_path / name)
        places = [found["launch"][f"offload_{what}"] for what in ("optimizer", "parameters")]
        assert (found["launch"]["world_size"], found["launch"]["zero_stage"], places) == (processes, 3, ["cpu", "cpu"])
        assert [one["from_step"] > 4 for one in found["resumed"]] == [True]
        # The optimiser on the host rounds otherwise.
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / "plain"), abs=1e-4)


def test_8_bit_states_that_zero_2_shards_are_gone_on_with(tmp_path):
    optimizer = "training.optimizer=adamw_bnb_8bit"
    assert lifecycle.main(arguments(tmp_path / "plain", *STILL, optimizer)) == 0
    done = launch_in_turn(tmp_path, ["whole", "stopped", "stopped"], "zero2_cpu2", 2, optimizer)
    assert [one["from_step"] > 4 for one in record_of(tmp_path / "stopped")["resumed"]] == [True], done.stderr[-3000:]
    assert_equal(tmp_path / "stopped", tmp_path / "whole")
    assert losses(tmp_path / "stopped") == pytest.approx(losses(tmp_path / "plain"), abs=1e-3)
    assert "ZeRO-2: adamw_bnb_8bit has its 8-bit blocks in each process's part" in "".join(
        record_of(tmp_path / "whole")["notes"]
    )


@pytest.mark.parametrize("config", KILLED)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(killed, config):
    uninterrupted, resumed = killed[config]
    assert record_of(resumed)["launch"]["world_size"] == (1 if config == "cpu" else 2)
    assert [row["step"] for row in logged(resumed) if "loss" in row] == list(range(1, 15))
    assert_equal(resumed, uninterrupted)
    (known,) = record_of(resumed)["resumed"]
    assert 2 <= known["from_step"] <= 12
    assert (known["status"], known["reason"]) == ("crashed", "the run did not come to its end")


def test_all_processes_stop_after_the_same_step(tmp_path):
    """SIGTERM to one worker alone: the others learn of it by the vote."""
    extra = ["training.log_every=1", "training.steps=400", "evaluation.before=false"]
    started = subprocess.Popen(
        command(*arguments(tmp_path, *extra), config="ddp_cpu2"), cwd=ROOT, env=environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    log, deadline = tmp_path / "train_log.jsonl", time.monotonic() + 200
    while not (log.exists() and log.stat().st_size > 500):
        assert time.monotonic() < deadline, "the run never began to train"
        assert started.poll() is None, "the run came to its end"
        time.sleep(0.02)
    workers = [pid for pid in descendants(started.pid) if rank_of(pid) == "1"]
    assert len(workers) == 1
    os.kill(workers[0], signal.SIGTERM)
    started.wait(timeout=120)
    left = record_of(tmp_path)
    assert (left["status"], left["failed_in"]) == ("interrupted", "train")
    found, damaged = checkpoint_files.newest(tmp_path / checkpoint_files.FOLDER)
    assert damaged == []
    assert f"after step {found.step} of 400; a checkpoint was written" in left["reason"]
    assert logged(tmp_path)[-1]["step"] == found.step


def rank_of(process):
    """What the launcher told a worker."""
    try:
        told = Path(f"/proc/{process}/environ").read_bytes().decode().split("\0")
    except OSError:
        return None
    return dict(item.split("=", 1) for item in told if "=" in item).get("RANK")
