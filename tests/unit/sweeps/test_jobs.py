"""Sweeps: many runs as processes of their own, what is finished is left out, what fails is filed, stops are clean."""

import io
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from rich.console import Console

from bench.cli import main as cli
from bench.errors import RecipeError, SetupError
from bench.records import record, store
from bench.runner import run_folder
from bench.sweeps import executors, jobs, overview, scheduler, study, tuning
from bench.utils import files
from tests.helpers.launching import ROOT, bench
from tests.helpers.studies import TWO_SYSTEMS

RECIPE = ROOT / "recipes" / "tiny" / "bert-full.yaml"
SMALL = ("training.steps=2", "limit={train: 24, validation: 16, test: 16}", "save=false")


def planned(seeds=1, sets=SMALL):
    return [
        run
        for system in study.plan([RECIPE], study.SweepRequest(seeds=seeds, sets=sets)).systems
        for run in system.runs()
    ]


def written(job, status="ok", **changes):
    """A record of that job's run, as if it had ended."""
    resolved = job.planned.resolved
    part = record.RecipePart(path=str(RECIPE), hash=resolved.hash)
    found = record.Record(name=resolved.name, seed=job.planned.seed, started_at="x", finished_at="y", recipe=part)
    found.status, found.reason = status, None if status == "ok" else "a reason"
    for name, value in changes.items():
        setattr(found, name, value)
    job.folder.mkdir(parents=True, exist_ok=True)
    store.write(found, job.folder)
    return found


def phase(name):
    return record.PhaseTime(name=name, seconds=1.0)


def scores(split, value):
    return {"after": {split: {"accuracy": record.Score(value=value, examples=16, signature="x")}}}


def test_a_job_is_a_run_as_run_py_would_name_it(tmp_path):
    found = jobs.jobs_of([*planned(seeds=2), *planned(seeds=2)], tmp_path)
    assert [job.planned.seed for job in found] == [13, 14]
    for job in found:
        assert job.folder.name == f"tiny--tiny_bert--full--seed{job.planned.seed}--{job.planned.resolved.hash[:8]}"
        assert jobs.arguments(job) == [str(RECIPE), "--seed", str(job.planned.seed), "--out", str(job.folder), *SMALL]


MARKED = "as_published={{source: Somebody 2020, precision: {}}}"


@pytest.mark.parametrize(
    ("machine", "precision", "launched", "said"),
    [
        ({"precision": "bf16"}, "fp16", ["--mixed_precision", "fp16"], None),
        ({"precision": "bf16"}, "float32", ["--mixed_precision", "no"], None),
        ({"precision": "fp16"}, "fp16", [], None),
        ({"precision": "bf16"}, "null", [], None),
        ({"on_cpu": True}, "fp16", [], "published in fp16; these runs are in float32 (own.yaml: on a CPU)"),
        ({"on_cpu": True}, "float32", [], None),
    ],
)
def test_settings_of_others_are_run_in_their_precision_where_that_can_be(tmp_path, machine, precision, launched, said):
    (job,) = jobs.jobs_of(planned(sets=(*SMALL, MARKED.format(precision))), tmp_path)
    own = jobs.Machine(config=Path("own.yaml"), **machine)
    command = own.command(job)
    before_program = command[command.index("own.yaml") + 1 : command.index(str(jobs.PROGRAM))]
    assert before_program == launched
    assert own.other_precisions([job, job]) == ([] if said is None else [said])


def test_an_array_of_slurm_has_one_precision(tmp_path):
    (job,) = jobs.jobs_of(planned(sets=(*SMALL, MARKED.format("fp16"))), tmp_path)
    machine = jobs.Machine(config=Path("own.yaml"), precision="bf16")
    (said,) = machine.other_precisions([job], slurm=True)
    assert said.startswith("published in fp16; these runs are in bf16 (own.yaml: a Slurm array has one config")


