"""Names of a sweep's runs, what is left of it, its end; its plan on disk, and the view from outside."""

import json
import os
import re
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from bench import console
from bench.analysis.spending import Money
from bench.cli import main as cli
from bench.errors import DataError, SetupError
from bench.records import record, store
from bench.runner import run_folder
from bench.sweeps import jobs, labels, overview, plan_file, scheduler, study, watch
from bench.utils import files
from tests.helpers.launching import ROOT

RECIPE = ROOT / "recipes" / "tiny" / "bert-full.yaml"
CPU = jobs.Machine(config=jobs.CONFIGS / "cpu.yaml", jobs=2)
BEGUN = "2026-03-01T12:00:00+00:00"


def run(name="study--bert--full", seed=13, path="a.yaml", overrides=(), digest="0123456789"):
    resolved = SimpleNamespace(name=name, hash=digest)
    return study.PlannedRun(path=Path(path), overrides=tuple(overrides), seed=seed, resolved=resolved)


def named(*runs):
    return labels.of_runs(runs)


def test_names_are_what_differs():
    full, lora = "tiny--bert--full", "tiny--bert--lora"
    assert named(run()) == ["study--bert--full seed 13"]
    assert named(run(), run(seed=14)) == ["seed 13", "seed 14"]
    assert named(run(full), run(lora)) == ["full", "lora"]
    assert named(run(full), run(lora), run(lora, 14)) == ["full seed 13", "lora seed 13", "lora seed 14"]
    # Parts that can't be matched up are not taken away.
    assert named(run("a--bert"), run("a--bert--full")) == ["a--bert", "a--bert--full"]
    assert named(run("a--bert--full"), run("b--t5--full")) == ["a bert", "b t5"]


def test_names_hold_the_overrides_that_differ():
    rates = [run(overrides=(f"training.learning_rate={rate}", "save=false")) for rate in ("1e-3", "1e-4")]
    assert named(*rates) == ["learning_rate=1e-3", "learning_rate=1e-4"]
    assert named(run(overrides=("training.steps=4",)), run()) == ["steps=4", "study--bert--full seed 13"]
    both = [run(overrides=("method.r=8", "other.r=8")), run(overrides=("method.r=4", "other.r=2"))]
    assert named(*both) == ["method.r=8 other.r=8", "method.r=4 other.r=2"]
    long = [run(overrides=(f"dataset.prompt={'x' * 500}{end}",), digest=end * 8) for end in "ab"]
    assert [len(name) for name in named(*long)] == [46, 46]
    assert named(*long)[0] != named(*long)[1]  # told by the hash
    assert named(run(path="one.yaml"), run(path="two.yaml")) == ["one", "two"]
    # The model and the method are parts of the names, unless two overrides give one name.
    minis = [run(f"s--{name}--full", overrides=(f'model="{name}"',)) for name in ("tiny_bert", "tiny_albert")]
    assert named(*minis) == ["tiny_bert", "tiny_albert"]
    folders = [run("s--bert--full", overrides=(f"model={folder}/bert",)) for folder in "ab"]
    assert named(*folders) == ["model=a/bert", "model=b/bert"]
    assert labels.common_name([run(), run(seed=14)]) == "study--bert--full"
    assert labels.common_name([run()]) is None


def test_folders_without_a_plan_are_named_by_what_differs():
    assert labels.of_folders(["s--lora--seed13--aa", "s--lora--seed14--aa"]) == ["seed13", "seed14"]
    assert labels.of_folders(["mine"]) == ["mine"]


def row(label="x", state="ok", seconds=None, system="a", method="lora", **others):
    known = {"folder": Path("runs") / label, "log": Path("runs/logs") / f"{label}.txt"}
    return overview.Row(label=label, state=state, seconds=seconds, system=system, method=method, **{**known, **others})


