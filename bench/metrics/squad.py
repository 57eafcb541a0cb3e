"""SQuAD v1.1: exact match and word F1 of answers, by the rules of the official script."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import datasets
import evaluate
import numpy as np

DESCRIPTION = """Predictions are answer texts, references lists of gold texts; every question has at least one.

Texts are compared in lower case, without ASCII punctuation (deleted, so that "10 a.m." is "10 am", and a curly
quote stays) and without the words a, an and the. squad_exact_match is the share of answers that then equal one
of their golds; squad_f1 the mean over questions of the best F1 of words with any gold. Both lie in 0 ... 1,
where the official script prints per cent.

An answer of which nothing is left ("The") equals a gold of which nothing is left, but has no word in common
with it: exact match 1, F1 0. A missing answer (None) counts 0 and is counted in squad_missing. No questions
give NaN. A question without a gold answer is an error: squad_v2 has rules for it.
"""
CITATION = """Rajpurkar et al. 2016, SQuAD: 100,000+ Questions for Machine Comprehension of Text, arXiv:1606.05250,
section 6.1; rules as in the official script evaluate-v1.1.py.
"""
RULES = "squad_v1.1|0-1|text:lower,no_ascii_punctuation,no_articles|golds:max|missing:0"
SIGNATURES = {
    "squad_exact_match": f"squad_exact_match|{RULES}|v1",
    "squad_f1": f"squad_f1|{RULES}|empty_text:0|v1",
    "squad_missing": "squad_missing|questions|v1",
}
ARTICLES = re.compile(r"\b(?:a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


class Squad(evaluate.Metric):
    """Exact match and F1 of answers to questions that all have one."""

    reads = "answers"
    configs = ("default",)
    higher_is_better: ClassVar[dict[str, bool]] = {"squad_exact_match": True, "squad_f1": True}
    counts = ("squad_missing",)

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in self.configs:
            raise ValueError(f"{self.__class__.__name__} has no config {self.config_name!r}, only {self.configs}")
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            features=datasets.Features({"predictions": text, "references": datasets.Sequence(text)}),
        )

    def _enforce_nested_string_type(self, schema: Any, obj: Any) -> Any:
        # evaluate refuses None in the first place of a batch, though not in the others; here it is a missing answer.
        return None if obj is None else super()._enforce_nested_string_type(schema, obj)

    def statistics(self, predictions: Sequence[Any], references: Sequence[Any], num_labels: int = 0) -> np.ndarray:
        """[examples, 4]: exact match, F1, 1, 1 where the answer is missing."""
        rows = np.zeros((len(predictions), 4))
        for row, answer, golds in zip(rows, *_texts(predictions, references), strict=True):
            if not golds:
                raise ValueError("a question has no gold answer; take the metric squad_v2, which has rules for it")
            row[:] = (0, 0, 1, 1) if answer is None else (*_scores(answer, golds), 1, 0)
        return rows

    def values(self, sums: np.ndarray, num_labels: int = 0) -> dict[str, np.ndarray]:
        """squad_exact_match, squad_f1 and squad_missing [...] from sums [..., 4]."""
        exact, f1, number, missing = np.moveaxis(sums, -1, 0)
        return {"squad_exact_match": _mean(exact, number), "squad_f1": _mean(f1, number), "squad_missing": missing}

    def proportions(self, sums: np.ndarray, num_labels: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Exact match as (matches, questions)."""
        return {"squad_exact_match": (sums[..., 0], sums[..., 2])}

    def per_example(
        self, predictions: Sequence[Any], references: Sequence[Any], num_labels: int = 0
    ) -> dict[str, np.ndarray]:
        """Exact match and F1 of each question, [examples]."""
        exact, f1 = self.statistics(predictions, references)[:, :2].T
        return {"squad_exact_match": exact, "squad_f1": f1}

    def signatures(self) -> dict[str, str]:
        """The settings behind each value."""
        return dict(SIGNATURES)

    def _compute(
        self, predictions: Sequence[Any], references: Sequence[Any], num_labels: int | None = None
    ) -> dict[str, Any]:
        sums = self.statistics(predictions, references).sum(axis=0)
        return {name: value.tolist() for name, value in self.values(sums).items()}


def _scores(answer: str, golds: list[str]) -> tuple[float, float]:
    """(exact match, F1), each the best over the golds."""
    predicted = _normalised(answer)
    normalised = [_normalised(gold) for gold in golds]
    return float(predicted in normalised), max(_f1(predicted.split(), gold.split()) for gold in normalised)


def _normalised(text: str) -> str:
    """Lower case, without ASCII punctuation and the words a, an, the; single spaces."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def _f1(predicted: list[str], gold: list[str]) -> float:
    """F1 of two bags of words, 0 if they have none in common."""
    shared = (Counter(predicted) & Counter(gold)).total()
    return 2 * shared / (len(predicted) + len(gold)) if shared else 0.0


def _mean(total: np.ndarray, number: np.ndarray) -> np.ndarray:
    """total / number, NaN where there is nothing to take the mean of."""
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def _texts(predictions: Sequence[Any], references: Sequence[Any]) -> tuple[list[str | None], list[list[str]]]:
    """Both as lists, [examples]; ValueError for a wrong number or type, or for an empty gold text.

    Every metric that reads answers holds this text, as each must load alone; a test compares the copies.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    for number, prediction in enumerate(predictions):
        if prediction is not None and not isinstance(prediction, str):
            raise ValueError(f"prediction {number} must be a text, or None where it is missing, got {prediction!r}")
    for number, golds in enumerate(references):
        if not isinstance(golds, list | tuple | np.ndarray) or not all(isinstance(gold, str) for gold in golds):
            raise ValueError(f"reference {number} must be a list of texts, got {golds!r}")
        if "" in list(golds):
            raise ValueError(f"reference {number} holds an empty text; a question without an answer has an empty list")
    return list(predictions), [list(golds) for golds in references]
