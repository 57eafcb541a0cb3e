"""ROUGE-1, ROUGE-2, ROUGE-L and ROUGE-Lsum of written answers, by the package rouge-score."""

from functools import cache
from importlib.metadata import version
from typing import ClassVar

from rouge_score import rouge_scorer

from bench.metrics import _base

NAMES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
RULES = (
    "f_measure|0-1|stemmer:porter|words:a-z,0-9|sentences:lines|golds:max|mean:examples"
    f"|no_gold:1_if_empty|missing:0|rouge_score:{version('rouge-score')}"
)


class Rouge(_base.MeanMetric):
    """Mean F-measures of n-grams and of the longest common subsequence.

    Predictions are texts, references lists of gold texts. Each value is the plain mean over examples, 0 ... 1, of an
    F-measure: of n-grams (rouge1, rouge2) or of the longest common subsequence (rougeL: of the whole text; rougeLsum:
    of sentences, one on each line). Words are stemmed by Porter's stemmer. Of several golds, the one with the highest
    F-measure counts, chosen for each value by itself. The package's bootstrap aggregator, whose means depend on a
    random seed, is not used.

    F = 2 P R / (P + R), where P and R are the matches' shares of the answer and of the gold.

    rouge-score keeps only the letters a-z and digits: other scripts have no words, so that such an answer counts 0 even
    if it equals its gold. A question without an answer (no gold text) counts 1 for an empty answer, else 0; a missing
    answer (None) always counts 0. No examples give NaN.
    """

    source = "Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries, W04-1013."
    reads = "answers"
    configs = ("default",)
    higher_is_better: ClassVar[dict[str, bool]] = {"rouge1": True, "rouge2": True, "rougeL": True, "rougeLsum": True}
    unit_means = ("rouge1", "rouge2", "rougeL", "rougeLsum")
    settings: ClassVar[dict[str, str]] = dict.fromkeys(NAMES, f"{RULES}|v1")

    def example_score(self, prediction: str | None, reference: list[str]) -> list[float]:
        """Return the four F-measures."""
        if prediction is None or not reference:
            return [float(prediction is not None and not prediction.strip())] * len(NAMES)
        measures = _scorer().score_multi(reference, prediction)
        return [measures[name].fmeasure for name in NAMES]


@cache
def _scorer() -> rouge_scorer.RougeScorer:
    return rouge_scorer.RougeScorer(list(NAMES), use_stemmer=True)
