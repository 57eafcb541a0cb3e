"""BLEU of written answers: sacrebleu's corpus score, with its tokeniser and without one."""

from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar

import datasets
import evaluate
import numpy as np
from sacrebleu.metrics import BLEU

DESCRIPTION = """Predictions are texts, references lists of gold texts of any number. Corpus BLEU on sacrebleu's scale,
0 ... 100: n-grams up to 4, the closest reference length, exponential smoothing.

bleu takes sacrebleu's default tokeniser 13a, bleu_tokenize_none splits at spaces only, for texts that are tokenised
already. N-gram counts and lengths are summed over all examples, so that this is no mean of sentence scores.
"nrefs:var" in the signature: an example counts with as many references as it has.

A question without an answer (no gold text) is left out, as there is no text to compare with, and counted in
bleu_left_out. A missing answer (None) counts as an empty one: it matches nothing, and its reference lengthens
the text that should have been written. No examples, or only such as are left out, give NaN.
"""
CITATION = """Papineni et al. 2002, BLEU: a Method for Automatic Evaluation of Machine Translation, P02-1040.

Post 2018, A Call for Clarity in Reporting BLEU Scores, W18-6319 (sacrebleu).
"""
TOKENIZERS = {"bleu": "13a", "bleu_tokenize_none": "none"}
# Of each tokeniser: length, reference length, n-grams of 1 to 4 words that match, and n-grams.
COLUMNS = 2 + 4 + 4


class Bleu(evaluate.Metric):
    """Corpus BLEU by sacrebleu."""

    reads = "answers"
    configs = ("default",)
    higher_is_better: ClassVar[dict[str, bool]] = {"bleu": True, "bleu_tokenize_none": True}
    counts = ("bleu_left_out",)

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
        """[examples, 22]: 10 counts for each tokeniser, 1 if the question has an answer, 1 if it has none."""
        rows = np.zeros((len(predictions), COLUMNS * len(TOKENIZERS) + 2))
        for row, answer, golds in zip(rows, *_texts(predictions, references), strict=True):
            row[-2:] = bool(golds), not golds
            if golds:
                counted = [_counts(tokenizer, answer or "", golds) for tokenizer in TOKENIZERS.values()]
                row[:-2] = [count for counts in counted for count in counts]
        return rows

    def values(self, sums: np.ndarray, num_labels: int = 0) -> dict[str, np.ndarray]:
        """bleu, bleu_tokenize_none and bleu_left_out [...] from sums [..., 22]."""
        found = {}
        for number, name in enumerate(TOKENIZERS):
            counts = sums[..., COLUMNS * number : COLUMNS * (number + 1)]
            scores = [_score(row) for row in counts.reshape(-1, COLUMNS).astype(int).tolist()]
            found[name] = np.where(sums[..., -2] > 0, np.reshape(scores, sums.shape[:-1]), np.nan)
        return {**found, "bleu_left_out": sums[..., -1]}

    def proportions(self, sums: np.ndarray, num_labels: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """None: BLEU is not a share of independent trials."""
        return {}

    def per_example(
        self, predictions: Sequence[Any], references: Sequence[Any], num_labels: int = 0
    ) -> dict[str, np.ndarray]:
        """None: not a mean over examples."""
        return {}

    def signatures(self) -> dict[str, str]:
        """sacrebleu's own signature, and what happens to questions without an answer."""
        found = {
            name: f"{name}|0-100|{_signature(tokenizer)}|no_gold:left_out|missing:empty|v1"
            for name, tokenizer in TOKENIZERS.items()
        }
        return {**found, "bleu_left_out": "bleu_left_out|questions|v1"}

    def _compute(
        self, predictions: Sequence[Any], references: Sequence[Any], num_labels: int | None = None
    ) -> dict[str, Any]:
        sums = self.statistics(predictions, references).sum(axis=0)
        return {name: value.tolist() for name, value in self.values(sums).items()}


@cache
def _scorer(tokenizer: str) -> BLEU:
    # The effective order changes the score of one sentence, which is not used; it keeps sacrebleu from warning.
    return BLEU(tokenize=tokenizer, effective_order=True)


def _counts(tokenizer: str, answer: str, golds: list[str]) -> list[int]:
    """The counts of one example that corpus BLEU adds up."""
    found = _scorer(tokenizer).sentence_score(answer, golds)
    return [found.sys_len, found.ref_len, *found.counts, *found.totals]


def _score(counts: list[int]) -> float:
    """Corpus BLEU from summed counts, smoothed as sacrebleu does by default."""
    length, reference_length, *ngrams = counts
    return BLEU.compute_bleu(ngrams[:4], ngrams[4:], length, reference_length, smooth_method="exp").score


@cache
def _signature(tokenizer: str) -> str:
    """sacrebleu's, for any number of references; it has one only after a score, hence two examples of no account."""
    scorer = BLEU(tokenize=tokenizer)
    streams: list[list[Any]] = [["a", "a"], [None, "a"]]
    scorer.corpus_score(["a", "a"], streams)
    return str(scorer.get_signature())


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
