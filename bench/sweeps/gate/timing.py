"""Run recipes of a base commit: alternating with the current code to compare speed, and once for their losses."""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import DataError, SetupError
from bench.records import store
from bench.sweeps import jobs, processes, scheduler
from bench.sweeps.gate import criteria
from bench.sweeps.gate.criteria import Verdict
from bench.sweeps.gate.measured import Measured, measure
from bench.sweeps.jobs import Machine
from bench.utils import files
from bench.utils.files import ROOT
from bench.utils.git import git

# Timed quantities of a run; neither includes imports or loading.
TIMED = {
    "a training step": ("train", "step_time_s", "p50"),
    "100 scored examples": ("test", "seconds_per_100_examples"),
}


@dataclass(frozen=True, kw_only=True)
class TimingOptions:
    """Options of timing. base: the base commit. out: folder of the runs. level, factor: see `criteria.speed`."""

    base: str
    rounds: int
    level: float
    factor: float
    machine: Machine
    overrides: tuple[str, ...]
    out: Path


def time_recipe(path: Path, timing: TimingOptions) -> list[Verdict]:
    """Run a recipe of both commits alternately (A B, B A, A B), so that machine drift affects both equally.

    Raises DataError if a run failed, if the recipe differs in the base commit, or without times to compare.
    """
    times: dict[str, dict[str, list[float]]] = {side: {what: [] for what in TIMED} for side in ("base", "new")}
    with scheduler.terminable(), _worktree(timing.base) as base:
        _require_same(path, base)
        for number in range(timing.rounds):
            for side in ("base", "new") if number % 2 == 0 else ("new", "base"):
                tree = base if side == "base" else ROOT
                seconds = _time_once(path, tree, timing, timing.out / f"{path.stem}-{side}-{number}")
                for what, value in seconds.items():
                    times[side][what].append(value)
    measured = [what for what in TIMED if times["base"][what] or times["new"][what]]
    if not measured or any(len(times[side][what]) < timing.rounds for side in times for what in measured):
        raise DataError(f"{path}: speed can't be compared, since some runs recorded no times; see {timing.out}")
    return [
        criteria.speed(path.stem, what, times["base"][what], times["new"][what], timing.level, timing.factor)
        for what in measured
    ]


def runs_of_base(
    path: Path, seeds: Sequence[int], timing: TimingOptions, arithmetic: Mapping[str, str]
) -> list[Measured] | None:
    """Run a recipe of the base commit with these seeds; None if the recipe differs or is missing there.

    Raises DataError if a run failed. timing: rounds, level and factor are not used. arithmetic: this machine's.
    """
    with scheduler.terminable(), _worktree(timing.base) as base:
        try:
            _require_same(path, base)
        except DataError:
            return None
        folders = {seed: timing.out / f"{path.stem}-base-seed{seed}" for seed in seeds}
        more = {folder: ("--seed", str(seed)) for seed, folder in folders.items()}
        # GPUs are given to one run at a time here.
        logs = _launch_all(path, base, timing, more, 1 if timing.machine.gpus else timing.machine.jobs)
        return [
            measure(_record(path, base, folder, logs[folder]), folder, seed, arithmetic)
            for seed, folder in folders.items()
        ]


def _path_in(tree: Path, path: Path) -> Path:
    """Return the path of a recipe in another tree of this project; the path itself for a recipe outside."""
    return tree / path.resolve().relative_to(ROOT) if path.resolve().is_relative_to(ROOT) else path.resolve()


def _require_same(path: Path, base: Path) -> None:
    there = _path_in(base, path)
    if not there.is_file():
        raise DataError(f"{path} does not exist in the base commit; pass another recipe with --speed")
    if there.read_bytes() != path.read_bytes():
        raise DataError(f"{path} differs in the base commit, so times can't be compared; pass another with --speed")


def _time_once(path: Path, tree: Path, timing: TimingOptions, folder: Path) -> dict[str, float]:
    logs = _launch_all(path, tree, timing, {folder: ()})
    content = _record(path, tree, folder, logs[folder])
    return {what: value for what, keys in TIMED.items() if (value := _at(content, ("throughput", *keys))) is not None}


def _record(path: Path, tree: Path, folder: Path, log: Path) -> dict[str, Any]:
    """Read a run's record as plain JSON: the base commit may use another record schema."""
    try:
        content = json.loads(files.read_text(folder / store.FILE))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} at {tree} wrote no record; see {log}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} at {tree} wrote no record; see {log}")
    return content


def _launch_all(
    path: Path, tree: Path, timing: TimingOptions, more: Mapping[Path, Sequence[str]], at_once: int = 1
) -> dict[Path, Path]:
    """Run a recipe of a tree to its end for each folder; return the log files.

    more: folder -> further arguments. Raises DataError if one fails. If the gate is stopped, all of them are killed.
    """
    logs: dict[Path, Path] = {}
    running: dict[Path, subprocess.Popen[bytes]] = {}
    try:
        for folder, arguments in more.items():
            if len(running) == at_once:
                _finish(path, tree, running, logs)
            logs[folder] = folder.parent / f"{folder.name}.txt"
            running[folder] = _start(path, tree, timing, folder, arguments, logs[folder])
        while running:
            _finish(path, tree, running, logs)
    except BaseException:
        for process in running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        raise
    return logs


def _start(
    path: Path, tree: Path, timing: TimingOptions, folder: Path, more: Sequence[str], log: Path
) -> "subprocess.Popen[bytes]":
    arguments = [str(_path_in(tree, path)), "--out", str(folder.resolve()), *more, *timing.overrides]
    port = processes.free_port() if timing.machine.processes > 1 else None
    with log.open("wb") as stream:
        # In a separate session, so that all its processes can be killed when the gate is stopped.
        return subprocess.Popen(
            timing.machine.launch_command(tree / "bench" / "run.py", arguments, port),
            cwd=tree,
            env=timing.machine.environment(timing.machine.gpus[: timing.machine.per_run]),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _finish(path: Path, tree: Path, running: "dict[Path, subprocess.Popen[bytes]]", logs: Mapping[Path, Path]) -> None:
    """Wait for the run that was started first, and take it out. Raises DataError if it failed."""
    folder, process = next(iter(running.items()))
    process.wait()
    del running[folder]
    if process.returncode != 0:
        log = logs[folder]
        raise DataError(f"{path} at {tree} failed: {jobs.last_line(log) or 'no output'}; see {log}")


def _at(content: Any, keys: Sequence[str]) -> float | None:
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return float(content) if isinstance(content, int | float) and content > 0 else None


def resolve_commit(name: str) -> str:
    """Return the hash of a commit. Raises SetupError if it does not exist."""
    try:
        return git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}").strip()
    except SetupError as error:
        raise SetupError(f"--against {name!r}: no such commit in {ROOT}") from error


@contextlib.contextmanager
def _worktree(commit: str) -> Iterator[Path]:
    """Yield a temporary git worktree of a commit."""
    with tempfile.TemporaryDirectory() as above:
        tree = Path(above) / "base"
        git("worktree", "add", "--detach", str(tree), commit)
        try:
            yield tree
        finally:
            git("worktree", "remove", "--force", str(tree))
