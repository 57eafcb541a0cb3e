"""ROUGE-1, ROUGE-2, ROUGE-L and ROUGE-Lsum of written answers, by the package rouge-score."""

from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from typing import Any, ClassVar

import datasets
import evaluate
import numpy as np
from rouge_score import rouge_scorer

DESCRIPTION = """Predictions are texts, references lists of gold texts. Each value is the plain mean over examples,
0 ... 1, of an F-measure: of n-grams (rouge1, rouge2) or of the longest common subsequence (rougeL: of the whole
text; rougeLsum: of sentences, one on each line). Words are stemmed by Porter's stemmer. Of several golds, the one
with the highest F-measure counts, chosen for each value by itself. The package's bootstrap aggregator, whose means
depend on a random seed, is not used.

rouge-score keeps only the letters a-z and digits: other scripts have no words, so that such an answer counts 0
even if it equals its gold. A question without an answer (no gold text) counts 1 for an empty answer, else 0; a missing
answer (None) always counts 0. No examples give NaN.
"""
CITATION = """Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries, W04-1013."""
NAMES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
RULES = (
    "f_measure|0-1|stemmer:porter|words:a-z,0-9|sentences:lines|golds:max|mean:examples"
    f"|no_gold:1_if_empty|missing:0|rouge_score:{version('rouge-score')}"
)


class Rouge(evaluate.Metric):
    """Mean F-measures of n-grams and of the longest common subsequence."""

    reads = "answers"
    configs = ("default",)
    higher_is_better: ClassVar[dict[str, bool]] = {"rouge1": True, "rouge2": True, "rougeL": True, "rougeLsum": True}

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
        """[examples, 5]: the F-measures of rouge1, rouge2, rougeL and rougeLsum, 1."""
        rows = np.ones((len(predictions), len(NAMES) + 1))
        for row, answer, golds in zip(rows, *_texts(predictions, references), strict=True):
            row[:-1] = _measures(answer, golds)
        return rows

    def values(self, sums: np.ndarray, num_labels: int = 0) -> dict[str, np.ndarray]:
        """The four means [...] from sums [..., 5]."""
        return {name: _mean(sums[..., column], sums[..., -1]) for column, name in enumerate(NAMES)}

    def proportions(self, sums: np.ndarray, num_labels: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """None: an F-measure is not a share of independent trials."""
        return {}

    def per_example(
        self, predictions: Sequence[Any], references: Sequence[Any], num_labels: int = 0
    ) -> dict[str, np.ndarray]:
        """The F-measures of each example, [examples]."""
        return dict(zip(NAMES, self.statistics(predictions, references).T, strict=False))

    def signatures(self) -> dict[str, str]:
        """The settings behind each value."""
        return {name: f"{name}|{RULES}|v1" for name in NAMES}

    def _compute(
        self, predictions: Sequence[Any], references: Sequence[Any], num_labels: int | None = None
    ) -> dict[str, Any]:
        sums = self.statistics(predictions, references).sum(axis=0)
        return {name: value.tolist() for name, value in self.values(sums).items()}


@cache
def _scorer() -> rouge_scorer.RougeScorer:
    return rouge_scorer.RougeScorer(list(NAMES), use_stemmer=True)


def _measures(answer: str | None, golds: list[str]) -> list[float]:
    """The four F-measures of one example."""
    if answer is None or not golds:
        return [float(answer is not None and not answer.strip())] * len(NAMES)
    found = _scorer().score_multi(golds, answer)
    return [found[name].fmeasure for name in NAMES]


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
