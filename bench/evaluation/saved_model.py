"""Loads a run's saved model for prediction; for a damaged one, says which file is wrong and what is wrong with it."""

import json
import stat
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from bench.config import registry
from bench.errors import BenchError, DataError
from bench.models import saving, tfidf
from bench.records import failures
from bench.utils import files
from bench.utils.loading_errors import reason

# What `save` writes of every model, and the type of each value.
REQUIRED: dict[str, type | tuple[type, ...]] = {
    "task": str,
    "objective": str,
    "labels": list,
    "multi_label": bool,
    "threshold": (int, float),
    "max_length": int,
    "head": dict,
    "model_card": dict,
}
# What is read of it where it is there, which earlier versions did not write.
OPTIONAL: dict[str, type] = {"columns": dict, "clean": list, "files": dict}
OBJECTIVES = ("head", "text")
ADVICE = "copy the run's folder `model` again, or repeat the run"


def load(run_folder: Path) -> tuple[Any, Any, dict[str, Any]]:
    """Return (model in evaluation mode, tokenizer, description) of a run, on the CPU.

    Raises DataError or SetupError with the file that is missing or damaged, and what is wrong with it.
    """
    folder = find(run_folder)
    has_config = describe(folder).get("method") != tfidf.METHOD
    _refuse_special_files(folder)
    for path in sorted(folder.rglob("*.json")):
        read_object(path)
    for path in sorted(folder.rglob("*.safetensors")):
        _check_weights(path)
    if has_config and not any((folder / name).is_file() for name in saving.TYPES):
        raise DataError(f"{folder} holds neither a config.json nor an adapter_config.json; {ADVICE}")
    if (folder / "adapter_config.json").is_file() and not (folder / saving.ADAPTER).is_file():
        raise DataError(f"{folder} lacks {saving.ADAPTER}; {ADVICE}")
    try:
        return saving.load(folder)
    except BenchError:
        raise
    except Exception as error:  # transformers, peft, tokenizers and torch raise many kinds
        if failures.is_out_of_memory(error):
            raise DataError(f"there is not enough memory to load the model in {folder}") from error
        why = reason(error, str(folder)).split(". Should contain")[0].split(", expected one of")[0]
        raise DataError(f"the model in {folder} can't be loaded: {why[:300]}; {ADVICE}") from error


def _refuse_special_files(folder: Path) -> None:
    """Raise DataError for FIFOs and devices, also behind links: a library that opens one may wait or read for ever."""
    for path in sorted(folder.rglob("*")):
        try:
            mode = path.stat().st_mode
        except OSError:  # a link to nowhere: who needs it will say so
            continue
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise DataError(f"{path} is {files.kind_of(mode)}, not a regular file; {ADVICE}")


def find(run_folder: Path) -> Path:
    """Return the folder of a run's saved model. Raises DataError where there is none."""
    if not run_folder.exists():
        raise DataError(f"{run_folder}: there is no such folder")
    if not run_folder.is_dir():
        raise DataError(f"{run_folder} is a file; give the folder of a run")
    folder = run_folder / "model"
    if not (folder / saving.DESCRIPTION).is_file():
        if (run_folder / saving.DESCRIPTION).is_file():
            raise DataError(f"{run_folder} is a saved model; give the folder of its run: {run_folder.parent}")
        raise DataError(f"{run_folder} {_why_no_model(run_folder)}")
    return folder


def _why_no_model(run_folder: Path) -> str:
    """Return why there is no saved model in a folder, and what to do: it is no run's, or the run saved none."""
    record = run_folder / "record.json"
    if not record.is_file():
        runs = sorted(path.parent.name for path in run_folder.glob("*/record.json"))
        if runs:
            more = ", ..." if len(runs) > 3 else ""
            return f"holds runs, and is none; give the folder of one of them: {', '.join(runs[:3])}{more}"
        return "is not the folder of a run: it holds neither a model nor a record"
    found = read_object(record)
    if found.get("status") != "ok":
        return f"holds no saved model: the run ended with status {str(found.get('status'))[:20]!r}"
    recipe = found.get("recipe")
    resolved = recipe.get("resolved") if isinstance(recipe, dict) else None
    if isinstance(resolved, dict) and resolved.get("save") is False:
        return "holds no saved model: the run was told not to save it; repeat it with `save: true`"
    if isinstance(found.get("training"), dict):
        return f"holds no saved model, which the run wrote; {ADVICE}"
    return "holds no saved model: its method trains nothing, so that its model is the base model"


def describe(folder: Path) -> dict[str, Any]:
    """Return what `save` wrote about a model. Raises DataError for what is missing or of another type."""
    path = folder / saving.DESCRIPTION
    found = read_object(path)
    for name, kind in REQUIRED.items():
        if not isinstance(found.get(name), kind) or (kind is not bool and isinstance(found[name], bool)):
            shown = json.dumps(found[name])[:60] if name in found else "nothing"
            raise DataError(f"{path}: `{name}` is not what a run writes, got {shown}; {ADVICE}")
    for name, kind in OPTIONAL.items():
        if not isinstance(found.get(name, kind()), kind):
            shown = json.dumps(found[name])[:60]
            raise DataError(f"{path}: `{name}` is not what a run writes, got {shown}; {ADVICE}")
    if found["objective"] not in OBJECTIVES:
        raise DataError(f"{path}: `objective` must be one of {', '.join(OBJECTIVES)}, got {found['objective']!r:.60}")
    if found["task"] not in registry.names("tasks"):
        raise DataError(f"{path}: this version knows no task {found['task']!r:.60}; --include the folder that has it")
    if not all(isinstance(label, str) for label in found["labels"]) or found["max_length"] < 1:
        raise DataError(f"{path}: `labels` must be texts, and `max_length` at least 1; {ADVICE}")
    return found


def read_object(path: Path) -> dict[str, Any]:
    """Return the object of a JSON file. Raises DataError for any other content."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        why = f"it is nested too deeply ({error})" if isinstance(error, RecursionError) else str(error)
        raise DataError(f"{path} is not a whole JSON file: {why}; {ADVICE}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} holds {type(found).__name__}, not an object of JSON; {ADVICE}")
    return found


def _check_weights(path: Path) -> None:
    try:
        with safe_open(path, "pt") as weights:
            empty = not list(weights.keys())
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is not a whole safetensors file: {error}; {ADVICE}") from error
    if empty:
        raise DataError(f"{path} holds no weights; {ADVICE}")
