"""Metrics of a task of lm-evaluation-harness: means of what its own functions gave each document."""

import importlib.metadata
from typing import Any, ClassVar

import numpy as np

from bench.analysis.stats import sums as formulas

# Begins the name of such a metric, before the task's own name of it: lm_eval:exact_match,strict-match.


class LmEvalMetric:
    """The mean over documents of one metric behind one filter. Predictions are its values, [examples]."""

    reads: ClassVar[str] = "lm_eval"
    configs: ClassVar[tuple[str, ...]] = ("default",)
    counts: ClassVar[tuple[str, ...]] = ()

    def __init__(self, name: str) -> None:
        self.name = name
        self.higher_is_better = {name: True}
        self.unit_means = (name,)

    def signatures(self) -> dict[str, str]:
        """Return the name and the version of lm_eval; the prompts' signature has prompts, filters and limits."""
        return {self.name: f"{self.name}|lm_eval:{importlib.metadata.version('lm_eval')}"}

    def statistics(self, predictions: Any, references: Any, num_labels: int) -> np.ndarray:
        """Return [examples, 2]: the value, and 1."""
        values = np.asarray(predictions, dtype=float)
        return np.stack([values, np.ones_like(values)], axis=1)

    def sums(self, predictions: Any, references: Any, num_labels: int) -> np.ndarray:
        """Return [2], the statistics of all examples added up."""
        total: np.ndarray = self.statistics(predictions, references, num_labels).sum(axis=0)
        return total

    def values(self, sums: np.ndarray, num_labels: int) -> dict[str, np.ndarray]:
        """Return the mean [...] from sums [..., 2]."""
        return {self.name: formulas.mean(sums[..., 0], sums[..., 1])}

    def proportions(self, sums: np.ndarray, num_labels: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return (right, all): exact match is 0 or 1 for each document."""
        return {self.name: (sums[..., 0], sums[..., 1])}

    def per_example(self, predictions: Any, references: Any, num_labels: int) -> dict[str, np.ndarray]:
        """Return the values of the documents, [examples]."""
        return {self.name: np.asarray(predictions, dtype=float)}

    def compute_values(self, predictions: Any, references: Any, num_labels: int) -> dict[str, np.ndarray]:
        """Return the mean of all examples."""
        return self.values(self.sums(predictions, references, num_labels), num_labels)

    def tuned_values(self, predictions: Any, references: Any, probabilities: np.ndarray) -> dict[str, float]:
        """Return nothing: no value is tuned."""
        return {}
