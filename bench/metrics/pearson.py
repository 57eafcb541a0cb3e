"""Pearson's correlation of predicted numbers with their references."""

from typing import ClassVar

import numpy as np

from bench.analysis.stats import correlations
from bench.metrics import _base


class Pearson(_base.AdditiveMetric):
    """Pearson's product-moment correlation of regression.

    Covariance / product of the standard deviations. It follows from sums over examples, so that bootstrap draws are
    cheap, and equals scipy's `pearsonr`.

    Predictions and references are numbers. A missing prediction (None or NaN) counts as the mean of the references.
    NaN where predictions or references are all the same, and for no examples.
    """

    source = "Pearson 1895, Note on regression and inheritance in the case of two parents, Proc. R. Soc. London 58."
    reads = "numbers"
    configs = ("default",)
    higher_is_better: ClassVar[dict[str, bool]] = {"pearson": True}
    settings: ClassVar[dict[str, str]] = {"pearson": "constant:undefined|no_answer:mean_of_references|v1"}

    def example_statistics(self, predictions: np.ndarray, references: np.ndarray, num_labels: int) -> np.ndarray:
        """Return [examples, 6]: 1, both numbers, their squares and their product."""
        return correlations.pearson_rows(predictions, references)

    def values(self, sums: np.ndarray, num_labels: int = 0) -> dict[str, np.ndarray]:
        """Return pearson [...] from sums [..., 6]."""
        return {"pearson": correlations.pearson_value(sums)}