def test_what_is_left_is_told_by_finished_runs_of_the_same_system():
    done = [row(seconds=10), row(seconds=20), row(seconds=100, system="b", method="full")]
    waiting = [row(state="waiting"), row(state="waiting", system="b", method="full")]
    assert overview.left_s(done, 2) == 0
    assert overview.left_s(done + waiting, 1) == 15 + 100
    assert overview.left_s(done + waiting, 2) == 100
    # Of a system without one: its method; of a method without one: all.
    assert overview.left_s([*done, row(state="waiting", system="c")], 1) == 15
    assert overview.left_s([*done, row(state="waiting", system="c", method="head")], 1) == pytest.approx(130 / 3)
    # One that is under way takes up where it is, and one that takes longer than others ends any moment.
    assert overview.left_s([*done, row(state="running", seconds=5)], 1) == 10
    assert overview.left_s([*done, row(state="running", seconds=50), *waiting], 1) == 115
    assert overview.left_s([*done, row(state="running", seconds=5), *waiting], 2) == 100 + 10
    # Failures and resumed runs tell nothing.
    assert overview.left_s([row("x", "oom", 3), row(seconds=3, is_timed=False), *waiting], 1) is None


def test_the_summary_counts_states_time_and_gpu_hours():
    rows = [row(seconds=3600, gpus=4), row("y", "oom", 1800, gpus=2), row("z", "waiting", gpus=4)]
    assert overview.summary(rows, 1) == ("3 runs: 1 ok, 1 oom, 1 waiting; 5.00 GPU hours so far; about 1 h 0 min left")
    assert overview.summary([row("z", "waiting")], 1) == ("1 run: 1 waiting; time left: not known yet")
    assert overview.summary([row(seconds=75), row("y", "crashed")], 1) == (
        "2 runs: 1 ok, 1 crashed; 1 min 15 s of CPU runs so far"
    )


def test_little_money_is_not_none():
    def said(*amounts):
        price = SimpleNamespace(currency="EUR")
        money = [Money(amount=one, hours=1, unit="core hours", device="cpu", price=price) for one in amounts]
        return overview.money_so_far([row(money=one) for one in money])

    assert said(0.002) == "less than 0.01 EUR"
    assert (said(0.002, 0.004), said(0.0), said(1.239)) == ("0.01 EUR", "0.00 EUR", "1.24 EUR")


def test_a_long_sweep_shows_what_runs_and_what_failed_first():
    rows = [row(f"r{number}", seconds=1) for number in range(40)]
    rows += [row("late", "waiting"), row("bad", "oom", note="no\nmemory"), row("now", "running", 2, note="step 3")]
    said = overview.lines(rows, 1, 5)
    assert [line.split()[0] for line in said] == ["43", "run", "now", "bad", "late", "r0", "r1", "..."]
    assert said[2].split()[1:] == ["running", "2", "s", "step", "3"]
    assert said[3].endswith("no memory")
    assert overview.lines(rows, 1, 5, reasons=False)[3] == "bad   oom"
    assert overview.lines(rows, 1, 5, reasons=False)[2] == said[2]
    assert said[-1] == "... and 38 more"
    assert overview.logs(rows) == ["log of now: runs/logs/now.txt"]
    assert overview.logs([row(str(number), "running") for number in range(6)])[-1] == "... and 2 more beside it"


def test_a_sweep_ends_with_its_failures_and_the_command_that_compares():
    rows = [row("a"), row("b"), row("c", "diverged", note="the loss is nan at step 3"), row("d", "waiting")]
    assert overview.endings(rows, Path("my runs")) == [
        "1 of 4 runs failed:",
        "  c: diverged: the loss is nan at step 3 (log: runs/logs/c.txt)",
        "compare them: python -m bench report 'my runs' -o 'my runs/report'",
    ]
    assert overview.endings(rows[1:2], Path("runs")) == []  # nothing to compare
    assert overview.endings(rows[:2], Path("runs"), compares=False) == []
    many = overview.endings([row(str(number), "crashed") for number in range(20)], Path("runs"))
    assert (many[0], len(many), many[-1]) == (
        "20 of 20 runs failed:", 10, "  ... and 12 more; their logs are beside it",
    )  # fmt: skip


