"""Spearman's rank correlation of predicted numbers with their references."""

from typing import Any, ClassVar

import numpy as np

from bench.analysis.stats.correlations import RankValue
from bench.metrics import _base


class Spearman(_base.Metric):
    """Spearman's rank correlation of regression.

    Pearson's correlation of ranks; equal numbers share the mean of their ranks. It equals scipy's `spearmanr`. Ranks
    are no sums over examples: they are taken anew in each bootstrap draw, as scipy would in a draw.

    Predictions and references are numbers. A missing prediction (None or NaN) counts as the mean of the references.
    NaN where predictions or references are all the same, and for no examples.
    """

    source = "Spearman 1904, The proof and measurement of association between two things, Am. J. Psychology 15."
    reads = "numbers"
    configs = ("default",)
    higher_is_better: ClassVar[dict[str, bool]] = {"spearman": True}
    settings: ClassVar[dict[str, str]] = {
        "spearman": "ties:mean_rank|constant:undefined|draws:ranked_anew|no_answer:mean_of_references|v1"
    }

    def compute_values(self, predictions: Any, references: Any, num_labels: int = 0) -> dict[str, np.ndarray]:
        """Return spearman of all examples."""
        pair = self.checked(predictions, references, num_labels)
        if not len(pair[1]):
            return {"spearman": np.array(np.nan)}
        return {"spearman": np.array(RankValue().score(np.stack(pair, axis=1)))}
