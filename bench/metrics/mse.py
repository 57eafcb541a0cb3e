"""Mean squared error of predicted numbers."""

from typing import ClassVar

import numpy as np

from bench.metrics import _base


class Mse(_base.MeanMetric):
    """Mean squared error of regression.

    Mean over examples of (prediction - reference)^2, in the square of the numbers' unit.

    Predictions and references are numbers. A missing prediction (None or NaN) counts as the end of the references'
    range that is farther from its reference, the worst answer within it: see `correlations.farthest_filled`. NaN for no
    examples, and for a missing prediction where all references are the same.
    """

    source = "Gauss 1821, Theoria combinationis observationum erroribus minimis obnoxiae."
    reads = "numbers"
    configs = ("default",)
    higher_is_better: ClassVar[dict[str, bool]] = {"mse": False}
    settings: ClassVar[dict[str, str]] = {"mse": "mean:examples|no_answer:farthest_end_of_references|v2"}

    def example_scores(self, predictions: np.ndarray, references: np.ndarray, num_labels: int) -> np.ndarray:
        """Return the squared error of each example, [examples]."""
        squared: np.ndarray = (predictions - references) ** 2
        return squared
