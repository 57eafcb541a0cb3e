"""Exact match of written answers: the share that equals one of their references."""

from typing import ClassVar

from bench.metrics import _base


class ExactMatch(_base.MeanMetric):
    """Share of answers that equal one of their references, but for white space.

    Predictions are texts, references lists of gold texts. Runs of white space count as one space, at both ends as none;
    case and punctuation count (squad_exact_match is more lenient). A question without an answer (no gold text) counts 1
    for an empty answer, else 0; a missing answer (None) always counts 0. No examples give NaN.
    """

    source = "Rajpurkar et al. 2016, SQuAD, arXiv:1606.05250, section 6.1, without its normalisation of texts."
    reads = "answers"
    configs = ("default",)
    binary = True
    higher_is_better: ClassVar[dict[str, bool]] = {"exact_match": True}
    settings: ClassVar[dict[str, str]] = {
        "exact_match": "exact_match|0-1|whitespace:squeezed|golds:any|no_gold:1_if_empty|missing:0|v1"
    }

    def example_score(self, prediction: str | None, reference: list[str]) -> float:
        """Return 1 for an answer that equals a reference, else 0."""
        if prediction is None:
            return 0.0
        written = " ".join(prediction.split())
        return float(written in [" ".join(gold.split()) for gold in reference] if reference else not written)
