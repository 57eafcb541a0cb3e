"""METEOR of written answers, by NLTK: with WordNet's synonyms where that is installed, else by words and stems."""

from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar

import datasets
import evaluate
import nltk
import numpy as np
from nltk.corpus import wordnet
from nltk.translate.meteor_score import meteor_score

DESCRIPTION = """Predictions are texts, references lists of gold texts. The mean over examples, 0 ... 1, of the
highest METEOR of the answer with any of its golds, as NLTK computes it (alpha 0.9, beta 3, gamma 0.5): words are
matched in lower case, then by Porter's stems, then by WordNet's synonyms if NLTK's data has them. Nothing is
downloaded; the signature says which synonyms there were, and values with and without them can't be compared. Words
are split by NLTK's tokeniser, each text as one line.

METEOR's penalty for scattered matches is not zero for a single run of words: a right answer of one word counts
0.5, one of six words 0.998. A question without an answer (no gold text) counts 1 for an empty answer, else 0; a missing
answer (None) always counts 0. No examples give NaN.
"""
CITATION = """Lavie and Agarwal 2007, METEOR: An Automatic Metric for MT Evaluation with High Levels of Correlation with
Human Judgments, W07-0734.
"""
RULES = "0-1|words:nltk,one_line,lower|alpha:0.9|beta:3|gamma:0.5|golds:max|mean:examples|no_gold:1_if_empty|missing:0"


class Meteor(evaluate.Metric):
    """Mean METEOR."""

    reads = "answers"
    configs = ("default",)
    higher_is_better: ClassVar[dict[str, bool]] = {"meteor": True}

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
        """[examples, 2]: METEOR, 1."""
        pairs = zip(*_texts(predictions, references), strict=True)
        return np.array([(_score(answer, golds), 1.0) for answer, golds in pairs]).reshape(-1, 2)

    def values(self, sums: np.ndarray, num_labels: int = 0) -> dict[str, np.ndarray]:
        """meteor [...] from sums [..., 2]."""
        return {"meteor": _mean(sums[..., 0], sums[..., 1])}

    def proportions(self, sums: np.ndarray, num_labels: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """None: METEOR is not a share of independent trials."""
        return {}

    def per_example(
        self, predictions: Sequence[Any], references: Sequence[Any], num_labels: int = 0
    ) -> dict[str, np.ndarray]:
        """METEOR of each example, [examples]."""
        return {"meteor": self.statistics(predictions, references)[:, 0]}

    def signatures(self) -> dict[str, str]:
        """The settings, with the synonyms that were found and NLTK's version."""
        matches = f"words,stems,{_synonyms().name}"
        return {"meteor": f"meteor|{RULES}|matches:{matches}|nltk:{nltk.__version__}|v1"}

    def _compute(
        self, predictions: Sequence[Any], references: Sequence[Any], num_labels: int | None = None
    ) -> dict[str, Any]:
        sums = self.statistics(predictions, references).sum(axis=0)
        return {name: value.tolist() for name, value in self.values(sums).items()}


class _WordNet:
    """NLTK's WordNet; LookupError without its data."""

    def __init__(self) -> None:
        self.name = f"wordnet_{wordnet.get_version()}"
        self.synsets = wordnet.synsets


class _NoSynonyms:
    """Stands in for WordNet and knows no synonyms."""

    name = "no_synonyms"

    def synsets(self, word: str) -> list[Any]:
        """None."""
        return []


@cache
def _synonyms() -> _WordNet | _NoSynonyms:
    try:
        return _WordNet()
    except LookupError:
        return _NoSynonyms()


def _score(answer: str | None, golds: list[str]) -> float:
    """METEOR of one example."""
    if answer is None or not golds:
        return float(answer is not None and not answer.strip())
    return float(meteor_score([_words(gold) for gold in golds], _words(answer), wordnet=_synonyms()))


def _words(text: str) -> list[str]:
    # As one line, since finding sentences needs a model that would have to be downloaded.
    return nltk.word_tokenize(text, preserve_line=True)


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
