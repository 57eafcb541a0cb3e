"""Runs a split through a model: every example exactly once, on any number of processes, in the same batches."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from bench import record
from bench.console import Phase
from bench.errors import DivergedError, ScoreError
from bench.likelihood import default_budget, grouped
from bench.metricset import MetricSet, Predictions, per_row

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One split ready for the model: `features[i]` belongs to `ids[i]`. truncated: how many texts were cut.

    sizes: tokens per example, where a feature is not one row of `input_ids`. in_words: labels are gold texts.
    """

    name: str
    ids: tuple[str, ...]
    features: list[dict[str, Any]]
    truncated: int
    sizes: tuple[int, ...] | None = None
    in_words: bool = False

    @property
    def lengths(self) -> list[int]:
        """Tokens per example."""
        if self.sizes is not None:
            return list(self.sizes)
        return [len(feature["input_ids"]) for feature in self.features]

    @property
    def references(self) -> np.ndarray:
        """[examples] label ids, or [examples, labels] of 0 and 1; or lists of gold texts."""
        return _rows([feature["labels"] for feature in self.features], texts=self.in_words)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model says of one example: a label id (-1: none), or 0 and 1 per label; a probability per label.

    extra: what else is written beside the prediction, e.g. the text that it was read from.
    """

    prediction: Any
    scores: list[float]
    extra: dict[str, Any] = field(default_factory=dict)


class Reader(Protocol):
    """Reads a model's answers to one split. `batches` must not depend on the number of processes."""

    batches: list[list[int]]

    @property
    def notes(self) -> list[str]:
        """Fallbacks, with their reasons; complete when all was read."""

    def read(self, numbers: list[int]) -> list[Answer]:
        """Answers to the examples of one batch, in its order."""


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How a run scores: fixed for all its stages, so that before and after differ in the model only.

    batch_tokens: tokens that are scored at once, pads included; None leaves it to the reader.
    """

    task: Any
    tokenizer: Any
    metrics: MetricSet
    threshold: float
    device: torch.device
    precision: str
    batch_tokens: int | None = None
    reader: Callable[[Any, "Encoded", "Scoring"], Reader] | None = None


def batch_tokens(model: Any, scoring: Scoring) -> int:
    """Tokens of a batch, pads included: what the recipe says, else what suits the device that the model is on."""
    return scoring.batch_tokens or default_budget(model)


def collate(features: Sequence[dict[str, Any]], tokenizer: Any) -> dict[str, torch.Tensor]:
    """Pads to the longest on the right; the mask comes from lengths, so a pad token inside a text stays real."""
    lengths = np.array([len(feature["input_ids"]) for feature in features])
    mask = np.arange(lengths.max()) < lengths[:, None]
    batch = {
        "input_ids": _padded([feature["input_ids"] for feature in features], mask, tokenizer.pad_token_id),
        "attention_mask": torch.from_numpy(mask.astype(np.int64)),
        "labels": torch.tensor([feature["labels"] for feature in features]),
    }
    if "token_type_ids" in features[0]:
        batch["token_type_ids"] = _padded([feature["token_type_ids"] for feature in features], mask, 0)
    return batch


def _padded(rows: Sequence[Sequence[int]], mask: np.ndarray, value: int) -> torch.Tensor:
    # Filled by NumPy: a tensor per row takes eight times as long, in each step of training.
    filled = np.full(mask.shape, value, dtype=np.int64)
    for place, row in enumerate(rows):
        filled[place, : len(row)] = row
    return torch.from_numpy(filled)


class HeadReader:
    """The answers of a task head, in batches of like length, longest first.

    batches: they depend on nothing but the lengths and the number of tokens.
    """

    def __init__(self, model: Any, split: Encoded, scoring: Scoring) -> None:
        self.model, self.split, self.scoring = model, split, scoring
        self.batches = grouped(split.lengths, batch_tokens(model, scoring))
        self.notes: list[str] = []

    def read(self, numbers: list[int]) -> list[Answer]:
        """One forward."""
        batch = collate([self.split.features[number] for number in numbers], self.scoring.tokenizer)
        logits = forward(self.model, batch, self.scoring)
        predicted, scores = self.scoring.task.predict(logits, self.scoring.metrics.multi_label, self.scoring.threshold)
        return [
            Answer(prediction=answer, scores=row)
            for answer, row in zip(predicted.tolist(), scores.tolist(), strict=True)
        ]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Predictions of a whole split, the same on every process; the seconds that they took here; fallbacks."""

    predictions: Predictions
    seconds: float
    notes: list[str]