def test_the_precision_of_a_config_is_read():
    found = {name: jobs.Machine.from_config(name, 1, None, dry=True) for name in ("cpu", "cpu_bf16", "gpu1_fp16")}
    shown = {name: (one.precision, one.on_cpu) for name, one in found.items()}
    assert shown == {"cpu": ("float32", True), "cpu_bf16": ("bf16", True), "gpu1_fp16": ("fp16", False)}


@pytest.mark.parametrize(
    ("status", "changes", "retry", "left_out"),
    [
        ("ok", {}, False, True),
        ("ok", {}, True, True),
        ("oom", {}, False, True),
        ("oom", {}, True, False),
        ("diverged", {}, False, True),
        ("invalid", {"phases": [phase("load")]}, False, False),
        ("invalid", {"phases": [phase("load"), phase("train_steps")]}, False, True),
        ("crashed", {}, False, False),
        ("interrupted", {}, False, False),
        ("ok", {"finished_at": None}, False, False),
        ("ok", {"seed": 99}, False, False),
    ],
)
def test_what_is_finished_is_left_out(tmp_path, status, changes, retry, left_out):
    (job,) = jobs.jobs_of(planned(), tmp_path)
    written(job, status, **changes)
    jobs.leave_out_finished([job], retry=retry, metric=None)
    assert job.left_out == left_out
    assert job.state == (status if left_out else "waiting")


def test_a_record_that_is_not_whole_is_no_reason_to_leave_a_run_out(tmp_path):
    (job,) = jobs.jobs_of(planned(), tmp_path)
    job.folder.mkdir()
    (job.folder / "record.json").write_text('{"schema": 1, "sta', encoding="utf-8")
    jobs.leave_out_finished([job], retry=False, metric=None)
    assert not job.left_out


@pytest.mark.parametrize("status", ["interrupted", "ok"])
def test_an_old_record_is_not_the_result_of_a_launch_that_left_none(tmp_path, status):
    (job,) = jobs.jobs_of(planned(), tmp_path)
    written(job, status)
    job.before, job.log = jobs.written_at(job), tmp_path / "log"
    whole = (job.folder / "record.json").read_bytes()
    job.log.write_text("$ launch\nerror: the launch is broken\n", encoding="utf-8")
    jobs.finish(job, 1, 3.0, None)
    assert (job.state, job.seconds) == ("crashed", 3.0)
    assert job.reason == "the launch wrote no record: error: the launch is broken"
    assert (job.folder / "record.json").read_bytes() == whole
    job.before = None
    jobs.finish(job, 0, 3.0, None)
    assert job.state == status


def test_a_run_of_another_sweep_is_waited_for(tmp_path, monkeypatch, capsys):
    (job,) = jobs.jobs_of(planned(), tmp_path)
    written(job, "crashed", finished_at=None)
    whole = (job.folder / "record.json").read_bytes()
    taken = run_folder.lock(job.folder)
    monkeypatch.setattr(jobs, "RELEASE_S", 0.1)
    jobs.finish(job, 2, 1.0, None)
    assert (job.state, job.elsewhere, job.seconds) == ("elsewhere", True, None)
    assert job.reason == (
        f"another process is writing to {job.folder}; this sweep waits for its end, and takes its result"
    )
    assert (job.folder / "record.json").read_bytes() == whole
    # The other sweep's run comes to its end while this one waits.
    seen = []

    def end(seconds):
        seen.append((job.state, job.log.exists(), (job.folder / "record.json").read_bytes() == whole))
        if len(seen) == 3:
            written(job, scores=scores("test", 0.75))
            run_folder.unlock(job.folder, taken)

    monkeypatch.setattr(scheduler.time, "sleep", end)
    scheduler.run_all([job], jobs.Machine(config=jobs.CONFIGS / "cpu.yaml"), "accuracy")
    assert seen == [("elsewhere", False, True)] * 3
    assert (job.state, job.left_out, job.elsewhere, job.reason, job.value) == ("ok", True, False, None, 0.75)
    said = capsys.readouterr().out.replace("\n", " ")
    assert "elsewhere: tiny--tiny_bert--full seed 13: another process is writing to" in said
    assert "ok (already finished): tiny--tiny_bert--full seed 13" in said
    assert not run_folder.is_taken(job.folder)


