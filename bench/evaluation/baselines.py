"""Scores of predictions that need no model (majority label, random labels, no answer), to compare a model with."""

import numpy as np

from bench.data.examples import per_row
from bench.errors import ScoreError
from bench.evaluation.metric_set import MetricSet, Predictions


def baselines(metrics: MetricSet, train_references: np.ndarray, split: Predictions) -> dict[str, dict[str, float]]:
    """Return name of a baseline -> scores of constant or random predictions, which need no model.

    `majority` predicts the training split's most frequent label, `random` draws labels by their training shares: the
    mean over 100 seeded draws. For several labels, each label is decided by itself. Of answers in words: `no_answer`,
    which says of every question that it has none, if that is true of any; else {}. Raises ScoreError where the
    predictions don't have the references' shape.
    """
    if split.references.dtype == object:
        return _answer_baselines(metrics, split)
    labels, rows = metrics.num_labels, len(split.ids)
    if metrics.multi_label:
        shares = train_references.mean(0)
        majority = np.tile((shares > 0.5).astype(int), (rows, 1))
    else:
        shares = np.bincount(train_references, minlength=labels) / len(train_references)
        majority = np.full(rows, int(shares.argmax()))
    scores = np.tile(shares, (rows, 1))
    generator = np.random.default_rng(0)
    draws: list[dict[str, float]] = []
    for _ in range(100):
        if metrics.multi_label:
            drawn = (generator.random((rows, labels)) < shares).astype(int)
        else:
            drawn = generator.choice(labels, size=rows, p=shares)
        draws.append(_scores_of(metrics, split, drawn, scores))
    mean = {name: float(np.mean([draw[name] for draw in draws])) for name in draws[0]}
    return {"majority": _scores_of(metrics, split, majority, scores), "random": mean}


def _scores_of(metrics: MetricSet, split: Predictions, predicted: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    if predicted.shape != split.references.shape:
        raise ScoreError(f"a baseline has the shape {predicted.shape}, the references {split.references.shape}")
    constant = Predictions(ids=split.ids, predictions=predicted, references=split.references, scores=scores)
    return metrics.values(constant)


def _answer_baselines(metrics: MetricSet, split: Predictions) -> dict[str, dict[str, float]]:
    rows = len(split.ids)
    if all(len(golds) for golds in split.references):
        return {}  # the empty answer would score 0
    empty_answers = per_row([""] * rows)
    constant = Predictions(
        ids=split.ids, predictions=empty_answers, references=split.references, scores=np.empty((rows, 0))
    )
    return {"no_answer": metrics.values(constant)}
