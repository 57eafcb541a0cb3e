"""Findings on predictions that a reader must see before their scores: collapsed models, scores that are not defined.

A model that gives one answer to everything, none at all, or answers that can't be read may still have a high score; one
that does not beat a constant answer, or lost by training, has a score that says little. Each finding is a sentence with
the counts.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from bench.analysis import accessors
from bench.analysis.stats import paired
from bench.analysis.stats.sums import Tally, mean_value
from bench.config.contracts import AdditiveMetric, Metric
from bench.data import tagging
from bench.data.examples import kind_of
from bench.evaluation.metric_set import MetricSet, Predictions, read_by
from bench.records.record import Score

# Of answers that can't be read or are empty, a share from here on is more than the odd slip.
MANY = 0.1
# One label for nearly everything, where the references are not that uniform, is one label for everything.
NEARLY_ALL, UNIFORM, FEWEST = 0.98, 0.9, 50
DRAWS = 1000
# Metrics of numbers that a constant prediction has a value of.
ERRORS = ("mse", "mae")
# Names that a sentence lists; of more it says how many.
MOST_NAMES = 5


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A finding: its kind, e.g. "one_label_predicted", and a sentence."""

    code: str
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Two values of a metric on the same examples, and the paired 95 % interval of their difference, if it has one."""

    first: float
    second: float
    ends: tuple[float, float] | None

    @property
    def shown(self) -> str:
        """The difference in words."""
        ends = f", 95 % interval {self.ends[0]:+.3f} to {self.ends[1]:+.3f}" if self.ends is not None else ""
        return f"difference {self.first - self.second:+.3f}{ends}"


def of_predictions(where: str, predictions: Predictions, labels: Sequence[str]) -> list[Finding]:
    """Return findings on predictions alone: answers that can't be read, that are empty, and that are all the same.

    where: what was scored, e.g. "after test".
    """
    if not predictions.ids:
        return []
    kind = kind_of(predictions.references)
    if kind == "labels":
        return _of_labels(where, predictions, labels)
    return {"answers": _of_texts, "numbers": _of_numbers, "tags": _of_tags}[kind](where, predictions)


def _of_numbers(where: str, predictions: Predictions) -> list[Finding]:
    """Return findings on numbers: answers without one, and one number for all texts."""
    missing, findings = np.isnan(predictions.predictions), []
    if missing.mean() >= MANY:
        sentence = (
            f"{_share(missing)} answers hold no number; errors count them as the farther end of the references' range, "
            "correlations as the median of the other answers"
        )
        findings.append(Finding(code="unreadable_answers", sentence=f"{where}: {sentence}"))
    given, gold = predictions.predictions[~missing], predictions.references
    if len(given) > 1 and np.ptp(given) <= 1e-6 * max(1.0, float(np.abs(given).max())) and np.ptp(gold) > 0:
        sentence = (
            f"all {len(given)} predicted numbers are {given[0]:.4g}, while the references go from {gold.min():.4g} to "
            f"{gold.max():.4g}"
        )
        findings.append(Finding(code="constant_prediction", sentence=f"{where}: {sentence}"))
    return findings


def _of_tags(where: str, predictions: Predictions) -> list[Finding]:
    """Return the finding that no entity was found, where there are some."""
    marked, gold = (
        sum(tag != tagging.OUTSIDE for tags in each for tag in tags)
        for each in (predictions.predictions, predictions.references)
    )
    if marked or not gold:
        return []
    sentence = f"every word of {len(predictions.ids)} sentences is tagged O, while {gold} words belong to entities"
    return [Finding(code="no_entities_predicted", sentence=f"{where}: {sentence}")]


def _of_labels(where: str, predictions: Predictions, labels: Sequence[str]) -> list[Finding]:
    several, number = predictions.references.ndim == 2, len(predictions.ids)
    missing: np.ndarray = np.any((predictions.predictions < 0).reshape(number, -1), axis=1)
    findings = []
    if missing.mean() >= MANY:
        counted = "as the empty set" if several else "as wrong"
        sentence = f"{_share(missing)} answers could not be read as a label; they count {counted}"
        findings.append(Finding(code="unreadable_answers", sentence=f"{where}: {sentence}"))
    answered = predictions.predictions[~missing]
    if len(answered):
        first, times = _most_common(answered)
        _, usual = _most_common(predictions.references)
        nearly = len(answered) >= FEWEST and times >= NEARLY_ALL * len(answered) and usual <= UNIFORM * number
        if usual < number and (times == len(answered) or nearly):
            chosen = [name for name, on in zip(labels, first, strict=True) if on] if several else [labels[int(first)]]
            what = f"the label{'s' if len(chosen) > 1 else ''} {_listed(chosen)}" if chosen else "no label"
            how_many = "all" if times == len(answered) else f"{times} of"
            most = "examples have one answer" if several else f"examples have one label, of {_distinct(predictions)}"
            sentence = f"{how_many} {len(answered)} predictions are {what}, while at most {usual} of {number} {most}"
            findings.append(Finding(code="one_label_predicted", sentence=f"{where}: {sentence}"))
    return findings


def _most_common(rows: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the most frequent row, and how often it occurs."""
    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    place = int(counts.argmax())
    return distinct[place], int(counts[place])


