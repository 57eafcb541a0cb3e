"""Precision, the share of predicted labels that are right: per label, and over labels in three ways."""

from typing import Any, ClassVar

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike

DESCRIPTION = """With the numbers of examples that have a label in the prediction, in the reference and in
both, precision of a label = both / predicted.

precision_macro is the mean of this over all labels, precision_micro takes the numbers summed over labels,
precision_weighted weighs each label by its number of reference examples. Zero divided by zero is 0, also for
a label without any reference and prediction, which so lowers the macro average: as scikit-learn with
labels=range(num_labels) and zero_division=0.

Config "default" reads label ids, config "multilabel" rows of 0 and 1. A negative prediction (no answer) adds
to no label's predicted number.
"""
CITATION = "Manning, Raghavan and Schütze 2008, Introduction to Information Retrieval, sections 8.3 and 13.6."
SIGNATURES = {
    "precision_macro": "precision_macro|labels:all|zero_division:0|no_answer:no_label|v1",
    "precision_micro": "precision_micro|labels:all|zero_division:0|no_answer:no_label|v1",
    "precision_weighted": "precision_weighted|labels:all|zero_division:0|no_answer:no_label|v1",
    "precision_per_label": "precision_per_label|labels:all|zero_division:0|no_answer:no_label|v1",
}


class Precision(evaluate.Metric):
    """Precision of single-label and multi-label classification."""

    reads = "predictions"
    configs = ("default", "multilabel")
    higher_is_better: ClassVar[dict[str, bool]] = {
        "precision_macro": True,
        "precision_micro": True,
        "precision_weighted": True,
    }

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in self.configs:
            raise ValueError(f"{self.__class__.__name__} has no config {self.config_name!r}, only {self.configs}")
        label_ids = datasets.Value("int64")
        inputs = label_ids if self.config_name == "default" else datasets.Sequence(label_ids)
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            features=datasets.Features({"predictions": inputs, "references": inputs}),
        )

    def statistics(self, predictions: ArrayLike, references: ArrayLike, num_labels: int) -> np.ndarray:
        """[examples, 3 x labels]: 1 where the label is in both, in the prediction, in the reference."""
        multilabel = self.config_name == "multilabel"
        predicted, reference = _arrays(predictions, references, num_labels, multilabel)
        labels = np.arange(num_labels)
        in_prediction = predicted == 1 if multilabel else predicted[:, None] == labels  # [examples, labels]
        in_reference = reference == 1 if multilabel else reference[:, None] == labels
        parts = [in_prediction & in_reference, in_prediction, in_reference]
        return np.concatenate(parts, axis=1, dtype=float)

    def values(self, sums: np.ndarray, num_labels: int) -> dict[str, np.ndarray]:
        """precision_per_label [..., labels] and its three averages [...] from sums [..., 3 x labels]."""
        counts = np.split(sums, 3, axis=-1)
        per_label = _score(*counts)
        reference = counts[2]  # [..., labels]
        return {
            "precision_macro": _ratio(per_label.sum(-1), num_labels),
            "precision_micro": _score(*(count.sum(-1) for count in counts)),
            "precision_weighted": _ratio((per_label * reference).sum(-1), reference.sum(-1)),
            "precision_per_label": per_label,
        }

    def proportions(self, sums: np.ndarray, num_labels: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Per label as (both, predicted), and with one label per example also pooled.

        Pooled multi-label trials are left out: several come from one example, so they are not independent.
        """
        both, predicted, _ = np.split(sums, 3, axis=-1)  # [..., labels]
        shares = {"precision_per_label": (both, predicted)}
        if self.config_name == "default":
            shares["precision_micro"] = (both.sum(-1), predicted.sum(-1))
        return shares

    def per_example(self, predictions: ArrayLike, references: ArrayLike, num_labels: int) -> dict[str, np.ndarray]:
        """None: not a mean over examples."""
        return {}

    def signatures(self) -> dict[str, str]:
        """The settings behind each value."""
        return dict(SIGNATURES)

    def _compute(self, predictions: ArrayLike, references: ArrayLike, num_labels: int | None = None) -> dict[str, Any]:
        if num_labels is None:
            num_labels = _num_labels(predictions, references, self.config_name == "multilabel")
        sums = self.statistics(predictions, references, num_labels).sum(axis=0)
        return {name: value.tolist() for name, value in self.values(sums, num_labels).items()}


def _score(both: np.ndarray, predicted: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Precision from numbers of examples, of one label or pooled."""
    return _ratio(both, predicted)


def _ratio(numerator: np.ndarray, denominator: np.ndarray | int) -> np.ndarray:
    """A quotient of counts, 0 where the denominator is 0."""
    return np.where(np.asarray(denominator) > 0, numerator / np.maximum(denominator, 1), 0.0)


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
