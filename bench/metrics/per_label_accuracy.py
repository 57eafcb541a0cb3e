"""Accuracy of each label on its own."""

from typing import ClassVar

import numpy as np

from bench.analysis.stats import sums as formulas
from bench.analysis.stats import tables
from bench.analysis.stats.tables import Table
from bench.metrics import _base


class PerLabelAccuracy(_base.AdditiveMetric):
    """Accuracy per label of single-label and multi-label classification.

    Config "default" (label ids): of the examples with this reference label, the share that were answered with it.

    Config "multilabel" (rows of 0 and 1): the share of all examples whose entry for this label is right. No answer is
    wrong, of several labels the empty set. A label without trials gets NaN, not 0: nothing is known about it.
    """

    source = "Manning, Raghavan and Schütze 2008, Introduction to Information Retrieval, section 8.3."
    reads = "predictions"
    configs = ("default", "multilabel")
    higher_is_better: ClassVar[dict[str, bool]] = {}
    settings: ClassVar[dict[str, str]] = {"accuracy_per_label": "of:reference_examples|absent:nan|no_answer:wrong|v1"}

    def example_statistics(self, predictions: np.ndarray, references: np.ndarray, num_labels: int) -> Table:
        """Return [examples, 2 x labels]: 1 where the label is right, 1 where the example is a trial of it."""
        if self.multi_label:
            return np.concatenate([predictions == references, np.ones_like(references, dtype=bool)], axis=1)
        right = np.where(predictions == references, references, -1)
        return tables.beside([tables.of_labels(labels, num_labels) for labels in (right, references)])

    def example_sums(self, predictions: np.ndarray, references: np.ndarray, num_labels: int) -> np.ndarray:
        """Return the sums [2 x labels]."""
        if self.multi_label:
            return np.concatenate([(predictions == references).sum(axis=0), np.full(num_labels, len(references))])
        both, _, trials = self.label_counts(predictions, references, num_labels)
        return np.concatenate([both, trials])

    def values(self, sums: np.ndarray, num_labels: int = 0) -> dict[str, np.ndarray]:
        """Return accuracy_per_label [..., labels] from sums [..., 2 x labels]."""
        return {"accuracy_per_label": formulas.mean(*np.split(sums, 2, axis=-1))}

    def proportions(self, sums: np.ndarray, num_labels: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return (right, trials) per label."""
        right, trials = np.split(sums, 2, axis=-1)
        return {"accuracy_per_label": (right, trials)}

    def signatures(self) -> dict[str, str]:
        """Return the settings of one label an example, or of several."""
        several = {"accuracy_per_label": "accuracy_per_label|of:all_examples|no_answer:empty_set|v2"}
        return several if self.multi_label else super().signatures()
