"""Accuracy: the share of examples that were answered with the reference label."""

from typing import Any, ClassVar

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike

DESCRIPTION = """Accuracy = correct examples / examples.

Predictions and references are label ids. A negative prediction (no answer) is wrong. No examples give NaN.
"""
CITATION = "Manning, Raghavan and Schütze 2008, Introduction to Information Retrieval, section 8.3."
SIGNATURES = {"accuracy": "accuracy|no_answer:wrong|v1"}


class Accuracy(evaluate.Metric):
    """Accuracy of single-label classification."""

    reads = "predictions"
    configs = ("default",)
    higher_is_better: ClassVar[dict[str, bool]] = {"accuracy": True}

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in self.configs:
            raise ValueError(f"{self.__class__.__name__} has no config {self.config_name!r}, only {self.configs}")
        inputs = datasets.Value("int64")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            features=datasets.Features({"predictions": inputs, "references": inputs}),
        )

    def statistics(self, predictions: ArrayLike, references: ArrayLike, num_labels: int) -> np.ndarray:
        """[examples, 2]: correct, 1."""
        predicted, reference = _arrays(predictions, references, num_labels, multilabel=False)
        return np.stack([predicted == reference, np.ones(len(reference))], axis=1).astype(float)

    def values(self, sums: np.ndarray, num_labels: int) -> dict[str, np.ndarray]:
        """accuracy [...] from sums [..., 2]."""
        correct, number = sums[..., 0], sums[..., 1]
        return {"accuracy": np.where(number > 0, correct / np.maximum(number, 1), np.nan)}

    def proportions(self, sums: np.ndarray, num_labels: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Accuracy as (correct, examples)."""
        return {"accuracy": (sums[..., 0], sums[..., 1])}

    def per_example(self, predictions: ArrayLike, references: ArrayLike, num_labels: int) -> dict[str, np.ndarray]:
        """1 for a correct example, 0 for a wrong one, [examples]."""
        return {"accuracy": self.statistics(predictions, references, num_labels)[:, 0]}

    def signatures(self) -> dict[str, str]:
        """The settings behind each value."""
        return dict(SIGNATURES)

    def _compute(self, predictions: ArrayLike, references: ArrayLike, num_labels: int | None = None) -> dict[str, Any]:
        if num_labels is None:
            num_labels = _num_labels(predictions, references, multilabel=False)
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
