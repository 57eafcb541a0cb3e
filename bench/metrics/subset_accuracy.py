"""Subset accuracy: the share of examples whose whole label set is right (exact match)."""

from typing import ClassVar

import numpy as np

from bench.metrics import _base


class SubsetAccuracy(_base.MeanMetric):
    """Exact match of the label set in multi-label classification.

    Examples whose row of 0 and 1 equals the reference in every entry / examples.

    A row with a negative entry (no answer) counts as the empty set. No examples give NaN.
    """

    source = 'Ghamrawi and McCallum 2005, "Collective Multi-Label Classification", CIKM (exact match).'
    reads = "predictions"
    configs = ("multilabel",)
    higher_is_better: ClassVar[dict[str, bool]] = {"subset_accuracy": True}
    binary = True
    settings: ClassVar[dict[str, str]] = {"subset_accuracy": "no_answer:empty_set|v2"}

    def example_scores(self, predictions: np.ndarray, references: np.ndarray, num_labels: int) -> np.ndarray:
        """Return 1 for an example whose whole row is right, else 0, [examples]."""
        return (predictions == references).all(axis=1)
