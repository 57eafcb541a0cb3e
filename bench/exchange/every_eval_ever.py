"""Writes runs in the format of Every Eval Ever: a file of scores for each run, and one of its examples.

Source: the JSON schemas of the package every-eval-ever 0.3.0, `eval.schema.json` and `instance_level_eval.schema.json`
(github.com/evaleval/every_eval_ever), whose own validator a test runs over what is written here.
"""

import datetime
import hashlib
import json
import math
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench import __version__
from bench.analysis import accessors
from bench.analysis.accessors import Located
from bench.exchange.examples import rows_of
from bench.records.record import Record, Score
from bench.reporting.hub import cards
from bench.utils import numbers

SCHEMA_VERSION = "0.3.0"
_LEVEL = re.compile(r"(\d+) %")
_DRAWS = re.compile(r"(\d+) draws")
_UNSAFE = re.compile(r"[^\w.-]+")


def files(run: Located, name: str, stage: str, organization: str) -> dict[str, str]:
    """Return path -> content of one run's stage: "data/<data>/<developer>/<model>/<UUID>.json", and "…_samples.jsonl".

    organization: who ran the evaluation; a tuned model is called "<organization>/<name>". The UUID follows from the
    record, so that an export is the same each time. Texts of the data are not written: an example has its id, its
    reference and the answer.
    """
    _, record = run
    model = _model(record, stage, organization, name)
    content = _log(record, stage, organization, model)
    folder = f"data/{_safe(_data_name(record))}/{model['id']}"
    identity = _identity(content)
    lines = list(_examples(run, stage, content))
    if lines:
        text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
        place = f"{folder}/{identity}_samples.jsonl"
        content["detailed_evaluation_results"] = {
            "format": "jsonl",
            "file_path": place,
            "hash_algorithm": "sha256",
            "checksum": hashlib.sha256(text.encode()).hexdigest(),
            "total_rows": len(lines),
        }
    written = {f"{folder}/{identity}.json": json.dumps(content, indent=2, ensure_ascii=False) + "\n"}
    return written | ({place: text} if lines else {})


def _log(record: Record, stage: str, organization: str, model: Mapping[str, Any]) -> dict[str, Any]:
    at = record.finished_at or record.started_at
    seconds = int(datetime.datetime.fromisoformat(at).timestamp())
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": f"{_safe(_data_name(record))}/{_safe(model['id'])}/{seconds}",
        "evaluation_timestamp": at,
        "retrieved_timestamp": str(seconds),
        "source_metadata": {
            "source_name": cards.HARNESS,
            "source_type": "evaluation_run",
            "source_organization_name": organization,
            "evaluator_relationship": "third_party" if stage == "before" else "first_party",
        },
        "eval_library": {
            "name": cards.HARNESS,
            "version": __version__,
            "additional_details": _texts(
                {
                    "recipe": record.recipe.path,
                    "recipe_hash": record.recipe.hash,
                    "comparability": record.comparability.key if record.comparability else None,
                }
            ),
        },
        "model_info": model,
        "evaluation_results": list(_results(record, stage)),
    }


def _model(record: Record, stage: str, organization: str, run: str) -> dict[str, Any]:
    base = cards.base_model(record) or (record.model.id if record.model else None) or record.name
    is_tuned = stage == "after" and record.training is not None
    name = (
        f"{_safe(organization)}/{_safe(run)}" if is_tuned else base if "/" in base else f"unknown-owner/{_safe(base)}"
    )
    parameters = record.model.parameters if record.model else {}
    return {
        "name": name.rpartition("/")[2],
        "id": name,
        "developer": name.partition("/")[0],
        "inference_platform": "local",
        "additional_details": _texts(
            {
                "deployment_type": "self_deployed",
                "model_availability": "unknown",
                "base_model": base,
                "method": record.method,
                "seed": record.seed,
                "stage": accessors.stage_names(record).get(stage, stage),
                "weights": record.model.weights if record.model else None,
                "parameters": parameters.get("total"),
                "trainable_parameters": parameters.get("trainable"),
            }
        ),
    }


