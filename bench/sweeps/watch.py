"""Watch a sweep from any terminal: states, scores so far, time used and left, by what is on disk alone.

    python -m bench sweep --watch runs

Reads the plan of the sweep, the locks of its runs' folders, records and logs; writes nothing, and stops nothing.
"""

import math
import os
import socket
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Group
from rich.live import Live

from bench import console
from bench.analysis import accessors, spending
from bench.config import prices
from bench.config.prices import Prices
from bench.errors import DataError, SetupError
from bench.records import store
from bench.records.record import Record
from bench.runner import run_folder
from bench.sweeps import jobs, labels, overview, plan_file
from bench.sweeps.overview import Row
from bench.sweeps.plan_file import PlannedJob, SweepPlan
from bench.utils import files

EVERY_S = 2.0
# Of a folder without a plan: how far below it runs are looked for.
LEVELS = 3
# A run on another machine that has written nothing for so long is no longer taken for one that goes on: the time
# after which its own processes take one of them for dead.
SILENT_S = 600.0
TRAIN_LOG = "train_log.jsonl"


@dataclass
class Watched:
    """A folder that is watched. sentences: what is wrong with it, if anything. alive: whether a driver is at work.

    host: of its driver, where that is another machine.
    """

    folder: Path
    rows: list[Row] = field(default_factory=list)
    at_once: int = 1
    alive: bool = False
    host: str = ""
    sentences: list[str] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        """Return whether nothing more is to come."""
        return not self.alive and not any(row.state in ("running", "waiting") for row in self.rows)

    def status(self) -> str:
        """Return in words whether anything is at work in the folder."""
        if self.alive:
            return f"{self.folder}: a sweep is at work"
        under_way = any(row.state == "running" for row in self.rows)
        if under_way and self.host:
            return (
                f"{self.folder}: runs are going on, by the times of their files; their sweep was begun on {self.host}"
            )
        if under_way:
            return f"{self.folder}: runs are going on, without a sweep on this machine"
        if any(row.state == "waiting" for row in self.rows):
            return f"{self.folder}: runs are waiting in Slurm"
        if any(row.state in ("not started", *overview.GO_ON) for row in self.rows):
            return f"{self.folder}: no sweep is at work; the same command goes on with what is left"
        return f"{self.folder}: no sweep is at work"


class Records:
    """Records that were read, each again only when its file has changed. prices: of an hour of each device."""

    def __init__(self, prices: Prices | None = None) -> None:
        self.prices = prices or Prices(gpus={})
        self._known: dict[Path, tuple[tuple[int, int], Record | str]] = {}

    def read(self, folder: Path) -> Record | str | None:
        """Return a run's record, or in a sentence why it can't be read; None where there is none."""
        path = folder / store.FILE
        try:
            found = os.stat(path)
        except OSError as error:
            return f"{error.strerror}" if os.path.lexists(path) else None
        stamp = (found.st_mtime_ns, found.st_size)
        if path not in self._known or self._known[path][0] != stamp:
            self._known[path] = (stamp, _read(path))
        return self._known[path][1]


def _read(path: Path) -> Record | str:
    try:
        return store.read(path)
    except DataError as error:
        return str(error).removeprefix(f"{path}: ")


