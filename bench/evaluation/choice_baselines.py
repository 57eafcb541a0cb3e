"""Scores of multiple choice that need no model: a choice at random, the longest one, and the most frequent place."""

import numpy as np

from bench.evaluation.metric_set import MetricSet, Predictions

# Metrics whose expected value for a random choice is one over the number of choices.
SHARES = ("accuracy", "acc", "acc_norm", "acc_bytes", "acc_tokens")


def has_choices(predictions: Predictions) -> bool:
    """Return whether each example has choices of its own."""
    return bool(predictions.extra) and "choice_characters" in predictions.extra[0]


def chance(metrics: MetricSet, split: Predictions) -> dict[str, float]:
    """Return the expected scores of a choice at random: the mean of 1 / choices, and of its logarithm for the loss."""
    counts = np.array([len(extra["choice_characters"]) for extra in split.extra])
    known = {name for metric in metrics.metrics for name in metric.higher_is_better}
    values = {name: float((1 / counts).mean()) for name in SHARES if name in known}
    return {**values, **({"loss": float(np.log(counts).mean())} if "loss" in known else {})}


def constants(train_references: np.ndarray | None, split: Predictions) -> dict[str, Predictions]:
    """Return name of a baseline -> predictions by a rule that reads no text.

    `longest_choice` predicts the choice of most characters, the first of these; `majority` the place where the right
    choice stands most often in the training split, or, as `split_majority`, in the scored one; of a row with fewer
    choices the last one.
    """
    name, source = ("majority", train_references) if train_references is not None else ("split_majority", None)
    source = split.references if source is None else source
    place = int(np.bincount(source).argmax())
    longest = np.array([int(np.argmax(extra["choice_characters"])) for extra in split.extra])
    return {
        "longest_choice": _predicted(longest, split),
        name: _predicted(np.array([min(place, len(extra["choice_characters"]) - 1) for extra in split.extra]), split),
    }


def _predicted(numbers: np.ndarray, split: Predictions) -> Predictions:
    """Return predictions of these choices, likelier than all others by any comparison."""
    scores = np.zeros(split.scores.shape)
    extra = []
    for row, number, known in zip(scores, numbers, split.extra, strict=True):
        count = len(known["choice_characters"])
        row[:count] = 1 / count
        sums = [0.0 if place == number else -np.inf for place in range(count)]
        extra.append({**known, "log_likelihoods": sums})
    return Predictions(
        ids=split.ids, predictions=numbers, references=split.references, scores=scores, extra=tuple(extra)
    )
