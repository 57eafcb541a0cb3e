"""Written answers to a task of lm-evaluation-harness (generate_until), scored by its own filters and metrics."""

from collections.abc import Sequence
from typing import Any

import torch

from bench.config.cards import Prompt
from bench.config.contracts import EncodedData
from bench.data.prompts.encode import Wording
from bench.errors import SetupError

OBJECTIVES = ("text",)
READS = "answers"
# The card names the task's own, "lm_eval:<metric>,<filter>"; this is the one of a task without filters.
METRICS = {"single_label": ("lm_eval:exact_match,none",)}
AUTO_CLASS = "AutoModelForCausalLM"


def head_outputs(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Return nothing: answers are written."""
    return ()


def encode(*_: Any, **__: Any) -> EncodedData:
    """Raise SetupError: answers are written, there is no head for them."""
    raise SetupError("answers to this task are written: set objective: text")


def loss(outputs: Any, batch: dict[str, torch.Tensor], *, label_smoothing: float) -> torch.Tensor:
    """Raise SetupError: as for `encode`."""
    raise SetupError("answers to this task are written: set objective: text")


def wording(prompt: Prompt, labels: Sequence[str], multi_label: bool) -> Wording:
    """Return the text as it is: lm_eval's own prompt is made elsewhere (`bench.evaluation.lm_eval_examples`)."""
    return Wording(fields=lambda row: {"text": row["text"], "labels": ""}, answer=lambda row: str(row["answers"][0]))


def parse(text: str, words: Sequence[str], none: str, multi_label: bool) -> str:
    """Return the text: the task's filters read it."""
    return text
