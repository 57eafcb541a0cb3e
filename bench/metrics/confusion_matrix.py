"""Confusion matrix: how many examples of each reference label got each prediction."""

from typing import Any, ClassVar

import numpy as np

from bench.metrics import _base

# One-hot rows of a 150-label matrix are 180 kB an example; this many at a time stay within about 50 MB.
EXAMPLES_AT_ONCE = 256


class ConfusionMatrix(_base.AdditiveMetric):
    """Confusion matrix of single-label classification, or one for each label of multi-label classification.

    Config "default" (label ids): [labels, labels], row = reference, column = prediction.

    Config "multilabel" (rows of 0 and 1): [labels, 2, 2], for each label [[true negatives, false positives], [false
    negatives, true positives]], as scikit-learn's multilabel_confusion_matrix. A negative prediction (no answer) has no
    column: a row then sums to less than the examples with that reference, and the difference is the number without an
    answer.
    """

    source = "Manning, Raghavan and Schütze 2008, Introduction to Information Retrieval, table 14.5."
    reads = "predictions"
    configs = ("default", "multilabel")
    higher_is_better: ClassVar[dict[str, bool]] = {}
    settings: ClassVar[dict[str, str]] = {"confusion_matrix": "rows:reference|no_answer:dropped|v1"}

    def example_statistics(self, predictions: np.ndarray, references: np.ndarray, num_labels: int) -> np.ndarray:
        """Return [examples, labels x labels], or [examples, labels x 4]: 1 in the cell the example falls into.

        These are labels squared columns: sum them over parts of a large split.
        """
        side, num_cells = (2, 4 * num_labels) if self.multi_label else (num_labels, num_labels**2)
        # No answer gets -1, which is no cell; reference * side - 1 would be the last cell of another row.
        cell = np.where(predictions < 0, -1, references * side + predictions)  # [examples] or [examples, labels]
        return (cell[..., None] == np.arange(side**2)).reshape(len(references), num_cells)

    def values(self, sums: np.ndarray, num_labels: int = 0) -> dict[str, np.ndarray]:
        """Return confusion_matrix [..., labels, labels] or [..., labels, 2, 2] from sums [..., cells]."""
        shape = (num_labels, 2, 2) if self.multi_label else (num_labels, num_labels)
        return {"confusion_matrix": sums.reshape(*sums.shape[:-1], *shape)}

    def compute_values(self, predictions: Any, references: Any, num_labels: int = 0) -> dict[str, np.ndarray]:
        """Return the matrix of all examples, summed over parts."""
        predicted, reference = self.checked(predictions, references, num_labels)
        sums = self.statistics(predicted[:0], reference[:0], num_labels).sum(axis=0)
        for start in range(0, len(reference), EXAMPLES_AT_ONCE):
            part = slice(start, start + EXAMPLES_AT_ONCE)
            sums += self.statistics(predicted[part], reference[part], num_labels).sum(axis=0)
        return self.values(sums, num_labels)
