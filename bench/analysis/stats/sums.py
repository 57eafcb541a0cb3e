"""Scores as functions of sums over examples: the formulas of `bench/metrics`, without the evaluate library.

A metric adds to a formula what the evaluate library wants to know, which takes seconds to import. Comparing runs needs
only the statistics of each example, from a run's file of predictions, and the formula over their sums. A comparison
starts with recomputing the score that the run's record states.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from bench.analysis.stats import chrf, correlations, entity_counts, probabilities, tables
from bench.analysis.stats.correlations import RankValue
from bench.analysis.stats.tables import Table
from bench.analysis.stats.weighted import WeightedValue
from bench.data import tagging
from bench.errors import DataError

Value = Callable[[np.ndarray], np.ndarray]

AVERAGES = ("macro", "micro", "weighted")
BY_LABEL = tuple(f"{kind}_{average}" for kind in ("f1", "precision", "recall") for average in AVERAGES)
# F1 of the label that is looked for: see `bench.metrics.f1_positive`.
POSITIVE = "f1_positive"
# Of BLEU: sacrebleu's tokenizer, by the name of the value.
TOKENIZERS = {
    "bleu": "13a",
    "bleu_tokenize_none": "none",
    "bleu_intl": "intl",
    "bleu_zh": "zh",
    "bleu_char": "char",
}
# Of entities: how their counts by type become a value.
BY_ENTITY = ("entity_f1", "entity_precision", "entity_recall", "entity_f1_macro")
# What is recomputed from predictions and references that are tags, or numbers.
OF_TAGS = (*BY_ENTITY, "token_accuracy")
OF_NUMBERS = ("pearson", "spearman", "mse", "mae")
# What is recomputed from probabilities, by draws that rank or bin them anew.
BY_PROBABILITY = tuple(name for name in probabilities.BY_PROBABILITY if name != "ece_by_chance")
# Of multiple choice: the length over which a log-likelihood is taken, as predictions files name it.
CHOICE_LENGTHS = {
    "acc": None,
    "acc_norm": "choice_characters",
    "acc_bytes": "choice_bytes",
    "acc_tokens": "choice_tokens",
}
# Of a BLEU row: length, reference length, matching n-grams of 1 to 4 words, n-grams of 1 to 4 words.
MATCHES, NGRAMS = slice(2, 6), slice(6, 10)


class Line(NamedTuple):
    """One example of a file of predictions. value: the metric's own value for it, if it has one.

    loss, tokens: of the reference, summed over its tokens in nats; where a language model wrote the answer.
    scores: label -> its probability; where a metric of probabilities is to be recomputed. words, bytes: of a running
    text.
    """

    prediction: Any
    reference: Any
    value: float | None = None
    loss: float | None = None
    tokens: int | None = None
    scores: Mapping[str, float] | None = None
    words: int | None = None
    bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Statistics [examples, columns] of one run, and how their sums [..., columns] become scores [...].

    value: or a WeightedValue, for which the rows themselves are weighted.
    """

    rows: Table
    value: Value | WeightedValue

    @property
    def examples(self) -> int:
        """The number of examples."""
        return int(self.rows.shape[0])

    @property
    def score(self) -> float:
        """The score of all examples."""
        if isinstance(self.value, WeightedValue):
            return self.value.score(self.rows)
        return float(self.value(self.rows.sum(0, dtype=float)))

    @property
    def is_binary(self) -> bool:
        """True where each example is right or wrong, and the score is the share of right ones."""
        return self.value is mean_value and bool(np.isin(self.rows[:, 0], (0, 1)).all())


