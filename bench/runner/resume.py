"""Finds what an earlier run left in a folder: an unfinished run to go on with, or a finished one to complete.

Nothing is removed that this very recipe did not make, unless `--overwrite` asks for it, and then only files that a run
writes. Scores of stage "before" are taken over where they are sealed with this person's key; else they are scored
again. Loads no torch by itself: rank zero looks before anything else is done.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError, SetupError
from bench.records import store
from bench.records.record import Record, Resumed
from bench.runner import run_folder
from bench.runner.run_folder import BEFORE_SEAL, FolderContents
from bench.training import checkpoint_files
from bench.training.checkpoint_files import Checkpoint
from bench.utils import files, signing
from bench.utils.system import utc_now

if TYPE_CHECKING:  # it holds what this file finds
    from bench.data.examples import Encoded
    from bench.runner.context import RunContext

TAKEN_OVER = "before: taken over from the interrupted run"
_PURPOSE = "before"
_SEAL_BYTES = 4096
# What the seal is over, of a record; of scores those of stage "before".
_SEALED = ("scores", "baselines", "comparability", "prompts", "retention")


@dataclass
class PreviousRun:
    """An unfinished run in the same folder: its newest checkpoint, its record, and notes for this run's record.

    settled: whether what this run takes over stands in its own record, which may then replace the other.
    finished: the record of this very run, which was ended while its figures and report were written.
    It is empty on every process but rank zero, which tells the others what follows from it.
    """

    checkpoint: Checkpoint | None = None
    record: Record | None = None
    notes: list[str] = field(default_factory=list)
    settled: bool = False
    finished: Record | None = None


def find_previous(folder: Path, recipe_hash: str, seed: int, *, overwrite: bool, resume: bool) -> PreviousRun:
    """Return what there is to go on from. Raises SetupError where a file would be lost, or is not this run's."""
    contents = run_folder.survey(folder)
    run_folder.refuse_foreign(folder, contents)
    left = _read(folder, contents, overwrite=overwrite)
    notes = []
    if contents.others:
        names = run_folder.shortened(contents.others)
        notes.append(
            f"left as they are, since no run writes such files: {len(contents.others)} in its folder ({names})"
        )
    if left is None or overwrite:
        return PreviousRun(notes=notes)
    if left.status == "ok":
        if (left.recipe.hash, left.seed) == (recipe_hash, seed) and not is_complete(left, folder):
            return PreviousRun(finished=left)
        raise SetupError(f"{folder} holds a finished run; give --overwrite to replace it, or another --out")
    _refuse_other(folder, left, recipe_hash, seed, contents)
    if formats := checkpoint_files.other_formats(folder / checkpoint_files.FOLDER):
        raise SetupError(
            f"{folder}: {formats[0]}; go on with the version that wrote it, or give --overwrite to start anew"
        )
    checkpoint, damaged = checkpoint_files.newest(folder / checkpoint_files.FOLDER)
    notes += damaged
    if checkpoint is not None:
        checkpoint.refuse_other(recipe_hash, seed, folder)
        checkpoint.refuse_unsigned()
        if not checkpoint.signed:
            notes.append(f"the checkpoint of step {checkpoint.step} is not signed with your key: it is read as data")
    elif resume:
        notes.append("--resume: there was no checkpoint to go on from, so training started from the beginning")
    return PreviousRun(checkpoint, left if checkpoint is not None or resume else None, notes)


def _read(folder: Path, contents: FolderContents, *, overwrite: bool) -> Record | None:
    """Return the record in a folder, if there is one. Raises SetupError for one that can't be read.

    With `overwrite`, only for a file that no run wrote.
    """
    if store.FILE not in contents.made:
        return None
    try:
        return store.read(folder)
    except BenchError as error:
        if not overwrite:
            raise SetupError(
                f"{error}; nothing was removed: give --overwrite to replace that run, or another --out"
            ) from error
        if not store.looks_like_record(folder / store.FILE):
            raise SetupError(
                f"{error}; no run wrote this file, so that --overwrite does not remove it: move it away, or give "
                "another --out"
            ) from error
        return None


