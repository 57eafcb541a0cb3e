"""The score that right answers would get: where a metric of words can't give full marks, a reader must know.

BLEU counts n-grams of up to four words, so that a right answer of one word scores 0; METEOR gives it 0.5; ROUGE knows
the letters a-z only. Each question's gold answers are scored as if a model had given them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.analysis import accessors
from bench.config.contracts import AdditiveMetric, Metric
from bench.data.examples import kind_of, per_row
from bench.evaluation.metric_set import MetricSet

# Gold answers of a question that are tried, the first ones.
MOST_GOLDS = 3
# Full marks are at least this share of the metric's highest value.
FULL = 0.99


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """value: of all questions that have an answer, were each answered by the gold that scores highest.

    unrewardable: how many of these `questions` get no full marks even so; None where the metric has no value for one
    question, or no highest value that is known.
    """

    value: float
    unrewardable: int | None
    questions: int


def ceilings(metrics: MetricSet, references: np.ndarray) -> dict[str, Ceiling]:
    """Return value name -> ceiling, of metrics of answers in words; {} for all others and without a gold answer.

    references: [examples] lists of gold texts.
    """
    if kind_of(references) != "answers":
        return {}
    golds = [list(texts) for texts in references if len(texts)]
    found: dict[str, Ceiling] = {}
    for metric in [each for each in metrics.metrics if each.reads not in ("likelihoods", "lm_eval")] if golds else ():
        if isinstance(metric, AdditiveMetric):
            found |= _additive(metric, golds)
        else:
            values = metric.compute_values(_texts(golds), per_row(golds), metrics.num_labels)
            found |= {
                name: Ceiling(value=float(value), unrewardable=None, questions=len(golds))
                for name, value in values.items()
                if metrics.higher_is_better(name)
            }
    return found


def _texts(golds: Sequence[list[str]], place: int = 0) -> np.ndarray:
    return per_row([texts[min(place, len(texts) - 1)] for texts in golds])


def _additive(metric: AdditiveMetric, golds: Sequence[list[str]]) -> dict[str, Ceiling]:
    best: dict[str, Any] = {}  # value name -> rows of the golds that score highest
    for place in range(min(MOST_GOLDS, max(map(len, golds)))):
        rows = metric.statistics(_texts(golds, place), per_row(golds), 0)
        scored = metric.values(rows, 0)
        for name in _named(metric):
            if name in best:
                better = scored[name] > metric.values(best[name], 0)[name]
                best[name] = np.where(better[:, None], rows, best[name])
            else:
                best[name] = rows
        if all((metric.values(best[name], 0)[name] >= FULL * _highest(name)).all() for name in best):
            break
    found = {}
    for name, rows in best.items():
        each, value = metric.values(rows, 0)[name], float(metric.values(rows.sum(axis=0), 0)[name])
        if not math.isnan(value):
            short = int((each < FULL * _highest(name)).sum())
            found[name] = Ceiling(value=value, unrewardable=short, questions=len(golds))
    return found


def _named(metric: Metric) -> list[str]:
    """Return the values of a metric that have a highest one."""
    return [name for name, better in metric.higher_is_better.items() if better and math.isfinite(_highest(name))]


def _highest(name: str) -> float:
    return accessors.metric_bounds(name)[1]
