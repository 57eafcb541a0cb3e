"""The contract between scoring and the readers: how a split is scored, and what a reader answers for each example."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from bench.data.examples import Encoded
from bench.evaluation.metric_set import MetricSet
from bench.models.autocast import autocast
from bench.models.batch_budget import default_budget


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


def forward(model: Any, batch: dict[str, torch.Tensor], scoring: Scoring) -> torch.Tensor:
    """Logits of one batch, on the CPU, at the run's precision."""
    inputs = {name: tensor.to(scoring.device) for name, tensor in batch.items() if name != "labels"}
    with autocast(scoring.device, scoring.precision):
        return model(**inputs).logits.float().cpu()