def test_a_run_that_was_stopped_has_not_failed(tmp_path):
    rows = [row("a", "interrupted", note="stopped by SIGTERM"), row("b", "killed"), row("c", "oom")]
    assert overview.endings(rows, Path("runs")) == [
        "1 of 3 runs failed:",
        "  c: oom (log: runs/logs/c.txt)",
        "2 of 3 runs stopped early, and the same command goes on:",
        "  a: interrupted: stopped by SIGTERM (log: runs/logs/a.txt)",
        "  b: killed (log: runs/logs/b.txt)",
    ]
    goes_on = "no sweep is at work; the same command goes on with what is left"
    for state in ("interrupted", "killed", "not started"):
        assert watch.Watched(tmp_path, [row("a", state), row("b")]).status().endswith(goes_on)
    assert watch.Watched(tmp_path, [row("a", "oom"), row("b")]).status().endswith("no sweep is at work")


# ---------------------------------------------------------------- the plan on disk


def planned(label, **others):
    known = {"system": "s--01", "method": "full", "seed": 13, "folder": label, "log": f"logs/{label}.txt"}
    return plan_file.PlannedJob(label=label, **{**known, **others})


def plan(*found, started_at=BEGUN, **others):
    return plan_file.SweepPlan.begun(started_at, jobs=found, **others)


def labels_of(out):
    return [job.label for job in plan_file.read(out).jobs]


def test_a_plan_grows_with_its_own_sweep_and_gives_way_to_another(tmp_path):
    assert plan_file.read(tmp_path) is None
    plan_file.add(tmp_path, plan(planned("trial 1"), planned("trial 2")))
    plan_file.add(tmp_path, plan(planned("again", folder="trial 2"), planned("run")))
    assert labels_of(tmp_path) == ["trial 1", "again", "run"]
    plan_file.add(tmp_path, plan(planned("other"), started_at="2026-03-02T00:00:00+00:00"))
    assert labels_of(tmp_path) == ["other"]
    # What waits in Slurm is not gone because more was submitted.
    for label, day in (("first", 3), ("second", 4)):
        plan_file.add(tmp_path, plan(planned(label), started_at=f"2026-03-0{day}T00:00:00+00:00", slurm=True))
    assert labels_of(tmp_path) == ["first", "second"]
    assert os.listdir(tmp_path) == [plan_file.FILE]


DAMAGED = {
    "cut": '{"sweep": 1, "started_at": "2026',
    "of something else": '{"name": "mine"}',
    "newer": '{"sweep": 99}',
    "a list": "[1, 2]",
    "deep": "[" * 100_000,
    "wrong types": '{"sweep": 1, "started_at": 3, "host": "h", "process": 1, "jobs": 7}',
    "not text": "\udcff",
    **{
        f"a job in {folder!r:.9}": json.dumps(
            {
                "sweep": 1,
                "started_at": BEGUN,
                "host": "h",
                "process": 1,
                "jobs": [
                    {"label": "a", "system": "s", "method": "full", "seed": 1, "folder": folder, "log": "logs/a.txt"},
                ],
            }
        )
        for folder in ("../elsewhere", "/etc", "", ".", "a\0b")
    },
    "a number below zero": json.dumps({"sweep": 1, "started_at": BEGUN, "host": "h", "process": 1, "at_once": -3}),
}


@pytest.mark.parametrize("kind", [*DAMAGED, "a folder"])
def test_what_is_no_plan_is_left_as_it_is(kind, tmp_path, capsys):
    path = tmp_path / plan_file.FILE
    if kind == "a folder":
        path.mkdir()
    else:
        path.write_bytes(DAMAGED[kind].encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=r"sweep\.json: not the plan of a sweep"):
        plan_file.read(tmp_path)
    before = path.read_bytes() if path.is_file() else sorted(path.iterdir())
    plan_file.add(tmp_path, plan(planned("run")))
    assert "it stays as it is" in capsys.readouterr().err
    assert (path.read_bytes() if path.is_file() else sorted(path.iterdir())) == before


