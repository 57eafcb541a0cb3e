"""Expected calibration error with bins of equal mass, and what a perfectly calibrated model would have by chance."""

from typing import Any, ClassVar

import numpy as np

from bench.analysis.stats import probabilities
from bench.metrics import _base


class Ece(_base.WeightedMetric):
    """Expected calibration error: how far probabilities are from the shares of right predictions, 0 to 1.

    Config "default": of the likeliest label's probability. Examples are sorted by it and cut into 15 bins of equally
    many; ece = sum over bins of (examples in the bin / all examples) x |mean probability - share of right predictions|.
    Equal probabilities share a bin. Config "multilabel": the same of all example-label pairs, with each label's
    probability and whether the example has it.

    The error of few examples is too high, as each bin's share is a draw. ece_by_chance is the mean error that a
    perfectly calibrated model with these probabilities would have on as many examples: an ece near it says nothing
    against the model. The interval is the basic bootstrap's, from 0 where the error is within what chance gives.

    Predictions are probabilities, references label ids or rows of 0 and 1. No examples give NaN.
    """

    source = (
        "Naeini, Cooper and Hauskrecht 2015, Obtaining Well Calibrated Probabilities Using Bayesian Binning, AAAI; "
        "equal mass: Nixon et al. 2019, arXiv:1904.01685; by chance: Bröcker and Smith 2007, Weather and Forecasting."
    )
    reads = "scores"
    configs = ("default", "multilabel")
    higher_is_better: ClassVar[dict[str, bool]] = {"ece": False}
    counts = ("ece_by_chance",)
    settings: ClassVar[dict[str, str]] = {
        "ece": "top_label|bins:15,equal_mass|ties:one_bin|v1",
        "ece_by_chance": "mean:200_draws|top_label|bins:15,equal_mass|ties:one_bin|v1",
    }

    def rows(self, predictions: np.ndarray, references: np.ndarray, num_labels: int) -> np.ndarray:
        """Return [examples, 2]: probability of the likeliest label, 1 if it is right; of several labels of each."""
        return probabilities.confidence_rows(predictions, references)

    def weighted_values(self, rows: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Return ece [draws]."""
        return {"ece": probabilities.CalibrationError().weighted(rows, weights)}

    def compute_values(self, predictions: Any, references: Any, num_labels: int = 0) -> dict[str, np.ndarray]:
        """Return the error of all examples, and the mean one of a perfectly calibrated model."""
        values = super().compute_values(predictions, references, num_labels)
        rows = self.rows(*self.checked(predictions, references, num_labels), num_labels)
        by_chance = np.nan if np.isnan(rows).any() else probabilities.errors_by_chance(rows).mean()
        return {**values, "ece_by_chance": np.array(by_chance)}

    def interval(self, name: str, rows: np.ndarray, drawn: np.ndarray) -> tuple[Any, Any, str]:
        """Return the ends and the kind of the interval of ece."""
        kind = f"basic bootstrap 95 %, {len(drawn)} draws by example, from 0 where chance gives as much"
        return *probabilities.error_interval(rows, drawn), kind

    def signatures(self) -> dict[str, str]:
        """Return the settings of one label an example, or of several."""
        found = super().signatures()
        return (
            {name: text.replace("top_label", "all_labels") for name, text in found.items()}
            if self.multi_label
            else (found)
        )
