"""Accuracy of each label on its own."""

from typing import Any, ClassVar

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike

DESCRIPTION = """Config "default" (label ids): of the examples with this reference label, the share that were
answered with it.

Config "multilabel" (rows of 0 and 1): the share of all examples whose entry for this label is right. A
negative prediction (no answer) is wrong. A label without trials gets NaN, not 0: nothing is known about it.
"""
CITATION = "Manning, Raghavan and Schütze 2008, Introduction to Information Retrieval, section 8.3."
SIGNATURES = {"accuracy_per_label": "accuracy_per_label|of:reference_examples|absent:nan|no_answer:wrong|v1"}
SIGNATURES_MULTILABEL = {"accuracy_per_label": "accuracy_per_label|of:all_examples|no_answer:wrong|v1"}


class PerLabelAccuracy(evaluate.Metric):
    """Accuracy per label of single-label and multi-label classification."""

    reads = "predictions"
    configs = ("default", "multilabel")
    higher_is_better: ClassVar[dict[str, bool]] = {}

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
        """[examples, 2 x labels]: 1 where the label is right, 1 where the example is a trial of it."""
        multilabel = self.config_name == "multilabel"
        predicted, reference = _arrays(predictions, references, num_labels, multilabel)
        if multilabel:
            right, trial = predicted == reference, np.ones_like(reference)
        else:
            trial = reference[:, None] == np.arange(num_labels)
            right = trial & (predicted == reference)[:, None]
        return np.concatenate([right, trial], axis=1, dtype=float)

    def values(self, sums: np.ndarray, num_labels: int) -> dict[str, np.ndarray]:
        """accuracy_per_label [..., labels] from sums [..., 2 x labels]."""
        right, trials = np.split(sums, 2, axis=-1)
        return {"accuracy_per_label": np.where(trials > 0, right / np.maximum(trials, 1), np.nan)}

    def proportions(self, sums: np.ndarray, num_labels: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Per label (right, trials)."""
        right, trials = np.split(sums, 2, axis=-1)
        return {"accuracy_per_label": (right, trials)}

    def per_example(self, predictions: ArrayLike, references: ArrayLike, num_labels: int) -> dict[str, np.ndarray]:
        """None: a value per label, not a mean over all examples."""
        return {}

    def signatures(self) -> dict[str, str]:
        """The settings behind each value."""
        return dict(SIGNATURES_MULTILABEL if self.config_name == "multilabel" else SIGNATURES)

    def _compute(self, predictions: ArrayLike, references: ArrayLike, num_labels: int | None = None) -> dict[str, Any]:
        if num_labels is None:
            num_labels = _num_labels(predictions, references, self.config_name == "multilabel")
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
