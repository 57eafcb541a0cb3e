"""Scores of predictions that need no model (majority label, random labels, no answer), to compare a model with."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from bench.data.examples import kind_of, per_row
from bench.data.tagging import OUTSIDE
from bench.errors import ScoreError
from bench.evaluation import choice_baselines
from bench.evaluation.metric_set import MetricSet, Predictions

RANDOM_DRAWS = 100
# Sentences of a text that are taken for its summary, and where one ends.
LEAD = 3
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def baselines(
    metrics: MetricSet, train_references: np.ndarray | None, split: Predictions
) -> dict[str, dict[str, float]]:
    """Return name of a baseline -> scores of constant or random predictions, which need no model.

    `majority` predicts the training split's most frequent label or answer, `random` draws labels by their training
    shares: the mean over 100 seeded draws. For several labels, each label is decided by itself. Of answers in words,
    `no_answer` says of every question that it has none, if that is true of any. Without a training split,
    `split_majority` predicts what is most frequent in the scored split itself, the best that a constant can do. Of
    numbers, `mean` predicts the training split's mean, or `split_mean` the scored one's; of tags, `all_o` finds no
    entity. Raises
    ScoreError where the predictions don't have the references' shape.
    """
    constant = {name: metrics.values(found) for name, found in constants(metrics, train_references, split).items()}
    if choice_baselines.has_choices(split):
        return {"chance": choice_baselines.chance(metrics, split), **constant}
    if kind_of(split.references) != "labels" or train_references is None:
        return constant
    return {**constant, "random": _random(metrics, train_references, split)}


def copies(metrics: MetricSet, texts: Sequence[str], split: Predictions) -> dict[str, dict[str, float]]:
    """Return name of a baseline -> scores of texts that are made of the prompt's own, which need no model.

    `empty` writes nothing, `copy` the text itself, and `lead_3` its first three sentences, the usual baseline of
    summaries (Nallapati et al. 2017); only where at least one text has more. texts: of each example, in order.
    """
    sentences = [_SENTENCE_END.split(text.strip()) for text in texts]
    made = {"empty": [""] * len(texts), "copy": list(texts)}
    if any(len(parts) > LEAD for parts in sentences):
        made["lead_3"] = [" ".join(parts[:LEAD]) for parts in sentences]
    return {
        name: metrics.values(
            Predictions(
                ids=split.ids,
                predictions=per_row(written),
                references=split.references,
                scores=np.empty((len(texts), 0)),
            )
        )
        for name, written in made.items()
    }


def constants(metrics: MetricSet, train_references: np.ndarray | None, split: Predictions) -> dict[str, Predictions]:
    """Return name of a baseline -> predictions that are the same for every example; see `baselines`.

    Of multiple choice those of `choice_baselines`.
    """
    if choice_baselines.has_choices(split):
        return choice_baselines.constants(train_references, split)
    if split.extra and "lm_eval" in split.extra[0]:
        return {}  # only the task's own functions score an answer
    kind = kind_of(split.references)
    if kind == "tags":
        none = per_row([(OUTSIDE,) * len(tags) for tags in split.references])
        return {"all_o": _without_scores(none, split)}
    if kind == "numbers":
        name, known = ("mean", train_references) if train_references is not None else ("split_mean", split.references)
        return {name: _without_scores(np.full(len(split.ids), float(np.mean(known))), split)}
    name, source = ("majority", train_references) if train_references is not None else ("split_majority", None)
    source = split.references if source is None else source
    if kind == "answers":
        answers = {"no_answer": ""} if not all(len(golds) for golds in split.references) else {}
        frequent = _most_frequent(source)
        answers |= {name: frequent} if frequent else {}
        return {name: _same_answer(text, split) for name, text in answers.items()}
    shares = _shares(source, metrics)
    majority = (shares > 0.5).astype(int) if metrics.multi_label else np.array(shares.argmax())
    predicted = np.broadcast_to(majority, (len(split.ids), *majority.shape))
    return {name: _labelled(predicted, shares, split)}


def _shares(references: np.ndarray, metrics: MetricSet) -> np.ndarray:
    """Return the share of examples that have each label, [labels]."""
    if metrics.multi_label:
        shares: np.ndarray = references.mean(0)
        return shares
    return np.bincount(references, minlength=metrics.num_labels) / len(references)


def _labelled(predicted: np.ndarray, shares: np.ndarray, split: Predictions) -> Predictions:
    if predicted.shape != split.references.shape:
        raise ScoreError(f"a baseline has the shape {predicted.shape}, the references {split.references.shape}")
    # One row in memory, not examples x labels.
    scores = np.broadcast_to(shares, (len(split.ids), len(shares)))
    return Predictions(ids=split.ids, predictions=predicted, references=split.references, scores=scores)


def _random(metrics: MetricSet, train_references: np.ndarray, split: Predictions) -> dict[str, float]:
    labels, rows = metrics.num_labels, len(split.ids)
    shares, generator = _shares(train_references, metrics), np.random.default_rng(0)
    # The probabilities are the same in each draw.
    of_scores = metrics.values(_labelled(split.references, shares, split), reads="scores")
    draws: list[dict[str, float]] = []
    for _ in range(RANDOM_DRAWS):
        if metrics.multi_label:
            drawn = (generator.random((rows, labels)) < shares).astype(int)
        else:
            drawn = generator.choice(labels, size=rows, p=shares)
        draws.append(metrics.values(_labelled(drawn, shares, split), reads="predictions") | of_scores)
    return {name: float(np.mean([draw[name] for draw in draws])) for name in draws[0]}


def _most_frequent(references: np.ndarray) -> str:
    """Return the answer of most questions, "" where that is none; of several the shortest, then the first."""
    counts: Counter[str] = Counter()
    for golds in references:
        counts.update(set(golds) or {""})
    return min(counts, key=lambda text: (-counts[text], len(text), text), default="")


def _same_answer(text: str, split: Predictions) -> Predictions:
    return _without_scores(per_row([text] * len(split.ids)), split)


def _without_scores(predicted: np.ndarray, split: Predictions) -> Predictions:
    scores = np.empty((len(split.ids), 0))
    return Predictions(ids=split.ids, predictions=predicted, references=split.references, scores=scores)