def _distinct(predictions: Predictions) -> int:
    return len(np.unique(predictions.references))


def _of_texts(where: str, predictions: Predictions) -> list[Finding]:
    texts = [None if text is None else " ".join(text.split()) for text in predictions.predictions]
    asked = np.array([len(golds) > 0 for golds in predictions.references])
    missing, empty = np.array([text is None for text in texts]), np.array([text == "" for text in texts])
    findings = []
    if missing.mean() >= MANY:
        sentence = f"{_share(missing)} answers are missing or could not be read; they count 0"
        findings.append(Finding(code="unreadable_answers", sentence=f"{where}: {sentence}"))
    given = Counter(text for text in texts if text)
    if not given and asked.any():
        sentence = f"all {len(texts)} answers are empty, while {asked.sum()} of the questions have one"
        findings.append(Finding(code="no_answers", sentence=f"{where}: {sentence}"))
    elif empty[asked].sum() >= max(2, 0.9 * asked.sum()):
        sentence = f"{_share(empty[asked])} questions that have an answer got an empty one"
        findings.append(Finding(code="no_answers", sentence=f"{where}: {sentence}"))
    if len(given) == 1 and given.total() > 1:
        (text,) = given
        others = len({gold for golds in predictions.references for gold in golds})
        if others > 1:
            sentence = f"all {given.total()} answers that are not empty are {text[:80]!r}, of {others} right ones"
            findings.append(Finding(code="constant_answer", sentence=f"{where}: {sentence}"))
    return findings


def unfinished(where: str, predictions: Predictions) -> list[Finding]:
    """Return the finding that many texts were not finished when the limit of new tokens was reached."""
    if predictions.likelihoods is None:
        return []
    cut = np.array([not extra["stopped"] for extra in predictions.extra])
    if cut.mean() < MANY:
        return []
    sentence = f"{_share(cut)} texts reached prompting.max_new_tokens before their end; they are scored as they are"
    return [Finding(code="texts_cut_at_limit", sentence=f"{where}: {sentence}")]


def not_better(
    where: str, metrics: MetricSet, predictions: Predictions, constants: Mapping[str, Predictions]
) -> list[Finding]:
    """Return findings for constant answers, by name of the baseline, that the predictions don't beat for sure."""
    name = headline(metrics, predictions)
    if kind_of(predictions.references) == "numbers":  # a constant has errors, but no correlation
        name = next(
            (error for error in ERRORS if any(error in each.higher_is_better for each in metrics.metrics)), None
        )
    findings: list[Finding] = []
    if name is None or not predictions.ids or _metric_of(metrics, name).reads == "likelihoods":
        return findings
    sign = 1 if metrics.higher_is_better(name) else -1
    for kind, constant in constants.items():
        found = _difference(metrics, name, predictions, constant)
        if not math.isfinite(found.first) or not math.isfinite(found.second):
            continue
        gain = sign * (found.first - found.second)
        least = gain if found.ends is None else min(sign * end for end in found.ends)
        if gain <= 0 or least <= 0:
            what = "no better" if gain <= 0 else "not significantly better"
            baseline = f"than the baseline {kind}, {found.second:.3f}"
            sentence = f"{name} {found.first:.3f} on {len(predictions.ids)} examples is {what} {baseline}"
            findings.append(Finding(code="not_better_than_baseline", sentence=f"{where}: {sentence} ({found.shown})"))
    return findings


def worse_than_before(where: str, name: str, before: Score, after: Score, ends: tuple[float, float] | None) -> Finding:
    """Return the finding that a metric lost by training. ends: the interval of its difference, after - before."""
    assert isinstance(before.value, int | float)
    assert isinstance(after.value, int | float)
    found = Difference(first=after.value, second=before.value, ends=ends)
    sentence = (
        f"{name} {after.value:.3f} on {after.examples} examples is worse than before training, {before.value:.3f}"
    )
    return Finding(code="worse_than_before", sentence=f"{where}: {sentence} ({found.shown})")


