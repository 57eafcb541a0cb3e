"""Spearman's rank correlation of predicted numbers with their references."""

from typing import Any, ClassVar

import numpy as np

from bench.analysis.stats import correlations
from bench.metrics import _base


class Spearman(_base.Metric):
    """Spearman's rank correlation of regression.

    Pearson's correlation of ranks; equal numbers share the mean of their ranks. It equals scipy's `spearmanr`. Ranks
    are no sums over examples: they are taken anew in each bootstrap draw, as scipy would in a draw.

    Predictions and references are numbers. A missing prediction (None or NaN) counts as the median of the others in the
    whole split, which lowers the correlation by as much as is missing: see `correlations.median_filled`. NaN where
    predictions or references are all the same, for no prediction that is a number, and for no examples.
    """

    source = "Spearman 1904, The proof and measurement of association between two things, Am. J. Psychology 15."
    reads = "numbers"
    configs = ("default",)
    higher_is_better: ClassVar[dict[str, bool]] = {"spearman": True}
    settings: ClassVar[dict[str, str]] = {
        "spearman": "ties:mean_rank|constant:undefined|draws:ranked_anew|no_answer:median_of_predictions|v2"
    }

    def checked(self, predictions: Any, references: Any, num_labels: int) -> tuple[np.ndarray, np.ndarray]:
        """Return both as float64 [examples], a missing prediction filled in. Raises ValueError for other inputs."""
        return _base.checked_numbers(predictions, references, correlations.median_filled)

    def compute_values(self, predictions: Any, references: Any, num_labels: int = 0) -> dict[str, np.ndarray]:
        """Return spearman of all examples."""
        pair = self.checked(predictions, references, num_labels)
        if not len(pair[1]):
            return {"spearman": np.array(np.nan)}
        return {"spearman": np.array(correlations.RankValue().score(np.stack(pair, axis=1)))}
