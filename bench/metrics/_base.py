"""Base classes of the metrics: inputs are checked, statistics summed over examples, and the evaluate library served.

Derive from the first that fits: `MeanMetric` (a number for each example, and the mean), `LabelCountsMetric` (F1 and its
kin), `TagMetric` (entities of tagged words), `SklearnMetric` (a function of scikit-learn over the whole split),
`WeightedMetric` (probabilities that are ranked or binned), `AdditiveMetric` (any formula over sums), `Metric`. A file
imports this module, `from bench.metrics import _base`. Formulas are in `bench/analysis/stats/sums.py`.
"""

import abc
import inspect
import re
import string
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any, ClassVar

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike

from bench.analysis.stats import correlations, entity_counts, probabilities, tables
from bench.analysis.stats import sums as formulas
from bench.analysis.stats.intervals import percentiles
from bench.analysis.stats.tables import Table
from bench.config import contracts
from bench.config.extraction import Extract as Extract
from bench.data import tagging

# bfloat16 keeps 8 bits, so that the probabilities of one row may sum to 1 +- 0.004.
ROW_SUM_TOLERANCE = 0.01
VALUES_AT_ONCE = 2**20
# Of each tokeniser: length, reference length, n-grams of 1 to 4 words that match, and n-grams.
BLEU_COLUMNS = 2 + 4 + 4
ARTICLES = re.compile(r"\b(?:a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


class Metric(evaluate.Metric, contracts.Metric, abc.ABC):
    """A metric of the evaluate library that checks its inputs by `reads` and its config.

    The class's docstring is the description. source: publication of the formula. settings: value name -> what moves
    the number, and a version, e.g. "no_answer:wrong|v1".
    """

    counts: ClassVar[tuple[str, ...]] = ()
    unit_means: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str] = ""
    settings: ClassVar[dict[str, str]] = {}

    @property
    def multi_label(self) -> bool:
        """True where predictions and references are rows of 0 and 1."""
        return bool(self.config_name == "multilabel")

    def signatures(self) -> dict[str, str]:
        """Return value name -> name and settings."""
        return {name: f"{name}|{text}" for name, text in self.settings.items()}

    def checked(self, predictions: Any, references: Any, num_labels: int) -> tuple[Any, Any]:
        """Return both in the form that the metric reads. Raises ValueError for a wrong shape, type or range."""
        if self.reads == "answers":
            return checked_answers(predictions, references)
        if self.reads == "numbers":
            return checked_numbers(predictions, references)
        if self.reads == "tags":
            return checked_tags(predictions, references)
        if self.reads == "choices":
            return checked_choices(predictions, references)
        if self.reads == "scores":
            labels = _checked_references(references, num_labels, self.multi_label)
            shape = (len(labels), num_labels)
            return checked_probabilities(predictions, shape, sums_to_one=not self.multi_label), labels
        return checked_labels(predictions, references, num_labels, self.multi_label)

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in self.configs:
            raise ValueError(f"{self.__class__.__name__} has no config {self.config_name!r}, only {self.configs}")
        unsigned = self.higher_is_better.keys() - self.signatures().keys()
        if unsigned:
            raise ValueError(
                f"{self.__class__.__name__} has no signature of {', '.join(sorted(unsigned))}: add `settings`"
            )
        text, label_id, real = datasets.Value("string"), datasets.Value("int64"), datasets.Value("float64")
        label_ids = datasets.Sequence(label_id) if self.multi_label else label_id
        both = {"numbers": real, "tags": datasets.Sequence(text)}
        choices, likelihoods = datasets.Sequence(datasets.Sequence(real)), datasets.Sequence(real)
        predictions = {"answers": text, "scores": datasets.Sequence(real), "choices": choices, **both}
        predictions |= {"likelihoods": likelihoods}
        references = {**dict.fromkeys(("answers", "likelihoods"), datasets.Sequence(text)), **both}
        features = {
            "predictions": predictions.get(self.reads, label_ids),
            "references": references.get(self.reads, label_ids),
        }
        description = inspect.cleandoc(type(self).__doc__ or "")
        return evaluate.MetricInfo(description=description, citation=self.source, features=datasets.Features(features))

    def _enforce_nested_string_type(self, schema: Any, obj: Any) -> Any:
        # evaluate refuses None in the first place of a batch, though not in the others; here it is a missing answer.
        if obj is None and self.reads == "answers":
            return None
        return super()._enforce_nested_string_type(schema, obj)

    def _compute(self, predictions: Any, references: Any, num_labels: int | None = None) -> dict[str, Any]:
        if num_labels is None:
            num_labels = self._num_labels(predictions, references)
        return {
            name: value.tolist() for name, value in self.compute_values(predictions, references, num_labels).items()
        }

    def _num_labels(self, predictions: Any, references: Any) -> int:
        """Return the width of a row, or the highest label id + 1; 0 for all but labels and their probabilities."""
        if self.reads in ("answers", "numbers", "tags", "choices", "likelihoods"):
            return 0
        if self.reads == "scores" or self.multi_label:
            return int(np.shape(predictions if self.reads == "scores" else references)[-1])
        return int(max(np.max(predictions, initial=-1), np.max(references, initial=-1))) + 1