def _refuse_other(folder: Path, left: Record, recipe_hash: str, seed: int, contents: FolderContents) -> None:
    """Raise SetupError for the record of another recipe or seed, and for a saved model that its run did not make."""
    results = [name for name in contents.made if name not in (store.FILE, *run_folder.FIRST, "traceback.txt")]
    if left.recipe.hash is None and not results:  # of a command that was refused: it holds nothing but the reason
        return
    differing = checkpoint_files.differences(left.recipe.hash, left.seed, recipe_hash, seed)
    if differing:
        raise SetupError(
            f"{folder} holds an unfinished run (status {left.status}) that is not this one: {'; '.join(differing)}; "
            "give --overwrite to replace it, or another --out"
        )
    saved = [name for name in contents.inside("model") if not name.startswith("model/base/")]
    saves = bool(left.recipe.resolved.get("save", True)) and "after" in left.scores
    if saved and "model" not in left.artifacts and not saves:
        raise SetupError(
            f"{folder} holds {run_folder.shortened(saved, 3)}, which the unfinished run in it did not make; move "
            "`model` away, give --overwrite to replace it, or another --out"
        )


def is_complete(record: Record, folder: Path) -> bool:
    """Return whether a finished run has its report and figures, and has removed its checkpoints."""
    drawn = [path for name, path in record.artifacts.items() if name == "report" or path.startswith("figures/")]
    there = all((folder / path).is_file() for path in drawn)
    return "report" in record.artifacts and there and not checkpoint_files.steps(folder / checkpoint_files.FOLDER)


def find_finished(folder: Path, recipe_hash: str, seed: int) -> Record | None:
    """Return the record of this very run where it has come to its end; rank zero completes or refuses it.

    For the other processes, which have nothing to do then. They may not see the folder.
    """
    try:
        left = store.read(folder)
    except BenchError:
        return None
    return left if left.status == "ok" and (left.recipe.hash, left.seed) == (recipe_hash, seed) else None


def clear(folder: Path, previous: PreviousRun) -> None:
    """Remove what a run wrote into a folder, but for what this one goes on from; the record goes last."""
    kept = {run_folder.LOCK}
    made = run_folder.survey(folder).made
    if previous.record is not None:
        kept |= {store.FILE, BEFORE_SEAL, *(name for name in made if name.startswith("predictions/before-"))}
    if previous.checkpoint is not None:
        kept |= {name for name in made if name.startswith((f"{checkpoint_files.FOLDER}/", "tensorboard/"))}
    gone = [name for name in made if name not in kept]
    run_folder.remove(folder, sorted(gone, key=lambda name: name == store.FILE))


# ---------------------------------------------------------------- the scores of stage "before"


def take_over_before(run: "RunContext") -> bool:
    """Fill in the scores of stage "before" from the interrupted run's record, if it has them for the same key.

    Every process must call it.
    """
    from accelerate.utils import broadcast_object_list

    previous = run.previous.record
    scored = previous is not None and bool(previous.scores.get("before"))
    problem = _find_other_before(run, previous) if previous is not None and scored else None
    scored, problem = broadcast_object_list([(scored, problem)])[0]
    if problem is not None:
        run.record.note(f"before: scored again, since {problem}")
    if not scored or problem is not None:
        return False
    if previous is not None:
        _copy_before(run.record, previous)
        for phase in ("score_before", *(["retention_before"] if run.also else [])):
            run.clock.seconds[phase] = sum(item.seconds for item in previous.phases if item.name == phase)
    run.record.note(TAKEN_OVER)
    return True


def _find_other_before(run: "RunContext", previous: Record) -> str | None:
    """Return why the scores of before can't be taken over; None where they can."""
    splits = run.resolved.recipe.evaluation.splits
    if missing := [name for name in splits if name not in previous.scores["before"]]:
        return f"the interrupted run had not come to {missing[0]}"
    for item in run.also:
        if item.part not in previous.retention or "before" not in previous.retention[item.part].scores:
            return f"the interrupted run had not come to {item.found.name}"
        found = previous.retention[item.part]
        if (found.fingerprint, found.signature) != (item.found.fingerprint, item.found.signature):
            return f"the examples or prompts of {item.found.name} were others"
    if previous.comparability != run.record.comparability:
        return "its examples, metrics or prompts were others"
    manifests = previous.prompts.manifests if previous.prompts is not None else {}
    for name in splits:
        if manifests.get(name) != prompt_manifest(run.inputs.splits[name]):
            return f"the prompts of {name} were others"
    try:
        seal = files.read_text(run.folder / BEFORE_SEAL, _SEAL_BYTES)
        content = _before_content(run.folder, previous, splits)
    except (OSError, ValueError) as error:
        return f"its seal or a file of predictions can't be read ({error})"
    if not signing.is_signed(_PURPOSE, content, seal.strip()):
        return "its scores and predictions are not as they were sealed with your key"
    return None


