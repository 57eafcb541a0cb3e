"""Area under the ROC curve: of each label against the rest, and their mean."""

from typing import ClassVar

from bench.analysis.stats import probabilities
from bench.metrics import _base


class Auroc(_base.OneVsRestMetric):
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
    function = probabilities.area_under_roc
    needs_negative = True
    lacks = "all examples, or none, have the label"
