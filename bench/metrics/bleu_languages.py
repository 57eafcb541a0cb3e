"""BLEU of written answers in scripts that sacrebleu's default tokeniser does not split: by intl, zh and char."""

from typing import ClassVar

from bench.metrics import _base


class BleuLanguages(_base.BleuMetric):
    """Corpus BLEU by sacrebleu, with tokenisers for other scripts than Latin.

    Predictions are texts, references lists of gold texts of any number. Corpus BLEU on sacrebleu's scale, 0 ... 100, as
    in the metric bleu, with other words: bleu_intl splits at punctuation and symbols of Unicode, bleu_zh also splits
    Chinese into characters, bleu_char splits everything into characters, for scripts without blanks.

    A right answer of fewer than four words has no n-gram of four, whatever the tokeniser: a corpus of such answers
    scores 0. A question without an answer (no gold text) is left out and counted in bleu_languages_left_out. A missing
    answer (None) counts as an empty one. No examples, or only such as are left out, give NaN.
    """

    tokenizers = ("bleu_intl", "bleu_zh", "bleu_char")
    reads = "answers"
    configs = ("default",)
    higher_is_better: ClassVar[dict[str, bool]] = {"bleu_intl": True, "bleu_zh": True, "bleu_char": True}
    counts = ("bleu_languages_left_out",)
