"""Confusion matrix: how many examples of each reference label got each prediction."""

from typing import Any, ClassVar

import numpy as np

from bench.analysis.stats import tables
from bench.analysis.stats.tables import Table
from bench.metrics import _base

# A matrix of more labels is kept as its cells that are not 0: their number grows with the examples, not as the square
# of the labels.
MOST_LABELS = 200


class ConfusionMatrix(_base.AdditiveMetric):
    """Confusion matrix of single-label classification, or one for each label of multi-label classification.

    Config "default" (label ids): [labels, labels], row = reference, column = prediction. Of more than 200 labels, the
    cells that are not 0: [cells, 3], each reference, prediction and number of examples, in this order.

    Config "multilabel" (rows of 0 and 1): [labels, 2, 2], for each label [[true negatives, false positives], [false
    negatives, true positives]], as scikit-learn's multilabel_confusion_matrix; no answer (a row with a negative entry)
    counts as the empty set. Of single labels, no answer has no column: a row then sums to less than the examples with
    that reference, and the difference is the number without an answer.
    """

    source = "Manning, Raghavan and Schütze 2008, Introduction to Information Retrieval, table 14.5."
    reads = "predictions"
    configs = ("default", "multilabel")
    higher_is_better: ClassVar[dict[str, bool]] = {}
    settings: ClassVar[dict[str, str]] = {"confusion_matrix": "rows:reference|no_answer:dropped|v1"}

    def example_statistics(self, predictions: np.ndarray, references: np.ndarray, num_labels: int) -> Table:
        """Return [examples, labels x labels], or [examples, labels x 4]: 1 in the cell the example falls into."""
        side, num_cells = (2, 4 * num_labels) if self.multi_label else (num_labels, num_labels**2)
        cell = references * side + predictions  # [examples] or [examples, labels]
        if self.multi_label:
            cell = cell + 4 * np.arange(num_labels)
        places = np.nonzero(predictions >= 0)
        return tables.from_entries(places[0], cell[places], (len(references), num_cells))

    def example_sums(self, predictions: np.ndarray, references: np.ndarray, num_labels: int) -> np.ndarray:
        """Return the sums [labels x labels], or [labels x 4]."""
        if not self.multi_label:
            answered = predictions >= 0
            return np.bincount((references * num_labels + predictions)[answered], minlength=num_labels**2)
        counts = [
            np.count_nonzero((references == reference) & (predictions == prediction), axis=0)
            for reference in (0, 1)
            for prediction in (0, 1)
        ]
        return np.stack(counts, axis=1).reshape(-1)

    def values(self, sums: np.ndarray, num_labels: int = 0) -> dict[str, np.ndarray]:
        """Return confusion_matrix [..., labels, labels] or [..., labels, 2, 2] from sums [..., cells]."""
        shape = (num_labels, 2, 2) if self.multi_label else (num_labels, num_labels)
        return {"confusion_matrix": sums.reshape(*sums.shape[:-1], *shape)}

    def compute_values(self, predictions: Any, references: Any, num_labels: int = 0) -> dict[str, np.ndarray]:
        """Return the matrix of all examples, or its cells."""
        if self.multi_label or num_labels <= MOST_LABELS:
            return super().compute_values(predictions, references, num_labels)
        predicted, reference = self.checked(predictions, references, num_labels)
        answered = predicted >= 0
        cells, counts = np.unique((reference * num_labels + predicted)[answered], return_counts=True)
        return {"confusion_matrix": np.stack([cells // num_labels, cells % num_labels, counts], axis=1)}

    def signatures(self) -> dict[str, str]:
        """Return the settings of one label an example, or of several."""
        several = {"confusion_matrix": "confusion_matrix|rows:reference|no_answer:empty_set|v2"}
        return several if self.multi_label else super().signatures()
