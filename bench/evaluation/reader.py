"""Contract between scoring and readers: the settings of scoring, and the answer that a reader gives per example."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from bench.data.examples import Encoded
from bench.evaluation import self_check
from bench.evaluation.metric_set import MetricSet
from bench.models.batch_budget import default_budget


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A model's answer to one example.

    prediction: a label id (-1: none), 0 and 1 per label, text, a number (NaN: none), or a tuple of tags. scores: a
    probability per label, an array where there may be thousands. extra: other values to write beside the prediction,
    e.g. the generated text.
    """

    prediction: Any
    scores: list[float] | np.ndarray
    extra: dict[str, Any] = field(default_factory=dict)


class Reader(Protocol):
    """Reads a model's answers to one split. `batches` must not depend on the number of processes."""

    batches: list[list[int]]

    @property
    def check_s(self) -> float:
        """Return the seconds that comparing a fast path with the plain one took."""

    @property
    def notes(self) -> list[str]:
        """Return the fallbacks with their reasons; complete when everything was read."""

    def read(self, numbers: list[int]) -> list[Answer]:
        """Return the answers to the examples of one batch, in its order."""


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """Settings of scoring, the same for all stages of a run, so that before and after differ in the model only.

    batch_tokens: tokens of a batch, pads included; None leaves it to the reader. checked: examples that a reader also
    runs by the plain path before its first batch, to compare; 0 for none. shared_prefix: as `speed.shared_prefix`.
    scorer: makes what gives log-likelihoods of continuations; None: `likelihood.Scorer` of the model. generator: makes
    what writes answers; None: `generation.Generator` of the model.
    """

    tokenizer: Any
    metrics: MetricSet
    threshold: float
    device: torch.device
    precision: str
    batch_tokens: int | None = None
    checked: int = self_check.EXAMPLES
    shared_prefix: bool = True
    scorer: Callable[..., Any] | None = None
    generator: Callable[..., Any] | None = None
    reader: Callable[[Any, "Encoded", "Scoring"], Reader] | None = None


def batch_tokens(model: Any, scoring: Scoring) -> int:
    """Return the tokens of a batch, pads included: the recipe's, else what suits the model's device."""
    return scoring.batch_tokens or default_budget(model)
