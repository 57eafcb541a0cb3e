"""Sweeps that launch runs: each is run once, a failure is a result, a stop leaves checkpoints and no process."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from bench.records import store
from tests.helpers.launching import ROOT, bench, environment
from tests.helpers.studies import TWO_SYSTEMS

RECIPE = ROOT / "recipes" / "tiny" / "bert-full.yaml"
# Its data are not there, which only the run itself can tell.
BROKEN = "{dataset: {card: sst2_local, source: {folder: nowhere}}, model: tiny_bert, method: lora}"


def test_a_study_is_run_once_and_a_failure_is_a_result(write, tmp_path):
    write("own/study.yaml", TWO_SYSTEMS)
    write("own/broken.yaml", BROKEN)
    out = tmp_path / "runs"
    command = ["sweep", tmp_path / "own", "--out", out, "--jobs", 2, "--config", "cpu"]
    command += ["--set", "limit={train: 24, validation: 16, test: 16}"]
    done = bench(*command)
    assert done.returncode == 1, done.stderr
    assert "is left out: all of its tuning trials failed" in done.stderr
    (folder,) = out.glob("tiny--*")
    chosen = {row["system"]: row["chosen"] for row in json.loads((out / "choices.json").read_text(encoding="utf-8"))}
    found = store.read(folder)
    assert (found.status, list(found.scores), list(found.scores["after"])) == ("ok", ["after"], ["test"])
    assert found.recipe.overrides[-1:] == chosen["tiny--tiny_bert--full"]
    trials = {path.parent.name: store.read(path) for path in store.find([out / "trials"])}
    assert sorted(one.status for one in trials.values()) == ["invalid", "invalid", "ok", "ok"]
    assert all(list(one.scores.get("after", {"validation": 0})) == ["validation"] for one in trials.values())
    stamps = {path: path.stat().st_mtime_ns for path in store.find([out])}
    again = bench(*command)
    assert again.returncode == 1
    # What was refused before any work is tried again: its cause may be gone.
    assert "4 tuning trials on validation data, 2 already finished" in again.stdout
    assert "1 runs, 1 already finished" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in store.find([out])} == stamps


def test_a_killed_run_is_filed_and_a_stop_leaves_a_checkpoint_and_no_process(tmp_path):
    long = ["training.steps=100000", "training.log_every=1", "limit={train: 24, test: 16}", "evaluation.before=false"]
    words = [sys.executable, "-m", "bench", "sweep", RECIPE, "--num-seeds", "3", "--jobs", "2", "--config", "cpu"]
    words += ["--out", tmp_path, *(f"--set={text}" for text in long)]
    with (tmp_path / "said").open("wb") as said:
        sweeping = subprocess.Popen(
            list(map(str, words)), cwd=ROOT, env=environment(), stdout=said, stderr=subprocess.STDOUT
        )
    try:
        # The third is started when the first is killed, so two of them are under way at the end.
        first = wait_for(lambda: [path.parent for path in tmp_path.glob("*seed13*/train_log.jsonl")])[0]
        os.kill(process_of(first), signal.SIGKILL)
        wait_for(
            lambda: list(tmp_path.glob("*seed15*/train_log.jsonl")) and list(tmp_path.glob("*seed14*/train_log.jsonl"))
        )
        sweeping.send_signal(signal.SIGINT)
        assert sweeping.wait(timeout=120) == 130
    finally:
        with contextlib.suppress(ProcessLookupError):
            sweeping.kill()
    left = {found.seed: found for found in map(store.read, store.find([tmp_path]))}
    assert {seed: found.status for seed, found in left.items()} == {13: "crashed", 14: "interrupted", 15: "interrupted"}
    assert "the run did not record its end: its processes were killed" in left[13].reason
    assert left[13].failed_in is None
    assert len(list(tmp_path.glob("*/checkpoints/step-*"))) >= 2
    assert not [folder for folder in tmp_path.glob("tiny*") if process_of(folder)]


def wait_for(condition, limit_s=240):
    """What becomes of a condition; the limit is for what hangs."""
    end = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return found


def process_of(folder):
    """The process of the run that writes into a folder, which is not its launcher; None where there is none."""
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = status.read_bytes().split(b"\0")
            if str(folder).encode() in words and b"accelerate.commands.launch" not in words:
                return int(status.parent.name)
    return None
