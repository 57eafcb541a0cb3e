"""Writes runs as lm-evaluation-harness leaves its own: a `results_*.json`, and a `samples_*.jsonl` for each task.

Source: `EvaluationTracker.save_results_aggregated` and `save_results_samples` of lm_eval 0.4.13. Standard errors are of
means over examples, as its own; other metrics have "N/A", which it writes where it has none.
"""

import hashlib
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bench import __version__
from bench.analysis import accessors
from bench.analysis.accessors import Located
from bench.config.cards import LM_EVAL
from bench.exchange.examples import rows_of
from bench.records.record import Record
from bench.reporting.hub import cards
from bench.utils import numbers

FILTER = "none"
NOT_AVAILABLE = "N/A"


def files(run: Located, name: str, stage: str) -> dict[str, str]:
    """Return file name -> content of one run's stage. name: of the run, as its model is called."""
    path, record = run
    date = (record.finished_at or record.started_at).replace(":", "-")
    results: dict[str, Any] = {"results": {}, "configs": {}, "versions": {}, "n-shot": {}, "n-samples": {}}
    results["higher_is_better"] = {}
    written: dict[str, str] = {}
    for split in record.scores[stage]:
        task = _task(record, split)
        rows = rows_of(path, record, stage, split)
        scores = _scores(record, stage, split, rows)
        results["results"][task] = {"alias": task, **scores}
        results["higher_is_better"][task] = {
            _name(metric): accessors.higher_is_better([record], metric)
            for metric in accessors.scalars(record, stage, split)
        }
        results["configs"][task] = {"task": task, "metadata": {"version": 0, "harness": cards.HARNESS}}
        results["versions"][task] = 0
        results["n-shot"][task] = record.prompts.shots if record.prompts else 0
        examples = record.data.splits[split].examples if record.data and split in record.data.splits else len(rows)
        results["n-samples"][task] = {"original": examples, "effective": examples}
        if rows:
            lines = (json.dumps(_sample(row), ensure_ascii=False) + "\n" for row in rows)
            written[f"samples_{task}_{date}.jsonl"] = "".join(lines)
    results["group_subtasks"] = {task: [] for task in results["results"]}
    results |= _about(name, record, stage)
    return {f"results_{date}.json": json.dumps(results, indent=2, ensure_ascii=False) + "\n", **written}


def _about(run: str, record: Record, stage: str) -> dict[str, Any]:
    git = (record.environment.git if record.environment else None) or {}
    return {
        "config": {
            "model": cards.HARNESS,
            "model_args": {"recipe": record.recipe.path, "hash": record.recipe.hash, "method": record.method},
            "limit": None,
            "bootstrap_iters": 0,
            "random_seed": record.seed,
        },
        "git_hash": git.get("commit"),
        "date": record.finished_at or record.started_at,
        "model_name": run,
        "model_name_sanitized": run,
        "model_source": f"{cards.HARNESS} {__version__}, stage {stage}",
    }


def _task(record: Record, split: str) -> str:
    name = (record.data.id if record.data else record.name).removeprefix(LM_EVAL)
    safe = "".join(sign if sign.isalnum() or sign in "-_." else "_" for sign in name)
    return safe if len(record.scores.get("after", {})) <= 1 else f"{safe}_{split}"


def _name(metric: str) -> str:
    """Return a metric's own name, without the filter that one of lm_eval's already has."""
    return metric.removeprefix(LM_EVAL).partition(",")[0]


def _scores(record: Record, stage: str, split: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    scores: dict[str, Any] = {"sample_len": len(rows)} if rows else {}
    for metric, score in sorted(accessors.scalars(record, stage, split).items()):
        if (value := numbers.finite(score.value)) is None:
            continue
        name, _, behind = metric.removeprefix(LM_EVAL).partition(",")
        values = [row["metrics"].get(metric) for row in rows]
        scores[f"{name},{behind or FILTER}"] = value
        scores[f"{name}_stderr,{behind or FILTER}"] = _standard_error(values, value)
    return scores


def _standard_error(values: Sequence[Any], mean: float) -> float | str:
    """Return that of a mean over examples; "N/A" where the score is none."""
    known = [float(value) for value in values if isinstance(value, int | float) and math.isfinite(value)]
    if len(known) < 2 or len(known) != len(values) or not math.isclose(statistics.fmean(known), mean, rel_tol=1e-9):
        return NOT_AVAILABLE
    return statistics.stdev(known) / math.sqrt(len(known))


def _sample(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return one line. lm_eval's doc_id is a position; here it is the example's own id, and its text is not written."""
    metrics = {_name(name): value for name, value in row["metrics"].items()}
    answer = row.get("text", row["prediction"])
    target = row["reference"] if isinstance(row["reference"], str) else json.dumps(row["reference"], ensure_ascii=False)
    return {
        "doc_id": row["id"],
        "doc": {"id": row["id"]},
        "target": target,
        "arguments": {},
        "resps": [[answer]],
        "filtered_resps": [row["prediction"]],
        "filter": FILTER,
        "metrics": sorted(metrics),
        "doc_hash": hashlib.sha256(row["id"].encode()).hexdigest(),
        "prompt_hash": row.get("prompt_hash") or "",
        "target_hash": hashlib.sha256(target.encode()).hexdigest(),
        **metrics,
    }
