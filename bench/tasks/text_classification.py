"""Text classification: one label of several, or any number of labels per text."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from bench.config.cards import Prompt
from bench.data.prompts.encode import Wording
from bench.evaluation.readers import head

OBJECTIVES = ("head", "text")
READS = "labels"
METRICS = {
    "single_label": ("accuracy", "f1", "mcc", "loss", "confusion_matrix", "per_label_accuracy"),
    "multi_label": ("jaccard", "f1", "hamming_accuracy", "subset_accuracy", "loss", "per_label_accuracy"),
}
# Its loss is cross-entropy over labels, so that it can be weighed by them.
CLASS_LOSS = True
AUTO_CLASS = "AutoModelForSequenceClassification"
encode = head.encode


def head_outputs(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Return the labels themselves: one output each."""
    return labels


def loss(outputs: Any, batch: dict[str, torch.Tensor], *, label_smoothing: float) -> torch.Tensor:
    """Return the loss summed over label items, to be divided once by their number in the whole optimiser step.

    outputs: logits [batch, labels]. batch: labels, [batch] ids of one label each (cross-entropy), or [batch, labels] of
    0 and 1 for several (binary cross-entropy; every label of every text is an item). Smoothing moves that share of the
    target to the uniform distribution (Szegedy et al. 2016), for several labels towards one half.
    """
    logits, labels = outputs.logits.float(), batch["labels"]
    if labels.dim() == 1:
        return functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=label_smoothing)
    target = labels.float() * (1 - label_smoothing) + label_smoothing / 2
    return functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")


def wording(prompt: Prompt, labels: Sequence[str], multi_label: bool) -> Wording:
    """Return how a row is put to a language model, with its label in words; several are joined by commas."""
    words = tuple(prompt.answers.get(name, name) for name in labels)

    def fields_of(row: Any) -> dict[str, str]:
        """Return the values of the template's fields."""
        return {"text": row["text"], "text_pair": row["text_pair"] or "", "labels": ", ".join(words)}

    def answer_of(row: Any) -> str:
        """Return the label or labels in words."""
        if not multi_label:
            return words[row["label"]]
        return ", ".join(word for word, on in zip(words, row["label"], strict=True) if on) or prompt.none

    return Wording(fields=fields_of, answer=answer_of, choices=() if multi_label else words)


def parse(text: str, words: Sequence[str], none: str, multi_label: bool) -> int | list[int]:
    """Read a written answer as a label id, or as 0 and 1 per label; -1 (for each label) when it can't be read.

    Case, quotes and punctuation around words do not matter. One label: the answer that the text begins with (the
    longest of them), else the only one that it mentions. Several: a list, split at commas, semicolons and "and"; every
    part must be an answer, or the whole text must say that there is none.
    """
    known = {_plain(word): number for number, word in enumerate(words)}
    if multi_label:
        return _parse_list(text, known, _plain(none))
    said = _plain(text)
    leading = [word for word in known if re.match(rf"{re.escape(word)}(?!\w)", said)]
    if leading:
        return known[max(leading, key=len)]
    mentioned = [word for word in known if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", said)]
    return known[mentioned[0]] if len(mentioned) == 1 else -1


def _parse_list(text: str, known: dict[str, int], none: str) -> list[int]:
    if _plain(text) == none:
        return [0] * len(known)
    parts = [_plain(part) for part in re.split(r"[,;]|\band\b", text)]
    numbers = {known.get(part) for part in parts if part}
    if not numbers or None in numbers:
        return [-1] * len(known)
    return [int(number in numbers) for number in range(len(known))]


def _plain(text: str) -> str:
    return re.sub(r"^\W+|\W+$", "", " ".join(text.split())).casefold()