def test_what_another_sweep_leaves_unfinished_is_run_after_it(tmp_path, monkeypatch):
    """It was stopped: this sweep launches the run itself, also where only the log's lock told of the other."""
    (job,) = jobs.jobs_of(planned(), tmp_path)
    job.log.parent.mkdir(parents=True)
    log = files.lock_file(job.log)
    log.write(b"$ the other's\n")
    log.flush()
    assert jobs.is_taken(job)
    sleep, rounds = scheduler.time.sleep, []

    def stop(seconds):
        rounds.append(job.state)
        if len(rounds) == 2:
            assert job.log.read_bytes() == b"$ the other's\n"
            written(job, "interrupted")
            log.close()
        sleep(0.01)

    monkeypatch.setattr(scheduler.time, "sleep", stop)
    scheduler.run_all([job], Clockwork(config=Path("x"), gpus=("4",), per_run=1))
    assert rounds[:2] == ["elsewhere", "elsewhere"]
    assert "running" in rounds
    assert job.state == "crashed"  # this program writes no record
    assert not files.is_locked(job.log)


UNREADABLE = {
    "newer": '{"schema": 999}',
    "truncated": '{"schema": 2, "status": "o',
    "of a library": '{"loss": 1.0}',
    "a key more": None,
}


@pytest.mark.parametrize("kind", [*UNREADABLE, "a fifo", "no record"])
def test_a_folder_that_can_t_be_read_is_not_to_be_run_again(kind, tmp_path):
    runs = jobs.jobs_of(planned(seeds=3), tmp_path)
    folder = runs[1].folder
    written(runs[1])
    path = folder / "record.json"
    if kind == "no record":
        path.rename(folder / "kept.json")
    elif kind == "a fifo":
        path.unlink()
        os.mkfifo(path)
    else:
        whole = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(UNREADABLE[kind] or json.dumps({**whole, "colour": "blue"}), encoding="utf-8")
    before = sorted(os.listdir(folder))
    order = scheduler.SweepOptions(out=tmp_path, machine=jobs.Machine(config=jobs.CONFIGS / "cpu.yaml"))
    plan = study.plan([RECIPE], study.SweepRequest(seeds=3, sets=SMALL))
    with pytest.raises(SetupError, match="nothing was started: move these folders away") as caught:
        scheduler.run_sweep([plan], order)
    assert str(folder) in str(caught.value)
    assert sorted(os.listdir(folder)) == before
    assert sorted(os.listdir(tmp_path)) == [folder.name]
    # A launch that dies there is filed nowhere.
    assert jobs.read(runs[1]) is None
    runs[1].log = tmp_path / "log"
    jobs.finish(runs[1], 1, 1.0, None)
    assert runs[1].state == "crashed"
    assert sorted(os.listdir(folder)) == before


def test_a_finished_run_whose_model_lies_elsewhere_is_left_out(tmp_path, capsys):
    (job,) = jobs.jobs_of(planned(), tmp_path / "runs")
    written(job, scores=scores("test", 0.75))
    (tmp_path / "disk").mkdir()
    (job.folder / "model").symlink_to(tmp_path / "disk")
    order = scheduler.SweepOptions(out=tmp_path / "runs", machine=jobs.Machine(config=jobs.CONFIGS / "cpu.yaml"))
    assert scheduler.run_sweep([study.plan([RECIPE], study.SweepRequest(seeds=1, sets=SMALL))], order) == 0
    assert "1 runs, 1 already finished" in capsys.readouterr().out
    written(job, "crashed")
    with pytest.raises(SetupError, match="model is a link"):
        scheduler.run_sweep([study.plan([RECIPE], study.SweepRequest(seeds=1, sets=SMALL))], order)


