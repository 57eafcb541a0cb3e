"""F1, the harmonic mean of precision and recall: per label, and over labels in three ways."""

from typing import ClassVar

import numpy as np

from bench.metrics import _base


class F1(_base.LabelCountsMetric):
    """F1 of single-label and multi-label classification.

    With the numbers of examples that have a label in the prediction, in the reference and in both, f1 of a label = 2 x
    both / (predicted + reference).

    f1_macro is the mean of this over all labels, f1_micro takes the numbers summed over labels, f1_weighted weighs each
    label by its number of reference examples. Zero divided by zero is 0, also for a label without any reference and
    prediction, which so lowers the macro average: as scikit-learn with labels=range(num_labels) and zero_division=0.

    Config "default" reads label ids, config "multilabel" rows of 0 and 1. No answer (a negative prediction, or a row
    with one) adds to no label's predicted number.
    """

    source = (
        "van Rijsbergen 1979, Information Retrieval, chapter 7 (E = 1 - F1). Averages: Manning, Raghavan and Schütze "
        "2008, Introduction to Information Retrieval, section 13.6. Macro is the mean of the labels' F1, not the F1 "
        'of mean precision and mean recall: Opitz and Burst 2019, "Macro F1 and Macro F1", arXiv:1911.03347.'
    )
    reads = "predictions"
    configs = ("default", "multilabel")
    higher_is_better: ClassVar[dict[str, bool]] = {"f1_macro": True, "f1_micro": True, "f1_weighted": True}
    settings: ClassVar[dict[str, str]] = {
        "f1_macro": "mean_of:label_f1|labels:all|zero_division:0|no_answer:no_label|v1",
        "f1_micro": "labels:all|zero_division:0|no_answer:no_label|v1",
        "f1_weighted": "labels:all|zero_division:0|no_answer:no_label|v1",
        "f1_per_label": "labels:all|zero_division:0|no_answer:no_label|v1",
    }

    def proportions(self, sums: np.ndarray, num_labels: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return (right, examples) of f1_micro where it is the accuracy: one label an example, and all answered."""
        return self.share_of_answered("f1_micro", sums)
