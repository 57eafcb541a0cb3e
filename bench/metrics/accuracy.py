"""Accuracy: the share of examples that were answered with the reference label."""

from typing import ClassVar

import numpy as np

from bench.metrics import _base


class Accuracy(_base.MeanMetric):
    """Accuracy of single-label classification.

    Accuracy = correct examples / examples.

    Predictions and references are label ids. A negative prediction (no answer) is wrong. No examples give NaN.
    """

    source = "Manning, Raghavan and Schütze 2008, Introduction to Information Retrieval, section 8.3."
    reads = "predictions"
    configs = ("default",)
    higher_is_better: ClassVar[dict[str, bool]] = {"accuracy": True}
    binary = True
    settings: ClassVar[dict[str, str]] = {"accuracy": "no_answer:wrong|v1"}

    def example_scores(self, predictions: np.ndarray, references: np.ndarray, num_labels: int) -> np.ndarray:
        """Return 1 for a correct example, 0 for a wrong one, [examples]."""
        return predictions == references
