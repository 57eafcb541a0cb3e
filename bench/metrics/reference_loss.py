"""Loss and perplexity of references: how likely a language model finds the texts that it is to write."""

from typing import Any, ClassVar

import numpy as np

from bench.analysis.stats import sums as formulas
from bench.metrics import _base

RULES = "nats|mean:tokens|reference:first|tokens:answer,its_end"


class ReferenceLoss(_base.AdditiveMetric):
    """Mean negative log-likelihood of a reference's tokens given the prompt, in nats, and its exponential.

    Predictions are rows (log-likelihood of the reference in nats, its tokens). The mean is over all tokens of all
    examples: the summed loss by the summed tokens, whatever the batch size. The tokens are those that training has in
    its loss with `loss_on: answer`: the answer and its end. Of several references, the first one, which is trained on.

    Tokens differ between tokenizers: values of two models compare only where these are the same. No tokens give NaN.
    """

    source = "Jelinek et al. 1977, Perplexity: a measure of the difficulty of speech recognition tasks."
    reads = "likelihoods"
    configs = ("default",)
    higher_is_better: ClassVar[dict[str, bool]] = {"reference_loss": False, "perplexity": False}
    counts = ("reference_tokens",)
    settings: ClassVar[dict[str, str]] = {
        "reference_loss": f"{RULES}|v1",
        "perplexity": f"exp|{RULES}|v1",
        "reference_tokens": "tokens|v1",
    }

    def checked(self, predictions: Any, references: Any, num_labels: int) -> tuple[Any, Any]:
        """Return likelihoods as an array. Raises ValueError for a wrong shape."""
        rows = np.asarray(predictions, dtype=float).reshape(-1, 2) if not len(predictions) else np.asarray(predictions)
        if rows.shape != (len(references), 2):
            raise ValueError(f"predictions must be (log-likelihood, tokens) of each example, got shape {rows.shape}")
        return rows, references

    def example_statistics(self, predictions: np.ndarray, references: Any, _: int) -> np.ndarray:
        """Return [examples, 2]: summed loss in nats, tokens."""
        return np.stack([-predictions[:, 0], predictions[:, 1]], axis=1)

    def values(self, sums: np.ndarray, num_labels: int = 0) -> dict[str, np.ndarray]:
        """Return loss, perplexity and tokens [...] from sums [..., 2]."""
        loss = formulas.mean(sums[..., 0], sums[..., 1])
        with np.errstate(over="ignore"):
            return {"reference_loss": loss, "perplexity": np.exp(loss), "reference_tokens": sums[..., 1]}