def test_a_second_sweep_in_a_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "LOCK_PATIENCE_S", 0.05)
    out = tmp_path / "new" / "my runs"
    order = scheduler.SweepOptions(out=out, machine=CPU)
    plans = [study.plan([RECIPE], study.SweepRequest(seeds=1))]
    with plan_file.claimed(out):
        assert plan_file.is_driven(out)
        with pytest.raises(SetupError, match=rf"process {os.getpid()} on .* is running a sweep here"):
            scheduler.run_sweep(plans, order)
        plan_file.add(out, plan(planned("run")))
        with pytest.raises(SetupError) as caught:
            scheduler.run_sweep(plans, order)
        assert f"process {os.getpid()} on " in str(caught.value)
        assert f"python -m bench sweep --watch '{out}'" in str(caught.value)
        assert sorted(os.listdir(out)) == [run_folder.LOCK, plan_file.FILE]
    assert os.listdir(out) == [plan_file.FILE]
    with plan_file.claimed(tmp_path / "other" / "runs"):
        pass
    assert os.listdir(tmp_path) == ["new"]  # nothing is left of a sweep that began nothing


# ---------------------------------------------------------------- from outside


def filed(folder, status="ok", value=None, **changes):
    """A record as a run leaves it."""
    seen = record.Record(
        name="tiny--tiny_bert--full", seed=13, method="full", started_at="2026-03-01T12:00:10+00:00",
        finished_at="2026-03-01T12:01:00+00:00", recipe=record.RecipePart(path="x.yaml", hash="0" * 8), status=status,
        reason=None if status == "ok" else "a reason", phases=[record.PhaseTime(name="train", seconds=40.0)],
    )  # fmt: skip
    if value is not None:
        score = {"accuracy": record.Score(value=value, examples=16, signature="x")}
        seen.scores = {"after": {"test": score}}
    for name, given in changes.items():
        setattr(seen, name, given)
    folder.mkdir(parents=True)
    store.write(seen, folder)


@pytest.fixture
def sweep(tmp_path):
    """A folder in which a sweep is at work, and all kinds of runs: its lock, and the other locks, are released."""
    out = tmp_path / "my runs"
    now = datetime.now(UTC).isoformat(timespec="seconds")
    names = ["good", "full", "old", "broken", "next", "now", "quick", "gone"]
    rows = [planned(name, was_over=name == "full") for name in names]
    out.mkdir()
    plan_file.add(out, plan(*rows, started_at="2026-03-01T12:00:30+00:00", at_once=2, metric="accuracy"))
    filed(out / "good", value=0.8125)
    filed(out / "full", "oom", finished_at="2026-02-01T12:00:00+00:00")
    filed(out / "old", "crashed", finished_at="2026-02-01T12:00:00+00:00")  # to be run again
    (out / "broken").mkdir()
    (out / "broken" / store.FILE).write_text('{"schema": 2, "sta', encoding="utf-8")
    begun = (datetime.now(UTC) - timedelta(seconds=15)).isoformat(timespec="seconds")
    filed(out / "now", "crashed", finished_at=None, started_at=begun)
    (out / "logs").mkdir()
    (out / "logs" / "now.txt").write_text("$ launch\ntrain: step 3 of 9, 5 s left\x1b[2J\n", encoding="utf-8")
    filed(out / "gone", "crashed", finished_at=None, started_at=now)
    filed(out / "of another sweep")
    held = [run_folder.lock(out), run_folder.lock(out / "now")]
    log = files.lock_file(out / "logs" / "quick.txt")  # launched a moment ago
    yield SimpleNamespace(out=out, locks=held, log=log)
    for one in (*held, log):
        one.close()


