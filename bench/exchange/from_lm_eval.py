"""Reads results of lm-evaluation-harness: `results_*.json`, with its `samples_<task>_*.jsonl` beside it.

With samples the metrics of examples become predictions, which `compare` pairs by document; without them there are only
values and standard errors. A task's metric "acc,none" becomes "lm_eval:acc,none".
"""

import json
import math
from pathlib import Path
from typing import Any

from bench.analysis import accessors
from bench.config.cards import LM_EVAL
from bench.errors import DataError
from bench.exchange import foreign
from bench.records.record import Comparability, Data, Model, Record, Score, SplitPart
from bench.utils import files

TOOL = "lm_eval"
_Z = 1.959963984540054  # of a two-sided interval of 95 %
SPLIT = "test"


def of_content(path: Path, content: Any, task: str) -> tuple[Record, list[dict[str, Any]]]:
    """Return the record of one task of a results file, and its lines of predictions (none without samples).

    Raises DataError for a file of another kind, a task that it lacks, and samples that contradict its values.
    """
    if not isinstance(content, dict) or task not in content.get("results", {}):
        raise DataError(f"{path}: it has no results of {task!r}")
    lines = _samples(path, task)
    examples = _of(content, "n-samples", task).get("effective") or len(lines)
    if not examples:
        raise DataError(f"{path}: it does not say of how many documents {task} is, and there are no samples beside it")
    if isinstance(examples, bool) or not isinstance(examples, int) or examples < 1:
        raise DataError(f"{path}: {task} is of {examples!r:.60} documents, expected a number from 1 on")
    record = _record(path, content, task)
    values = _of(content, "results", task)
    higher = _of(content, "higher_is_better", task)
    scores = {}
    for name, value in values.items():
        metric, _, behind = name.partition(",")
        if not behind or metric.endswith("_stderr") or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        low, high = accessors.metric_bounds(f"{LM_EVAL}{name}")
        if not math.isfinite(value) or not low <= value <= high:
            raise DataError(f"{path}: {task} has {name} = {value}, expected a number from {low:g} to {high:g}")
        error = values.get(f"{metric}_stderr,{behind}")
        scores[f"{LM_EVAL}{name}"] = _score(
            float(value), error, examples, f"{name}|{task}|{record.recipe.resolved['version']}", higher.get(metric),
            (low, high),
        )  # fmt: skip
    if not scores:
        raise DataError(f"{path}: {task} has no value")
    _check(path, lines, scores)
    record.scores = {"after": {SPLIT: scores}}
    part = SplitPart(
        examples=examples,
        fingerprint=foreign.digest(sorted(line["doc_hash"] for line in lines)) if lines else "unknown",
        labels={},
        tokens={},
        truncated=0,
    )
    record.data = Data(id=f"{LM_EVAL}{task}", splits={SPLIT: part})
    same = {"data": part.fingerprint if lines else [task, examples], "version": record.recipe.resolved["version"]}
    parts = {
        "data": foreign.digest(same),
        "template": foreign.digest([line["prompt_hash"] for line in lines]) if lines else None,
        "metrics": foreign.digest(sorted(scores)),
        "generation": None,
    }
    key = foreign.digest({**parts, "template": None})
    record.comparability = Comparability(key=key, parts=parts)
    if not lines:
        record.note("no samples beside the results: no paired test of this result is possible")
    return record, [{key: value for key, value in line.items() if key != "doc_hash"} for line in lines]


def _of(content: dict[str, Any], part: str, task: str) -> dict[str, Any]:
    """Return what one part of a results file says of a task; {} where it does not, or says null."""
    return (content.get(part) or {}).get(task) or {}


def tasks(path: Path, content: Any) -> list[str]:
    """Return the tasks of a results file. Raises DataError for a file of another kind."""
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, dict) or not results:
        raise DataError(f"{path}: no results of {TOOL}: it has no `results`")
    groups = set(content.get("groups") or {})
    return [task for task in results if task not in groups]


