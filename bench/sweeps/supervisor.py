"""Runs one launch on a node, and ends it when the sweep that asked for it is gone.

    python -P bench/sweeps/supervisor.py    # a Launch in a line of JSON on stdin, then a line for each order

Stdin stays open as long as the sweep lives: at its end, by whatever cause, the run is told to stop, writes a checkpoint
and ends, and no process is left. It is a process apart from those of the cluster's own software, which are killed with
all of their children when a sweep is gone. On stdout it says in lines of JSON which process it has started, and the
exit code.
"""

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

if __name__ == "__main__":  # its own folder is no place for imports
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.sweeps import processes

STOP, KILL = "stop", "kill"
# Where another process has the run.
TAKEN = "taken"
# Stdout is a pipe to the process that asked.
ANSWERS = 1


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A launch on this node. scratch: a folder to be removed when the sweep is gone; "" for none."""

    command: list[str]
    log: str
    cwd: str
    environment: dict[str, str] = field(default_factory=dict)
    scratch: str = ""

    def as_json(self) -> str:
        """Return it in one line."""
        return json.dumps(asdict(self))


def run(launch: Launch, order: Callable[[], str], started: Callable[[int], None] = lambda _: None) -> int | str:
    """Launch, wait for the end, and return the exit code; TAKEN where another process has the run.

    order: is asked again and again for what to do: "" (go on), STOP or KILL; it may wait for as long as POLL_S.
    started: is told the launcher's process, which leads the group of all processes of the run.
    """
    process = processes.launch(launch.command, Path(launch.log), Path(launch.cwd), launch.environment)
    if process is None:
        return TAKEN
    try:
        started(process.pid)
        return _until_end(process, order)
    finally:
        processes.kill(process)
        process.wait()


def _until_end(process: "subprocess.Popen[bytes]", order: Callable[[], str]) -> int:
    limit: float | None = None
    while process.poll() is None:
        word = order()
        if word and word != KILL and limit is None:
            processes.send_sigterm(process)
            limit = time.monotonic() + processes.STOP_S
        if word == KILL or (limit is not None and time.monotonic() > limit):
            processes.kill(process)
            process.wait()
    return int(process.returncode)


class Orders:
    """Orders that come line by line through a pipe; its end is STOP, and then for good."""

    def __init__(self, handle: int) -> None:
        self._handle, self._last, self.is_alone = handle, "", False

    def __call__(self) -> str:
        """Return the last order, after waiting a moment for one."""
        if self.is_alone:
            time.sleep(processes.POLL_S)
        elif select.select([self._handle], [], [], processes.POLL_S)[0]:
            words = os.read(self._handle, 4096).split()
            self.is_alone = not words
            self._last = words[-1].decode() if words else self._last or STOP
        return self._last


def _say(**told: object) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more, which the orders tell
        os.write(ANSWERS, f"{json.dumps(told)}\n".encode())


def main() -> int:
    """Leave the process that started this one, run what it asks for, and say how that ended."""
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, 1)
        if not piece:  # whoever asked is gone already
            return 0
        line += piece
    if os.fork():
        return 0
    os.setsid()
    launch, orders = Launch(**json.loads(line)), Orders(0)
    try:
        _say(ended=run(launch, orders, lambda process: _say(started=process)))
    except OSError as error:
        _say(failed=f"{error.filename or launch.log}: {error.strerror or error}")
    while launch.scratch and not orders.is_alone:  # the files are fetched meanwhile
        orders()
    if launch.scratch:
        shutil.rmtree(launch.scratch, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
