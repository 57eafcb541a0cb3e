"""Loss: mean negative log-likelihood of the reference, in nats, from probabilities."""

from typing import Any, ClassVar

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike

# Keeps log(0) finite; also the largest loss that one example can have, 27.6 nats.
CLIP = 1e-12
# bfloat16 keeps 8 bits, so that the probabilities of one row may sum to 1 +- 0.004.
ROW_SUM_TOLERANCE = 0.01
DESCRIPTION = """Config "default": mean over examples of -ln p(reference label); predictions are rows of
probabilities that sum to 1, references label ids.

Config "multilabel": mean over all example-label pairs of -ln p(reference entry); predictions are rows of
probabilities of the entry 1, references rows of 0 and 1. Probabilities are clipped to 1e-12 ... 1 - 1e-12. A
probability outside 0 ... 1, as a logit would be, is an error; NaN is not, and makes the loss NaN. No examples
give NaN.
"""
CITATION = "Good 1952, Rational Decisions, Journal of the Royal Statistical Society B 14 (logarithmic score)."
SIGNATURES = {"loss": "loss|nats|mean:examples|clip:1e-12|v1"}
SIGNATURES_MULTILABEL = {"loss": "loss|binary|nats|mean:examples,labels|clip:1e-12|v1"}


class Loss(evaluate.Metric):
    """Cross-entropy of single-label, mean binary cross-entropy of multi-label classification."""

    reads = "scores"
    configs = ("default", "multilabel")
    higher_is_better: ClassVar[dict[str, bool]] = {"loss": False}

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in self.configs:
            raise ValueError(f"{self.__class__.__name__} has no config {self.config_name!r}, only {self.configs}")
        label_ids = datasets.Value("int64")
        inputs = {
            "predictions": datasets.Sequence(datasets.Value("float64")),
            "references": label_ids if self.config_name == "default" else datasets.Sequence(label_ids),
        }
        return evaluate.MetricInfo(description=DESCRIPTION, citation=CITATION, features=datasets.Features(inputs))

    def statistics(self, predictions: ArrayLike, references: ArrayLike, num_labels: int) -> np.ndarray:
        """[examples, 2]: summed loss in nats, number of terms; `predictions` is [examples, labels]."""
        losses = self._losses(predictions, references, num_labels)
        return np.stack([losses.sum(axis=1), np.full(len(losses), losses.shape[1])], axis=1).astype(float)

    def values(self, sums: np.ndarray, num_labels: int) -> dict[str, np.ndarray]:
        """loss [...] from sums [..., 2]."""
        total, number = sums[..., 0], sums[..., 1]
        return {"loss": np.where(number > 0, total / np.maximum(number, 1), np.nan)}

    def proportions(self, sums: np.ndarray, num_labels: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """None: a loss is not a share."""
        return {}

    def per_example(self, predictions: ArrayLike, references: ArrayLike, num_labels: int) -> dict[str, np.ndarray]:
        """The loss of each example, [examples]; multi-label: its mean over labels."""
        losses = self._losses(predictions, references, num_labels)
        return {"loss": losses.sum(axis=1) / max(losses.shape[1], 1)}

    def signatures(self) -> dict[str, str]:
        """The settings behind each value."""
        return dict(SIGNATURES_MULTILABEL if self.config_name == "multilabel" else SIGNATURES)

    def _compute(self, predictions: ArrayLike, references: ArrayLike, num_labels: int | None = None) -> dict[str, Any]:
        if num_labels is None:
            num_labels = np.shape(predictions)[-1]
        sums = self.statistics(predictions, references, num_labels).sum(axis=0)
        return {name: value.tolist() for name, value in self.values(sums, num_labels).items()}

    def _losses(self, predictions: ArrayLike, references: ArrayLike, num_labels: int) -> np.ndarray:
        """-ln p of every term: [examples, 1], or [examples, labels] for multi-label."""
        multilabel = self.config_name == "multilabel"
        reference = _references(references, num_labels, multilabel)
        scores = _probabilities(predictions, (len(reference), num_labels), sums_to_one=not multilabel)
        if multilabel:
            likelihood = np.where(reference == 1, scores, 1 - scores)
        else:
            likelihood = scores[np.arange(len(reference)), reference][:, None]
        return -np.log(np.clip(likelihood, CLIP, 1 - CLIP))


def _probabilities(predictions: ArrayLike, shape: tuple[int, int], sums_to_one: bool) -> np.ndarray:
    """The predictions as float64 of `shape`; ValueError where they are no probabilities (NaN passes)."""
    scores = np.asarray(predictions, dtype=float)
    if shape[0] == 0 and scores.size == 0:
        return np.zeros(shape)
    if scores.shape != shape:
        raise ValueError(f"predictions must be probabilities of shape {shape}, got shape {scores.shape}")
    outside = scores[(scores < 0) | (scores > 1 + ROW_SUM_TOLERANCE)]
    if outside.size:
        raise ValueError(f"prediction {outside[0]} is no probability: expected 0 to 1")
    row_sums = scores.sum(axis=1)
    wrong = row_sums[np.abs(row_sums - 1) > ROW_SUM_TOLERANCE]
    if sums_to_one and wrong.size:
        raise ValueError(f"the probabilities of a prediction sum to {wrong[0]}, expected 1")
    return scores


def _references(references: ArrayLike, num_labels: int, multilabel: bool) -> np.ndarray:
    """int64, [examples] or [examples, labels]; ValueError for a wrong shape, type or range."""
    array = np.asarray(references)
    shape = (len(array), num_labels) if multilabel else (len(array),)
    if array.size == 0 and len(array) == 0:
        array = np.zeros(shape, dtype=np.int64)
    if array.shape != shape or array.dtype.kind not in "biu":
        raise ValueError(f"references must be integers of shape {shape}, got {array.dtype} of shape {array.shape}")
    highest = 1 if multilabel else num_labels - 1
    outside = array[(array < 0) | (array > highest)]
    if outside.size:
        raise ValueError(f"reference {outside[0]} is out of range: expected 0 to {highest}")
    return array.astype(np.int64)
