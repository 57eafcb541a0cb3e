"""Multiple choice: which of a row's own choices is right; rows may have different numbers of them."""

from collections.abc import Sequence
from typing import Any

import torch

from bench.config.cards import Prompt
from bench.data.prompts.encode import Wording
from bench.evaluation.readers import choice_head
from bench.models.losses import choice_loss_sum

OBJECTIVES = ("head", "text")
READS = "choices"
METRICS = {"single_label": ("accuracy", "choice_accuracy", "loss")}
AUTO_CLASS = "AutoModelForMultipleChoice"
encode = choice_head.encode


def head_outputs(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Return the one output of the head: how well a choice fits its context."""
    return ("fit",)


def loss(outputs: Any, batch: dict[str, torch.Tensor], *, label_smoothing: float) -> torch.Tensor:
    """Return the cross-entropy over each example's own choices, summed over examples.

    outputs: logits [examples, choices]. batch: attention_mask [examples, choices, tokens], of a single token where an
    example has fewer choices than others, and labels [examples].
    """
    present = batch["attention_mask"].sum(-1) > 1
    return choice_loss_sum(outputs.logits, batch["labels"], present, label_smoothing)


def wording(prompt: Prompt, labels: Sequence[str], multi_label: bool) -> Wording:
    """Return how a row is put to a language model, with its choices in words."""

    def fields_of(row: Any) -> dict[str, str]:
        """Return the values of the template's fields."""
        return {"text": row["text"], "text_pair": row["text_pair"] or "", "labels": ", ".join(row["choices"])}

    def answer_of(row: Any) -> str:
        """Return the right choice."""
        return str(row["choices"][row["label"]])

    return Wording(fields=fields_of, answer=answer_of, choices_of=lambda row: tuple(row["choices"]))


def parse(text: str, words: Sequence[str], none: str, multi_label: bool) -> int:
    """Read a written answer as the number of the choice that it repeats; -1 where it repeats none."""
    said = " ".join(text.split()).casefold()
    plain = [" ".join(word.split()).casefold() for word in words]
    return plain.index(said) if said in plain else -1
