"""Confusion matrix: how many examples of each reference label got each prediction."""

from typing import Any, ClassVar

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike

DESCRIPTION = """Config "default" (label ids): [labels, labels], row = reference, column = prediction.

Config "multilabel" (rows of 0 and 1): [labels, 2, 2], for each label [[true negatives, false positives],
[false negatives, true positives]], as scikit-learn's multilabel_confusion_matrix. A negative prediction (no
answer) has no column: a row then sums to less than the examples with that reference, and the difference is
the number without an answer.
"""
CITATION = "Manning, Raghavan and Schütze 2008, Introduction to Information Retrieval, table 14.5."
SIGNATURES = {"confusion_matrix": "confusion_matrix|rows:reference|no_answer:dropped|v1"}
# One-hot rows of a 150-label matrix are 180 kB an example; this many at a time stay within about 50 MB.
EXAMPLES_AT_ONCE = 256


class ConfusionMatrix(evaluate.Metric):
    """Confusion matrix of single-label classification, or one for each label of multi-label classification.

    The statistics are labels squared columns wide: sum them over parts of a large split.
    """

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
        """[examples, labels x labels], or [examples, labels x 4]: 1 in the cell the example falls into."""
        multilabel = self.config_name == "multilabel"
        predicted, reference = _arrays(predictions, references, num_labels, multilabel)
        side, num_cells = (2, 4 * num_labels) if multilabel else (num_labels, num_labels**2)
        # No answer gets -1, which is no cell; reference * side - 1 would be the last cell of another row.
        cell = np.where(predicted < 0, -1, reference * side + predicted)  # [examples] or [examples, labels]
        return (cell[..., None] == np.arange(side**2)).reshape(len(reference), num_cells).astype(float)

    def values(self, sums: np.ndarray, num_labels: int) -> dict[str, np.ndarray]:
        """confusion_matrix [..., labels, labels] or [..., labels, 2, 2] from sums [..., cells]."""
        shape = (num_labels, 2, 2) if self.config_name == "multilabel" else (num_labels, num_labels)
        return {"confusion_matrix": sums.reshape(*sums.shape[:-1], *shape)}

    def proportions(self, sums: np.ndarray, num_labels: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """None: counts."""
        return {}

    def per_example(self, predictions: ArrayLike, references: ArrayLike, num_labels: int) -> dict[str, np.ndarray]:
        """None: counts."""
        return {}

    def signatures(self) -> dict[str, str]:
        """The settings behind each value."""
        return dict(SIGNATURES)

    def _compute(self, predictions: ArrayLike, references: ArrayLike, num_labels: int | None = None) -> dict[str, Any]:
        if num_labels is None:
            num_labels = _num_labels(predictions, references, self.config_name == "multilabel")
        predicted, reference = _arrays(predictions, references, num_labels, self.config_name == "multilabel")
        sums = self.statistics(predicted[:0], reference[:0], num_labels).sum(axis=0)
        for start in range(0, len(reference), EXAMPLES_AT_ONCE):
            part = slice(start, start + EXAMPLES_AT_ONCE)
            sums += self.statistics(predicted[part], reference[part], num_labels).sum(axis=0)
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
