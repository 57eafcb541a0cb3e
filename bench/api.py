"""The package in Python, as `import bench` offers it: `bench.run_recipe` and `bench.load_records`.

    import bench

    record = bench.run_recipe("tiny/bert-full", seed=7, training__steps=20, out="runs/first")
    accuracy = record.scores["after"]["test"]["accuracy"]  # .value, .low, .high, .examples
    frame = bench.load_records("runs")  # pandas, a row a score
    after = frame[(frame.stage == "after") & (frame.metric == "accuracy")]
    table = after.groupby(["model", "method"])["value"].agg(["mean", "std", "count"])

`python -m bench report` and `compare` say which of these differences are real.
"""

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.analysis import accessors
from bench.config import foreign_code, overrides, registry
from bench.config.yaml_loader import Document
from bench.distributed import signals
from bench.distributed.watchdog import is_multi_process
from bench.errors import BenchError, RecipeError, SetupError
from bench.records.record import Record
from bench.runner import lifecycle

if TYPE_CHECKING:
    import pandas

# Columns of `load_records`, and their types in pandas.
COLUMNS = {
    **dict.fromkeys(("run", "study", "model", "dataset", "method"), "string"),
    "seed": "Int64",
    **dict.fromkeys(("stage", "split", "metric"), "string"),
    **dict.fromkeys(("value", "low", "high"), "float64"),
    "examples": "Int64",
    "higher_is_better": "boolean",
    **dict.fromkeys(("interval", "signature", "recipe_hash", "comparability", "status", "reason"), "string"),
}
# Place of a recipe that is a mapping, for its study's name, and so that cards are found in `datasets/` and `models/`.
INLINE = Path("inline") / "recipe"


def run_recipe(
    recipe: str | os.PathLike[str] | Mapping[str, Any],
    *,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    check: bool = False,
    include: Sequence[str | os.PathLike[str]] = (),
    trust_remote_code: bool = False,
    **keys: Any,
) -> Record:
    """Run a recipe in this process and return its record, which also lies in the run's folder.

    recipe: a path, a name like "tiny/bert-full", or the recipe itself as a mapping. keys: overrides of the recipe; two
    underscores are a dot: `training__steps=20`, or `training={"steps": 20}`. All others: as options of bench/run.py.
    Raises the harness's errors (`bench.errors`) in place of ending the process; one that ended a run has its record as
    `error.record`. Handlers of signals are left as they were. Several processes: `finetune-bench run`.
    """
    if is_multi_process():
        raise SetupError("bench.run_recipe runs in this process alone; start several with `finetune-bench run`")
    if out is not None and not os.fspath(out):
        raise SetupError("out: an empty path; for the working folder give '.'")
    document = _document(recipe) if isinstance(recipe, Mapping) else None
    words = [str(INLINE) if isinstance(recipe, Mapping) else os.fspath(recipe)]
    words += [f"{key.replace('__', '.')}={_as_yaml(key, value)}" for key, value in keys.items()]
    words += [] if out is None else [f"--out={os.fspath(out)}"]
    flags = {"overwrite": overwrite, "resume": resume, "check": check, "trust-remote-code": trust_remote_code}
    words += [f"--{name}" for name, is_given in flags.items() if is_given]
    words += [word for folder in include for word in ("--include", os.fspath(folder))]
    outcome = lifecycle.Outcome(document=document)
    included, confirmed = os.environ.get(registry.INCLUDE), foreign_code.is_confirmed()
    try:
        with signals.handlers_kept():
            lifecycle.main(words, outcome)
    finally:
        foreign_code.confirm(confirmed)
        os.environ.pop(registry.INCLUDE, None)
        os.environ.update({} if included is None else {registry.INCLUDE: included})
    return _result(outcome)


def _result(outcome: lifecycle.Outcome) -> Record:
    record, error = outcome.record, outcome.error
    if error is not None:
        if record is not None:
            error.record = record  # type: ignore[attr-defined]
        raise error
    assert record is not None
    if record.status != "ok":  # e.g. the record could not be written
        raise BenchError(f"{record.status}: {record.reason}")
    return record


def _document(recipe: Mapping[str, Any]) -> Document:
    """Return a recipe that is a mapping as one that was read; its problems are told without line numbers."""
    document = Document(_as_yaml("recipe", dict(recipe)), "recipe", numbered=False)
    assert isinstance(document.data, dict)
    return document


def _as_yaml(key: str, value: Any) -> str:
    try:
        return overrides.as_yaml(_plain(value))
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{key}: {value!r:.100} is not a value of a recipe: {error}") from error


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: paths as texts, tuples as lists; also NumPy's numbers."""
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("its keys must be texts")
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.item() if hasattr(value, "item") and callable(value.item) else value


def load_records(folder: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> "pandas.DataFrame":
    """Return the scores of all records at or below a folder (or several) as a table: a row a score, see COLUMNS.

    Scores with one value only: those per label are in the record. A run that did not end well has one row, with its
    status and reason and no score. Records that can't be read are warned of, and listed in `frame.attrs["unreadable"]`.
    Raises DataError for a path that is not there, and where there is no record at all.
    """
    import pandas

    paths = [folder] if isinstance(folder, str | os.PathLike) else list(folder)
    records, unreadable = accessors.read_all([Path(path) for path in paths])
    rows = [row for path, record in records for row in _rows(path.parent, record)]
    frame = pandas.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    for item in unreadable:
        warnings.warn(f"{item.path} is left out: {item.reason}", stacklevel=2)
    frame.attrs["unreadable"] = {str(item.path): item.reason for item in unreadable}
    return frame


def _rows(run: Path, record: Record) -> list[dict[str, Any]]:
    about = {
        "run": str(run),
        "study": record.study,
        "model": record.model.id if record.model else None,
        "dataset": record.data.id if record.data else accessors.dataset_card(record) or None,
        "method": record.method,
        "seed": record.seed,
        "recipe_hash": record.recipe.hash,
        "comparability": record.comparability.key if record.comparability else None,
        "status": record.status,
        "reason": record.reason,
    }
    scores = [
        {**about, "stage": stage, "split": split, "metric": metric}
        | {key: getattr(score, key) for key in ("value", "low", "high", "examples", "higher_is_better", "interval")}
        | {"signature": score.signature}
        for stage, splits in record.scores.items()
        for split in splits
        for metric, score in accessors.scalars(record, stage, split).items()
        if record.status == "ok"
    ]
    return scores or [about]
