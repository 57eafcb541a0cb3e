"""Text classification: one label of several, or any number of labels per text."""

from collections.abc import Sequence
from typing import Any

OBJECTIVES = ("head",)
METRICS = {
    "single_label": ("accuracy", "f1", "mcc", "loss", "confusion_matrix", "per_label_accuracy"),
    "multi_label": ("jaccard", "f1", "hamming_accuracy", "subset_accuracy", "loss", "per_label_accuracy"),
}
AUTO_CLASS = "AutoModelForSequenceClassification"


def encode(rows: Sequence[dict[str, Any]], tokenizer: Any, max_length: int) -> tuple[list[dict[str, Any]], int]:
    """Rows ({"text", "text_pair"?, "label"}) -> features ({"input_ids", "labels"}), and how many texts were cut.

    Only the first text is shortened where there are two, unless the second alone is too long.
    """
    first = [row["text"] for row in rows]
    second = [row["text_pair"] for row in rows] if rows and rows[0].get("text_pair") is not None else None
    # Encoded once without a limit: the true lengths are needed to count what is cut.
    ids = tokenizer(first, second, verbose=False)["input_ids"]
    too_long = [index for index, sequence in enumerate(ids) if len(sequence) > max_length]
    if too_long:
        short = tokenizer(
            [first[index] for index in too_long],
            [second[index] for index in too_long] if second else None,
            truncation="longest_first" if second else True,
            max_length=max_length,
        )["input_ids"]
        for index, sequence in zip(too_long, short, strict=True):
            ids[index] = sequence
    features = [{"input_ids": sequence, "labels": row["label"]} for sequence, row in zip(ids, rows, strict=True)]
    return features, len(too_long)


def loss_sum(logits: Any, labels: Any, smoothing: float) -> Any:
    """Summed loss over label items, to be divided once by their number in the whole optimiser step.

    logits: [batch, labels]. labels: [batch] of ids for one label (cross-entropy), [batch, labels] of 0 and 1 for
    several (binary cross-entropy; every label of every text is an item). Smoothing moves that share of the target
    to the uniform distribution (Szegedy et al. 2016), for several labels towards one half.
    """
    from torch.nn import functional

    logits = logits.float()
    if labels.dim() == 1:
        return functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
    target = labels.float() * (1 - smoothing) + smoothing / 2
    return functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")


def predict(logits: Any, multi_label: bool, threshold: float) -> tuple[Any, Any]:
    """logits [batch, labels] -> predictions ([batch] ids, or [batch, labels] of 0 and 1), probabilities.

    Equal probabilities: the first label wins.
    """
    logits = logits.double()
    if multi_label:
        scores = logits.sigmoid()
        return (scores >= threshold).long(), scores
    scores = logits.softmax(-1)
    return scores.argmax(-1), scores
