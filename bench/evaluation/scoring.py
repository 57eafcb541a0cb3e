"""Runs a split through a model: every example exactly once, in the same batches on any number of processes."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object

from bench.console import Phase
from bench.data.examples import Encoded, as_array, kind_of
from bench.distributed import in_step
from bench.errors import DivergedError, ScoreError
from bench.evaluation.metric_set import MetricSet, Predictions
from bench.evaluation.reader import Answer, Scoring
from bench.evaluation.readers.head import HeadReader
from bench.models.autocast import evaluating
from bench.utils import files


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Predictions of a whole split, the same on every process; the seconds that they took here; notes on fallbacks.

    check_s: seconds that comparing a fast path with the plain one took here, which are no part of the others.
    """

    predictions: Predictions
    seconds: float
    check_s: float
    notes: list[str]


def run(model: Any, split: Encoded, scoring: Scoring, title: str, *, says_end: bool = True) -> Scored:
    """Score a whole split, each example exactly once. says_end: see `console.Phase`.

    Raises ScoreError when an example is missing or comes twice, DivergedError for probabilities that are not finite.
    """
    state = PartialState()
    answers: list[tuple[int, Answer]] = []  # with numbers of examples
    lengths = split.lengths
    started_s = time.perf_counter()
    with evaluating(model):
        reader = (scoring.reader or HeadReader)(model, split, scoring)
        mine = reader.batches[state.process_index :: state.num_processes]
        with Phase.of_examples(title, mine, lengths, state.num_processes) as progress:
            progress.says_end = says_end
            for numbers in mine:
                answers += zip(numbers, reader.read(numbers), strict=True)
                progress.advance(len(numbers), tokens=sum(lengths[number] for number in numbers))
            in_step.settle()
    seconds = time.perf_counter() - started_s - reader.check_s
    notes = reader.notes
    if state.num_processes > 1:
        answers, notes = gather_object(answers), gather_object(notes)
    notes = list(dict.fromkeys(notes))
    return Scored(predictions=_assembled(answers, split), seconds=seconds, check_s=reader.check_s, notes=notes)


def _assembled(answers: list[tuple[int, Answer]], split: Encoded) -> Predictions:
    """Return predictions sorted by id. Raises ScoreError unless they are of each example once, and as `run` does."""
    numbers = [number for number, _ in answers]
    if len(numbers) != len(split.ids) or set(numbers) != set(range(len(split.ids))):
        raise ScoreError(
            f"{split.name}: expected predictions of {len(split.ids)} examples, got {len(numbers)} predictions of "
            f"{len(set(numbers))} examples; the scores would not be valid"
        )
    undefined = sum(not np.isfinite(answer.scores).all() for _, answer in answers)
    if undefined:
        # Else each of them would count as a prediction of the first label.
        raise DivergedError(
            f"{split.name}: the probabilities of {undefined} of {len(answers)} examples are not finite: weights "
            "are not finite, or fp16 overflows; use bf16 or float32"
        )
    answers = sorted(answers, key=lambda item: split.ids[item[0]])
    order = [number for number, _ in answers]
    return Predictions(
        ids=tuple(split.ids[number] for number in order),
        predictions=as_array([answer.prediction for _, answer in answers], texts=split.in_words),
        references=split.references[order],
        scores=np.array([answer.scores for _, answer in answers]),
        extra=tuple(answer.extra for _, answer in answers),
    )


def write_predictions(path: Path, predictions: Predictions, metrics: MetricSet, labels: tuple[str, ...]) -> None:
    """Write one JSON line per example, sorted by id: label names, probabilities, per-example metrics, and the rest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, _lines(predictions, metrics, labels))


def _lines(predictions: Predictions, metrics: MetricSet, labels: tuple[str, ...]) -> Iterator[str]:
    per_example, kind = metrics.per_example(predictions), kind_of(predictions.references)
    for row, identity in enumerate(predictions.ids):
        # Generated answers have no probabilities.
        extra = predictions.extra[row] if predictions.extra else {}
        names = ("no_answer",) if isinstance(predictions.predictions[row], str) else labels
        scores = predictions.scores[row]
        if "choice_characters" in extra:  # the row's own, of which others may have more
            names, scores = (values[: len(extra["choice_characters"])] for values in (names, scores))
        has_scores = "text" not in extra and kind not in ("numbers", "tags") and len(scores)
        line = {
            "id": identity,
            "prediction": label_names(predictions.predictions[row], labels),
            "reference": label_names(predictions.references[row], labels),
            "scores": _named(names, scores) if has_scores else None,
            "metrics": {name: float(values[row]) for name, values in per_example.items()},
            **extra,
        }
        yield f"{json.dumps(line, ensure_ascii=False)}\n"


def _named(labels: tuple[str, ...], scores: Any) -> dict[str, float]:
    return {name: float(score) for name, score in zip(labels, scores, strict=True)}


def label_names(value: Any, labels: tuple[str, ...]) -> str | float | list[str] | None:
    """Return the label name or names; None for -1, which means no answer. Texts, tags and numbers stay as they are."""
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, float):
        return None if math.isnan(value) else float(value)
    if (
        value is None
        or isinstance(value, str)
        or (isinstance(value, list) and all(isinstance(item, str) for item in value))
    ):
        return value
    if np.ndim(value) == 0:
        return labels[int(value)] if value >= 0 else None
    if min(value) < 0:
        return None
    return [name for name, on in zip(labels, value, strict=True) if on]
