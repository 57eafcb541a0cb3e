"""Hamming accuracy: the share of all example-label pairs that are right (1 - Hamming loss)."""

from typing import ClassVar

import numpy as np

from bench.metrics import _base


class HammingAccuracy(_base.MeanMetric):
    """1 - Hamming loss of multi-label classification.

    1 - Hamming loss: entries of the 0/1 rows that equal the reference / all entries.

    A row with a negative entry (no answer) counts as the empty set. No examples give NaN. Where most entries are 0,
    answering 0 everywhere scores high: read it beside F1, and beside the majority baseline.
    """

    source = (
        'Schapire and Singer 1999, "Improved Boosting Algorithms Using Confidence-rated Predictions", Machine '
        "Learning 37, section 7 (Hamming loss)."
    )
    reads = "predictions"
    configs = ("multilabel",)
    higher_is_better: ClassVar[dict[str, bool]] = {"hamming_accuracy": True}
    unit_means = ("hamming_accuracy",)
    settings: ClassVar[dict[str, str]] = {"hamming_accuracy": "mean:examples,labels|no_answer:empty_set|v2"}

    def example_scores(self, predictions: np.ndarray, references: np.ndarray, num_labels: int) -> np.ndarray:
        """Return the number of right entries of each example, [examples]."""
        return (predictions == references).sum(axis=1)

    def proportions(self, sums: np.ndarray, num_labels: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return (right, examples) of a single label: it is then the subset accuracy."""
        return {"hamming_accuracy": (sums[..., 0], sums[..., 1])} if num_labels == 1 else {}

    def terms(self, num_labels: int) -> int:
        """Return the number of entries of a row."""
        return num_labels
