"""Executes the runs of a sweep: the contract of an executor, and the one that launches them on this machine.

    with executor:
        job = executor.take(waiting, running)  # None: there is no room
        execution = executor.start(job)      # None: another process runs it
        ended = execution.poll()             # None as long as it runs
        execution.collect()                  # its files are in the sweep's folder now

The others are `slurm_executor` and `ray_executor`. Each runs the same command with the same settings.
"""

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from bench.sweeps import processes
from bench.sweeps.jobs import Job, Machine, written_at


@dataclass(frozen=True, kw_only=True)
class Ended:
    """The end of a launch. returncode: as of `Popen`. lost: in a sentence that its node is gone; it may be run again.

    is_taken: another process has the run. is_unstarted: it was withdrawn from a queue, and left nothing; where it is
    also lost, it is placed anew. why: what is known of its end beside its output.
    """

    returncode: int = 0
    lost: str | None = None
    is_taken: bool = False
    is_unstarted: bool = False
    why: str | None = None


class Execution(Protocol):
    """A job that an executor has taken."""

    job: Job

    def poll(self) -> Ended | None:
        """Return how it ended; None before. Sets the job's state and start."""

    def stop(self) -> None:
        """Tell the run to write a checkpoint and end."""

    def kill(self) -> None:
        """End all of its processes at once; the next `poll` says that it has ended."""

    def collect(self) -> None:
        """Bring what the run wrote into the sweep's folder, whole; and release what it held."""


class Executor(Protocol):
    """Takes jobs and executes them. Runs launched by any of them are finished for all of them."""

    def prepare(self, jobs: Sequence[Job]) -> None:
        """Check, before any of these jobs is started, that all of them can be. Raises SetupError with all reasons."""

    def take(self, waiting: list[Job], running: int) -> Job | None:
        """Remove and return the next of the jobs that wait, beside so many that run; None while there is no room."""

    def start(self, job: Job) -> Execution | None:
        """Take a job; None where another process runs it."""

    def flush(self) -> None:
        """Hand over what was started since the last call, where that is done for many at once."""

    def __enter__(self) -> Self:
        """Open what it needs while runs are going on."""

    def __exit__(self, *_: object) -> None:
        """Leave nothing behind."""


@dataclass
class RunningJob:
    """A job and its process. gpus: the devices assigned to it. free: that they go back to."""

    job: Job
    process: subprocess.Popen[bytes]
    gpus: tuple[str, ...]
    free: list[str] | None = None

    def poll(self) -> Ended | None:
        """Return how its launcher ended; None before."""
        code = self.process.poll()
        return None if code is None else Ended(returncode=code)

    def stop(self) -> None:
        """Tell the run to write a checkpoint and end."""
        processes.send_sigterm(self.process)

    def kill(self) -> None:
        """Kill all of its processes."""
        processes.kill(self.process)
        self.process.wait()

    def collect(self) -> None:
        """Kill what its launcher has left behind, which would hold device and folder, and give the devices back."""
        processes.kill(self.process)
        if self.free is not None:
            self.free += self.gpus


class LocalExecutor:
    """Launches runs on this machine, as many side by side as it has devices for."""

    def __init__(self, machine: Machine) -> None:
        self._machine, self._free = machine, list(machine.gpus)

    def __enter__(self) -> Self:
        """Return itself: nothing is to be opened."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing behind."""

    def prepare(self, jobs: Sequence[Job]) -> None:
        """Check nothing: what a device does not hold is found by the run itself, which says what to do."""

    def take(self, waiting: list[Job], running: int) -> Job | None:
        """Take the first job as long as fewer are running than are allowed."""
        return waiting.pop(0) if running < self._machine.jobs else None

    def start(self, job: Job) -> RunningJob | None:
        """Launch a run with its share of devices; None where another process has launched it."""
        machine, taken = self._machine, tuple(self._free[: self._machine.per_run])
        port = processes.free_port() if machine.processes > 1 else None
        command, before = machine.command(job, port), written_at(job)
        process = processes.launch(command, job.log, Path.cwd(), machine.environment(taken))
        if process is None:
            return None
        del self._free[: machine.per_run]
        job.state, job.before, job.started_s = "running", before, time.monotonic()
        return RunningJob(job, process, taken, self._free)

    def flush(self) -> None:
        """Do nothing: each run is launched when it is started."""
