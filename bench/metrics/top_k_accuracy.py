"""Top-k accuracy: whether the reference is among the 3, or the 5, likeliest labels."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from bench.metrics import _base

# Value name -> k.
TOP = {"top_3_accuracy": 3, "top_5_accuracy": 5}


class TopKAccuracy(_base.MeanMetric):
    """Share of examples whose reference is among the k likeliest labels, for k = 3 and 5.

    Of equally likely labels the first ones count as likelier, as for the predicted label. NaN where there are no more
    than k labels, so that every answer would be right, for a probability that is NaN, and for no examples.

    Predictions are rows of probabilities, references label ids.
    """

    source = "Russakovsky et al. 2015, ImageNet Large Scale Visual Recognition Challenge, section 4 (top-5 error)."
    reads = "scores"
    configs = ("default",)
    # Not of choices, of which rows have different numbers.
    same_labels = True
    higher_is_better: ClassVar[dict[str, bool]] = {"top_3_accuracy": True, "top_5_accuracy": True}
    binary = True
    settings: ClassVar[dict[str, str]] = {
        "top_3_accuracy": "k:3|ties:first_label|v1",
        "top_5_accuracy": "k:5|ties:first_label|v1",
    }

    def example_scores(self, predictions: np.ndarray, references: np.ndarray, num_labels: int) -> np.ndarray:
        """Return 1 where the reference is among the k likeliest, [examples, 2]."""
        right = predictions[np.arange(len(references)), references][:, None]
        earlier = np.arange(predictions.shape[1]) < references[:, None]
        likelier = ((predictions > right) | ((predictions == right) & earlier)).sum(axis=1)
        scores = np.stack([likelier < k for k in TOP.values()], axis=1).astype(float)
        return np.where(np.isnan(predictions).any(axis=1, keepdims=True), np.nan, scores)

    def values(self, sums: np.ndarray, num_labels: int = 0) -> dict[str, np.ndarray]:
        """Return both accuracies [...] from sums [..., 3]."""
        values = super().values(sums, num_labels)
        return {
            name: value if num_labels > TOP[name] else np.full_like(value, np.nan) for name, value in values.items()
        }

    def proportions(self, sums: np.ndarray, num_labels: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return (right examples, examples) of the values that are defined."""
        found = super().proportions(sums, num_labels)
        return {name: pair for name, pair in found.items() if num_labels > TOP[name] and not np.isnan(pair[0]).any()}

    def per_example(self, predictions: Any, references: Any, num_labels: int = 0) -> dict[str, np.ndarray]:
        """Return 1 or 0 for each example, [examples], of the values that are defined."""
        found = super().per_example(predictions, references, num_labels)
        return {name: values for name, values in found.items() if num_labels > TOP[name]}

    def why_undefined(self, references: np.ndarray, labels: Sequence[str]) -> str | None:
        """Return which values are not defined; None where all are."""
        trivial = [name for name, k in TOP.items() if len(labels) <= k]
        return f"{', '.join(trivial)} not defined: there are only {len(labels)} labels" if trivial else None