def look(folder: Path, records: Records) -> Watched:
    """Return what there is in a sweep's folder now.

    Raises SetupError for a folder that is not there, or in which there is neither a sweep nor a run.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "there is no such folder"
        raise SetupError(f"--watch {folder}: {what}; give the --out of a sweep")
    watched = Watched(folder, alive=plan_file.is_driven(folder))
    try:
        plan = plan_file.read(folder)
    except DataError as error:
        plan = None
        watched.sentences.append(f"{error}; shown are all runs that are found")
    if plan is not None:
        watched.host = plan.host if plan.host != socket.gethostname() else ""
        watched.rows = [_planned_row(folder, job, plan, records, alive=watched.alive) for job in plan.jobs]
        # A cluster takes as many as it has room for: those that run now say how many that is.
        watched.at_once = plan.at_once or sum(row.state == "running" for row in watched.rows) or 1
        planned = {(folder / job.folder).resolve() for job in plan.jobs}
        others = [one for one in _runs_below(folder) if one.resolve() not in planned]
        if others:
            watched.sentences.append(f"not shown: {len(others)} runs of other sweeps in this folder")
    else:
        found = _runs_below(folder)
        names = labels.of_folders([os.path.relpath(one, folder) for one in found])
        watched.rows = [_found_row(one, name, records) for one, name in zip(found, names, strict=True)]
    if not watched.rows and not watched.alive:
        torn = f" ({'; '.join(watched.sentences).partition(';')[0]})" if watched.sentences else ""
        raise SetupError(f"--watch {folder}: neither a sweep nor a run is in it{torn}; give the --out of a sweep")
    return watched


def _runs_below(folder: Path) -> list[Path]:
    """Return the folders of runs: with a record, or reserved for one that has none yet. Trials only where asked for."""
    found = []
    for place, folders, inside in os.walk(folder):
        here = Path(place)
        # A sweep's own folder is locked too, while it runs.
        reserved = set(inside) & set(run_folder.FIRST) and plan_file.FILE not in inside
        is_run = here != folder and (store.FILE in inside or reserved)
        deep = len(here.relative_to(folder).parts) >= LEVELS
        kept = () if is_run or deep else folders
        folders[:] = sorted(one for one in kept if not (here / one / store.TRIALS_MARK).exists())
        found += [here] if is_run else []
    return found


def _planned_row(folder: Path, job: PlannedJob, plan: SweepPlan, records: Records, *, alive: bool) -> Row:
    """Return the row of a run that a sweep has planned."""
    own, log = folder / job.folder, folder / job.log
    to_come = "waiting" if alive or plan.slurm else "not started"
    far = plan.host != socket.gethostname()
    row = Row(
        label=job.label, system=job.system, method=job.method, state=to_come, folder=own, log=log,
        gpus=plan.gpus or None,
    )  # fmt: skip
    found = records.read(own)
    begun = isinstance(found, Record) and found.finished_at is None
    if run_folder.is_taken(own) or files.is_locked(log) or (far and begun and _is_lively(row)):
        return _running(row, found if isinstance(found, Record) else None, records.prices)
    if isinstance(found, Record) and found.finished_at is not None and not _is_repeated(found, job, plan, alive=alive):
        return _with_result(row, found, plan.metric, records.prices)
    return _without_result(row, found)


def _is_repeated(record: Record, job: PlannedJob, plan: SweepPlan, *, alive: bool) -> bool:
    """Return whether a finished record is of before the sweep, which will run it again."""
    is_old = not job.was_over and (record.finished_at or "") < plan.started_at
    return is_old and alive


def _found_row(folder: Path, label: str, records: Records) -> Row:
    """Return the row of a run that no plan names."""
    found, log = records.read(folder), folder.parent / jobs.LOGS / f"{folder.name}.txt"
    record = found if isinstance(found, Record) else None
    row = Row(
        label=label, system=folder.name, method="", state="not started", folder=folder, log=log,
        gpus=_gpus(record) if record is not None else None,
    )  # fmt: skip
    if record is not None:
        row = _changed(row, system=f"{record.name}--{(record.recipe.hash or '')[:8]}", method=record.method)
    if run_folder.is_taken(folder) or files.is_locked(log):
        return _running(row, record, records.prices)
    if record is not None and record.finished_at is not None:
        return _with_result(row, record, None, records.prices)
    return _without_result(row, found)


def _is_lively(row: Row) -> bool:
    """Return whether a run on another machine, whose locks may not be seen from here, has written something lately.

    A clock that is ahead makes files look newer than now.
    """
    written = (row.folder / store.FILE, row.folder / TRAIN_LOG, row.log)
    ages = [age for age in map(_age_s, written) if age is not None]
    return bool(ages) and min(ages) < SILENT_S


def _running(row: Row, record: Record | None, prices: Prices) -> Row:
    begun = record.started_at if record is not None and record.finished_at is None else None
    seconds = _since(begun) if begun is not None else _age_s(row.folder / run_folder.LOCK)
    cost = spending.money(record, prices, seconds) if record is not None and begun is not None else None
    return _changed(row, state="running", seconds=seconds, note=jobs.last_line(row.log), money=cost)


def _without_result(row: Row, found: Record | str | None) -> Row:
    if isinstance(found, str):
        return _changed(row, state="unreadable", note=f"{store.FILE}: {found}")
    if found is not None and found.finished_at is None:
        return _changed(row, state="killed", note="it has ended without a word, and the record is not finished")
    return row


def _with_result(row: Row, record: Record, metric: str | None, prices: Prices) -> Row:
    split = next(iter(record.scores.get("after", {})), None)
    names = accessors.scalars(record, "after", split)
    shown = metric if metric in names else accessors.ranking_metric(names)
    value = None if shown is None else jobs.score_of(record, shown, split)
    taken_s = sum(phase.seconds for phase in record.phases)
    return _changed(
        row,
        state=record.status,
        seconds=taken_s if math.isfinite(taken_s) and taken_s > 0 else None,  # edited
        is_timed=not record.resumed,
        gpus=_gpus(record) if record.launch is not None else row.gpus,
        value=value,
        scored="" if value is None else f"{shown}, {split}",
        note=record.reason or "",
        money=spending.money(record, prices),
    )


def _changed(row: Row, **values: object) -> Row:
    return Row(**{**vars(row), **values})


def _gpus(record: Record) -> int | None:
    launch = record.launch
    return launch.world_size if launch is not None and launch.device.startswith("cuda") else None


def _since(begun: str) -> float | None:
    try:
        return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(begun)).total_seconds())
    except (ValueError, TypeError):  # edited
        return None


def _age_s(path: Path) -> float | None:
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except OSError:
        return None


def watch(folder: Path) -> int:
    """Show a sweep until it is over, or Ctrl-C; elsewhere than on a terminal once. Returns the exit code, 0.

    Raises SetupError as `look`, RecipeError for a damaged file of prices.
    """
    records = Records(prices.load())
    watched = look(folder, records)
    if console.is_live() and not watched.is_over:
        try:
            with Live(_drawn(watched), console=console.out, refresh_per_second=4, transient=True) as live:
                while not watched.is_over:
                    time.sleep(EVERY_S)
                    watched = look(folder, records)
                    live.update(_drawn(watched))
        except KeyboardInterrupt:
            _show(watched)
            console.say("no longer watched; the sweep goes on")
            return 0
    _show(watched)
    return 0


def _drawn(watched: Watched) -> Group:
    most = overview.rows_that_fit(console.out.size.height)
    lines = [*_lines(watched), *overview.logs(watched.rows), "Ctrl-C leaves this view; the sweep goes on"]
    return overview.drawn(overview.lines(watched.rows, watched.at_once, most), lines)


def _show(watched: Watched) -> None:
    """Print how it stands, as text that stays."""
    endings = overview.endings(watched.rows, watched.folder)
    rows = overview.lines(watched.rows, watched.at_once, reasons=False)
    for line in [*rows, *_lines(watched), *overview.logs(watched.rows), *endings]:
        console.say(line)


def _lines(watched: Watched) -> list[str]:
    return [watched.status(), *watched.sentences]
