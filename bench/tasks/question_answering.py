"""Question answering: the answer to a question is a span of a passage, or, in SQuAD v2.0, there is none."""

import re
from collections.abc import Sequence
from typing import Any

import torch

from bench.config.cards import Prompt
from bench.data.prompts.encode import Wording
from bench.evaluation.readers import span
from bench.models.losses import span_loss_sum

OBJECTIVES = ("head", "text")
# What metrics read: answers in words, or labels.
READS = "answers"
METRICS = {"single_label": ("squad_v2",)}
AUTO_CLASS = "AutoModelForQuestionAnswering"
encode = span.encode


def head_outputs(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Return what the head says of each token, whatever the labels are."""
    return ("start", "end")


def loss(outputs: Any, batch: dict[str, torch.Tensor], *, label_smoothing: float) -> torch.Tensor:
    """Return the cross-entropy summed over label items, which are the two ends of each window's answer.

    outputs: start_logits and end_logits [windows, tokens]. batch: attention_mask [windows, tokens] and labels
    [windows, 2]. label_smoothing: always 0, as the recipe's check says.
    """
    starts, ends = batch["labels"].unbind(-1)
    return 2 * span_loss_sum(outputs.start_logits, outputs.end_logits, starts, ends, batch["attention_mask"])


def wording(prompt: Prompt, labels: Sequence[str], multi_label: bool) -> Wording:
    """Return how a question is put to a language model, with its first gold answer, or `prompt.none` without one."""

    def fields_of(row: Any) -> dict[str, str]:
        """Return the values of the template's fields."""
        return {"text": row["text"], "text_pair": row["text_pair"], "labels": prompt.none}

    def answer_of(row: Any) -> str:
        """Return the answer in the passage's words, on one line, as a written answer is read."""
        return " ".join(row["answers"][0].split()) if row["answers"] else prompt.none

    return Wording(fields=fields_of, answer=answer_of)


def parse(text: str, words: Sequence[str], none: str, multi_label: bool) -> str | None:
    """Read a written answer: return it, "" where it says that there is none, None where nothing was written.

    Case and outer punctuation do not matter for saying that there is none.
    """
    if not text.strip():
        return None
    return "" if _plain(text) and _plain(text) == _plain(none) else text


def _plain(text: str) -> str:
    return re.sub(r"^\W+|\W+$", "", " ".join(text.split())).casefold()