@pytest.mark.parametrize("place", ["file", "file/below", "x" * 300])
def test_a_place_that_no_sweep_can_write_is_one_sentence(place, tmp_path, capsys):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    assert cli.main(["sweep", str(RECIPE), "--out", str(tmp_path / place), "--config", "cpu"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --out ")
    assert said.count("error") == 1
    assert "Traceback" not in said
    assert os.listdir(tmp_path) == ["file"]


def test_a_run_that_was_ended_while_it_drew_is_not_finished(tmp_path):
    (job,) = jobs.jobs_of(planned(), tmp_path)
    written(job, artifacts={"report": "report.md"})
    (job.folder / ".lock").touch()
    for there in (False, True):
        job.left_out = False
        jobs.leave_out_finished([job], retry=False, metric=None)
        assert job.left_out == there
        (job.folder / "report.md").touch()


@pytest.mark.parametrize("what", ["killed", "no room"])
def test_a_job_that_can_t_be_filed_or_is_killed_ends_nothing_else(tmp_path, what):
    """Real processes: one that has the folder's lock and is killed, or whose record can't be written."""
    (job,) = jobs.jobs_of(planned(), tmp_path)
    script = "import pathlib, sys, time\nfrom bench.runner import run_folder as folders\n"
    script += "taken = folders.lock(pathlib.Path(sys.argv[1]))\nprint('has it', flush=True)\ntime.sleep(600)\n"
    job.folder.mkdir()
    words = ["sh", "-c", '"$@" & wait', "launcher", sys.executable, "-c", script, str(job.folder)]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout.readline() == b"has it\n"
    process.kill()  # the launcher alone; what it started has the lock still
    process.wait()
    if what == "no room":
        os.killpg(process.pid, signal.SIGKILL)
        (job.folder / ".lock").unlink()
        job.folder.rmdir()
        job.folder.write_text("a file in its place", encoding="utf-8")
    scheduler._end(executors.RunningJob(job, process, ()), executors.Ended(returncode=process.returncode), None)
    assert (job.state, job.elsewhere) == ("crashed", False)
    if what == "killed":
        assert "its launcher was killed by signal 9" in job.reason
        assert store.read(job.folder).status == "crashed"
    process.stdout.close()


def test_words_of_a_sweep_stay_as_they_are_typed(tmp_path):
    long = "dataset.prompt=" + "x" * 300
    done = bench("sweep", RECIPE, "dataset.url=https://a.b//c/", long, "--out", tmp_path)
    assert done.returncode == 2
    assert "File name too long" not in done.stderr
    assert "dataset.url" in done.stderr or "dataset.prompt" in done.stderr


def test_the_command_in_a_log_is_not_what_a_run_said(tmp_path):
    (tmp_path / "log").write_text("$ python -m accelerate.commands.launch\n", encoding="utf-8")
    assert jobs.last_line(tmp_path / "log") == ""


def test_settings_are_chosen_when_another_sweep_has_tried_the_rest(write, tmp_path, capsys, monkeypatch):
    write(
        "own/study.yaml",
        TWO_SYSTEMS.replace("  - recipe: broken\n", "").replace(", lora: {training.learning_rate: [1e-3, 1e-4]}", ""),
    )
    (plan,) = [study.plan([tmp_path / "own"], study.SweepRequest())]
    out = tmp_path / "runs"
    trials = [job for _, tried in tuning.trials_of(plan, out) for job in tried.values()]
    written(trials[0], scores=scores("validation", 0.4))
    trials[1].folder.mkdir(parents=True)
    taken = run_folder.lock(trials[1].folder)
    order = scheduler.SweepOptions(out=out, machine=jobs.Machine(config=jobs.CONFIGS / "cpu.yaml"))

    def end(seconds):
        assert not (out / "choices.json").exists()
        written(trials[1], scores=scores("validation", 0.6))
        run_folder.unlock(trials[1].folder, taken)
        monkeypatch.setattr(scheduler, "run_all", lambda *_: None)

    monkeypatch.setattr(scheduler.time, "sleep", end)
    assert scheduler.run_sweep([plan], order) == 1  # the chosen run itself is not launched here
    assert "this sweep waits for its end" in capsys.readouterr().out.replace("\n", " ")
    (row,) = json.loads((out / "choices.json").read_text(encoding="utf-8"))
    assert row["chosen"] == ["training.learning_rate=0.0001"]


def test_gpus_are_counted_and_shared_out(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,GPU-1a")
    one = jobs.Machine.from_config(None, None, None)
    assert (one.config.stem, one.jobs, one.per_run, one.gpus) == ("gpu1", 3, 1, ("3", "5", "GPU-1a"))
    two = jobs.Machine.from_config("ddp", None, 2)
    assert (two.jobs, two.per_run, two.options) == (1, 2, ("--num_processes", "2"))
    assert two.environment(("3", "5"))["CUDA_VISIBLE_DEVICES"] == "3,5"
    # What is only to be printed, or runs elsewhere, needs no GPU here.
    elsewhere = jobs.Machine.from_config("ddp", None, 16, dry=True)
    assert elsewhere.launch_command(Path("run.py"), [])[-3:] == ["--num_processes", "16", "run.py"]
    with pytest.raises(SetupError, match="needs 8 GPUs per run, but 3 are available"):
        jobs.Machine.from_config("ddp", None, None)
    with pytest.raises(SetupError, match="--jobs 4: 3 GPUs suffice for 3 concurrent runs with 1 GPUs each"):
        jobs.Machine.from_config("gpu1", 4, None)


def test_without_gpus_runs_go_to_the_cpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = jobs.Machine.from_config(None, 2, None)
    assert (found.config.stem, found.jobs, found.per_run) == ("cpu", 2, 0)
    assert int(found.environment(())["OMP_NUM_THREADS"]) == max(1, (os.cpu_count() or 1) // 2)
    with pytest.raises(SetupError, match=r"cpu\.yaml uses no GPU"):
        jobs.Machine.from_config("cpu", None, 1)
    with pytest.raises(SetupError, match="no accelerate config 'gpu9'"):
        jobs.Machine.from_config("gpu9", None, None)


@dataclass(frozen=True, kw_only=True)
class Clockwork(jobs.Machine):
    """A machine whose runs only say which device they have, and when."""

    def command(self, job, port=None):
        script = "import os, time; print('from', time.time(), os.environ['CUDA_VISIBLE_DEVICES'], flush=True); "
        script += "time.sleep(0.5); print('to', time.time(), 0)"
        return [sys.executable, "-c", script]


def test_a_trial_that_is_stopped_as_hopeless_is_said_to_be_pruned(tmp_path, capsys):
    (job,), asked = jobs.jobs_of(planned(), tmp_path), []

    def watch(one):
        asked.append(one)
        if len(asked) == 1:
            written(one, "interrupted")
        return len(asked) == 1

    scheduler.run_all([job], Clockwork(config=Path("x"), gpus=("4",), per_run=1), "accuracy", watch)
    assert job.state == "interrupted"
    said = capsys.readouterr().out
    assert "pruned, as its validation score was behind the median of other trials: nothing goes on from it" in said
    assert "goes on from there" not in said


def test_no_two_runs_share_a_device_and_a_run_without_a_record_gets_one(tmp_path, capsys):
    found = jobs.jobs_of(planned(seeds=4), tmp_path)
    scheduler.run_all(found, Clockwork(config=Path("x"), jobs=2, gpus=("4", "7"), per_run=1))
    spans = {}
    for job in found:
        lines = [line.split() for line in job.log.read_text(encoding="utf-8").splitlines() if line[0] != "$"]
        (_, start, device), (_, end, _) = lines
        spans.setdefault(device, []).append((float(start), float(end)))
        left = store.read(job.folder)
        assert (left.status, left.seed, job.state) == ("crashed", job.planned.seed, "crashed")
        assert left.reason.startswith("the run did not record its end: to ")
        assert left.finished_at is not None
    assert set(spans) == {"4", "7"}
    # Into a file: where each run's log is, how it ended, how far the sweep is.
    said = capsys.readouterr().out.splitlines()
    begun = [line for line in said if line.startswith("started: ")]
    assert begun == [f"started: {job.name} (log: {job.log})" for job in found]
    assert sum(line.startswith("crashed: tiny--tiny_bert--full seed ") for line in said) == 4
    counted = [line for line in said if line.startswith("  4 runs: ")]
    assert len(counted) == 3  # after the last one nothing is left
    assert all("GPU hours so far; time left: not known yet" in line for line in counted)
    for used in spans.values():
        used.sort()
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(used))


def test_the_best_settings_on_validation_data_are_chosen(tmp_path):
    (system,) = study.plan([RECIPE], study.SweepRequest(sets=SMALL)).systems
    rates = tuple((f"training.learning_rate={rate}",) for rate in ("1e-3", "1e-4", "1e-5"))
    system = replace(system, candidates=rates)
    plan = study.Plan(systems=[system], metric="accuracy")
    ((_, trials),) = tuning.trials_of(plan, tmp_path)
    assert list(trials) == list(rates)
    for job in trials.values():
        assert job.planned.resolved.recipe.evaluation.splits == ("validation",)
    assert tuning.choose(system, trials, "accuracy").chosen is None
    for value, job in zip((0.5, 0.75, 0.75), trials.values(), strict=True):
        written(job, scores=scores("validation", value))
    chosen = tuning.choose(system, trials, "accuracy")
    assert chosen.chosen == rates[1]  # of two equals the first
    (row,) = json.loads(tuning.write_choices([chosen], tmp_path, "accuracy").read_text(encoding="utf-8"))
    assert [one["validation"] for one in row["candidates"]] == [0.5, 0.75, 0.75]
    assert row["chosen"] == list(rates[1])
    written(trials[rates[1]], "diverged")
    assert tuning.choose(system, trials, "accuracy").chosen == rates[2]


def test_less_of_a_loss_is_better():
    assert jobs.higher_is_better("accuracy")
    assert not jobs.higher_is_better("loss")
    with pytest.raises(RecipeError, match="whether higher is better is unknown"):
        jobs.higher_is_better("beauty")


def test_slurm_gets_the_same_words_through_its_list(tmp_path, monkeypatch):
    stand_in = tmp_path / "sbatch"
    stand_in.write_text('#!/bin/sh\necho "Submitted $CONFIG $*"\n', encoding="utf-8")
    stand_in.chmod(0o755)
    (job,) = jobs.jobs_of(planned(sets=(*SMALL, "training.best=null", 'evaluation.splits=["test"]')), tmp_path / "a b")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SetupError, match="sbatch not found"):
        jobs.submit([job], jobs.CONFIGS / "gpu1.yaml", tmp_path, None)
    monkeypatch.undo()
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    said = jobs.submit([job], jobs.CONFIGS / "gpu1.yaml", tmp_path, 4)
    assert said.startswith("Submitted gpu1 --array=1-1%4 ")
    listing = Path(shlex.split(said)[-1])
    reading = next(line for line in jobs.SLURM.read_text(encoding="utf-8").splitlines() if "mapfile" in line)
    script = f"line=$(sed -n 1p {shlex.quote(str(listing))}); {reading}; printf '%s\\n' \"${{words[@]}}\""
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == jobs.arguments(job)


def test_what_slurm_gets_holds_in_any_folder_and_is_not_given_twice_in_silence(tmp_path, monkeypatch, capsys):
    stand_in = tmp_path / "sbatch"
    stand_in.write_text('#!/bin/sh\necho "Submitted $CONFIG $*"\n', encoding="utf-8")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("{}", encoding="utf-8")
    (job,) = jobs.jobs_of(planned(), Path("runs"))
    said = jobs.submit([job], jobs.find_config("mine.yaml"), Path("runs"), None)
    assert said.startswith(f"Submitted {tmp_path / 'mine.yaml'} ")
    listing = Path(shlex.split(said)[-1])
    assert listing.is_absolute()
    words = shlex.split(listing.read_text(encoding="utf-8"))
    assert words[words.index("--out") + 1] == str(tmp_path / job.folder)
    assert "submitted before" not in capsys.readouterr().err
    jobs.submit([job], jobs.CONFIGS / "gpu1.yaml", Path("runs"), None)
    assert "1 of these runs were submitted before" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    ("words", "seeds", "said"),
    [
        (["--seeds", "14"], [14], "--seeds 14: one seed, 14; --num-seeds 14 would run that many\n"),
        (["--seeds", "14,16"], [14, 16], ""),
        (["--num-seeds", "3"], [13, 14, 15], ""),
        ([], [13], ""),
    ],
)
def test_seeds_are_listed_or_counted(words, seeds, said, tmp_path, capsys, monkeypatch):
    plans = []
    monkeypatch.setattr(scheduler, "run_sweep", lambda given, order: plans.extend(given) or 0)
    assert cli.main(["sweep", str(RECIPE), *words, "--dry-run", "--out", str(tmp_path)]) == 0
    assert [seed for plan in plans for system in plan.systems for seed in system.seeds] == seeds
    assert capsys.readouterr().out == said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.yaml"], "there is no such file"),
        ([RECIPE, "--set", "training.steps"], "is not of the form key=value"),
        ([RECIPE, "--set", "training.stepz=1"], "unknown key"),
        ([RECIPE, "--mini"], "--mini needs a study"),
        ([RECIPE, "--seeds", "none"], "none is no list of seeds, like 13,14,15; --num-seeds counts them"),
        ([RECIPE, "--seeds", "3,03"], "a seed stands twice"),
        ([RECIPE, "--seeds", "9" * 5000], "is no list of seeds"),
        ([RECIPE, "--num-seeds", "13,14"], "13,14 is not a whole number from 1 on"),
        ([RECIPE, "--num-seeds", "20240101"], "be that many runs; for this one seed write --seeds 20240101"),
        ([RECIPE, "--num-seeds", "2", "--seeds", "13,14"], "--num-seeds counts them: give one of the two"),
        ([RECIPE, "--jobs", "9" * 5000], "or too large"),
        ([RECIPE, "--set", "training.steps=4,"], "a value between the commas is missing"),
        ([RECIPE, "--slurm", "--gpus-per-run", "2"], "--gpus-per-run: what a task of an array gets"),
        ([RECIPE, "--jobs", "0"], "not a whole number from 1 on"),
    ],
)
def test_wrong_input_starts_nothing(tmp_path, arguments, message):
    done = bench("sweep", *arguments, "--out", tmp_path / "runs")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("number", ["abc", "[1]", "-3", "0", "true"])
