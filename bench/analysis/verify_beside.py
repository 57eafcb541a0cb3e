"""Verify what a record states beside the scores of its splits: a fitted temperature, and what a training kept."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.analysis import predictions, retention
from bench.analysis.predictions import MissingPredictions
from bench.analysis.stats import probabilities
from bench.analysis.stats.running_text import BY_UNIT
from bench.analysis.stats.sums import BY_PROBABILITY, Line, tally
from bench.analysis.verify import ROUNDING, UnsoundPredictions
from bench.errors import DataError
from bench.records.record import Data, Kept, Record, Retention, Score, SplitPart

STAGE = "after"
# A minimum is found to 1e-7 of its logarithm, and where it is flat not even that.
FITTED = 1e-4
# Of a loss that was taken of probabilities in float32.
SINGLE = 1e-6


def find_contradiction(path: Path, record: Record) -> str | None:
    """Return how predictions contradict the temperature or the retention of a record; None where they agree.

    path: of the record. Not recomputed: what a record of an earlier version has no predictions of, BLEU and means of
    values that need a library, as in `verify`; intervals of scores.
    """
    try:
        if record.temperature is not None:
            _check_temperature(path, record)
        for part, found in record.retention.items():
            _check_retention(path, record, part, found)
    except UnsoundPredictions as error:
        return str(error)
    return None


def _require(file: Path, name: str, stated: Any, recomputed: float, rounding: float = ROUNDING) -> None:
    """Raise UnsoundPredictions where the record states another value. Undefined is null."""
    if stated is None and not math.isfinite(recomputed):
        return
    if not (isinstance(stated, int | float) and abs(recomputed - stated) <= rounding * max(1, abs(recomputed))):
        raise UnsoundPredictions(
            f"{file}: {name} recomputed from the predictions is {recomputed!r}, but the record states {stated!r}; one "
            "of the two files was modified"
        )


# ---------------------------------------------------------------- temperature


def _check_temperature(path: Path, record: Record) -> None:
    found, several = record.temperature, _is_multi_label(record)
    assert found is not None
    if found.value is None or not found.value > 0:
        raise UnsoundPredictions(f"{path}: a temperature is above 0, and the record states {found.value!r}")
    value = float(found.value)
    try:
        file, scores, references, _ = _probabilities(path, record, "temperature", found.split)
    except MissingPredictions:
        pass  # of an earlier version
    else:
        if len(scores) != found.examples:
            raise UnsoundPredictions(
                f"{file}: {len(scores)} predictions, but the record states a temperature of {found.examples} examples"
            )
        after = probabilities.tempered(scores, value, multi_label=several)
        _require(file, "loss_before", found.loss_before, _loss(scores, references), SINGLE)
        _require(file, "loss_after", found.loss_after, _loss(after, references))
        fitted = probabilities.fitted_temperature(scores, references)
        if not math.isclose(math.log(fitted), math.log(value), rel_tol=0, abs_tol=FITTED):
            lowest = _loss(probabilities.tempered(scores, fitted, multi_label=several), references)
            # Of a loss that is flat, any is as good.
            if _loss(after, references) - lowest > ROUNDING:
                _require(file, "the fitted temperature", value, fitted)
    for split, stated in found.scores.items():
        try:
            _check_tempered(path, record, split, stated, value)
        except MissingPredictions:
            continue


def _check_tempered(path: Path, record: Record, split: str, stated: Mapping[str, Score], value: float) -> None:
    several, labels = _is_multi_label(record), _labels(record)
    file, scores, references, rows = _probabilities(path, record, STAGE, split)
    scaled = probabilities.tempered(scores, value, multi_label=several)
    lines = [
        Line(row["prediction"], row["reference"], scores=dict(zip(labels, each.tolist(), strict=True)))
        for row, each in zip(rows, scaled, strict=True)
    ]
    for name, one in stated.items():
        if name == "loss":
            recomputed = _loss(scaled, references)
        elif name == "brier":
            recomputed = _brier(scaled, references)
        elif name in BY_PROBABILITY:
            recomputed = tally(name, lines, labels, multi_label=several).score
        else:
            continue
        _require(file, f"{name} with the temperature", one.value, recomputed)


def _probabilities(
    path: Path, record: Record, stage: str, split: str
) -> tuple[Path, np.ndarray, np.ndarray, list[dict[str, Any]]]:
    """Return a file of predictions: probabilities [examples, labels], references as ids or 0 and 1, and its lines."""
    labels = _labels(record)
    numbers = {name: number for number, name in enumerate(labels)}
    rows = [*predictions.prediction_rows(path, stage, split)]
    file = path.parent / "predictions" / f"{stage}-{split}.jsonl"
    for row in rows:
        names = row["reference"] if isinstance(row["reference"], list) else [row["reference"]]
        if not isinstance(row.get("scores"), dict) or not {*row["scores"], *names} <= numbers.keys():
            raise UnsoundPredictions(f"{file}: {row['id']!r} lacks probabilities (scores) or has an unknown label")
    scores = np.array([[row["scores"].get(name, 0.0) for name in labels] for row in rows], dtype=float)
    if _is_multi_label(record):
        references = np.array([[int(name in row["reference"]) for name in labels] for row in rows])
    else:
        references = np.array([numbers[row["reference"]] for row in rows])
    return file, scores, references, rows


def _loss(scores: np.ndarray, references: np.ndarray) -> float:
    return probabilities.negative_log_likelihood(scores, references)


def _brier(scores: np.ndarray, references: np.ndarray) -> float:
    """Return the mean squared error as bench/metrics/brier.py has it."""
    if references.ndim == 2:
        return float(((scores - references) ** 2).mean())
    truth = np.arange(scores.shape[1]) == references[:, None]
    return float(((scores - truth) ** 2).sum(axis=1).mean() / (2 if scores.shape[1] == 2 else 1))


# ---------------------------------------------------------------- retention


def _check_retention(path: Path, record: Record, part: str, found: Retention) -> None:
    for stage, stated in found.scores.items():
        try:
            if BY_UNIT.keys() & stated.keys():
                _check_text(path, part, stage, stated)
            else:
                _check_data_set(path, record, part, stage, found)
        except MissingPredictions:
            return
    if found.kept is not None:
        _check_kept(path, part, found, found.kept)


def _check_text(path: Path, part: str, stage: str, stated: Mapping[str, Score]) -> None:
    file = path.parent / "predictions" / f"{stage}-{part}.jsonl"
    lines = retention.lines_of(path, stage, part, "")
    for name in BY_UNIT.keys() & stated.keys():
        try:
            recomputed = retention.tally_of(name, lines, (), multi_label=False).score
        except DataError as error:
            raise UnsoundPredictions(f"{file}: {error}") from error
        _require(file, name, stated[name].value, recomputed)


def _check_data_set(path: Path, record: Record, part: str, stage: str, found: Retention) -> None:
    """Verify scores of another data set as those of a run that has only this one."""
    counts = SplitPart(examples=found.examples, fingerprint=found.fingerprint, labels={}, tokens={}, truncated=0)
    resolved = {"seed": record.seed, "dataset": {"multi_label": found.multi_label, "scheme": found.scheme}}
    alone = record.model_copy(
        update={
            "data": Data(id=found.data, labels=found.labels, splits={part: counts}),
            "recipe": record.recipe.model_copy(update={"resolved": resolved}),
            "prompts": None,
            "scores": {stage: {part: found.scores[stage]}},
            "retention": {},
        }
    )
    if why := predictions.find_contradiction(path, alone):
        raise UnsoundPredictions(why)


def _check_kept(path: Path, part: str, found: Retention, stated: Kept) -> None:
    """Compare the whole comparison: its draws have a fixed seed."""
    file = path.parent / "predictions" / f"{STAGE}-{part}.jsonl"
    try:
        before, after = (retention.lines_of(path, stage, part, stated.metric) for stage in ("before", STAGE))
        again = retention.kept(
            stated.metric, before, after, found.labels, multi_label=found.multi_label, scheme=found.scheme
        )
    except MissingPredictions:
        return
    except UnsoundPredictions:
        raise
    except DataError as error:
        raise UnsoundPredictions(f"{file}: {found.name} before and after training: {error}") from error
    for name in ("before", "after", "difference", "low", "high", "p", "lost", "gained"):
        value, recomputed = getattr(stated, name), getattr(again, name)
        if (value is None) != (recomputed is None):
            raise UnsoundPredictions(
                f"{file}: kept.{name} recomputed from the predictions is {recomputed!r}, but the record states "
                f"{value!r}"
            )
        if recomputed is not None:
            _require(file, f"kept.{name} of {found.name}", value, float(recomputed))


def _is_multi_label(record: Record) -> bool:
    data = record.recipe.resolved.get("dataset")
    return bool(isinstance(data, dict) and data.get("multi_label"))


def _labels(record: Record) -> Sequence[str]:
    return record.data.labels if record.data is not None else []
