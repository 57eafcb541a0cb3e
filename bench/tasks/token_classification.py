"""Token classification: a tag for each word of a sentence, as for names of people and places."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from bench.config.cards import Prompt
from bench.data.batching import IGNORED
from bench.data.prompts.encode import Wording
from bench.evaluation.readers import tags

OBJECTIVES = ("head",)
READS = "tags"
METRICS = {"single_label": ("entity_f1", "token_accuracy")}
# Its loss is cross-entropy over labels, so that it can be weighed by them.
CLASS_LOSS = True
AUTO_CLASS = "AutoModelForTokenClassification"
encode = tags.encode


def head_outputs(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Return the tags themselves: one output each."""
    return labels


def loss(outputs: Any, batch: dict[str, torch.Tensor], *, label_smoothing: float) -> torch.Tensor:
    """Return the cross-entropy summed over words, to be divided by their number in the whole optimiser step.

    outputs: logits [windows, tokens, tags]. batch: labels [windows, tokens], a tag's id at the first token of a word
    and IGNORED elsewhere.
    """
    chosen = batch["labels"] != IGNORED
    logits, labels = outputs.logits[chosen].float(), batch["labels"][chosen]
    return functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=label_smoothing)


def wording(prompt: Prompt, labels: Sequence[str], multi_label: bool) -> Wording:
    """Raise NotImplementedError: the task has no objective "text"."""
    raise NotImplementedError("tags of words are predicted by a head, not written")


def parse(text: str, words: Sequence[str], none: str, multi_label: bool) -> Any:
    """Raise NotImplementedError: the task has no objective "text"."""
    raise NotImplementedError("tags of words are predicted by a head, not written")
