"""Area under the ROC curve: of each label against the rest, and their mean."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from bench.analysis.stats import probabilities
from bench.metrics import _base


class Auroc(_base.WeightedMetric):
    """Area under the ROC curve: the probability that an example of a label scores above one without it, ties half.

    Config "default": of two labels that of the second; of more the unweighted mean over labels, each against the rest,
    as scikit-learn's `roc_auc_score(average="macro", multi_class="ovr")`. Config "multilabel": the mean over labels.
    auroc_per_label has each one.

    A label that no example has, or that all have, has no area: it is NaN, and so is the mean over labels. Predictions
    are probabilities, references label ids or rows of 0 and 1. No examples give NaN.
    """

    source = "Hanley and McNeil 1982, The Meaning and Use of the Area under a ROC Curve, Radiology 143."
    reads = "scores"
    configs = ("default", "multilabel")
    # Not of choices, which are other ones in each row.
    same_labels = True
    higher_is_better: ClassVar[dict[str, bool]] = {"auroc": True}
    settings: ClassVar[dict[str, str]] = {
        "auroc": "two_labels:second|more:mean_one_vs_rest|ties:half|absent:nan|v1",
        "auroc_per_label": "one_vs_rest|ties:half|absent:nan|v1",
    }

    def rows(self, predictions: np.ndarray, references: np.ndarray, num_labels: int) -> np.ndarray:
        """Return [examples, 2 x labels]: probabilities, and 1 where the example has the label."""
        return probabilities.label_rows(predictions, references)

    def weighted_values(self, rows: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Return auroc [draws] and auroc_per_label [draws, labels]."""
        value = probabilities.OverLabels(probabilities.area_under_roc, several=self.multi_label)
        by_label = value.by_label(rows, weights)
        return {"auroc": value.combined(by_label), "auroc_per_label": by_label}

    def why_undefined(self, references: np.ndarray, labels: Sequence[str]) -> str | None:
        """Return which labels have no area; None where all have one."""
        lacking = probabilities.undefined_labels(references, labels, needs_negative=True)
        named = ", ".join(map(repr, lacking))
        return f"auroc is not defined: all examples, or none, have the label {named}" if lacking else None
