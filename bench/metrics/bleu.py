"""BLEU of written answers: sacrebleu's corpus score, with its tokeniser and without one."""

from typing import ClassVar

from bench.metrics import _base


class Bleu(_base.BleuMetric):
    """Corpus BLEU by sacrebleu.

    Predictions are texts, references lists of gold texts of any number. Corpus BLEU on sacrebleu's scale, 0 ... 100:
    n-grams up to 4, the closest reference length, exponential smoothing.

    BLEU = 100 x min(1, exp(1 - r / c)) x the geometric mean of p_1 ... p_4, where c is the answers' length, r that of
    their closest references, and p_n the share of the answers' n-grams that a reference has.

    bleu takes sacrebleu's default tokeniser 13a, bleu_tokenize_none splits at spaces only, for texts that are tokenised
    already. N-gram counts and lengths are summed over all examples, so that this is no mean of sentence scores.
    "nrefs:var" in the signature: an example counts with as many references as it has.

    A question without an answer (no gold text) is left out, as there is no text to compare with, and counted in
    bleu_left_out. A missing answer (None) counts as an empty one: it matches nothing, and its reference lengthens the
    text that should have been written. No examples, or only such as are left out, give NaN.
    """

    tokenizers = ("bleu", "bleu_tokenize_none")
    reads = "answers"
    configs = ("default",)
    higher_is_better: ClassVar[dict[str, bool]] = {"bleu": True, "bleu_tokenize_none": True}
    counts = ("bleu_left_out",)
