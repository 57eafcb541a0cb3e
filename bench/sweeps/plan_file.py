"""The plan of a sweep on disk: its runs by name, so that another terminal can watch them; and the lock of its driver.

with claimed(out):                    # one driver in a folder
    write(out, plan)                  # out/sweep.json, atomically
read(out)                             # None without one
"""

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from bench import console
from bench.errors import DataError, SetupError
from bench.runner import run_folder
from bench.sweeps import overview
from bench.utils import files

FILE = "sweep.json"
SCHEMA = 1
# Of some 100,000 runs.
LIMIT_BYTES = 2**26
LOCK_BYTES = 1024


def _below(text: str) -> str:
    path = Path(text)
    if "\0" in text or path.is_absolute() or not path.parts or ".." in path.parts:
        raise ValueError(f"{text!r} is no path below the sweep's folder")
    return text


Below = Annotated[str, AfterValidator(_below)]
Count = Annotated[int, Field(ge=0)]


class Part(BaseModel):
    """A part of the file; keys of a newer version are not looked at."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class PlannedJob(Part):
    """A run. folder, log: relative to the sweep's. was_over: it had its result before the sweep began."""

    label: str
    system: str
    method: str
    seed: int
    folder: Below
    log: Below
    was_over: bool = False


class SweepPlan(Part):
    """All runs of a sweep, its tuning trials among them. process: of its driver, on that host; slurm: it has ended.

    gpus: of each run; 0 on CPUs. at_once: how many run side by side; None where Slurm decides.
    """

    sweep: int = SCHEMA
    started_at: str
    host: str
    process: int
    at_once: Count | None = 1
    gpus: Count = 0
    slurm: bool = False
    metric: str | None = None
    jobs: tuple[PlannedJob, ...] = ()

    @classmethod
    def begun(cls, started_at: str, **values: object) -> "SweepPlan":
        """Return the plan of this process, without runs."""
        host, process = socket.gethostname(), os.getpid()
        return cls.model_validate({"started_at": started_at, "host": host, "process": process, **values})


def read(out: Path) -> SweepPlan | None:
    """Return the plan in a sweep's folder; None without one. Raises DataError for a file that holds none."""
    path = out / FILE
    try:
        content = json.loads(files.read_text(path, LIMIT_BYTES))
        if not isinstance(content, dict) or content.get("sweep") != SCHEMA:
            raise DataError(f"{path}: not the plan of a sweep, or of another version")
        # As JSON, in which a tuple is a list.
        return SweepPlan.model_validate_json(json.dumps(content))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, ValidationError) as error:
        raise DataError(f"{path}: not the plan of a sweep (edited, or of something else?)") from error


def add(out: Path, plan: SweepPlan) -> None:
    """Write a plan; what this sweep has planned before stays in it, and so does what other Slurm arrays may still run.

    Whatever else is at its place stays, and the sweep goes on: it only can't be watched by name.
    """
    try:
        before = read(out)
        if before is not None:
            own = (before.started_at, before.process, before.host) == (plan.started_at, plan.process, plan.host)
            new = {job.folder for job in plan.jobs}
            kept = tuple(job for job in before.jobs if job.folder not in new) if own or before.slurm else ()
            plan = plan.model_copy(update={"jobs": (*kept, *plan.jobs)})
        out.mkdir(parents=True, exist_ok=True)
        files.write_text(out / FILE, plan.model_dump_json(indent=1) + "\n")
    except (DataError, OSError) as error:
        console.complain(f"warning: {error}; it stays as it is, and --watch shows this sweep's runs by their folders")


@contextlib.contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Keep other sweeps out of a folder. Raises SetupError where one is running there; leaves nothing behind."""
    made = [one for one in (out, *out.parents) if not one.exists()]
    out.mkdir(parents=True, exist_ok=True)
    try:
        held = run_folder.lock(out)
    except SetupError as error:
        if not is_driven(out):
            raise
        raise SetupError(
            f"{out}: {_driver(out)} is running a sweep here, and two would give the same devices out twice; wait for "
            f"its end (to watch it: {overview.watch_command(out)}), or give another --out"
        ) from error
    held.created = made
    with contextlib.suppress(OSError):
        held.stream.truncate(0)
        held.stream.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        held.stream.flush()
    if held.note is not None:
        console.complain(f"warning: {out}: {held.note.replace('run', 'sweep')}")
    try:
        yield
    finally:
        run_folder.unlock(out, held)


def _driver(out: Path) -> str:
    """Return who has the lock, as it says itself; the plan may be that of an earlier sweep."""
    with contextlib.suppress(OSError, ValueError):
        if text := files.read_text(out / run_folder.LOCK, LOCK_BYTES):
            return text
    try:
        plan = read(out)
    except DataError:
        plan = None
    return "another process" if plan is None else f"process {plan.process} on {plan.host}"


def is_driven(out: Path) -> bool:
    """Return whether a sweep's driver is at work in a folder."""
    return run_folder.is_taken(out)
