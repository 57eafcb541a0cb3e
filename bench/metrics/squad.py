"""SQuAD v1.1: exact match and word F1 of answers, by the rules of the official script."""

from typing import Any, ClassVar

import numpy as np

from bench.analysis.stats import sums as formulas
from bench.metrics import _base

RULES = "squad_v1.1|0-1|text:lower,no_ascii_punctuation,no_articles|golds:max|missing:0"


class Squad(_base.AdditiveMetric):
    """Exact match and F1 of answers to questions that all have one.

    Predictions are answer texts, references lists of gold texts; every question has at least one.

    Texts are compared in lower case, without ASCII punctuation (deleted, so that "10 a.m." is "10 am", and a curly
    quote stays) and without the words a, an and the. squad_exact_match is the share of answers that then equal one of
    their golds; squad_f1 the mean over questions of the best F1 of words with any gold. Both lie in 0 ... 1, where the
    official script prints per cent.

    F1 of words = 2 x common words / (words of the answer + words of the gold).

    An answer of which nothing is left ("The") equals a gold of which nothing is left, but has no word in common with
    it: exact match 1, F1 0. A missing answer (None) counts 0 and is counted in squad_missing. No questions give NaN. A
    question without a gold answer is an error: squad_v2 has rules for it.
    """

    source = (
        "Rajpurkar et al. 2016, SQuAD: 100,000+ Questions for Machine Comprehension of Text, arXiv:1606.05250, "
        "section 6.1; rules as in the official script evaluate-v1.1.py."
    )
    reads = "answers"
    configs = ("default",)
    higher_is_better: ClassVar[dict[str, bool]] = {"squad_exact_match": True, "squad_f1": True}
    counts = ("squad_missing",)
    unit_means = ("squad_f1",)
    settings: ClassVar[dict[str, str]] = {
        "squad_exact_match": f"{RULES}|v1",
        "squad_f1": f"{RULES}|empty_text:0|v1",
        "squad_missing": "questions|v1",
    }

    def example_statistics(self, predictions: list[str | None], references: list[list[str]], _: int) -> np.ndarray:
        """Return [examples, 4]: exact match, F1, 1, 1 where the answer is missing."""
        rows = np.zeros((len(predictions), 4))
        for row, answer, golds in zip(rows, predictions, references, strict=True):
            if not golds:
                raise ValueError("a question has no gold answer; take the metric squad_v2, which has rules for it")
            row[:] = (0, 0, 1, 1) if answer is None else (*_scores(answer, golds), 1, 0)
        return rows

    def values(self, sums: np.ndarray, num_labels: int = 0) -> dict[str, np.ndarray]:
        """Return squad_exact_match, squad_f1 and squad_missing [...] from sums [..., 4]."""
        exact, f1, number, missing = np.moveaxis(sums, -1, 0)
        means = {"squad_exact_match": formulas.mean(exact, number), "squad_f1": formulas.mean(f1, number)}
        return {**means, "squad_missing": missing}

    def proportions(self, sums: np.ndarray, num_labels: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return exact match as (matches, questions)."""
        return {"squad_exact_match": (sums[..., 0], sums[..., 2])}

    def per_example(self, predictions: Any, references: Any, num_labels: int = 0) -> dict[str, np.ndarray]:
        """Return exact match and F1 of each question, [examples]."""
        exact, f1 = self.statistics(predictions, references)[:, :2].T
        return {"squad_exact_match": exact, "squad_f1": f1}


def _scores(answer: str, golds: list[str]) -> tuple[float, float]:
    """Return (exact match, F1), each the best over the golds."""
    predicted = _base.normalised_answer(answer)
    normalised = [_base.normalised_answer(gold) for gold in golds]
    return float(predicted in normalised), max(_base.word_f1(predicted.split(), gold.split()) for gold in normalised)
