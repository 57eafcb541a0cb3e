"""What an earlier run left in a folder when it did not come to its end, and what of it this run takes over.

Loads no torch by itself: rank zero looks before anything else is done.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import console
from bench.errors import BenchError, SetupError
from bench.records import store
from bench.records.record import Record, Resumed
from bench.runner.run_folder import is_ours
from bench.training import checkpoint_files
from bench.training.checkpoint_files import Found
from bench.utils.system import utc_now

Run = Any  # bench.runner.context.Run, which lies above
TAKEN_OVER = "before: taken over from the interrupted run"


@dataclass
class Past:
    """found: the checkpoint to go on from. record: of the run that is gone on with. notes: for this run's record.

    settled: whether what this run takes over stands in its own record, which may then replace the other.
    On every process but rank zero it is empty; what follows from it is told to the others.
    """

    found: Found | None = None
    record: Record | None = None
    notes: list[str] = field(default_factory=list)
    settled: bool = False


def look(folder: Path, recipe_hash: str, seed: int, *, overwrite: bool, resume: bool) -> Past:
    """What there is to go on from. Raises SetupError where that would be lost, or is not this run's."""
    try:
        left = store.read(folder) if (folder / store.FILE).exists() else None
    except BenchError:
        left = None
    if overwrite:
        return Past()
    if left is not None and left.status == "ok":
        raise SetupError(f"{folder} holds a finished run; give --overwrite to replace it, or another --out")
    found, notes = checkpoint_files.newest(folder / checkpoint_files.FOLDER)
    if found is not None:
        found.refuse_other(recipe_hash, seed, folder)
    elif resume:
        notes.append("--resume: there was no checkpoint to go on from, so training started from the beginning")
    if left is not None and (left.recipe.hash, left.seed) != (recipe_hash, seed):
        left = None
    return Past(found, left if found is not None or resume else None, notes)


def clear(folder: Path, past: Past) -> None:
    """Makes room for a run; what it goes on from is left there. Raises SetupError for what is no run's folder."""
    if folder.exists() and not is_ours(folder) and any(folder.iterdir()):
        raise SetupError(f"{folder} is not empty and holds no record; give another --out")
    files = ["report.md", "train_log.jsonl", "traceback.txt"]
    for name in files if past.record is not None else [store.FILE, *files]:
        (folder / name).unlink(missing_ok=True)
    folders = ["figures", "model"]
    folders += ["tensorboard", checkpoint_files.FOLDER] if past.found is None else []
    folders += ["predictions"] if past.record is None else []
    for name in folders:
        shutil.rmtree(folder / name, ignore_errors=True)
        if (folder / name).is_file():
            (folder / name).unlink()


def take_over_before(run: Run) -> bool:
    """Fills in the scores of stage "before" from the interrupted run's record, where they are there and are the same.

    Every process must call it.
    """
    from accelerate.utils import broadcast_object_list

    past = run.past.record
    if not broadcast_object_list([past is not None and _has_before(run, past)])[0]:
        return False
    if past is not None:
        _copy_before(run.record, past)
        run.clock.seconds["score_before"] = sum(item.seconds for item in past.phases if item.name == "score_before")
    run.record.note(TAKEN_OVER)
    return True


def _has_before(run: Run, past: Record) -> bool:
    splits = run.resolved.recipe.evaluation.splits
    files = [run.folder / past.artifacts.get(f"predictions_before_{name}", "missing") for name in splits]
    scored = all(name in past.scores.get("before", {}) for name in splits)
    # The key covers the examples, the metrics and the prompts.
    return scored and past.comparability == run.record.comparability and all(path.is_file() for path in files)


def _copy_before(new: Record, past: Record) -> None:
    new.scores["before"], new.baselines = past.scores["before"], past.baselines
    new.throughput |= {name: past.throughput[name] for name in past.throughput if name != "train"}
    new.checks += [check for check in past.checks if check.name == "ids_complete" and check.detail.startswith("before")]
    new.artifacts |= {name: path for name, path in past.artifacts.items() if name.startswith("predictions_before_")}
    if new.prompts is not None and past.prompts is not None:
        new.prompts.manifests |= past.prompts.manifests
        new.prompts.answers |= {stage: found for stage, found in past.prompts.answers.items() if stage == "before"}
    for note in past.notes:
        new.note(note)


def precision(run: Run) -> dict[str, Any] | None:
    """The precision that the interrupted run had measured to be faster; training goes on with it."""
    from accelerate.utils import broadcast_object_list

    past = run.past.record if run.past.found is not None else None
    return broadcast_object_list([past.speed.get("precision") if past is not None else None])[0]


def resume(run: Run, fit: Any, *, divided: bool) -> None:
    """Puts a fit where the checkpoint is that all processes agree on, if there is one; see `resuming`."""
    from bench.training import checkpointing

    state = checkpointing.agree(fit, run.past.found, divided=divided)
    if state is None:
        return
    checkpointing.take_up(fit, state)
    fit.progress.leave_out(fit.step)
    past = run.past.record
    run.record.resumed = [*(past.resumed if past is not None else []), _resumed(fit.step, past)]
    console.say(f"training goes on from the checkpoint of step {fit.step}")


def _resumed(step: int, past: Record | None) -> Resumed:
    now = utc_now()
    status, reason = (past.status, past.reason) if past is not None else (None, None)
    return Resumed(at=now, from_step=step, status=status, reason=reason)
