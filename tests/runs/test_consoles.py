"""A run outlives its console and ends with its launcher: real launches whose output, terminal or launcher ends."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

from bench.records import store
from tests.helpers import hosts
from tests.helpers.launching import ROOT, RUN, command, environment

RECIPE = ROOT / "recipes" / "tiny" / "bert-full.yaml"
SHORT = ["training.epochs=null", "training.steps=4", "limit={train: 24, test: 16}"]
# So many that it is still training whenever it is stopped.
LONG = [*SHORT[:1], "training.steps=100000", "training.log_every=1", SHORT[2]]
# Prints from the beginning on, as a library may at any time, on both streams.
NOISY = """
import runpy, sys, threading, time

def speak():
    while "bench.runner.lifecycle" not in sys.modules:
        time.sleep(0.01)
    while True:
        print("a line of a library")
        print("a warning of a library", file=sys.stderr, flush=True)
        time.sleep(0.2)

threading.Thread(target=speak, daemon=True).start()
sys.argv = sys.argv[1:]
sys.path[0] = sys.argv[0].rpartition("/")[0]  # as Python does for a script
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_run_outlives_readers_that_leave_and_a_full_disk(tmp_path):
    """`accelerate launch ... | head -1 2> /dev/full`."""
    words = command(RECIPE, *SHORT, "--out", tmp_path / "out", config="cpu")
    reader, writer = os.pipe()
    os.close(reader)
    with open("/dev/full", "wb") as full:
        code = subprocess.call(list(map(str, words)), cwd=ROOT, env=environment(), stdout=writer, stderr=full)
    os.close(writer)
    left = store.read(tmp_path / "out")
    assert (code, left.status) == (0, "ok")
    lost = [note for note in left.notes if "could not be written" in note]
    assert lost == [
        "standard output could not be written (Broken pipe): what was said there is lost, and the work went on"
    ]  # nothing was said on the other


def test_a_run_outlives_its_terminal(tmp_path):
    """`nohup`: SIGHUP is ignored; what is printed afterwards, also by libraries, meets an input/output error."""
    (tmp_path / "noisy.py").write_text(NOISY, encoding="utf-8")
    words = [sys.executable, tmp_path / "noisy.py", RUN, RECIPE, *SHORT, "--out", tmp_path / "out"]
    terminal, inside = pty.openpty()
    process = subprocess.Popen(
        list(map(str, words)), cwd=ROOT, env=environment(), stdin=inside, stdout=inside, stderr=inside,
        preexec_fn=lambda: (os.setsid(), signal.signal(signal.SIGHUP, signal.SIG_IGN)),
    )  # fmt: skip
    os.close(inside)
    with contextlib.suppress(OSError):
        os.read(terminal, 100)
    os.close(terminal)
    assert process.wait(hosts.LIMIT_S) == 0
    left = store.read(tmp_path / "out")
    assert left.status == "ok"
    assert sum("could not be written (Input/output error)" in note for note in left.notes) == 2


def test_a_run_ends_with_its_launcher_and_keeps_what_it_has(tmp_path):
    """SIGKILL to the launcher of one process, and to another run SIGHUP, as when a shell is closed."""
    told = {
        tmp_path / "killed": "stopped by the end of its launcher (killed, or told to stop) after step",
        tmp_path / "hung_up": "stopped by SIGHUP (its terminal was closed) after step",
    }
    with contextlib.ExitStack() as stack:
        launches = {
            folder: stack.enter_context(hosts.local(folder, RECIPE, *LONG, config="cpu")) for folder in told
        }  # fmt: skip
        for folder, launched in launches.items():
            hosts.wait_for_steps(folder, launched)
        launches[tmp_path / "killed"].process.kill()
        os.killpg(launches[tmp_path / "hung_up"].process.pid, signal.SIGHUP)
        for folder, reason in told.items():
            hosts.wait_until(lambda folder=folder: not running(folder), "it goes on", launches[folder])
            left = store.read(folder)
            assert left.status == "interrupted"
            assert left.reason.startswith(reason)
            assert "a checkpoint was written" in left.reason


def running(folder):
    """Return whether a process of a run of one process lives: one that names its folder and is no launcher."""
    for place in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (place / "cmdline").read_bytes().split(b"\0") if place.name.isdigit() else []
            if str(folder).encode() in words and b"accelerate.commands.launch" not in words:
                return True
    return False
