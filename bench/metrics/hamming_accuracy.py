"""Hamming accuracy: the share of all example-label pairs that are right (1 - Hamming loss)."""

from typing import Any, ClassVar

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike

DESCRIPTION = """1 - Hamming loss: entries of the 0/1 rows that equal the reference / all entries.

A negative entry of a prediction (no answer) is wrong. No examples give NaN. Where most entries are 0,
answering 0 everywhere scores high: read it beside F1.
"""
CITATION = """Schapire and Singer 1999, "Improved Boosting Algorithms Using Confidence-rated Predictions",
Machine Learning 37, section 7 (Hamming loss).
"""
SIGNATURES = {"hamming_accuracy": "hamming_accuracy|mean:examples,labels|no_answer:wrong|v1"}


class HammingAccuracy(evaluate.Metric):
    """1 - Hamming loss of multi-label classification."""

    reads = "predictions"
    configs = ("multilabel",)
    higher_is_better: ClassVar[dict[str, bool]] = {"hamming_accuracy": True}

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in self.configs:
            raise ValueError(f"{self.__class__.__name__} has no config {self.config_name!r}, only {self.configs}")
        inputs = datasets.Sequence(datasets.Value("int64"))
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            features=datasets.Features({"predictions": inputs, "references": inputs}),
        )

    def statistics(self, predictions: ArrayLike, references: ArrayLike, num_labels: int) -> np.ndarray:
        """[examples, 2]: right entries, entries."""
        predicted, reference = _arrays(predictions, references, num_labels, multilabel=True)
        right = (predicted == reference).sum(axis=1)
        return np.stack([right, np.full(len(reference), num_labels)], axis=1).astype(float)

    def values(self, sums: np.ndarray, num_labels: int) -> dict[str, np.ndarray]:
        """hamming_accuracy [...] from sums [..., 2]."""
        right, number = sums[..., 0], sums[..., 1]
        return {"hamming_accuracy": np.where(number > 0, right / np.maximum(number, 1), np.nan)}

    def proportions(self, sums: np.ndarray, num_labels: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """None: the entries of one example are not independent trials."""
        return {}

    def per_example(self, predictions: ArrayLike, references: ArrayLike, num_labels: int) -> dict[str, np.ndarray]:
        """The share of right entries of each example, [examples]."""
        return {"hamming_accuracy": self.statistics(predictions, references, num_labels)[:, 0] / max(num_labels, 1)}

    def signatures(self) -> dict[str, str]:
        """The settings behind each value."""
        return dict(SIGNATURES)

    def _compute(self, predictions: ArrayLike, references: ArrayLike, num_labels: int | None = None) -> dict[str, Any]:
        if num_labels is None:
            num_labels = _num_labels(predictions, references, multilabel=True)
        sums = self.statistics(predictions, references, num_labels).sum(axis=0)
        return {name: value.tolist() for name, value in self.values(sums, num_labels).items()}


def _arrays(
    predictions: ArrayLike, references: ArrayLike, num_labels: int, multilabel: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Both as int64, [examples] or [examples, labels]; ValueError for a wrong shape, type or range.

    Every metric that reads label ids holds this text, as each must load alone; a test compares the copies.
    """
    num_examples = len(np.asarray(references))
    shape = (num_examples, num_labels) if multilabel else (num_examples,)
    arrays = []
    for what, array in (("prediction", np.asarray(predictions)), ("reference", np.asarray(references))):
        if num_examples == 0 and array.size == 0:
            array = np.zeros(shape, dtype=np.int64)
        if array.shape != shape or array.dtype.kind not in "biu":
            got = f"{array.dtype} of shape {array.shape}"
            raise ValueError(f"{what}s must be integers of shape {shape}, got {got}")
        highest = 1 if multilabel else num_labels - 1
        # A negative prediction stands for "no answer"; a negative reference is an error in the data.
        outside = array[(array > highest) | ((array < 0) & (what == "reference"))]
        if outside.size:
            raise ValueError(f"{what} {outside[0]} is out of range: expected 0 to {highest}")
        arrays.append(array.astype(np.int64))
    return arrays[0], arrays[1]


def _num_labels(predictions: ArrayLike, references: ArrayLike, multilabel: bool) -> int:
    """The width of a row, or the highest label id + 1."""
    if multilabel:
        return np.asarray(references).shape[-1]
    return int(max(np.max(predictions, initial=-1), np.max(references, initial=-1))) + 1
