"""Scores as functions of sums over examples: the formulas of `bench/metrics`, without the evaluate library.

A metric adds to a formula what the evaluate library wants to know, which takes seconds to import. Comparing runs needs
only the statistics of each example, from a run's file of predictions, and the formula over their sums. A comparison
starts with recomputing the score that the run's record states.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from bench.errors import DataError

Value = Callable[[np.ndarray], np.ndarray]

AVERAGES = ("macro", "micro", "weighted")
BY_LABEL = tuple(f"{kind}_{average}" for kind in ("f1", "precision", "recall") for average in AVERAGES)
TOKENIZERS = {"bleu": "13a", "bleu_tokenize_none": "none"}
# Of a BLEU row: length, reference length, matching n-grams of 1 to 4 words, n-grams of 1 to 4 words.
MATCHES, NGRAMS = slice(2, 6), slice(6, 10)


class Line(NamedTuple):
    """One example of a file of predictions. value: the metric's own value for it, if it has one."""

    prediction: Any
    reference: Any
    value: float | None = None


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Statistics [examples, columns] of one run, and how their sums [..., columns] become scores [...]."""

    rows: np.ndarray
    value: Value

    @property
    def score(self) -> float:
        """The score of all examples."""
        return float(self.value(self.rows.sum(0, dtype=float)))

    @property
    def is_binary(self) -> bool:
        """True where each example is right or wrong, and the score is the share of right ones."""
        return self.value is mean_value and bool(np.isin(self.rows[:, 0], (0, 1)).all())


def tally(metric: str, lines: Sequence[Line], labels: Sequence[str], *, multi_label: bool) -> Tally:
    """Return the statistics that this metric adds up.

    Raises DataError for a metric whose value does not follow from sums over the lines of a file of predictions.
    """
    if metric in BY_LABEL or metric == "mcc":
        known = {name: number for number, name in enumerate(labels)}
        predicted = _label_table([line.prediction for line in lines], known, multi_label)
        reference = _label_table([line.reference for line in lines], known, multi_label)
        if metric == "mcc":
            return Tally(rows=_mcc_rows(predicted, reference), value=mcc_value)
        return Tally(rows=label_rows(predicted, reference), value=label_value(metric))
    if metric in TOKENIZERS:
        return Tally(rows=_bleu_rows(lines, TOKENIZERS[metric]), value=bleu_value)
    if any(line.value is None for line in lines):
        raise DataError(
            f"{metric} can't be compared: its value on a part of the examples does not follow from what is written "
            f"beside the predictions; means over examples can, and mcc, bleu, {', '.join(BY_LABEL)}"
        )
    values = np.array([line.value for line in lines], dtype=float)
    # Small whole numbers where all are: they are added exactly, and fast.
    short = values.astype(np.uint8) if np.isin(values, (0, 1)).all() else values
    return Tally(rows=np.stack([short, np.ones_like(short)], axis=1), value=mean_value)


def mean(total: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Return total / number, elementwise; NaN where there is nothing to take the mean of."""
    return np.divide(total, number, out=np.full(np.shape(total), np.nan), where=np.asarray(number) > 0)


def mean_value(sums: np.ndarray) -> np.ndarray:
    """Return the mean [...] from sums [..., 2] of values and of 1."""
    return mean(sums[..., 0], sums[..., 1])


def _label_table(names: list[Any], known: dict[str, int], multi_label: bool) -> np.ndarray:
    """Return [examples, labels] of 0 and 1; no answer is a row of 0. Raises DataError for an unknown label."""
    rows, columns = [], []
    for row, given in enumerate(names):
        several = given if multi_label and isinstance(given, list) else [given]
        for name in several if given is not None else []:
            if not isinstance(name, str) or name not in known:
                raise DataError(f"the label {name!r} is none of the record's: {', '.join(known)}")
            rows.append(row)
            columns.append(known[name])
    table = np.zeros((len(names), len(known)), dtype=np.uint8)
    table[rows, columns] = 1
    return table