def tally(
    metric: str,
    lines: Sequence[Line],
    labels: Sequence[str],
    *,
    multi_label: bool,
    scheme: str | None = None,
    made: dict[str, Table] | None = None,
) -> Tally:
    """Return the statistics that this metric adds up. scheme: of tags of words, see `bench.data.tagging`.

    made: the tables of labels that an earlier call for the same lines left there, which other metrics share. Raises
    DataError for a metric whose value does not follow from sums over the lines of a file of predictions.
    """
    if metric in BY_LABEL or metric == "mcc":
        known = {name: number for number, name in enumerate(labels)}
        made = {} if made is None else made
        if not made:
            made["predicted"] = _label_table([line.prediction for line in lines], known, multi_label)
            made["reference"] = _label_table([line.reference for line in lines], known, multi_label)
        predicted, reference = made["predicted"], made["reference"]
        if metric == "mcc":
            return Tally(rows=_mcc_rows(predicted, reference), value=mcc_value)
        return Tally(rows=label_rows(predicted, reference), value=label_value(metric))
    if metric == POSITIVE:
        # The first label counts as no answer, so that it has no column.
        lines = [
            Line(
                prediction=None if line.prediction == labels[0] else line.prediction,
                reference=None if line.reference == labels[0] else line.reference,
            )
            for line in lines
        ]
        return tally("f1_macro", lines, labels[1:], multi_label=False)
    if metric in TOKENIZERS:
        return Tally(rows=_bleu_rows(lines, TOKENIZERS[metric]), value=bleu_value)
    if metric in chrf.WORD_ORDERS:
        return Tally(rows=_chrf_rows(lines, metric), value=chrf.value)
    if metric in BY_PROBABILITY and all(line.scores is not None for line in lines):
        rows = probability_rows(metric, lines, labels, multi_label=multi_label)
        return Tally(rows=rows, value=probabilities.value_of(metric, multi_label=multi_label))
    if metric in BY_TOKENS and all(line.loss is not None and line.tokens for line in lines):
        rows = np.array([(line.loss, line.tokens) for line in lines], dtype=float)
        return Tally(rows=rows, value=BY_TOKENS[metric])
    own = _tags_tally(metric, lines, labels, scheme) if metric in OF_TAGS else _numbers_tally(metric, lines)
    if own is not None:
        return own
    if any(line.value is None for line in lines):
        raise DataError(
            f"{metric} can't be compared: its value on a part of the examples does not follow from what is written "
            f"beside the predictions; means over examples can, and mcc, bleu, chrf, {', '.join(BY_LABEL)}"
        )
    values = np.array([line.value for line in lines], dtype=float)
    # Small whole numbers where all are: they are added exactly, and fast.
    short = values.astype(np.uint8) if np.isin(values, (0, 1)).all() else values
    return Tally(rows=np.stack([short, np.ones_like(short)], axis=1), value=mean_value)


def _numbers_tally(metric: str, lines: Sequence[Line]) -> Tally | None:
    """Return the statistics of a metric of numbers; None for another metric, and for lines that hold none."""
    fill = correlations.median_filled if metric in ("pearson", "spearman") else correlations.farthest_filled
    pairs = correlations.number_pairs(lines, fill) if metric in OF_NUMBERS else None
    if pairs is None:
        return None
    if metric == "pearson":
        return Tally(rows=correlations.pearson_rows(*pairs), value=correlations.pearson_value)
    if metric == "spearman":
        return Tally(rows=correlations.rank_rows(*pairs), value=RankValue())
    errors = np.abs(pairs[0] - pairs[1]) ** (2 if metric == "mse" else 1)
    return Tally(rows=np.stack([errors, np.ones_like(errors)], axis=1), value=mean_value)


def _tags_tally(metric: str, lines: Sequence[Line], labels: Sequence[str], scheme: str | None) -> Tally:
    """Return the statistics of a metric of tags. Raises DataError for lines without as many tags as the reference."""
    pairs = [(line.prediction, line.reference) for line in lines]
    for predicted, reference in pairs:
        sound = isinstance(predicted, list) and isinstance(reference, list) and len(predicted) == len(reference)
        if not sound or not all(isinstance(tag, str) and tag for tag in [*predicted, *reference]):
            raise DataError(f"{metric} compares a tag of each word, and a prediction is {predicted!r:.60}")
    predictions, references = zip(*pairs, strict=True) if pairs else ((), ())
    if metric == "token_accuracy":
        return Tally(rows=entity_counts.accuracy_rows(predictions, references), value=entity_counts.share)
    kinds = tagging.kinds_of([*labels, *(tag for pair in pairs for tags in pair for tag in tags)])
    rows = entity_counts.entity_rows(predictions, references, kinds, scheme)
    return Tally(rows=rows, value=entity_value(metric))


def entity_value(metric: str) -> Value:
    """Return the formula of one of BY_ENTITY over sums [..., 3 x types] of `entity_counts.entity_rows`."""
    return entity_counts.macro_f1 if metric == "entity_f1_macro" else label_value(f"{metric.split('_')[1]}_micro")


