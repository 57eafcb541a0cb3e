"""Accuracy of the likeliest choice: by its log-likelihood, and by that over its characters, bytes and tokens."""

from typing import ClassVar

import numpy as np

from bench.analysis.stats import sums as formulas
from bench.metrics import _base


class ChoiceAccuracy(_base.MeanMetric):
    """Accuracy of multiple choice, by four ways to compare choices of different lengths.

    A prediction is four rows with a number for each choice of the example: log-likelihood (summed over its tokens, in
    nats), characters, UTF-8 bytes, and tokens. References are numbers of the right choices, from 0.

    acc predicts the choice of the highest log-likelihood, acc_norm that of the highest per character, acc_bytes per
    byte and acc_tokens per token. The first three are lm-evaluation-harness 0.4's, whose acc_norm divides by
    characters. Of equal choices the first one is predicted. No examples give NaN.
    """

    source = (
        "Gao et al. 2021, Multiple Choice Normalization in LM Evaluation, EleutherAI; lm-evaluation-harness 0.4.13, "
        "ConfigurableTask.process_results."
    )
    reads = "choices"
    configs = ("default",)
    higher_is_better: ClassVar[dict[str, bool]] = {
        "acc": True,
        "acc_norm": True,
        "acc_bytes": True,
        "acc_tokens": True,
    }
    binary = True
    settings: ClassVar[dict[str, str]] = {
        "acc": "log_likelihood|ties:first|v1",
        "acc_norm": "log_likelihood/characters|ties:first|v1",
        "acc_bytes": "log_likelihood/utf8_bytes|ties:first|v1",
        "acc_tokens": "log_likelihood/tokens|ties:first|v1",
    }

    def example_scores(self, predictions: list[np.ndarray], references: np.ndarray, num_labels: int) -> np.ndarray:
        """Return 1 where the right choice is predicted, else 0, [examples, 4]."""
        right = np.zeros((len(predictions), len(self.settings)))
        for row, (sums, *lengths), label in zip(right, predictions, references, strict=True):
            row[:] = [formulas.likeliest_choice(sums, length) == label for length in (1.0, *lengths)]
        return right
