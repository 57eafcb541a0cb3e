"""Mean absolute error of predicted numbers."""

from typing import ClassVar

import numpy as np

from bench.metrics import _base


class Mae(_base.MeanMetric):
    """Mean absolute error of regression.

    Mean over examples of |prediction - reference|, in the numbers' unit.

    Predictions and references are numbers. A missing prediction (None or NaN) counts as the end of the references'
    range that is farther from its reference, the worst answer within it: see `correlations.farthest_filled`. NaN for no
    examples, and for a missing prediction where all references are the same.
    """

    source = "Willmott and Matsuura 2005, Advantages of the mean absolute error (MAE), Climate Research 30."
    reads = "numbers"
    configs = ("default",)
    higher_is_better: ClassVar[dict[str, bool]] = {"mae": False}
    settings: ClassVar[dict[str, str]] = {"mae": "mean:examples|no_answer:farthest_end_of_references|v2"}

    def example_scores(self, predictions: np.ndarray, references: np.ndarray, num_labels: int) -> np.ndarray:
        """Return the absolute error of each example, [examples]."""
        return np.abs(predictions - references)
