"""Finds an unfinished run in a folder, and takes over its checkpoint and its scores of stage "before".

Loads no torch by itself: rank zero looks before anything else is done.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import BenchError, SetupError
from bench.records import store
from bench.records.record import Record, Resumed
from bench.runner.run_folder import is_ours
from bench.training import checkpoint_files
from bench.training.checkpoint_files import Checkpoint

if TYPE_CHECKING:  # it holds what this file finds
    from bench.runner.context import RunContext

from bench.utils.system import utc_now

TAKEN_OVER = "before: taken over from the interrupted run"


@dataclass
class PreviousRun:
    """An unfinished run in the same folder: its newest checkpoint, its record, and notes for this run's record.

    settled: whether what this run takes over stands in its own record, which may then replace the other.
    It is empty on every process but rank zero, which tells the others what follows from it.
    """

    checkpoint: Checkpoint | None = None
    record: Record | None = None
    notes: list[str] = field(default_factory=list)
    settled: bool = False


def find_previous(folder: Path, recipe_hash: str, seed: int, *, overwrite: bool, resume: bool) -> PreviousRun:
    """Return what there is to go on from. Raises SetupError where that would be lost, or is not this run's."""
    try:
        left = store.read(folder) if (folder / store.FILE).exists() else None
    except BenchError:
        left = None
    if overwrite:
        return PreviousRun()
    if left is not None and left.status == "ok":
        raise SetupError(f"{folder} holds a finished run; give --overwrite to replace it, or another --out")
    checkpoint, notes = checkpoint_files.newest(folder / checkpoint_files.FOLDER)
    if checkpoint is not None:
        checkpoint.refuse_other(recipe_hash, seed, folder)
    elif resume:
        notes.append("--resume: there was no checkpoint to go on from, so training started from the beginning")
    if left is not None and (left.recipe.hash, left.seed) != (recipe_hash, seed):
        left = None
    return PreviousRun(checkpoint, left if checkpoint is not None or resume else None, notes)


def clear(folder: Path, previous: PreviousRun) -> None:
    """Empty a folder for a run, but for what it goes on from. Raises SetupError for what is no run's folder."""
    if folder.exists() and not is_ours(folder) and any(folder.iterdir()):
        raise SetupError(f"{folder} is not empty and holds no record; give another --out")
    files = ["report.md", "train_log.jsonl", "traceback.txt"]
    for name in files if previous.record is not None else [store.FILE, *files]:
        (folder / name).unlink(missing_ok=True)
    folders = ["figures", "model"]
    folders += ["tensorboard", checkpoint_files.FOLDER] if previous.checkpoint is None else []
    folders += ["predictions"] if previous.record is None else []
    for name in folders:
        shutil.rmtree(folder / name, ignore_errors=True)
        if (folder / name).is_file():
            (folder / name).unlink()


def take_over_before(run: "RunContext") -> bool:
    """Fill in the scores of stage "before" from the interrupted run's record, if it has them for the same key.

    Every process must call it.
    """
    from accelerate.utils import broadcast_object_list

    previous = run.previous.record
    if not broadcast_object_list([previous is not None and _has_before(run, previous)])[0]:
        return False
    if previous is not None:
        _copy_before(run.record, previous)
        run.clock.seconds["score_before"] = sum(item.seconds for item in previous.phases if item.name == "score_before")
    run.record.note(TAKEN_OVER)
    return True


def _has_before(run: "RunContext", previous: Record) -> bool:
    splits = run.resolved.recipe.evaluation.splits
    files = [run.folder / previous.artifacts.get(f"predictions_before_{name}", "missing") for name in splits]
    scored = all(name in previous.scores.get("before", {}) for name in splits)
    # The key covers the examples, the metrics and the prompts.
    return scored and previous.comparability == run.record.comparability and all(path.is_file() for path in files)


def _copy_before(new: Record, previous: Record) -> None:
    new.scores["before"], new.baselines = previous.scores["before"], previous.baselines
    new.throughput |= {name: previous.throughput[name] for name in previous.throughput if name != "train"}
    new.checks += [
        check for check in previous.checks if check.name == "ids_complete" and check.detail.startswith("before")
    ]
    new.artifacts |= {name: path for name, path in previous.artifacts.items() if name.startswith("predictions_before_")}
    if new.prompts is not None and previous.prompts is not None:
        new.prompts.manifests |= previous.prompts.manifests
        new.prompts.answers |= {
            stage: counts for stage, counts in previous.prompts.answers.items() if stage == "before"
        }
    for note in previous.notes:
        new.note(note)


def resumed(step: int, previous: Record | None) -> Resumed:
    """Return what the record says of going on from the checkpoint of a step."""
    status, reason = (previous.status, previous.reason) if previous is not None else (None, None)
    return Resumed(at=utc_now(), from_step=step, status=status, reason=reason)