class AdditiveMetric(Metric, contracts.AdditiveMetric):
    """A metric whose values are functions of sums over examples: `example_statistics` and `values`."""

    @abc.abstractmethod
    def example_statistics(self, predictions: Any, references: Any, num_labels: int) -> Table:
        """Return [examples, columns] of checked predictions and references: what is added up.

        Columns of labels belong into a sparse table: see `label_tables`, and `tables.beside`.
        """

    def example_sums(self, predictions: Any, references: Any, num_labels: int) -> np.ndarray:
        """Return the sums [columns] of the statistics; write it where they can be had without the table."""
        sums: np.ndarray = self.example_statistics(predictions, references, num_labels).sum(axis=0, dtype=float)
        return sums

    def statistics(self, predictions: Any, references: Any, num_labels: int = 0) -> Table:
        """Return float64 [examples, columns]: what is added up. Raises ValueError for inputs of a wrong form."""
        checked = self.checked(predictions, references, num_labels)
        return self.example_statistics(*checked, num_labels).astype(float)

    def sums(self, predictions: Any, references: Any, num_labels: int = 0) -> np.ndarray:
        """Return float64 [columns], the statistics of all examples added up. Raises ValueError as `statistics`."""
        checked = self.checked(predictions, references, num_labels)
        return self.example_sums(*checked, num_labels).astype(float)

    def compute_values(self, predictions: Any, references: Any, num_labels: int = 0) -> dict[str, np.ndarray]:
        """Return the values of all examples."""
        return self.values(self.sums(predictions, references, num_labels), num_labels)

    def proportions(self, sums: np.ndarray, num_labels: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return (successes, trials) of shares of independent trials: none here."""
        return {}

    def per_example(self, predictions: Any, references: Any, num_labels: int = 0) -> dict[str, np.ndarray]:
        """Return [examples] of values that are means over examples: none here."""
        return {}

    def label_tables(self, predictions: np.ndarray, references: np.ndarray, num_labels: int) -> list[Table]:
        """Return both as sparse tables [examples, labels] of 0 and 1; no answer is a row of 0."""
        return [tables.of_labels(labels, num_labels) for labels in (predictions, references)]

    def label_counts(self, predictions: np.ndarray, references: np.ndarray, num_labels: int) -> list[np.ndarray]:
        """Return numbers of examples by label, each [labels]: in both, in the prediction, in the reference."""
        same = predictions == references
        both = np.where(same, references, 0) if self.multi_label else references[same]
        return [tables.label_counts(labels, num_labels) for labels in (both, predictions, references)]

    def tuned_values(self, predictions: Any, references: Any, probabilities: np.ndarray) -> dict[str, float]:
        """Return values tuned over thresholds of a probability: none here."""
        return {}


class MeanMetric(AdditiveMetric):
    """A mean over examples: one number each, or one for each value name of `settings`, in their order.

    Write `example_score`, or `example_scores` for all examples at once. binary: the numbers are 0 or 1, and the values
    get Wilson's interval. A value from 0 to 1 that is not binary belongs into `unit_means`.
    """

    binary: ClassVar[bool] = False

    def example_score(self, prediction: Any, reference: Any) -> float | Sequence[float]:
        """Return the number of one example, or one for each value name."""
        raise NotImplementedError(f"{type(self).__name__} needs a method example_score or example_scores")

    def example_scores(self, predictions: Any, references: Any, num_labels: int) -> np.ndarray:
        """Return [examples] or [examples, values] of checked predictions and references."""
        return np.array([self.example_score(*pair) for pair in zip(predictions, references, strict=True)], dtype=float)

    def terms(self, num_labels: int) -> int:
        """Return how many terms the number of an example is the sum of; the mean is over all terms."""
        return 1

    def example_statistics(self, predictions: Any, references: Any, num_labels: int) -> np.ndarray:
        """Return [examples, values + 1]: the numbers, and how many terms each sums."""
        scores = self.example_scores(predictions, references, num_labels)
        terms = np.full((len(references), 1), self.terms(num_labels))
        return np.concatenate([scores.reshape(len(references), len(self.settings)), terms], axis=1)

    def values(self, sums: np.ndarray, num_labels: int = 0) -> dict[str, np.ndarray]:
        """Return the means [...] from sums [..., values + 1]; no examples give NaN."""
        return {name: formulas.mean(sums[..., column], sums[..., -1]) for column, name in enumerate(self.settings)}

    def proportions(self, sums: np.ndarray, num_labels: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return (right examples, examples) of a binary metric."""
        return {name: (sums[..., i], sums[..., -1]) for i, name in enumerate(self.settings) if self.binary}

    def per_example(self, predictions: Any, references: Any, num_labels: int = 0) -> dict[str, np.ndarray]:
        """Return the number of each example, [examples], a mean where it has several terms."""
        statistics = self.statistics(predictions, references, num_labels)
        terms = max(self.terms(num_labels), 1)
        return {name: statistics[:, column] / terms for column, name in enumerate(self.settings)}


class TagMetric(AdditiveMetric):
    """A metric of tags of words. kinds: the types of all tags, set by a run; else those that a call's tags have.

    config_name: "default" for seqeval's default mode, or the scheme by which entities are read strictly.
    """

    reads = "tags"
    configs = ("default", *tagging.PREFIXES)
    kinds: tuple[str, ...] = ()

    @property
    def scheme(self) -> str | None:
        """Return the scheme that says what is an entity; None for seqeval's default mode."""
        return None if self.config_name == "default" else str(self.config_name)

    def entity_rows(self, predictions: Sequence[Any], references: Sequence[Any]) -> np.ndarray:
        """Return [sentences, 3 x types]: entities in both, in the prediction, in the reference."""
        found = tagging.kinds_of(tag for tags in (*predictions, *references) for tag in tags)
        kinds = self.kinds if set(found) <= set(self.kinds) else found
        return entity_counts.entity_rows(predictions, references, kinds, self.scheme)

    def signatures(self) -> dict[str, str]:
        """Return the mode of seqeval with its scheme, and its version."""
        mode = f"strict|scheme:{self.scheme}" if self.scheme else "default"
        return {name: f"{name}|seqeval:{version('seqeval')}|mode:{mode}|{text}" for name, text in self.settings.items()}


class LabelCountsMetric(AdditiveMetric):
    """F1, precision or recall: per label, and averaged over labels in three ways.

    The value names of `settings` are what `bench.analysis.stats.sums.label_value` knows.
    """

    def example_statistics(self, predictions: Any, references: Any, num_labels: int) -> Table:
        """Return [examples, 3 x labels]: the label is in both, in the prediction, in the reference."""
        return formulas.label_rows(*self.label_tables(predictions, references, num_labels))

    def example_sums(self, predictions: Any, references: Any, num_labels: int) -> np.ndarray:
        """Return the sums [3 x labels]."""
        return np.concatenate(self.label_counts(predictions, references, num_labels))

    def values(self, sums: np.ndarray, num_labels: int = 0) -> dict[str, np.ndarray]:
        """Return the value per label [..., labels] and its averages [...] from sums [..., 3 x labels]."""
        return {name: formulas.label_value(name)(sums) for name in self.settings}

    def share_of_answered(self, name: str, sums: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return (both, examples) of a value that is the accuracy where each example has one label and an answer."""
        both, predicted, reference = (counts.sum(-1) for counts in np.split(sums, 3, axis=-1))
        accuracy = not self.multi_label and bool((predicted == reference).all())
        return {name: (both, reference)} if accuracy else {}

    def right_of(self, name: str, sums: np.ndarray, trials: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return (both, trials) per label, and with one label per example also pooled.

        trials: 1 for the predicted labels, 2 for the reference's. Pooled multi-label trials are left out: several come
        from one example, so they are not independent.
        """
        counts = np.split(sums, 3, axis=-1)  # each [..., labels]
        shares = {f"{name}_per_label": (counts[0], counts[trials])}
        if not self.multi_label:
            shares[f"{name}_micro"] = (counts[0].sum(-1), counts[trials].sum(-1))
        return shares


class BleuMetric(AdditiveMetric):
    """Corpus BLEU by sacrebleu, with a value for each of some tokenisers; its last count is of what is left out.

    tokenizers: names of values, of `bench.analysis.stats.sums.TOKENIZERS`. "nrefs:var" in the signature: an example
    counts with as many references as it has.
    """

    source = (
        "Papineni et al. 2002, BLEU: a Method for Automatic Evaluation of Machine Translation, P02-1040. Post 2018, A "
        "Call for Clarity in Reporting BLEU Scores, W18-6319 (sacrebleu)."
    )
    tokenizers: ClassVar[tuple[str, ...]] = ()

    def example_statistics(self, predictions: list[str | None], references: list[list[str]], _: int) -> np.ndarray:
        """Return [examples, columns]: 10 counts for each tokeniser, 1 if there is an answer, 1 if there is none."""
        rows = np.zeros((len(predictions), BLEU_COLUMNS * len(self.tokenizers) + 2))
        for row, answer, golds in zip(rows, predictions, references, strict=True):
            row[-2:] = bool(golds), not golds
            if golds:
                counts = [formulas.bleu_counts(formulas.TOKENIZERS[name], answer, golds) for name in self.tokenizers]
                row[:-2] = np.concatenate(counts)
        return rows

    def values(self, sums: np.ndarray, num_labels: int = 0) -> dict[str, np.ndarray]:
        """Return a score for each tokeniser and the number left out, [...], from sums [..., columns]."""
        values = {}
        for number, name in enumerate(self.tokenizers):
            counts = sums[..., BLEU_COLUMNS * number : BLEU_COLUMNS * (number + 1)]
            scores = [_bleu(row) for row in counts.reshape(-1, BLEU_COLUMNS).astype(int).tolist()]
            values[name] = np.where(sums[..., -2] > 0, np.reshape(scores, sums.shape[:-1]), np.nan)
        return {**values, self.counts[0]: sums[..., -1]}

    def signatures(self) -> dict[str, str]:
        """Return sacrebleu's own signature, and what happens to questions without an answer."""
        signatures = {
            name: f"{name}|0-100|{_bleu_signature(formulas.TOKENIZERS[name])}|no_gold:left_out|missing:empty|v1"
            for name in self.tokenizers
        }
        return {**signatures, self.counts[0]: f"{self.counts[0]}|questions|v1"}


def _bleu(counts: list[int]) -> float:
    """Return corpus BLEU from summed counts, smoothed as sacrebleu does by default."""
    from sacrebleu.metrics import BLEU

    length, reference_length, *ngrams = counts
    return float(BLEU.compute_bleu(ngrams[:4], ngrams[4:], length, reference_length, smooth_method="exp").score)


@cache
def _bleu_signature(tokenizer: str) -> str:
    """Return sacrebleu's, for any number of references; it has one only after a score, hence two made-up examples."""
    from sacrebleu.metrics import BLEU

    scorer = BLEU(tokenize=tokenizer)
    streams: list[list[Any]] = [["a", "a"], [None, "a"]]
    scorer.corpus_score(["a", "a"], streams)
    return str(scorer.get_signature())


class WeightedMetric(Metric, contracts.WeightedMetric):
    """A metric of probabilities that are ranked or binned: its values are functions of weighted examples.

    Write `rows` and `weighted_values`; see `bench.analysis.stats.probabilities`. A probability that is NaN makes them
    NaN.
    """

    reads = "scores"

    def compute_values(self, predictions: Any, references: Any, num_labels: int = 0) -> dict[str, np.ndarray]:
        """Return the values of all examples."""
        rows = self.rows(*self.checked(predictions, references, num_labels), num_labels)
        values = {name: drawn[0] for name, drawn in self.weighted_values(rows, np.ones((1, len(rows)))).items()}
        if np.isnan(rows).any():
            values = {name: np.full_like(value, np.nan) for name, value in values.items()}
        return values

    def interval(self, name: str, rows: np.ndarray, drawn: np.ndarray) -> tuple[Any, Any, str]:
        """Return the ends and the kind of a value's interval, by percentiles of the draws in which it is defined."""
        return *percentiles(drawn, 0.95), f"bootstrap 95 %, {len(drawn)} draws by example"


class OneVsRestMetric(WeightedMetric):
    """A metric of each label against the rest, by ranked probabilities; see `probabilities.OverLabels`.

    `function` is the value of one label; `lacks` says of which labels there is none. `<name>_per_label` has each one.
    """

    function: ClassVar[Callable[..., Any]]
    needs_negative: ClassVar[bool]
    lacks: ClassVar[str]

    def rows(self, predictions: np.ndarray, references: np.ndarray, num_labels: int) -> np.ndarray:
        """Return [examples, 2 x labels]: probabilities, and 1 where the example has the label."""
        return probabilities.label_rows(predictions, references)

    def weighted_values(self, rows: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Return the metric [draws] and its values for each label [draws, labels]."""
        (name,) = self.higher_is_better
        value = probabilities.OverLabels(type(self).function, several=self.multi_label)
        by_label = value.by_label(rows, weights)
        return {name: value.combined(by_label), f"{name}_per_label": by_label}

    def why_undefined(self, references: np.ndarray, labels: Sequence[str]) -> str | None:
        """Return which labels have no value; None where all have one."""
        (name,) = self.higher_is_better
        lacking = probabilities.undefined_labels(references, labels, needs_negative=self.needs_negative)
        return f"{name} is not defined: {self.lacks} {', '.join(map(repr, lacking))}" if lacking else None


class SklearnMetric(Metric):
    """A function of scikit-learn, called as `function(references, predictions, **options)`, that gives one number.

    Its interval comes from 200 bootstrap draws, as it is recomputed for each. A missing answer is the label -1.
    """

    function: ClassVar[Callable[..., Any]]
    options: ClassVar[dict[str, Any]] = {}

    def compute_values(self, predictions: Any, references: Any, num_labels: int = 0) -> dict[str, np.ndarray]:
        """Return the one value; NaN for no examples."""
        (name,) = self.higher_is_better
        predicted, reference = self.checked(predictions, references, num_labels)
        if not len(reference):
            return {name: np.array(np.nan)}
        with warnings.catch_warnings():
            # Of labels that a bootstrap draw leaves out: what is not defined then is the function's own to say, by NaN.
            warnings.simplefilter("ignore", UserWarning)
            return {name: np.array(float(type(self).function(reference, predicted, **self.options)))}

    def signatures(self) -> dict[str, str]:
        """Return the function with its options, and the version of scikit-learn."""
        (name,) = self.higher_is_better
        options = "".join(f"|{key}:{self.options[key]}" for key in sorted(self.options))
        function = type(self).function
        origin = "sklearn" if function.__module__.startswith("sklearn.") else "function"
        called = f"{origin}:{function.__name__}{options}|scikit-learn:{version('scikit-learn')}"
        return {name: f"{name}|{called}|{self.settings.get(name, 'v1')}"}


def checked_labels(
    predictions: ArrayLike, references: ArrayLike, num_labels: int, multi_label: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return both as int64, [examples] or [examples, labels]. Raises ValueError for a wrong shape, type or range.

    A row of several labels with a negative entry is no answer, and becomes the empty set.
    """
    shape = _label_shape(references, num_labels, multi_label)
    highest = 1 if multi_label else num_labels - 1
    # A negative prediction is "no answer"; a negative reference is an error in the data.
    predicted = _checked_integers("prediction", predictions, shape, least=None, highest=highest)
    if multi_label and (predicted < 0).any():
        # One rule for all metrics: an answer that could not be read names no label.
        predicted = np.where((predicted < 0).any(axis=1, keepdims=True), 0, predicted)
    return predicted, _checked_references(references, num_labels, multi_label)


def _checked_references(references: ArrayLike, num_labels: int, multi_label: bool) -> np.ndarray:
    shape = _label_shape(references, num_labels, multi_label)
    return _checked_integers("reference", references, shape, least=0, highest=1 if multi_label else num_labels - 1)


def _label_shape(references: ArrayLike, num_labels: int, multi_label: bool) -> tuple[int, ...]:
    num_examples = len(np.asarray(references))
    return (num_examples, num_labels) if multi_label else (num_examples,)


def _checked_integers(
    name: str, values: ArrayLike, shape: tuple[int, ...], *, least: int | None, highest: int
) -> np.ndarray:
    array = np.asarray(values)
    if shape[0] == 0 and array.size == 0:
        array = np.zeros(shape, dtype=np.int64)
    if array.shape != shape or array.dtype.kind not in "biu":
        raise ValueError(f"{name}s must be integers of shape {shape}, got {array.dtype} of shape {array.shape}")
    outside = array[(array > highest) | ((array < least) if least is not None else False)]
    if outside.size:
        raise ValueError(f"{name} {outside[0]} is out of range: expected 0 to {highest}")
    return array.astype(np.int64, copy=False)


def checked_probabilities(predictions: ArrayLike, shape: tuple[int, int], *, sums_to_one: bool) -> np.ndarray:
    """Return float64 of `shape`. Raises ValueError for what is outside 0 ... 1, as a logit would be; NaN passes."""
    scores = np.asarray(predictions, dtype=float)
    if shape[0] == 0 and scores.size == 0:
        return np.zeros(shape)
    if scores.shape != shape:
        raise ValueError(f"predictions must be probabilities of shape {shape}, got shape {scores.shape}")
    # Some rows at a time, as all of them compared with a number are as many more numbers.
    size = max(1, VALUES_AT_ONCE // max(1, shape[1]))
    for start in range(0, shape[0], size):
        part = scores[start : start + size]
        outside = part[(part < 0) | (part > 1 + ROW_SUM_TOLERANCE)]
        if outside.size:
            raise ValueError(f"prediction {outside[0]} is not a probability: expected 0 to 1")
        row_sums = part.sum(axis=1)
        wrong = row_sums[np.abs(row_sums - 1) > ROW_SUM_TOLERANCE]
        if sums_to_one and wrong.size:
            raise ValueError(f"the probabilities of a prediction sum to {wrong[0]}, expected 1")
    return scores


def checked_answers(predictions: Sequence[Any], references: Sequence[Any]) -> tuple[list[str | None], list[list[str]]]:
    """Return both as lists, [examples]. Raises ValueError for a wrong number or type, or for an empty gold text."""
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


def checked_numbers(
    predictions: Any, references: Any, fill: correlations.Fill = correlations.farthest_filled
) -> tuple[np.ndarray, np.ndarray]:
    """Return both as float64 [examples]. fill: what a missing prediction, None or NaN, is replaced by.

    Raises ValueError for a wrong number or type, for an infinite prediction, and for a reference that is not finite.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    gold = np.asarray(references, dtype=float)
    if gold.ndim != 1 or not np.isfinite(gold).all():
        raise ValueError("references must be finite numbers, one for each example")
    predicted = correlations.as_numbers(predictions)
    if predicted.shape != gold.shape or np.isinf(predicted).any():
        raise ValueError("predictions must be numbers, or None where they are missing")
    return fill(predicted, gold), gold


def checked_tags(predictions: Any, references: Any) -> tuple[list[list[str]], list[list[str]]]:
    """Return both as lists of lists of tags. Raises ValueError for sentences of unequal length, or tags of none."""
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    pairs = [(list(one), list(other)) for one, other in zip(predictions, references, strict=True)]
    for number, (predicted, reference) in enumerate(pairs):
        if len(predicted) != len(reference):
            raise ValueError(f"prediction {number} has {len(predicted)} tags, its reference {len(reference)}")
        for tag in (*predicted, *reference):
            if not isinstance(tag, str) or not tag:
                raise ValueError(f"tags must be texts like 'B-PER', got {tag!r} in sentence {number}")
    return [one for one, _ in pairs], [other for _, other in pairs]


def checked_choices(predictions: Sequence[Any], references: ArrayLike) -> tuple[list[np.ndarray], np.ndarray]:
    """Return [examples] arrays [rows, choices], and the right choices' numbers, [examples].

    Raises ValueError for tables of another form, and for a reference that is none of its choices.
    """
    tables_of = [np.asarray(table, dtype=float) for table in predictions]
    right = np.asarray(references)
    if len(tables_of) != len(right):
        raise ValueError(f"{len(tables_of)} predictions for {len(right)} references")
    for number, table in enumerate(tables_of):
        if table.ndim != 2 or not table.shape[1]:
            raise ValueError(f"prediction {number} must be rows of one number for each choice, got {table.shape}")
        if not 0 <= right[number] < table.shape[1]:
            raise ValueError(f"reference {right[number]} is out of range: expected 0 to {table.shape[1] - 1}")
    return tables_of, right


def normalised_answer(text: str) -> str:
    """Return a text in lower case, without ASCII punctuation and the words a, an, the; single spaces.

    Source: normalize_answer of the official scripts of SQuAD v1.1 and v2.0.
    """
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def word_f1(predicted: list[str], gold: list[str]) -> float:
    """Return F1 of two bags of words, 0 if they have none in common. Source: the official scripts of SQuAD."""
    shared = (Counter(predicted) & Counter(gold)).total()
    return 2 * shared / (len(predicted) + len(gold)) if shared else 0.0
