"""Jaccard index by sample: the overlap of predicted and reference label sets, averaged over examples."""

from typing import ClassVar

import numpy as np

from bench.metrics import _base


class Jaccard(_base.MeanMetric):
    """Jaccard index by sample of multi-label classification.

    Rows of 0 and 1: mean over examples of |predicted and reference| / |predicted or reference|.

    Where both sets are empty, jaccard_samples counts 1 and jaccard_samples_empty0 counts 0 (scikit-learn's
    average="samples" with zero_division 1 and 0). Published numbers use either. A row with a negative entry (no
    answer) counts as the empty set. No examples give NaN.
    """

    source = 'Godbole and Sarawagi 2004, "Discriminative Methods for Multi-labeled Classification", PAKDD.'
    reads = "predictions"
    configs = ("multilabel",)
    higher_is_better: ClassVar[dict[str, bool]] = {"jaccard_samples": True, "jaccard_samples_empty0": True}
    unit_means = ("jaccard_samples", "jaccard_samples_empty0")
    settings: ClassVar[dict[str, str]] = {
        "jaccard_samples": "empty:1|no_answer:empty_set|v2",
        "jaccard_samples_empty0": "empty:0|no_answer:empty_set|v2",
    }

    def example_scores(self, predictions: np.ndarray, references: np.ndarray, num_labels: int) -> np.ndarray:
        """Return the index of each example, [examples, 2], with 1 and with 0 for two empty sets."""
        both = ((predictions == 1) & (references == 1)).sum(axis=1)  # [examples]
        either = ((predictions == 1) | (references == 1)).sum(axis=1)
        index = both / np.maximum(either, 1)
        return np.stack([np.where(either > 0, index, 1.0), index], axis=1)

    def proportions(self, sums: np.ndarray, num_labels: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return (right, examples) of a single label: the index of each example is then 0 or 1."""
        if num_labels != 1:
            return {}
        return {name: (sums[..., column], sums[..., -1]) for column, name in enumerate(self.settings)}
