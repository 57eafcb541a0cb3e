"""Brier score: the mean squared error of probabilities."""

from typing import ClassVar

import numpy as np

from bench.metrics import _base


class Brier(_base.MeanMetric):
    """Brier score, 0 for certain and right predictions.

    Config "default": mean over examples of sum over labels of (probability - 1 if it is the reference else 0)^2, 0 to
    2; of two labels half of it, 0 to 1, which is the squared error of the second label's probability. This is
    scikit-learn's `brier_score_loss` with its default scale. Config "multilabel": mean over all example-label pairs of
    (probability - entry)^2.

    Predictions are probabilities, references label ids or rows of 0 and 1. NaN for a probability that is NaN, and for
    no examples.
    """

    source = "Brier 1950, Verification of Forecasts Expressed in Terms of Probability, Monthly Weather Review 78."
    reads = "scores"
    configs = ("default", "multilabel")
    higher_is_better: ClassVar[dict[str, bool]] = {"brier": False}
    settings: ClassVar[dict[str, str]] = {"brier": "sum:labels|two_labels:half|mean:examples|v1"}

    def example_scores(self, predictions: np.ndarray, references: np.ndarray, num_labels: int) -> np.ndarray:
        """Return the squared error of each example, [examples]; of several labels summed over them."""
        if self.multi_label:
            errors: np.ndarray = ((predictions - references) ** 2).sum(axis=1)
            return errors
        squares = (predictions**2).sum(axis=1)
        right = predictions[np.arange(len(references)), references]
        # Without a table of one-hot references: the right label's square is replaced.
        return (squares - right**2 + (1 - right) ** 2) / (2 if num_labels == 2 else 1)

    def terms(self, num_labels: int) -> int:
        """Return the number of terms of an example's score."""
        return num_labels if self.multi_label else 1

    def signatures(self) -> dict[str, str]:
        """Return the settings of one label an example, or of several."""
        several = {"brier": "brier|mean:examples,labels|v1"}
        return several if self.multi_label else super().signatures()