def test_states_of_a_sweep_are_read_from_the_disk(sweep, capsys):
    before = {path: path.stat().st_mtime_ns for path in sweep.out.rglob("*")}
    assert cli.main(["sweep", "--watch", str(sweep.out)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"8 runs: 1 ok, 1 oom, 1 unreadable, 1 killed, 2 running, 2 waiting; 1 min [34]\d s of CPU runs so far; "
        r"about 1 min 20 s left", said[0],
    )  # fmt: skip
    states = {line.split()[0]: line.split()[1] for line in said[2:10]}
    assert states == {
        "good": "ok", "full": "oom", "old": "waiting", "broken": "unreadable", "next": "waiting", "now": "running",
        "quick": "running", "gone": "killed",
    }  # fmt: skip
    assert said[2].split() == ["good", "ok", "0.8125", "40", "s"]
    assert re.search(r"now +running +1[5-9] s  train: step 3 of 9, 5 s left\\u001b\[2J", said[7])
    assert said[10:12] == [f"{sweep.out}: a sweep is at work", "not shown: 1 runs of other sweeps in this folder"]
    assert f"log of now: {sweep.out / 'logs' / 'now.txt'}" in said
    assert "2 of 8 runs failed:" in said
    assert "1 of 8 runs stopped early, and the same command goes on:" in said
    assert {path: path.stat().st_mtime_ns for path in sweep.out.rglob("*")} == before


def test_a_sweep_that_was_left_says_what_is_not_started(sweep, capsys):
    for one in (*sweep.locks, sweep.log):
        one.close()
    filed(sweep.out / "next", value=0.75)
    assert watch.watch(sweep.out) == 0
    said = capsys.readouterr().out
    assert said.startswith("8 runs: 2 ok, 1 oom, 1 crashed, 1 unreadable, 2 killed, 1 not started; ")
    assert "no sweep is at work; the same command goes on with what is left" in said
    assert said.endswith(f"compare them: python -m bench report '{sweep.out}' -o '{sweep.out / 'report'}'\n")


@pytest.mark.parametrize("plan_there", ["none", "damaged"])
def test_runs_without_a_plan_are_found(plan_there, tmp_path, capsys):
    for seed in (13, 14):
        filed(tmp_path / f"tiny--full--seed{seed}--00", value=0.5, seed=seed)
    begun = tmp_path / "tiny--full--seed15--00"
    begun.mkdir()
    held = run_folder.lock(begun)
    filed(tmp_path / "trials" / "tiny--full--seed13--11")
    store.mark_trials(tmp_path / "trials")
    if plan_there == "damaged":
        (tmp_path / plan_file.FILE).write_text("{", encoding="utf-8")
    assert cli.main(["sweep", "--watch", str(tmp_path)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("3 runs: 2 ok, 1 running; ")
    assert [line.split()[0] for line in said[2:5]] == ["seed13", "seed14", "seed15"]
    assert said[5] == f"{tmp_path}: runs are going on, without a sweep on this machine"
    assert ("not the plan of a sweep" in said[6]) == (plan_there == "damaged")
    held.close()
    assert cli.main(["sweep", "--watch", str(tmp_path / "trials")]) == 0
    assert capsys.readouterr().out.startswith("1 run: 1 ok")


def test_a_folder_of_sweeps_shows_the_runs_of_all(sweep, capsys):
    filed(sweep.out.parent / "second" / "one", value=0.5)
    assert watch.watch(sweep.out.parent) == 0
    said = capsys.readouterr().out.splitlines()
    names = {line.split("  ")[0] for line in said[2:10]}
    of_first = ("good", "full", "old", "broken", "now", "gone", "of another sweep")
    assert names == {"second/one", *(f"my runs/{name}" for name in of_first)}


def test_slurm_s_runs_wait_without_a_driver(tmp_path, capsys):
    plan_file.add(tmp_path, plan(planned("a"), slurm=True, at_once=None, gpus=2))
    assert watch.watch(tmp_path) == 0
    said = capsys.readouterr().out
    assert said.startswith("1 run: 1 waiting; ")
    assert f"{tmp_path}: runs are waiting in Slurm" in said


@pytest.mark.parametrize(("busy", "at_once"), [((), 1), (("a", "b"), 2)])
def test_a_cluster_takes_as_many_at_once_as_run_now(busy, at_once, tmp_path):
    names = "abcdef"
    plan_file.add(tmp_path, plan(*map(planned, names), at_once=None))
    (tmp_path / "logs").mkdir()
    held = [files.lock_file(tmp_path / "logs" / f"{name}.txt") for name in busy]
    assert watch.look(tmp_path, watch.Records()).at_once == at_once
    for one in held:
        one.close()


COSTS = """
gpu_hours:
  NVIDIA L4: {price: 0.8, currency: USD, source: a list, date: "2026-01-01"}
core_hour: {price: 0.05, currency: EUR, source: a list, date: "2026-01-01"}
"""


def on_device(folder, device, name=None, **changes):
    """A run of an hour: 12:00:10 to 13:00:10."""
    launch = record.Launch(
        world_size=2, num_machines=1, distributed_type="MULTI_GPU", mixed_precision="bf16", device=device,
        global_batch=8, per_device_batch=4, accumulation=1,
    )  # fmt: skip
    devices = [name] * 2 if name else []
    environment = record.Environment(python="3", platform="x", packages={}, devices=devices, cpu_threads=4)
    finished = {"finished_at": "2026-03-01T13:00:10+00:00", **changes}
    return filed(folder, launch=launch, environment=environment, **finished)


def test_money_is_that_of_known_prices(tmp_path, monkeypatch, capsys):
    prices = tmp_path / "costs.yaml"
    prices.write_text(COSTS, encoding="utf-8")
    monkeypatch.setenv("BENCH_COSTS", str(prices))
    out = tmp_path / "runs"
    on_device(out / "a", "cuda", "NVIDIA L4")
    on_device(out / "b", "cpu")
    on_device(out / "c", "cuda", "NVIDIA L4", finished_at="2026-03-01T13:00:10")  # edited: no time zone
    assert watch.watch(out) == 0
    said = capsys.readouterr().out.splitlines()[0]
    assert "0.04 GPU hours" in said
    assert "; 1.60 USD and 0.40 EUR, without 1 run (a resumed run's record does not have" in said
    on_device(out / "d", "cuda", "NVIDIA Secret 9000")
    for name in "abc":
        os.remove(out / name / store.FILE)
    watch.watch(out)
    assert "; no money of 1 run (no price of NVIDIA Secret 9000 is known" in capsys.readouterr().out
    prices.write_text("gpu_hours: [", encoding="utf-8")
    assert cli.main(["sweep", "--watch", str(out)]) == 2
    assert "costs.yaml" in capsys.readouterr().err


def test_a_run_of_another_machine_is_known_by_its_files(tmp_path, capsys):
    """Its locks may not be seen from here; a clock that is ahead is no reason to take it for dead."""
    names = ["new", "old", "ahead", "next"]
    plan_file.add(tmp_path, plan(*map(planned, names)).model_copy(update={"host": "elsewhere"}))
    now = time.time()
    for name, at in (("new", now - 60), ("old", now - 3600), ("ahead", now + 900)):
        filed(tmp_path / name, "crashed", finished_at=None, started_at="2999-01-01T00:00:00+00:00")
        os.utime(tmp_path / name / store.FILE, (at, at))
    watched = watch.look(tmp_path, watch.Records())
    assert [row.state for row in watched.rows] == ["running", "killed", "running", "not started"]
    assert [row.seconds for row in watched.rows] == [0.0, None, 0.0, None]
    assert "their sweep was begun on elsewhere" in watched.status()
    assert not watched.is_over
    log = tmp_path / "logs" / "old.txt"
    log.parent.mkdir()
    log.write_text("train: step 5\n", encoding="utf-8")
    assert watch.look(tmp_path, watch.Records()).rows[1].note == "train: step 5"


@pytest.mark.parametrize("kind", ["folder", "fifo", "link to itself", "empty", "null", "cut", "not text"])
def test_a_record_that_is_none_is_a_row(kind, tmp_path, capsys):
    plan_file.add(tmp_path, plan(planned("odd"), planned("good")))
    filed(tmp_path / "good", value=0.5)
    path = tmp_path / "odd" / store.FILE
    path.parent.mkdir()
    content = {"empty": b"", "null": b"null", "cut": b'{"schema": 2, "na', "not text": b"\xff\xfe"}
    if kind in content:
        path.write_bytes(content[kind])
    else:
        {"folder": path.mkdir, "fifo": lambda: os.mkfifo(path), "link to itself": lambda: path.symlink_to(path)}[kind]()
    assert watch.watch(tmp_path) == 0
    said = capsys.readouterr().out
    assert "2 runs: 1 ok, 1 unreadable" in said
    assert "  odd: unreadable: record.json: " in said


@pytest.mark.parametrize("seconds", [[-5.0], [1e308, 1e308], []])
def test_impossible_times_are_left_out(seconds, tmp_path, capsys):
    filed(tmp_path / "run", phases=[record.PhaseTime(name="train", seconds=one) for one in seconds])
    assert watch.watch(tmp_path) == 0
    assert capsys.readouterr().out.startswith("1 run: 1 ok\n")


def test_any_number_of_runs_at_once_takes_no_time():
    rows = [row(seconds=10), row("b", "waiting"), row("c", "waiting")]
    assert [overview.left_s(rows, at_once) for at_once in (10**12, 0, -1)] == [10, 20, 20]


def test_a_folder_that_vanishes_ends_the_view_with_a_sentence(sweep, monkeypatch, tmp_path):
    with (tmp_path / "screen").open("w+", encoding="utf-8") as screen:
        monkeypatch.setattr(console, "out", Console(file=screen, force_terminal=True, width=70, height=30))
        monkeypatch.setattr(console, "is_live", lambda: True)
        monkeypatch.setattr(watch.time, "sleep", lambda _: shutil.move(sweep.out, tmp_path / "moved"))
        with pytest.raises(SetupError, match="there is no such folder"):
            watch.watch(sweep.out)


def test_records_are_read_again_only_when_they_change(sweep, monkeypatch):
    records, read = watch.Records(), []
    own = store.read
    monkeypatch.setattr(store, "read", lambda path: (read.append(path), own(path))[1])
    watch.look(sweep.out, records)
    once = len(read)
    watch.look(sweep.out, records)
    assert len(read) == once
    filed(sweep.out / "next", value=0.5)
    watch.look(sweep.out, records)
    assert read[once:] == [sweep.out / "next" / store.FILE]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--watch", "nowhere"], "error: --watch nowhere: there is no such folder; give the --out of a sweep"),
        (["--watch", "file"], "error: --watch file: is not a folder; give the --out of a sweep"),
        (["--watch", "empty"], "error: --watch empty: neither a sweep nor a run is in it; give the --out of a sweep"),
        ([str(RECIPE), "save=false", "--watch", "empty"], "leave out "),
        ([], "error: say what to run: a study, recipes or a folder of them; or --watch FOLDER to see a sweep"),
    ],
)
def test_nothing_to_watch_is_one_sentence(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    assert cli.main(["sweep", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


def test_a_live_view_is_left_or_ends_with_the_sweep(sweep, monkeypatch, tmp_path):
    """On a terminal: Ctrl-C leaves it, and the sweep goes on; without that it ends when nothing is at work."""
    for key, way in (("left", "ctrl-c"), ("over", "end")):
        with (tmp_path / key).open("w+", encoding="utf-8") as screen:
            terminal = Console(file=screen, force_terminal=True, width=70, height=30, highlight=False, markup=False)
            monkeypatch.setattr(console, "out", terminal)
            monkeypatch.setattr(console, "is_live", lambda: True)
            looks = []

            def sleep(seconds, looks=looks, way=way):
                looks.append(plan_file.is_driven(sweep.out))
                if way == "ctrl-c" and len(looks) == 2:
                    raise KeyboardInterrupt
                if way == "end" and len(looks) == 2:
                    for one in (*sweep.locks, sweep.log):
                        one.close()

            monkeypatch.setattr(watch.time, "sleep", sleep)
            assert watch.watch(sweep.out) == 0
            screen.seek(0)
            shown = screen.read()
            assert len(looks) == 2
            assert "Ctrl-C leaves this view; the sweep goes on" in shown
            assert ("no longer watched; the sweep goes on" in shown) == (way == "ctrl-c")
            assert "\x1b[2J" not in shown


def test_a_torn_plan_of_no_run_is_named(tmp_path):
    (tmp_path / plan_file.FILE).write_text('{"sweep": 2}', encoding="utf-8")
    with pytest.raises(
        SetupError, match=r"neither a sweep nor a run is in it \(.*sweep\.json: not the plan of a sweep, or of"
    ):
        watch.look(tmp_path, watch.Records())
