"""Precision, the share of predicted labels that are right: per label, and over labels in three ways."""

from typing import ClassVar

import numpy as np

from bench.metrics import _base


class Precision(_base.LabelCountsMetric):
    """Precision of single-label and multi-label classification.

    With the numbers of examples that have a label in the prediction, in the reference and in both, precision of a label
    = both / predicted.

    precision_macro is the mean of this over all labels, precision_micro takes the numbers summed over labels,
    precision_weighted weighs each label by its number of reference examples. Zero divided by zero is 0, also for a
    label without any reference and prediction, which so lowers the macro average: as scikit-learn with
    labels=range(num_labels) and zero_division=0.

    Config "default" reads label ids, config "multilabel" rows of 0 and 1. No answer (a negative prediction, or a row
    with one) adds to no label's predicted number.
    """

    source = "Manning, Raghavan and Schütze 2008, Introduction to Information Retrieval, sections 8.3 and 13.6."
    reads = "predictions"
    configs = ("default", "multilabel")
    higher_is_better: ClassVar[dict[str, bool]] = {
        "precision_macro": True,
        "precision_micro": True,
        "precision_weighted": True,
    }
    settings: ClassVar[dict[str, str]] = {
        "precision_macro": "labels:all|zero_division:0|no_answer:no_label|v1",
        "precision_micro": "labels:all|zero_division:0|no_answer:no_label|v1",
        "precision_weighted": "labels:all|zero_division:0|no_answer:no_label|v1",
        "precision_per_label": "labels:all|zero_division:0|no_answer:no_label|v1",
    }

    def proportions(self, sums: np.ndarray, num_labels: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return (both, predicted) per label, and with one label per example also pooled."""
        return self.right_of("precision", sums, 1)