def headline(metrics: MetricSet, predictions: Predictions) -> str | None:
    """Return the metric by which reports rank runs, if a metric of the set has it."""
    names = {name for metric in metrics.metrics for name in metric.higher_is_better}
    return accessors.ranking_metric(names) if predictions.ids else None


def _metric_of(metrics: MetricSet, name: str) -> Metric:
    return next(metric for metric in metrics.metrics if name in metric.higher_is_better)


def _difference(metrics: MetricSet, name: str, first: Predictions, second: Predictions) -> Difference:
    """Return the values of both, with an interval where the metric follows from sums over examples."""
    metric = _metric_of(metrics, name)
    if not isinstance(metric, AdditiveMetric) or metric.reads == "scores":
        one, other = (metrics.values(each, reads=metric.reads)[name] for each in (first, second))
        return Difference(first=one, second=other, ends=None)
    inputs = [(read_by(metric, each), each.references, metrics.num_labels) for each in (first, second)]
    means = [values[name] for read in inputs if name in (values := metric.per_example(*read))]
    if len(means) == 2:
        tallies = [Tally(rows=np.stack([mean, np.ones_like(mean)], axis=1), value=mean_value) for mean in means]
    else:
        tallies = [
            Tally(rows=metric.statistics(*read), value=partial(_value, metrics, metric, name)) for read in inputs
        ]
    return Difference(first=tallies[0].score, second=tallies[1].score, ends=interval(*tallies))


def _value(metrics: MetricSet, metric: AdditiveMetric, name: str, sums: np.ndarray) -> np.ndarray:
    return metric.values(sums, metrics.num_labels)[name]


def interval(first: Tally, second: Tally) -> tuple[float, float] | None:
    """Return the paired 95 % interval of first - second; None where no draw of the bootstrap differs from another."""
    if first.is_binary and second.is_binary:
        right, other = (tally.rows[:, 0] == 1 for tally in (first, second))
        only = int((right & ~other).sum()), int((other & ~right).sum())
        return paired.matched_interval(*only, first.examples)
    drawn = paired.bootstrap_values(paired.stack([first.rows, second.rows]), first.value, DRAWS, 0)
    differences = drawn[:, 0] - drawn[:, 1]
    differences = differences[np.isfinite(differences)]
    if not len(differences) or np.ptp(differences) <= paired.TIE:
        return None
    return paired.percentile_interval(differences)


def undefined(where: str, scores: Mapping[str, Score]) -> tuple[list[str], list[Finding]]:
    """Return notes on values that are null because no example has what they are about, and findings on other nulls."""
    notes, findings = [], []
    for name, item in scores.items():
        if isinstance(item.value, list):
            if name.endswith("_per_type") and (number := sum(value is None for value in item.value)):
                reason = "neither the predictions nor the references have an entity of it"
                notes.append(f"{where}: {name} is null for {number} of {len(item.value)} types: {reason}")
            if name.endswith("_per_label") and (number := sum(value is None for value in item.value)):
                reason = "no example of the split has the label"
                notes.append(f"{where}: {name} is null for {number} of {len(item.value)} labels: {reason}")
            continue
        if item.value is not None:
            continue
        # A part of the questions that the split has none of.
        part = next((text for key, text in _PARTS.items() if key in name), None)
        if part is not None and item.examples == 0:
            notes.append(f"{where}: {name} is null: no question of the split has {part}")
        else:
            sentence = f"{name} is null: its value over {item.examples} examples is not a finite number"
            findings.append(Finding(code="undefined_score", sentence=f"{where}: {sentence}"))
    return notes, findings


_PARTS = {"_HasAns_": "an answer", "_NoAns_": "no answer", "bleu": "an answer"}


def absent_labels(split: str, scores: Mapping[str, Score], references: np.ndarray, labels: Sequence[str]) -> str | None:
    """Return a note on labels without an example in a scored split, which macro averages count as 0."""
    macro = [name for name in scores if name.endswith("_macro")]
    if not macro or references.dtype == object or not len(references):
        return None
    counts = np.bincount(references, minlength=len(labels)) if references.ndim == 1 else references.sum(axis=0)
    absent = [name for name, count in zip(labels, counts, strict=True) if not count]
    if not absent:
        return None
    return (
        f"{split}: {len(absent)} of {len(labels)} labels have no example ({_listed(absent)}); the macro averages "
        f"({', '.join(macro)}) are over all labels and count 0 for each of them"
    )


def _share(flags: np.ndarray) -> str:
    return f"{flags.sum()} of {len(flags)}"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:MOST_NAMES])
    return f"{shown} and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else shown
