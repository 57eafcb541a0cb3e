"""Scores of constant predictions (majority class, all labels, no answer), to compare a model with."""

import numpy as np

from bench.data.examples import per_row
from bench.errors import ScoreError
from bench.evaluation.metric_set import MetricSet, Predictions


def baselines(metrics: MetricSet, train_references: np.ndarray, split: Predictions) -> dict[str, dict[str, float]]:
    """What needs no model: the training split's majority label, and labels drawn by their training shares.

    `random` is the mean over 100 seeded draws. For several labels, each label is decided by itself. Of answers in
    words: `no_answer`, which says of every question that it has none, if that is true of any; else {}.
    """
    if split.references.dtype == object:
        return _answer_baselines(metrics, split)
    labels, rows = metrics.num_labels, len(split.ids)
    if metrics.multi_label:
        shares = train_references.mean(0)
        majority = np.tile((shares > 0.5).astype(int), (rows, 1))
        scores = np.tile(shares, (rows, 1))
    else:
        shares = np.bincount(train_references, minlength=labels) / len(train_references)
        majority = np.full(rows, int(shares.argmax()))
        scores = np.tile(shares, (rows, 1))
    chooser = np.random.default_rng(0)
    draws: list[dict[str, float]] = []
    for _ in range(100):
        if metrics.multi_label:
            drawn = (chooser.random((rows, labels)) < shares).astype(int)
        else:
            drawn = chooser.choice(labels, size=rows, p=shares)
        draws.append(_constant_scores(metrics, split, drawn, scores))
    mean = {name: float(np.mean([draw[name] for draw in draws])) for name in draws[0]}
    return {"majority": _constant_scores(metrics, split, majority, scores), "random": mean}


def _constant_scores(metrics: MetricSet, split: Predictions, drawn: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    if drawn.shape != split.references.shape:
        raise ScoreError(f"a baseline has the shape {drawn.shape}, the references {split.references.shape}")
    guess = Predictions(ids=split.ids, predictions=drawn, references=split.references, scores=scores)
    return metrics.values(guess)


def _answer_baselines(metrics: MetricSet, split: Predictions) -> dict[str, dict[str, float]]:
    rows = len(split.ids)
    if all(len(golds) for golds in split.references):
        return {}  # the empty answer would score 0
    silent = per_row([""] * rows)
    guess = Predictions(ids=split.ids, predictions=silent, references=split.references, scores=np.empty((rows, 0)))
    return {"no_answer": metrics.values(guess)}
