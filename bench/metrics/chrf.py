"""chrF and chrF++ of written answers: sacrebleu's corpus scores."""

from functools import cache
from typing import Any, ClassVar

import numpy as np

from bench.analysis.stats import chrf as formulas
from bench.metrics import _base


class Chrf(_base.AdditiveMetric):
    """Corpus chrF (n-grams of 1 to 6 characters) and chrF++ (and of 1 to 2 words), on sacrebleu's scale, 0 ... 100.

    chrF = 100 x (1 + b^2) P R / (b^2 P + R) with b = 2, where P and R are the n-grams' precision and recall, each the
    mean over the orders that both sides have.

    Predictions are texts, references lists of gold texts of any number, of which the one with the highest score counts.
    N-grams are summed over all examples, so that this is no mean of sentence scores. Spaces do not count, nor does the
    script: unlike ROUGE, chrF knows every letter.

    A question without an answer (no gold text) is left out, and counted in chrf_left_out. A missing answer (None)
    counts as an empty one. No examples, or only such as are left out, give NaN.
    """

    source = (
        "Popović 2015, chrF: character n-gram F-score for automatic MT evaluation, W15-3049; Popović 2017, chrF++: "
        "words helping character n-grams, W17-4770 (sacrebleu)."
    )
    reads = "answers"
    configs = ("default",)
    higher_is_better: ClassVar[dict[str, bool]] = {"chrf": True, "chrf_plus_plus": True}
    counts = ("chrf_left_out",)

    def example_statistics(self, predictions: list[str | None], references: list[list[str]], _: int) -> np.ndarray:
        """Return [examples, columns]: n-grams for both values, 1 if there is a gold text, 1 if there is none."""
        rows = []
        for answer, golds in zip(predictions, references, strict=True):
            found = [formulas.counts(name, answer, golds) if golds else [0] * size for name, size in _sizes().items()]
            rows.append([*(number for part in found for number in part), bool(golds), not golds])
        return np.array(rows, dtype=float).reshape(len(predictions), sum(_sizes().values()) + 2)

    def values(self, sums: np.ndarray, num_labels: int = 0) -> dict[str, np.ndarray]:
        """Return both scores and the number left out, [...], from sums [..., columns]."""
        values, start = dict[str, np.ndarray](), 0
        for name, size in _sizes().items():
            scores = formulas.value(sums[..., start : start + size])
            values[name] = np.where(sums[..., -2] > 0, scores, np.nan)
            start += size
        return {**values, "chrf_left_out": sums[..., -1]}

    def signatures(self) -> dict[str, str]:
        """Return sacrebleu's own signatures, and what happens to questions without an answer."""
        signatures = {
            name: f"{name}|0-100|{_signature(order)}|golds:max|no_gold:left_out|missing:empty|v1"
            for name, order in formulas.WORD_ORDERS.items()
        }
        return {**signatures, "chrf_left_out": "chrf_left_out|questions|v1"}


def _sizes() -> dict[str, int]:
    return {name: formulas.columns(name) for name in formulas.WORD_ORDERS}


@cache
def _signature(word_order: int) -> str:
    """Return sacrebleu's, which has one only after a score, hence a made-up example."""
    from sacrebleu.metrics import CHRF

    scorer: Any = CHRF(word_order=word_order)
    scorer.corpus_score(["a", "a"], [[None, "a"], ["a", "a"]])
    return str(scorer.get_signature())
