"""Loss: mean negative log-likelihood of the reference, in nats, from probabilities."""

from typing import ClassVar

import numpy as np

from bench.metrics import _base

# Keeps log(0) finite; also the largest loss that one example can have, 27.6 nats.
CLIP = 1e-12


class Loss(_base.MeanMetric):
    """Cross-entropy of single-label, mean binary cross-entropy of multi-label classification.

    Config "default": mean over examples of -ln p(reference label); predictions are rows of probabilities that sum to 1,
    references label ids.

    Config "multilabel": mean over all example-label pairs of -ln p(reference entry); predictions are rows of
    probabilities of the entry 1, references rows of 0 and 1. Probabilities are clipped to 1e-12 ... 1 - 1e-12. A
    probability outside 0 ... 1, as a logit would be, is an error; NaN is not, and makes the loss NaN. No examples give
    NaN.
    """

    source = "Good 1952, Rational Decisions, Journal of the Royal Statistical Society B 14 (logarithmic score)."
    reads = "scores"
    configs = ("default", "multilabel")
    higher_is_better: ClassVar[dict[str, bool]] = {"loss": False}
    settings: ClassVar[dict[str, str]] = {"loss": "nats|mean:examples|clip:1e-12|v1"}

    def example_scores(self, predictions: np.ndarray, references: np.ndarray, num_labels: int) -> np.ndarray:
        """Return the loss of each example in nats, [examples]; of several labels summed over them."""
        if self.multi_label:
            likelihood = np.where(references == 1, predictions, 1 - predictions)
        else:
            likelihood = predictions[np.arange(len(references)), references][:, None]
        return -np.log(np.clip(likelihood, CLIP, 1 - CLIP)).sum(axis=1)

    def terms(self, num_labels: int) -> int:
        """Return the number of terms of an example's loss."""
        return num_labels if self.multi_label else 1

    def signatures(self) -> dict[str, str]:
        """Return the settings of one label, or of a binary loss for each of several."""
        binary = {"loss": "loss|binary|nats|mean:examples,labels|clip:1e-12|v1"}
        return binary if self.multi_label else super().signatures()
