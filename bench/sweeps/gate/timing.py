"""Runs recipes of a base commit for a gate: in turns with the code as it is, for speed; and once, for their losses."""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import DataError, SetupError
from bench.records import store
from bench.sweeps import jobs, scheduler
from bench.sweeps.gate import criteria
from bench.sweeps.gate.criteria import Verdict
from bench.sweeps.jobs import Machine
from bench.utils.files import ROOT
from bench.utils.git import git

# What is timed of a run; both are free of imports and of loading.
TIMED = {
    "a training step": ("train", "step_time_s", "p50"),
    "100 scored examples": ("test", "seconds_per_100_examples"),
}


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How recipes are timed. base: the other commit. out: where the runs go. level, factor: see `gate.speed`."""

    base: str
    rounds: int
    level: float
    factor: float
    machine: Machine
    overrides: tuple[str, ...]
    out: Path


def timed(path: Path, timing: Timing) -> list[Verdict]:
    """Runs a recipe of both commits in turns: A B, B A, A B, so that a drift of the machine touches both alike.

    Raises DataError where a run failed, where the recipe is another one in the base commit, and where there is no time
    to compare.
    """
    times: dict[str, dict[str, list[float]]] = {side: {what: [] for what in TIMED} for side in ("base", "new")}
    with scheduler.terminable(), _worktree(timing.base) as base:
        _require_same(path, base)
        for number in range(timing.rounds):
            for side in ("base", "new") if number % 2 == 0 else ("new", "base"):
                tree = base if side == "base" else ROOT
                found = _time_once(path, tree, timing, timing.out / f"{path.stem}-{side}-{number}")
                for what, value in found.items():
                    times[side][what].append(value)
    measured = [what for what in TIMED if times["base"][what] or times["new"][what]]
    if not measured or any(len(times[side][what]) < timing.rounds for side in times for what in measured):
        raise DataError(f"{path}: not every run says how long it took, so speed can't be compared; see {timing.out}")
    return [
        criteria.speed(path.stem, what, times["base"][what], times["new"][what], timing.level, timing.factor)
        for what in measured
    ]


def base_losses(path: Path, seed: int, timing: Timing) -> list[float] | None:
    """Every loss of a recipe's run by the base commit on this machine; None where it has another recipe, or none.

    Raises DataError where the run failed. timing: of rounds, level and factor nothing is used.
    """
    with scheduler.terminable(), _worktree(timing.base) as base:
        try:
            _require_same(path, base)
        except DataError:
            return None
        folder = timing.out / f"{path.stem}-base-losses"
        _launch(path, base, timing, folder, ("--seed", str(seed)))
        return jobs.losses(folder)


def _in(tree: Path, path: Path) -> Path:
    """Where a recipe of this project lies in a copy of it; any other lies where it is."""
    return tree / path.resolve().relative_to(ROOT) if path.resolve().is_relative_to(ROOT) else path.resolve()


def _require_same(path: Path, base: Path) -> None:
    there = _in(base, path)
    if not there.is_file():
        raise DataError(f"{path} is not in the base commit, so its speed can't be compared; name another with --speed")
    if there.read_bytes() != path.read_bytes():
        raise DataError(f"{path} is another recipe in the base commit, so that its times say nothing of the code; name "
                        "another with --speed")  # fmt: skip


def _time_once(path: Path, tree: Path, timing: Timing, folder: Path) -> dict[str, float]:
    log = _launch(path, tree, timing, folder)
    try:
        # Read as plain JSON: the base commit may write records of another schema.
        content = json.loads((folder / store.FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} at {tree} left no record; see {log}") from error
    return {what: value for what, keys in TIMED.items() if (value := _at(content, ("throughput", *keys))) is not None}


def _launch(path: Path, tree: Path, timing: Timing, folder: Path, more: Sequence[str] = ()) -> Path:
    """Runs a recipe of a copy of the project to its end; returns the log. Raises DataError where it fails."""
    recipe_path = _in(tree, path)
    arguments = [str(recipe_path), "--out", str(folder.resolve()), *more, *timing.overrides]
    port = scheduler.free_port() if timing.machine.processes > 1 else None
    log = folder.parent / f"{folder.name}.txt"
    with log.open("wb") as stream:
        # A session of its own, so that nothing of a run is left where the gate is stopped.
        process = subprocess.Popen(
            timing.machine.words(tree / "bench" / "run.py", arguments, port),
            cwd=tree,
            env=timing.machine.environment(timing.machine.gpus[: timing.machine.per_run]),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
    if process.returncode != 0:
        raise DataError(f"{path} at {tree} failed: {jobs.last_line(log) or 'it said nothing'}; see {log}")
    return log


def _at(content: Any, keys: Sequence[str]) -> float | None:
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return float(content) if isinstance(content, int | float) and content > 0 else None


def commit(name: str) -> str:
    """The hash of a commit. Raises SetupError where there is none of that name."""
    try:
        return git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}").strip()
    except SetupError as error:
        raise SetupError(f"--against {name!r}: there is no such commit in {ROOT}") from error


@contextlib.contextmanager
def _worktree(commit: str) -> Iterator[Path]:
    """The files of a commit in a folder of their own, which is removed afterwards."""
    with tempfile.TemporaryDirectory() as above:
        tree = Path(above) / "base"
        git("worktree", "add", "--detach", str(tree), commit)
        try:
            yield tree
        finally:
            git("worktree", "remove", "--force", str(tree))