def mean(total: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Return total / number, elementwise; NaN where there is nothing to take the mean of."""
    return np.divide(total, number, out=np.full(np.shape(total), np.nan), where=np.asarray(number) > 0)


def mean_value(sums: np.ndarray) -> np.ndarray:
    """Return the mean [...] from sums [..., 2] of values and of 1."""
    return mean(sums[..., 0], sums[..., 1])


def _loss_per_token(sums: np.ndarray) -> np.ndarray:
    return mean_value(sums)


def _perplexity(sums: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(mean_value(sums)))


# Value -> its formula over sums [..., 2] of the loss of references and of their tokens.
BY_TOKENS: dict[str, Value] = {"reference_loss": _loss_per_token, "perplexity": _perplexity}


def probability_rows(metric: str, lines: Sequence[Line], labels: Sequence[str], *, multi_label: bool) -> np.ndarray:
    """Return the rows of a metric of `probabilities.BY_PROBABILITY`; a label without a probability has 0.

    Raises DataError for a label that is none of these, and for a probability that is not a number.
    """
    known = {name: number for number, name in enumerate(labels)}
    scores = np.zeros((len(lines), len(labels)))
    for row, line in zip(scores, lines, strict=True):
        for name, value in (line.scores or {}).items():
            if name not in known or isinstance(value, bool) or not isinstance(value, int | float):
                raise DataError(f"the probability {value!r} of {name!r} is no number of a label of the record")
            row[known[name]] = value
    references = tables.dense(_label_table([line.reference for line in lines], known, multi_label))
    return probabilities.rows_of(metric, scores, references if multi_label else references.argmax(axis=1))


def likeliest_choice(log_likelihoods: np.ndarray, lengths: np.ndarray | float) -> int:
    """Return the place of the highest log-likelihood over length, both [choices]; of equal ones the first."""
    return int(np.argmax(log_likelihoods / lengths))


def _chrf_rows(lines: Sequence[Line], metric: str) -> np.ndarray:
    """Return [examples, columns]: counts of `chrf.counts`; 0 for a question without an answer, which is left out."""
    rows = np.zeros((len(lines), chrf.columns(metric)), dtype=np.int64)
    for row, line in zip(rows, lines, strict=True):
        golds: list[Any] = line.reference if isinstance(line.reference, list) else [None]
        if not all(isinstance(text, str) for text in [line.prediction or "", *golds]):
            raise DataError(f"chrF compares texts, and a prediction is {line.prediction!r} for {line.reference!r}")
        if golds:
            row[:] = chrf.counts(metric, line.prediction, golds)
    return rows


def _label_table(names: list[Any], known: dict[str, int], multi_label: bool) -> Table:
    """Return [examples, labels] of 0 and 1; no answer is a row of 0. Raises DataError for an unknown label."""
    if not multi_label:
        numbers: dict[Any, int] = {**known, None: -1}
        try:
            return tables.of_labels(np.array(list(map(numbers.__getitem__, names)), dtype=np.int64), len(known))
        except (KeyError, TypeError):
            pass  # an unknown label, which is named below
    rows, columns = [], []
    for row, given in enumerate(names):
        several = given if multi_label and isinstance(given, list) else [given]
        for name in several if given is not None else []:
            if not isinstance(name, str) or name not in known:
                raise DataError(f"the label {name!r} is none of the record's: {', '.join(known)}")
            rows.append(row)
            columns.append(known[name])
    return tables.from_entries(rows, columns, (len(names), len(known)))


def label_rows(predicted: Table, reference: Table) -> Table:
    """Return [examples, 3 x labels]: the label is in both, in the prediction, in the reference.

    predicted, reference: [examples, labels] of 0 and 1; no answer is a row of 0.
    """
    both = predicted.multiply(reference) if tables.is_sparse(predicted) else predicted & reference
    return tables.beside([both, predicted, reference])


def without_first_label(sums: np.ndarray) -> np.ndarray:
    """Return sums [..., 3 x labels] of `label_rows` without the first label."""
    return np.concatenate([block[..., 1:] for block in np.split(sums, 3, axis=-1)], axis=-1)


@dataclass(frozen=True, kw_only=True)
class LabelValue:
    """A score that depends on sums over labels only: called with sums [..., columns] it gives [...].

    singles: columns in front of those of labels, of which there are `blocks` blocks. terms: blocks [..., labels] each
    -> terms [..., labels] each. score: the single columns [..., singles] and the terms summed over labels -> [...].
    """

    singles: int
    blocks: int
    terms: Callable[..., Sequence[np.ndarray]]
    score: Callable[..., np.ndarray]

    def __call__(self, sums: np.ndarray) -> np.ndarray:
        """Return the score [...] from sums [..., columns]."""
        terms = self.terms(*np.split(sums[..., self.singles :], self.blocks, axis=-1))
        return self.score(sums[..., : self.singles], *(term.sum(-1) for term in terms))

    def without_each(self, rows: Table) -> np.ndarray:
        """Return the score [examples] without each example in turn; only the terms of its labels are computed again.

        rows: a sparse table of statistics.
        """
        total = rows.sum(0, dtype=float)
        blocks = np.split(total[self.singles :], self.blocks)  # each [labels]
        examples, labels = rows.shape[0], len(blocks[0])
        entries = rows[:, self.singles :].tocoo()
        # Pairs of an example and a label in which any block has an entry, and what it has there.
        example, label = entries.coords[0].astype(np.int64), entries.coords[1] % labels
        pairs, pair = np.unique(example * labels + label, return_inverse=True)
        left_out = np.zeros((self.blocks, len(pairs)))
        left_out[entries.coords[1] // labels, pair] = entries.data
        example, label = pairs // labels, pairs % labels
        old = self.terms(*(block[label] for block in blocks))
        new = self.terms(*(block[label] - gone for block, gone in zip(blocks, left_out, strict=True)))
        changes = (
            np.bincount(example, weights=after - before, minlength=examples)
            for before, after in zip(old, new, strict=True)
        )
        sums = [term.sum() + change for term, change in zip(self.terms(*blocks), changes, strict=True)]
        return self.score(total[: self.singles] - tables.dense(rows[:, : self.singles]), *sums)


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

    def _weighed(*counts: np.ndarray) -> Sequence[np.ndarray]:
        weights = counts[2] if average == "weighted" else np.ones_like(counts[2])
        return _quotient(*counts) * weights, weights

    if average == "per_label":
        return lambda sums: _quotient(*np.split(sums, 3, axis=-1))
    if average == "micro":
        return LabelValue(singles=0, blocks=3, terms=lambda *counts: counts, score=lambda _, *sums: _quotient(*sums))
    return LabelValue(singles=0, blocks=3, terms=_weighed, score=lambda _, *sums: _ratio(*sums))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return a quotient, 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros(np.shape(numerator)), where=denominator > 0)


def _mcc_rows(predicted: Table, reference: Table) -> Table:
    """Return [examples, 2 + 2 x labels]: wrong, no answer, one-hot prediction - one-hot reference, one-hot reference.

    predicted, reference: [examples, labels] of 0 and 1; no answer is a row of 0. Of a right answer all columns but the
    last ones are 0, so that a product with the rows of many systems has little to add up.
    """
    single = [1 - table.sum(1) for table in (predicted.multiply(reference), predicted)]
    predicted, reference = predicted.astype(np.int8), reference.astype(np.int8)
    return tables.beside([np.stack(single, axis=1).astype(np.int8), predicted - reference, reference])


def _mcc_terms(surplus: np.ndarray, reference: np.ndarray) -> Sequence[np.ndarray]:
    predicted = reference + surplus
    return reference, predicted * reference, predicted**2, reference**2


def _mcc_score(singles: np.ndarray, *sums: np.ndarray) -> np.ndarray:
    wrong, unanswered = singles[..., 0], singles[..., 1]
    return _correlation(sums[0] - wrong, unanswered, *sums)


mcc_value = LabelValue(singles=2, blocks=2, terms=_mcc_terms, score=_mcc_score)
"""Matthews correlation from the sums [..., 2 + 2 x labels] of a tally."""


def matthews_correlation(
    correct: np.ndarray, unanswered: np.ndarray, predicted: np.ndarray, reference: np.ndarray
) -> np.ndarray:
    """Return R_K [...] for any number of labels, 0 where it is not defined.

    correct, unanswered: numbers of examples [...]. predicted, reference: of each label, [..., labels]. Those without an
    answer are one more predicted label. Source: Gorodkin 2004, Computational Biology and Chemistry 28, 367-374.
    """
    sums = (term.sum(-1) for term in _mcc_terms(predicted - reference, reference))
    return _correlation(correct, unanswered, *sums)


def _correlation(
    correct: np.ndarray,
    unanswered: np.ndarray,
    number: np.ndarray,
    products: np.ndarray,
    predicted_squares: np.ndarray,
    reference_squares: np.ndarray,
) -> np.ndarray:
    """Return R_K [...] from sums over labels: of references, of predictions x references, and of their squares."""
    covariance = correct * number - products
    predicted_variance = number**2 - predicted_squares - unanswered**2
    return _ratio(covariance, np.sqrt(np.maximum(predicted_variance * (number**2 - reference_squares), 0)))


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
