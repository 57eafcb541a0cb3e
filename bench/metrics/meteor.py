"""METEOR of written answers, by NLTK: with WordNet's synonyms where that is installed, else by words and stems."""

from functools import cache
from typing import Any, ClassVar

import nltk
from nltk.corpus import wordnet
from nltk.translate.meteor_score import meteor_score

from bench.metrics import _base

RULES = "0-1|words:nltk,one_line,lower|alpha:0.9|beta:3|gamma:0.5|golds:max|mean:examples|no_gold:1_if_empty|missing:0"


class Meteor(_base.MeanMetric):
    """Mean METEOR.

    Predictions are texts, references lists of gold texts. The mean over examples, 0 ... 1, of the highest METEOR of the
    answer with any of its golds, as NLTK computes it (alpha 0.9, beta 3, gamma 0.5): words are matched in lower case,
    then by Porter's stems, then by WordNet's synonyms if NLTK's data has them. Nothing is downloaded; the signature
    says which synonyms there were, and values with and without them can't be compared. Words are split by NLTK's
    tokeniser, each text as one line.

    METEOR = F (1 - gamma (runs / matches)^beta), F = P R / (alpha P + (1 - alpha) R), where P and R are the matches'
    shares of the answer and of the gold, and a run is matched words in the same order on both sides.

    METEOR's penalty for scattered matches is not zero for a single run of words: a right answer of one word counts 0.5,
    one of six words 0.998. A question without an answer (no gold text) counts 1 for an empty answer, else 0; a missing
    answer (None) always counts 0. No examples give NaN.
    """

    source = (
        "Lavie and Agarwal 2007, METEOR: An Automatic Metric for MT Evaluation with High Levels of Correlation with "
        "Human Judgments, W07-0734."
    )
    reads = "answers"
    configs = ("default",)
    higher_is_better: ClassVar[dict[str, bool]] = {"meteor": True}
    unit_means = ("meteor",)
    settings: ClassVar[dict[str, str]] = {"meteor": RULES}

    def example_score(self, prediction: str | None, reference: list[str]) -> float:
        """Return METEOR of one example."""
        if prediction is None or not reference:
            return float(prediction is not None and not prediction.strip())
        return float(meteor_score([_words(gold) for gold in reference], _words(prediction), wordnet=_synonyms()))

    def signatures(self) -> dict[str, str]:
        """Return the settings, with the synonyms that were found and NLTK's version."""
        matches = f"words,stems,{_synonyms().name}"
        return {"meteor": f"meteor|{RULES}|matches:{matches}|nltk:{nltk.__version__}|v1"}


class _WordNet:
    """NLTK's WordNet. Raises LookupError without its data."""

    def __init__(self) -> None:
        self.name = f"wordnet_{wordnet.get_version()}"
        self.synsets = wordnet.synsets


class _NoSynonyms:
    """Used where WordNet is not installed; knows no synonyms."""

    name = "no_synonyms"

    def synsets(self, word: str) -> list[Any]:
        """Return no synonyms."""
        return []


@cache
def _synonyms() -> _WordNet | _NoSynonyms:
    try:
        return _WordNet()
    except LookupError:
        return _NoSynonyms()


def _words(text: str) -> list[str]:
    # As one line, since finding sentences needs a model that would have to be downloaded.
    return nltk.word_tokenize(text, preserve_line=True)