def _record(path: Path, content: dict[str, Any], task: str) -> Record:
    config = content.get("config") or {}
    model = str(content.get("model_name") or config.get("model") or "unknown")
    settings = {
        "model_args": config.get("model_args"),
        "shots": (content.get("n-shot") or {}).get(task),
        "limit": config.get("limit"),
        "version": f"task version {(content.get('versions') or {}).get(task)}",
    }
    record = foreign.begun(
        tool=f"{TOOL} {content.get('lm_eval_version', '')}".strip(),
        file=path,
        name=f"{task}--{model}",
        method="few_shot" if settings["shots"] else "zero_shot",
        seed=config.get("random_seed"),
        at=None,
        settings=settings,
    )
    known = config.get("model_num_parameters")
    record.model = Model(
        id=model,
        revision=config.get("model_revision") or None,
        weights="pretrained",
        class_=str(config.get("model", "unknown")),
        attention=None,
        parameters={"total": known} if known else {},
        dtypes={},
    )
    return record


def _samples(path: Path, task: str) -> list[dict[str, Any]]:
    """Return a line of predictions for each document of the samples beside a results file; none without samples."""
    suffix = path.stem.removeprefix("results")  # "_<date>"
    file = path.parent / f"samples_{task}{suffix}.jsonl"
    if not file.exists():
        return []
    found: dict[str, dict[str, Any]] = {}
    number = 0
    try:
        for number, text in enumerate(files.read_text(file, foreign.LIMIT_BYTES).split("\n"), start=1):
            if text.strip():
                row = json.loads(text)
                line = found.setdefault(str(row["doc_id"]), _line(row))
                behind = row.get("filter", "none")
                values = {f"{LM_EVAL}{name},{behind}": row[name] for name in row.get("metrics", [])}
                if twice := set(values).intersection(line["metrics"]):
                    raise DataError(f"{file}:{number}: document {row['doc_id']!r} has {min(twice)} a second time")
                line["metrics"] |= values
    except (OSError, *foreign.ODD) as error:
        raise DataError(f"{file}:{number}: no sample of {TOOL}: {foreign.said(error)}") from error
    return [found[name] for name in sorted(found)]


def _line(row: dict[str, Any]) -> dict[str, Any]:
    answers = row.get("filtered_resps") or row.get("resps") or [None]
    return {
        "id": str(row["doc_id"]),
        "prediction": answers[0] if isinstance(answers[0], str) else json.dumps(answers),
        "reference": row.get("target"),
        "scores": None,
        "metrics": {},
        "prompt_hash": str(row.get("prompt_hash", "")),
        "doc_hash": str(row.get("doc_hash", "")),
    }


def _check(path: Path, lines: list[dict[str, Any]], scores: dict[str, Score]) -> None:
    """Raise DataError where samples are fewer than the results say, or a mean over them is another value."""
    for name, score in scores.items():
        values = [line["metrics"].get(name) for line in lines]
        if not lines or not all(isinstance(value, int | float) for value in values):
            continue
        mean = math.fsum(values) / len(values)
        if len(values) != score.examples or not math.isclose(mean, float(str(score.value)), rel_tol=1e-6, abs_tol=1e-9):
            raise DataError(
                f"{path}: its samples do not fit: {name} is {score.value} of {score.examples} documents, and {mean} of "
                f"{len(values)} samples"
            )


def _score(value: float, error: Any, examples: int, signature: str, higher: Any, bounds: tuple[float, float]) -> Score:
    interval = isinstance(error, int | float) and math.isfinite(error)
    half = _Z * float(error) if interval else 0.0
    return Score(
        value=value,
        low=max(value - half, bounds[0]) if interval else None,
        high=min(value + half, bounds[1]) if interval else None,
        interval="normal 95 %, by lm_eval's standard error" if interval else None,
        examples=examples,
        signature=signature,
        higher_is_better=higher if isinstance(higher, bool) else None,
    )
