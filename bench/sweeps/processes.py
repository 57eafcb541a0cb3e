"""The processes of one launch: started in a session of their own, told to stop, killed; for a sweep here or on a node.

process = launch(command, log, cwd, environment)   # None: another process has the log, and so the run
send_sigterm(process)                              # the run writes a checkpoint and ends
kill(process)                                      # whatever is left of it
"""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.utils import files, secret_formats

# How often what runs is looked at.
POLL_S = 0.2
# A run that is told to stop first writes a checkpoint.
STOP_S = 300.0


def launch(
    command: Sequence[str], log: Path, cwd: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes] | None:
    """Launch a run; None where another process has launched it. Its log is locked until all of its processes end."""
    log.parent.mkdir(parents=True, exist_ok=True)
    stream = files.lock_file(log)
    if stream is None:
        return None
    with stream:
        stream.truncate()
        stream.write(f"$ {secret_formats.remove(shlex.join(command))}\n".encode())
        stream.flush()
        # In a separate session: Ctrl-C reaches only the sweep, which then stops its runs.
        return subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def send_sigterm(process: subprocess.Popen[bytes]) -> None:
    """Send SIGTERM to the launcher's child processes: a launcher of one process would exit without stopping it."""
    children: list[int] = []
    for listing in Path(f"/proc/{process.pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            children += [int(word) for word in listing.read_text().split()]
    for number in children or [process.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGTERM)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill all processes of a launch."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def free_port() -> int:
    """Return a free TCP port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
