"""BLEU of written answers: sacrebleu's corpus score, with its tokeniser and without one."""

from functools import cache
from typing import Any, ClassVar

import numpy as np
from sacrebleu.metrics import BLEU

from bench.analysis.stats.sums import TOKENIZERS, bleu_counts
from bench.metrics import _base

# Of each tokeniser: length, reference length, n-grams of 1 to 4 words that match, and n-grams.
COLUMNS = 2 + 4 + 4


class Bleu(_base.AdditiveMetric):
    """Corpus BLEU by sacrebleu.

    Predictions are texts, references lists of gold texts of any number. Corpus BLEU on sacrebleu's scale, 0 ... 100:
    n-grams up to 4, the closest reference length, exponential smoothing.

    bleu takes sacrebleu's default tokeniser 13a, bleu_tokenize_none splits at spaces only, for texts that are tokenised
    already. N-gram counts and lengths are summed over all examples, so that this is no mean of sentence scores.
    "nrefs:var" in the signature: an example counts with as many references as it has.

    A question without an answer (no gold text) is left out, as there is no text to compare with, and counted in
    bleu_left_out. A missing answer (None) counts as an empty one: it matches nothing, and its reference lengthens the
    text that should have been written. No examples, or only such as are left out, give NaN.
    """

    source = (
        "Papineni et al. 2002, BLEU: a Method for Automatic Evaluation of Machine Translation, P02-1040. Post 2018, A "
        "Call for Clarity in Reporting BLEU Scores, W18-6319 (sacrebleu)."
    )
    reads = "answers"
    configs = ("default",)
    higher_is_better: ClassVar[dict[str, bool]] = {"bleu": True, "bleu_tokenize_none": True}
    counts = ("bleu_left_out",)

    def example_statistics(self, predictions: list[str | None], references: list[list[str]], _: int) -> np.ndarray:
        """Return [examples, 22]: 10 counts for each tokeniser, 1 if the question has an answer, 1 if it has none."""
        rows = np.zeros((len(predictions), COLUMNS * len(TOKENIZERS) + 2))
        for row, answer, golds in zip(rows, predictions, references, strict=True):
            row[-2:] = bool(golds), not golds
            if golds:
                counts = [bleu_counts(tokenizer, answer, golds) for tokenizer in TOKENIZERS.values()]
                row[:-2] = np.concatenate(counts)
        return rows

    def values(self, sums: np.ndarray, num_labels: int = 0) -> dict[str, np.ndarray]:
        """Return bleu, bleu_tokenize_none and bleu_left_out [...] from sums [..., 22]."""
        values = {}
        for number, name in enumerate(TOKENIZERS):
            counts = sums[..., COLUMNS * number : COLUMNS * (number + 1)]
            scores = [_score(row) for row in counts.reshape(-1, COLUMNS).astype(int).tolist()]
            values[name] = np.where(sums[..., -2] > 0, np.reshape(scores, sums.shape[:-1]), np.nan)
        return {**values, "bleu_left_out": sums[..., -1]}

    def signatures(self) -> dict[str, str]:
        """Return sacrebleu's own signature, and what happens to questions without an answer."""
        signatures = {
            name: f"{name}|0-100|{_signature(tokenizer)}|no_gold:left_out|missing:empty|v1"
            for name, tokenizer in TOKENIZERS.items()
        }
        return {**signatures, "bleu_left_out": "bleu_left_out|questions|v1"}


def _score(counts: list[int]) -> float:
    """Return corpus BLEU from summed counts, smoothed as sacrebleu does by default."""
    length, reference_length, *ngrams = counts
    return BLEU.compute_bleu(ngrams[:4], ngrams[4:], length, reference_length, smooth_method="exp").score


@cache
def _signature(tokenizer: str) -> str:
    """Return sacrebleu's, for any number of references; it has one only after a score, hence two made-up examples."""
    scorer = BLEU(tokenize=tokenizer)
    streams: list[list[Any]] = [["a", "a"], [None, "a"]]
    scorer.corpus_score(["a", "a"], streams)
    return str(scorer.get_signature())