def label_rows(predicted: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return [examples, 3 x labels]: the label is in both, in the prediction, in the reference.

    predicted, reference: [examples, labels] of 0 and 1; no answer is a row of 0.
    """
    return np.concatenate([predicted & reference, predicted, reference], axis=1)


@cache
def label_value(metric: str) -> Value:
    """Return the formula of F1, precision or recall over sums [..., 3 x labels] of `label_rows`.

    metric: `<f1|precision|recall>_<macro|micro|weighted|per_label>`; per label it gives [..., labels], else [...].
    Macro is the mean of the labels' values; weighted weighs them by reference examples; zero divided by zero is 0.
    Raises ValueError for another name. Source: Manning, Raghavan and Schütze 2008, Introduction to Information
    Retrieval, sections 8.3 and 13.6.
    """
    kind, _, average = metric.partition("_")
    if kind not in ("f1", "precision", "recall") or average not in (*AVERAGES, "per_label"):
        raise ValueError(f"{metric!r} is not f1, precision or recall with _macro, _micro, _weighted or _per_label")

    def _quotient(both: np.ndarray, predicted: np.ndarray, reference: np.ndarray) -> np.ndarray:
        if kind == "f1":
            return _ratio(2 * both, predicted + reference)
        return _ratio(both, predicted if kind == "precision" else reference)

    def _value(sums: np.ndarray) -> np.ndarray:
        counts = np.split(sums, 3, axis=-1)
        if average == "micro":
            return _quotient(*(count.sum(-1) for count in counts))
        per_label = _quotient(*counts)
        if average == "per_label":
            return per_label
        weights = counts[2] if average == "weighted" else np.ones_like(counts[2])
        return _ratio((per_label * weights).sum(-1), weights.sum(-1))

    return _value


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return a quotient, 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros(np.shape(numerator)), where=denominator > 0)


def _mcc_rows(predicted: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return [examples, 2 + 2 x labels]: wrong, no answer, one-hot prediction - one-hot reference, one-hot reference.

    predicted, reference: [examples, labels] of 0 and 1; no answer is a row of 0. Of a right answer all columns but the
    last ones are 0, so that a product with the rows of many systems has little to add up.
    """
    wrong, unanswered = (1 - table.max(1, keepdims=True) for table in (predicted & reference, predicted))
    reference = reference.astype(np.int8)
    return np.concatenate([wrong, unanswered, predicted - reference, reference], axis=1, dtype=np.int8)


def mcc_value(sums: np.ndarray) -> np.ndarray:
    """Return Matthews correlation [...] from the sums [..., 2 + 2 x labels] of a tally."""
    wrong, unanswered = sums[..., 0], sums[..., 1]
    surplus, reference = np.split(sums[..., 2:], 2, axis=-1)
    return matthews_correlation(reference.sum(-1) - wrong, unanswered, reference + surplus, reference)


def matthews_correlation(
    correct: np.ndarray, unanswered: np.ndarray, predicted: np.ndarray, reference: np.ndarray
) -> np.ndarray:
    """Return R_K [...] for any number of labels, 0 where it is not defined.

    correct, unanswered: numbers of examples [...]. predicted, reference: of each label, [..., labels]. Those without an
    answer are one more predicted label. Source: Gorodkin 2004, Computational Biology and Chemistry 28, 367-374.
    """
    number = reference.sum(-1)
    covariance = correct * number - (predicted * reference).sum(-1)
    predicted_variance = number**2 - (predicted**2).sum(-1) - unanswered**2
    product = predicted_variance * (number**2 - (reference**2).sum(-1))
    return _ratio(covariance, np.sqrt(np.maximum(product, 0)))


def _bleu_rows(lines: Sequence[Line], tokenizer: str) -> np.ndarray:
    """Return [examples, 10]: counts of `bleu_counts`; 0 for a question without an answer, which is left out."""
    rows = np.zeros((len(lines), 10), dtype=np.int64)
    for row, line in zip(rows, lines, strict=True):
        golds: list[Any] = line.reference if isinstance(line.reference, list) else [None]
        if not all(isinstance(text, str) for text in [line.prediction or "", *golds]):
            raise DataError(f"BLEU compares texts, and a prediction is {line.prediction!r} for {line.reference!r}")
        if golds:
            row[:] = bleu_counts(tokenizer, line.prediction, golds)
    return rows


def bleu_counts(tokenizer: str, answer: str | None, golds: Sequence[str]) -> list[int]:
    """Return what corpus BLEU adds up of one example, by sacrebleu; a missing answer counts as an empty one.

    Length, closest reference length, matching n-grams of 1 to 4 words, n-grams of 1 to 4 words.
    """
    counts = _bleu_scorer(tokenizer).sentence_score(answer or "", golds)
    return [counts.sys_len, counts.ref_len, *counts.counts, *counts.totals]


@cache
def _bleu_scorer(tokenizer: str) -> Any:
    from sacrebleu.metrics import BLEU

    # The effective order changes the score of one sentence, which is not used; it keeps sacrebleu from warning.
    return BLEU(tokenize=tokenizer, effective_order=True)


def bleu_value(sums: np.ndarray) -> np.ndarray:
    """Return corpus BLEU [...], 0 to 100, from sums [..., 10] of `bleu_counts`, smoothed by "exp" as sacrebleu does.

    Without any word, or any that matches, it is 0. Vectorised over draws; sacrebleu's compute_bleu, which the metric
    takes, handles one draw at a time and differs by rounding. Source: Papineni et al. 2002, P02-1040.
    """
    length, reference_length = sums[..., 0], sums[..., 1]
    matches, ngrams = sums[..., MATCHES], sums[..., NGRAMS]
    # The precision of an order without a match is that of half a match, then of a quarter, and so on.
    missing = np.cumsum((matches == 0) & (ngrams > 0), axis=-1)
    raised = np.where(matches == 0, 0.5**missing, matches)
    share = _ratio(raised, ngrams)
    logarithms = np.log(np.where(share > 0, share, 1.0)).mean(-1)
    brevity = np.exp(np.minimum(0.0, 1 - _ratio(reference_length, length)))
    possible = (matches.max(-1) > 0) & (share > 0).all(-1) & (length > 0)
    return np.where(possible, 100 * brevity * np.exp(logarithms), 0.0)
