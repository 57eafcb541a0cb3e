"""Average precision: the area under the precision-recall curve, of each label against the rest, and their mean."""

from typing import ClassVar

from bench.analysis.stats import probabilities
from bench.metrics import _base


class AveragePrecision(_base.OneVsRestMetric):
    """Average precision: sum over thresholds of (recall gained there) x precision, without interpolation.

    Config "default": of two labels that of the second; of more the unweighted mean over labels, each against the rest.
    Config "multilabel": the mean over labels. Both as scikit-learn's `average_precision_score`.
    average_precision_per_label has each one. A model that knows nothing has a label's share of the examples.

    A label that no example has has no recall: it is NaN, and so is the mean over labels, where scikit-learn counts 0.
    Predictions are probabilities, references label ids or rows of 0 and 1. No examples give NaN.
    """

    source = "Buckley and Voorhees 2000, Evaluating Evaluation Measure Stability, SIGIR."
    reads = "scores"
    configs = ("default", "multilabel")
    # Not of choices, which are other ones in each row.
    same_labels = True
    higher_is_better: ClassVar[dict[str, bool]] = {"average_precision": True}
    settings: ClassVar[dict[str, str]] = {
        "average_precision": "two_labels:second|more:mean_one_vs_rest|interpolation:none|absent:nan|v1",
        "average_precision_per_label": "one_vs_rest|interpolation:none|absent:nan|v1",
    }
    function = probabilities.average_precision
    needs_negative = False
    lacks = "no example has the label"
