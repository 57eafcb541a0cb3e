"""Regression: a number for a text, or for a pair of texts."""

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from bench.config.cards import Prompt
from bench.data.prompts.encode import Wording
from bench.evaluation.readers import number

OBJECTIVES = ("head", "text")
READS = "numbers"
METRICS = {"single_label": ("pearson", "spearman", "mse", "mae")}
AUTO_CLASS = "AutoModelForSequenceClassification"
encode = number.encode
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")


def head_outputs(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Return the one output, from which transformers takes a model for one of regression."""
    return ("value",)


def loss(outputs: Any, batch: dict[str, torch.Tensor], *, label_smoothing: float) -> torch.Tensor:
    """Return the squared error summed over examples, in float32, to be divided by their number in the optimiser step.

    outputs: logits [batch, 1]. batch: labels [batch]. label_smoothing: always 0, as the recipe's check says.
    """
    return functional.mse_loss(outputs.logits.float()[:, 0], batch["labels"].float(), reduction="sum")


def wording(prompt: Prompt, labels: Sequence[str], multi_label: bool) -> Wording:
    """Return how a row is put to a language model, with its number in `prompt.decimals` decimals."""

    def fields_of(row: Any) -> dict[str, str]:
        """Return the values of the template's fields."""
        return {"text": row["text"], "text_pair": row["text_pair"] or "", "labels": ""}

    def answer_of(row: Any) -> str:
        """Return the number in figures; what rounds to 0 has no sign."""
        rounded = round(row["label"], prompt.decimals) + 0.0
        return f"{rounded:.{prompt.decimals}f}"

    return Wording(fields=fields_of, answer=answer_of)


def parse(text: str, words: Sequence[str], none: str, multi_label: bool) -> float:
    """Read a written answer: return the first number in it, NaN where there is none, or none that is finite."""
    found = _NUMBER.search(text)
    value = float(found[0]) if found else math.nan
    return value if math.isfinite(value) else math.nan