def test_a_config_with_a_wrong_number_of_processes_is_refused(tmp_path, number):
    config = tmp_path / "own.yaml"
    config.write_text(f"num_processes: {number}\nuse_cpu: true\n", encoding="utf-8")
    with pytest.raises(SetupError, match=r"own\.yaml: num_processes: expected a positive integer, got "):
        jobs.Machine.from_config(str(config), None, None)


def test_a_recipe_that_is_a_link_to_itself_is_named(tmp_path):
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    done = bench("sweep", tmp_path / "loop.yaml", "--dry-run")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "loop.yaml" in done.stderr


def test_a_run_that_was_told_to_end_before_it_began_is_interrupted(tmp_path):
    (job,) = jobs.jobs_of(study.plan([Path(RECIPE)], study.SweepRequest(seeds=(13,))).systems[0].runs(), tmp_path)
    jobs.finish(job, -signal.SIGTERM, 1.0, None, stopped=True)
    assert (job.state, store.read(job.folder).status) == ("interrupted", "interrupted")
    (other,) = jobs.jobs_of(study.plan([Path(RECIPE)], study.SweepRequest(seeds=(14,))).systems[0].runs(), tmp_path)
    jobs.finish(other, -signal.SIGTERM, 1.0, None)
    assert (other.state, store.read(other.folder).status) == ("crashed", "crashed")