def _results(record: Record, stage: str) -> Iterator[dict[str, Any]]:
    for split in record.scores[stage]:
        for metric, score in sorted(accessors.scalars(record, stage, split).items()):
            if (value := numbers.finite(score.value)) is None:
                continue
            low, high = accessors.metric_bounds(metric)
            yield {
                "evaluation_result_id": f"{split}/{metric}",
                "evaluation_name": f"{_data_name(record)} ({split})",
                "source_data": _source(record, split, score),
                "evaluation_timestamp": record.finished_at or record.started_at,
                "metric_config": {
                    "evaluation_description": score.signature,
                    "metric_id": metric,
                    "metric_name": metric,
                    "lower_is_better": not accessors.higher_is_better([record], metric),
                    "score_type": "continuous",
                    "min_score": _bound(low),
                    "max_score": _bound(high),
                },
                "score_details": {"score": value, "uncertainty": _uncertainty(score)},
            }


def _bound(value: float) -> float | str:
    """Return an end of a metric's range, as the schema has it: JSON has no infinity."""
    return value if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"


def _uncertainty(score: Score) -> dict[str, Any]:
    uncertainty: dict[str, Any] = {"num_samples": score.examples}
    low, high = numbers.finite(score.low), numbers.finite(score.high)
    if low is None or high is None or score.interval is None:
        return uncertainty
    level, draws = _LEVEL.search(score.interval), _DRAWS.search(score.interval)
    interval = {"lower": low, "upper": high, "method": score.interval}
    uncertainty["confidence_interval"] = interval | ({"confidence_level": int(level[1]) / 100} if level else {})
    return uncertainty | ({"num_bootstrap_samples": int(draws[1])} if draws else {})


def _source(record: Record, split: str, score: Score) -> dict[str, Any]:
    name = _data_name(record)
    dataset = record.recipe.resolved.get("dataset")
    source = dataset.get("source", {}) if isinstance(dataset, dict) else {}
    part = record.data.splits.get(split) if record.data else None
    details = _texts({"fingerprint": part.fingerprint if part else None, "split": split})
    if source.get("kind") != "hub":
        return {"dataset_name": name, "source_type": "other", "additional_details": details}
    return {
        "dataset_name": name,
        "source_type": "hf_dataset",
        "hf_repo": source["id"],
        "hf_split": cards.source_split(record, split, score.examples),
        "samples_number": score.examples,
        "additional_details": details,
    }


def _examples(run: Located, stage: str, log: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a line for each example and metric that has a value of its own between 0 (wrong) and 1 (right)."""
    path, record = run
    for split in record.scores[stage]:
        scores = accessors.scalars(record, stage, split)
        shares = {
            name
            for name in scores
            if accessors.metric_bounds(name) == (0.0, 1.0) and accessors.higher_is_better([record], name)
        }
        for row in rows_of(path, record, stage, split):
            for metric in sorted(shares.intersection(row["metrics"])):
                yield _example(row, split, metric, log, _data_name(record))


def _example(row: Mapping[str, Any], split: str, metric: str, log: Mapping[str, Any], name: str) -> dict[str, Any]:
    score = float(row["metrics"][metric])
    raw = row.get("text", row["prediction"])
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": log["evaluation_id"],
        "model_id": log["model_info"]["id"],
        "evaluation_name": f"{name} ({split})",
        "evaluation_result_id": f"{split}/{metric}",
        "sample_id": row["id"],
        "interaction_type": "single_turn",
        "input": {"raw": "", "reference": [_text(value) for value in _listed(row["reference"])]},
        "output": {"raw": [_text(raw)]},
        "answer_attribution": [
            {
                "turn_idx": 0,
                "source": "output.raw",
                "extracted_value": _text(row["prediction"]),
                "extraction_method": "custom",
                "is_terminal": True,
            }
        ],
        "evaluation": {"score": score, "is_correct": score == 1},
        "metadata": {"input": "not exported; the sample_id names the example in the data"},
    }


def _data_name(record: Record) -> str:
    return record.data.id if record.data else record.name


def _listed(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else [value]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Return known values as texts, as the schema wants them."""
    return {name: str(value) for name, value in values.items() if value is not None}


def _safe(name: str) -> str:
    """Return a name as one component of a path: no separator, no end in a dot, not the reserved `data`."""
    safe = _UNSAFE.sub("_", Path(name).as_posix().replace("/", "__")).strip("._ ") or "unnamed"
    return f"{safe}_" if safe.lower() in ("data", "con", "prn", "aux", "nul") else safe


def _identity(content: Mapping[str, Any]) -> uuid.UUID:
    """Return a UUID of version 4's form that follows from the content."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()
    return uuid.UUID(bytes=digest[:16], version=4)
