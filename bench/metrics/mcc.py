"""Matthews correlation coefficient for any number of labels (R_K)."""

from typing import ClassVar

import numpy as np

from bench.analysis.stats import sums as formulas
from bench.analysis.stats import tables
from bench.analysis.stats.tables import Table
from bench.metrics import _base


class Mcc(_base.AdditiveMetric):
    """Matthews correlation coefficient of single-label classification.

    With s examples, c of them correct, t_k references and p_k predictions of label k, R_K = (c s - sum p_k t_k) /
    sqrt((s^2 - sum p_k^2) (s^2 - sum t_k^2)). Where the denominator is 0 (all predictions, or all references, are one
    label) it is 0, as in scikit-learn.

    Predictions and references are label ids. All negative predictions (no answer) together are one more predicted label
    that is no example's reference: their number squared enters the sum over p_k^2, and their product with t_k is 0.
    """

    source = (
        'Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation coefficient", Computational '
        "Biology and Chemistry 28, 367-374."
    )
    reads = "predictions"
    configs = ("default",)
    higher_is_better: ClassVar[dict[str, bool]] = {"mcc": True}
    settings: ClassVar[dict[str, str]] = {"mcc": "undefined:0|no_answer:own_label|v1"}

    def example_statistics(self, predictions: np.ndarray, references: np.ndarray, num_labels: int) -> Table:
        """Return [examples, 2 + 2 x labels]: correct, no answer, one-hot prediction, one-hot reference."""
        single = np.stack([predictions == references, predictions < 0], axis=1).astype(np.uint8)
        return tables.beside([single, *self.label_tables(predictions, references, num_labels)])

    def example_sums(self, predictions: np.ndarray, references: np.ndarray, num_labels: int) -> np.ndarray:
        """Return the sums [2 + 2 x labels]."""
        both, *counts = self.label_counts(predictions, references, num_labels)
        return np.concatenate([[both.sum(), np.count_nonzero(predictions < 0)], *counts])

    def values(self, sums: np.ndarray, num_labels: int = 0) -> dict[str, np.ndarray]:
        """Return mcc [...] from sums [..., 2 + 2 x labels]."""
        predicted, reference = np.split(sums[..., 2:], 2, axis=-1)  # [..., labels]
        return {"mcc": formulas.matthews_correlation(sums[..., 0], sums[..., 1], predicted, reference)}
