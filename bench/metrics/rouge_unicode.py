"""ROUGE of written answers in any script: words of Unicode, single characters of scripts without blanks."""

import re
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from typing import Any, ClassVar

from rouge_score import rouge_scorer

from bench.metrics import _base

NAMES = {"rouge1_unicode": "rouge1", "rouge2_unicode": "rouge2", "rougeL_unicode": "rougeL"}
RULES = (
    "f_measure|0-1|stemmer:none|words:unicode,casefold,cjk_and_thai_by_character|golds:max|mean:examples"
    f"|no_gold:1_if_empty|missing:0|rouge_score:{version('rouge-score')}"
)
# Scripts without blanks between words: Thai, Lao, Burmese, Khmer, kana, Chinese characters, and their supplements.
ALONE = (
    "\\u0e00-\\u0eff\\u1000-\\u109f\\u1780-\\u17ff\\u3040-\\u30ff\\u3400-\\u4dbf\\u4e00-\\u9fff\\uf900-\\ufaff"
    "\\U00020000-\\U0003ffff"
)
# Signs over and under letters, and the blocks of Indian scripts, whose vowels are such signs.
SIGNS = "\\u0300-\\u036f\\u0610-\\u061a\\u064b-\\u065f\\u0900-\\u0963\\u0966-\\u0dff"
WORDS = re.compile(f"[{ALONE}]|(?:[^\\W{ALONE}]|[{SIGNS}])+")


class RougeUnicode(_base.MeanMetric):
    """Mean F-measures of n-grams and of the longest common subsequence, of words in any script.

    Predictions are texts, references lists of gold texts. As the metric rouge, which knows the letters a-z and digits
    only; here a word is a run of letters, digits and underscores of Unicode in case-folded form, and each character of
    a script without blanks (Chinese, Japanese kana, Thai, Lao, Burmese, Khmer) is a word. Nothing is stemmed. Of
    several golds, the one with the highest F-measure counts, chosen for each value by itself.

    A question without an answer (no gold text) counts 1 for an empty answer, else 0; a missing answer (None) always
    counts 0. No examples give NaN.
    """

    source = "Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries, W04-1013."
    reads = "answers"
    configs = ("default",)
    higher_is_better: ClassVar[dict[str, bool]] = {
        "rouge1_unicode": True,
        "rouge2_unicode": True,
        "rougeL_unicode": True,
    }
    unit_means = ("rouge1_unicode", "rouge2_unicode", "rougeL_unicode")
    settings: ClassVar[dict[str, str]] = dict.fromkeys(NAMES, f"{RULES}|v1")

    def example_score(self, prediction: str | None, reference: list[str]) -> Sequence[float]:
        """Return the three F-measures."""
        if prediction is None or not reference:
            return [float(prediction is not None and not prediction.strip())] * len(NAMES)
        measures = _scorer().score_multi(reference, prediction)
        return [measures[name].fmeasure for name in NAMES.values()]


class _Words:
    """A tokeniser as rouge-score calls it."""

    def tokenize(self, text: str) -> list[str]:
        """Return the words of a text."""
        return WORDS.findall(text.casefold())


@cache
def _scorer() -> Any:
    return rouge_scorer.RougeScorer(list(NAMES.values()), tokenizer=_Words())
