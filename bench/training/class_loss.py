"""Class weights and focal loss of a task head: weights from the training data, the loss, and its divisor."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from bench.config.training import Training
from bench.data.batching import IGNORED
from bench.data.examples import Encoded
from bench.errors import SetupError, did_you_mean
from bench.models import losses


@dataclass(frozen=True, kw_only=True)
class ClassWeights:
    """The weight of each label, by name. absent: labels that no training example has, which weigh 1."""

    values: dict[str, float]
    absent: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ClassLoss:
    """Cross-entropy over labels with class weights, or focal loss, summed over label items.

    weights: label -> weight, in the labels' order; of several labels an example, that of a label's positive entries,
    as torch's `pos_weight`.
    gamma: of the focal loss; None for cross-entropy.
    """

    weights: dict[str, float] | None
    gamma: float | None
    label_smoothing: float
    multi_label: bool

    def summed(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the loss of logits [..., labels], summed, in float32; labels: ids [...], or 0 and 1 as logits."""
        weights = self._on(logits.device)
        if self.multi_label:
            return losses.binary_loss_sum(logits, labels, weights, self.gamma, self.label_smoothing)
        chosen = labels != IGNORED
        return losses.class_loss_sum(logits[chosen], labels[chosen], weights, self.gamma, self.label_smoothing)

    def divisor(self, labels: torch.Tensor) -> torch.Tensor:
        """Return the divisor of the sum over these labels for a mean, as torch's losses have it.

        With class weights the sum of the weights of the items' own labels, so that a mean of parts, each with its
        divisor, is the mean of the whole; of several labels an example, the number of items.
        """
        weights, chosen = self._on(labels.device), labels != IGNORED
        return chosen.sum() if weights is None or self.multi_label else weights[labels[chosen]].sum()

    def _on(self, device: torch.device) -> torch.Tensor | None:
        return (
            None if self.weights is None else torch.tensor([*self.weights.values()], dtype=torch.float32, device=device)
        )


def made(settings: Training, weights: ClassWeights | None, *, multi_label: bool) -> ClassLoss | None:
    """Return the loss that the settings ask for; None for the task's own."""
    gamma = settings.loss.gamma if settings.loss.name == "focal" else None
    if weights is None and gamma is None:
        return None
    return ClassLoss(
        weights=None if weights is None else weights.values,
        gamma=gamma,
        label_smoothing=settings.label_smoothing,
        multi_label=multi_label,
    )


def weights_of(settings: Training, train: Encoded, labels: Sequence[str], *, multi_label: bool) -> ClassWeights | None:
    """Return the class weights that the settings ask for; None where they ask for none.

    balanced: items / (labels that occur x items of the label), as scikit-learn's `compute_class_weight`, so that the
    mean weight of an item is 1; of several labels an example, examples without the label / examples with it. Raises
    SetupError for a name that is not a label.
    """
    asked = settings.class_weights
    if asked is None:
        return None
    if not isinstance(asked, str):
        for name in asked:
            if name not in labels:
                raise SetupError(
                    f"training.class_weights: there is no label {name!r} in the training data."
                    f"{did_you_mean(name, labels)}"
                )
        return ClassWeights(values={name: asked.get(name, 1.0) for name in labels})
    counts, items = _counts(train, len(labels), multi_label=multi_label)
    occurring = np.count_nonzero(counts)
    given = np.maximum(counts, 1)
    weights = (items - counts) / given if multi_label else items / (occurring * given)
    return ClassWeights(
        # All examples have a label: its entries are all positive, and no weight balances them.
        values={name: float(w) if c and w else 1.0 for name, w, c in zip(labels, weights, counts, strict=True)},
        absent=tuple(name for name, count in zip(labels, counts, strict=True) if not count),
    )


def _counts(train: Encoded, num_labels: int, *, multi_label: bool) -> tuple[np.ndarray, int]:
    """Return how many label items of the training data have each label, and their number; of several, of examples."""
    if multi_label:
        rows = np.array([feature["labels"] for feature in train.features], dtype=np.int64)
        return rows.sum(axis=0), len(rows)
    tagged = bool(train.features) and "word_labels" in train.features[0]
    given = [feature["word_labels"] if tagged else [feature["labels"]] for feature in train.features]
    items = np.array([label for part in given for label in part if label != IGNORED], dtype=np.int64)
    return np.bincount(items, minlength=num_labels), len(items)