def run(model: Any, split: Encoded, scoring: Scoring, title: str) -> Scored:
    """Scores a whole split, each example exactly once.

    Raises ScoreError when an example is missing or comes twice, DivergedError for probabilities that are not finite.
    """
    state = PartialState()
    found: list[tuple[int, Answer]] = []
    lengths = split.lengths
    started_s = time.perf_counter()
    with evaluating(model):
        reader = (scoring.reader or HeadReader)(model, split, scoring)
        mine = reader.batches[state.process_index :: state.num_processes]
        with Phase(title, total=len(mine)) as progress:
            for numbers in mine:
                found += zip(numbers, reader.read(numbers), strict=True)
                progress.advance(tokens=sum(lengths[number] for number in numbers))
    seconds = time.perf_counter() - started_s
    notes = reader.notes
    if state.num_processes > 1:
        found, notes = gather_object(found), gather_object(notes)
    return Scored(predictions=_assembled(found, split), seconds=seconds, notes=list(dict.fromkeys(notes)))


def forward(model: Any, batch: dict[str, torch.Tensor], scoring: Scoring) -> torch.Tensor:
    """Logits of one batch, on the CPU, at the run's precision."""
    inputs = {name: tensor.to(scoring.device) for name, tensor in batch.items() if name != "labels"}
    with autocast(scoring.device, scoring.precision):
        return model(**inputs).logits.float().cpu()


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Mixed precision as accelerate sets it up for training; nothing for "no"."""
    if precision in AUTOCAST:
        return torch.autocast(device.type, dtype=AUTOCAST[precision])
    return contextlib.nullcontext()


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode without gradients; training mode comes back if it was on."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        yield
    model.train(was_training)


def _assembled(found: list[tuple[int, Answer]], split: Encoded) -> Predictions:
    """Sorted by id; the set of examples must be the one that was asked for, and every probability a number."""
    numbers = [number for number, _ in found]
    if len(numbers) != len(split.ids) or set(numbers) != set(range(len(split.ids))):
        raise ScoreError(
            f"{split.name}: {len(split.ids)} examples asked, {len(numbers)} predictions of {len(set(numbers))} "
            "examples came back; the scores would not be valid"
        )
    undefined = sum(not np.isfinite(answer.scores).all() for _, answer in found)
    if undefined:
        # Else each of them would count as a prediction of the first label.
        raise DivergedError(
            f"{split.name}: the probabilities of {undefined} of {len(found)} examples are not finite; the weights are "
            "not, or the precision (fp16?) is too narrow for this model"
        )
    found = sorted(found, key=lambda item: split.ids[item[0]])
    order = [number for number, _ in found]
    return Predictions(
        ids=tuple(split.ids[number] for number in order),
        predictions=_rows([answer.prediction for _, answer in found], texts=split.in_words),
        references=split.references[order],
        scores=np.array([answer.scores for _, answer in found]),
        extra=tuple(answer.extra for _, answer in found),
    )


def write_predictions(path: Path, predictions: Predictions, metrics: MetricSet, labels: tuple[str, ...]) -> None:
    """One JSON line per example, sorted by id: label names, probabilities, per-example metric values, and the rest."""
    per_example = metrics.per_example(predictions)
    lines = []
    for row, identity in enumerate(predictions.ids):
        # What was written has no probabilities.
        extra = predictions.extra[row] if predictions.extra else {}
        names = ("no_answer",) if isinstance(predictions.predictions[row], str) else labels
        line = {
            "id": identity,
            "prediction": label_names(predictions.predictions[row], labels),
            "reference": label_names(predictions.references[row], labels),
            "scores": None if "text" in extra else _named(names, predictions.scores[row]),
            "metrics": {name: float(values[row]) for name, values in per_example.items()},
            **extra,
        }
        lines.append(json.dumps(line, ensure_ascii=False))
    path.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(path, "\n".join(lines) + "\n")


def _rows(items: list[Any], *, texts: bool) -> np.ndarray:
    return per_row(items) if texts else np.array(items)


def _named(labels: tuple[str, ...], scores: Any) -> dict[str, float]:
    return {name: float(score) for name, score in zip(labels, scores, strict=True)}


def label_names(value: Any, labels: tuple[str, ...]) -> str | list[str] | None:
    """Label name or names; None for -1, which stands for no answer. Texts are what they are."""
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