def prompt_manifest(split: "Encoded") -> str | None:
    """Return the hash of a split's ids and prompts as `text_examples.manifest` has it, before anything is scored."""
    hashes = {name: feature.get("prompt_hash") for name, feature in zip(split.ids, split.features, strict=True)}
    if not hashes or None in hashes.values():
        return None
    lines = "".join(f"{name} {hashes[name]}\n" for name in sorted(hashes))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def seal_before(run: "RunContext") -> None:
    """Sign the scores and predictions of stage "before", so that a resumed run may take them over."""
    splits = run.resolved.recipe.evaluation.splits
    try:
        seal = signing.sign(_PURPOSE, _before_content(run.folder, run.record, splits))
        files.write_text(run.folder / BEFORE_SEAL, f"{seal}\n")
    except (SetupError, OSError):
        return  # they are scored again


def _before_content(folder: Path, record: Record, splits: tuple[str, ...]) -> bytes:
    """Return what is sealed, as JSON. Raises OSError for a file of predictions that can't be read."""
    parts = record.model_dump_json(include=dict.fromkeys(_SEALED, True))
    known: dict[str, Any] = json.loads(parts)  # numbers as they are read back
    hashes = {}
    for name in (*splits, *record.retention):
        path = folder / "predictions" / f"before-{name}.jsonl"
        with files.open_regular(path, follow=False) as stream:
            hashes[name] = hashlib.sha256(stream.read()).hexdigest()
    prompts = known["prompts"]
    content = {
        "recipe": [record.recipe.hash, record.seed],
        "scores": known["scores"].get("before"),
        "baselines": known["baselines"],
        "comparability": known["comparability"],
        "prompts": None if prompts is None else [prompts["manifests"], prompts["answers"].get("before")],
        "files": hashes,
    }
    if record.retention:
        content["retention"] = {part: _only_before(one) for part, one in known["retention"].items()}
    return json.dumps(content, sort_keys=True).encode()


def _only_before(found: dict[str, Any]) -> dict[str, Any]:
    """Return a part of the record's retention as it was before training."""
    return {**found, "scores": {"before": found["scores"].get("before")}, "kept": None}


def _copy_before(new: Record, previous: Record) -> None:
    new.scores["before"], new.baselines = previous.scores["before"], previous.baselines
    new.throughput |= {name: previous.throughput[name] for name in previous.throughput if name != "train"}
    new.checks += [
        check for check in previous.checks if check.name == "ids_complete" and check.detail.startswith("before")
    ]
    if "before" in new.sharded_phases:
        new.sharded_phases["before"] = previous.sharded_phases.get("before", new.sharded_phases["before"])
    if "before" in previous.reliability:
        new.reliability["before"] = previous.reliability["before"]
    new.retention = {
        part: one.model_copy(update={"scores": {"before": one.scores["before"]}, "kept": None})
        for part, one in previous.retention.items()
    }
    new.artifacts |= {f"predictions_before_{part}": f"predictions/before-{part}.jsonl" for part in new.retention}
    new.artifacts |= {f"predictions_before_{name}": f"predictions/before-{name}.jsonl" for name in new.scores["before"]}
    if new.prompts is not None and previous.prompts is not None:
        new.prompts.manifests |= previous.prompts.manifests
        new.prompts.answers |= {
            stage: counts for stage, counts in previous.prompts.answers.items() if stage == "before"
        }
    for note in previous.notes:
        new.note(note)
    new.warn_of(*(warning for warning in previous.warnings if warning.sentence.startswith("before ")))


def resumed(step: int, previous: Record | None) -> Resumed:
    """Return what the record says of going on from the checkpoint of a step."""
    status, reason = (previous.status, previous.reason) if previous is not None else (None, None)
    return Resumed(at=utc_now(), from_step=step, status=status, reason=reason)