PROBE = ROOT / "recipes" / "tiny" / "albert-probe.yaml"


def test_words_behind_the_recipes_and_behind_options_are_overrides_of_every_run(tmp_path):
    words = ["training.steps=4", "--set", "training.learning_rate=1e-3,1e-4", "save=false", "--dry-run"]
    done = bench("sweep", RECIPE, PROBE, *words[:1], "--out", tmp_path, *words[1:])
    assert done.returncode == 0, done.stderr
    runs = [shlex.split(line) for line in done.stdout.splitlines() if "run.py" in line]
    # A probe has no steps to take, and no rate: it is one run, and the sweep says so.
    assert [[word for word in run if "=" in word] for run in runs] == [
        ["training.steps=4", "save=false", "training.learning_rate=1e-3"],
        ["save=false"],
        ["training.steps=4", "save=false", "training.learning_rate=1e-4"],
    ]
    assert "training.steps is ignored for method probe, which does not train by gradients" in done.stdout
    alone = bench("sweep", PROBE, "training.steps=4", "--dry-run", "--out", tmp_path)
    assert alone.returncode == 2
    assert "command line: training.steps: method 'probe' is not trained by gradients" in alone.stderr


def test_the_table_names_metric_and_split(tmp_path):
    (job,), (other,) = (jobs.jobs_of(planned(sets=(*SMALL, f"seed={seed}")), tmp_path) for seed in (1, 2))
    for one, found in ((job, {"accuracy": 0.5}), (other, {"squad_f1": 0.25, "squad_exact_match": 0.125})):
        known = {name: record.Score(value=value, examples=16, signature="x") for name, value in found.items()}
        written(one, scores={"after": {"test": known}})
        jobs.leave_out_finished([one], retry=False, metric="accuracy")
    machine = jobs.Machine(config=jobs.CONFIGS / "cpu.yaml")
    said = overview.lines(scheduler.rows_of([job], machine))
    assert re.split("  +", said[1]) == ["run", "state", "accuracy, test", "time"]
    # Where runs have different scores, each is shown with its own name.
    both = [re.split("  +", line) for line in overview.lines(scheduler.rows_of([job, other], machine))]
    assert both[1][2] == "score"
    assert [line[2] for line in both[2:]] == ["accuracy, test 0.5000", "squad_f1, test 0.2500"]
    assert scheduler.describe(other).endswith("0.2500 squad_f1, test")


def test_a_long_reason_leaves_room_for_the_rest_of_the_table(tmp_path):
    (job,) = jobs.jobs_of(planned(), tmp_path)
    written(job, scores=scores("test", 0.8125))
    jobs.leave_out_finished([job], retry=False, metric=None)
    job.reason = "out of memory, and much more about it " * 5
    page = Console(width=80, file=io.StringIO())
    rows = scheduler.rows_of([job], jobs.Machine(config=jobs.CONFIGS / "cpu.yaml"))
    page.print(overview.drawn(overview.lines(rows)))
    drawn = page.file.getvalue().splitlines()
    assert "0.8125" in drawn[2]
    assert "accuracy, test" in drawn[1]
    assert len(drawn) == 3  # a long note is cut, and no line is broken
