"""Findings on where a run starts: a head or a body at random, a first loss that is odd, prompted scores at chance."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.data.batching import IGNORED
from bench.records.record import RunWarning, Score

# Far above: of a new head's outputs, which are near one another, nothing gives this much.
HIGH_FACTOR, HIGH_OFFSET = 2.0, 0.5
# Far below: half of what the best constant answer to the same examples would give.
LOW_FACTOR = 0.5
# Of fewer labels, a low loss may be chance.
FEWEST_LABELS = 16
# A wider interval of a share leaves nearly everything open.
WIDE = 0.2


def untrained_head(modules: Sequence[str], *, method: str, trains: str, is_trained: bool) -> RunWarning | None:
    """Return a warning of a new head whose scores are shown though nothing trained it.

    modules: of the head, with new parameters. trains: as `LoadPlan.trains`. is_trained: gradients reach the head.
    """
    if not modules or trains == "features" or (trains == "gradient" and is_trained):
        return None
    why = f"method {method} trains nothing" if trains == "nothing" else f"method {method} leaves it frozen"
    sentence = f"the task head ({', '.join(modules)}) is new, with random values, and {why}: it was never trained"
    return RunWarning(code="untrained_head", sentence=sentence)


def weights_not_loaded(
    weights: str, *, method: str, meant: bool, random: int, total: int, names: Sequence[str] = ()
) -> RunWarning | None:
    """Return a warning of a body that began at random though its method is one for pretrained weights.

    meant: the method itself starts from random values. random, total: single values of the body, without its head.
    names: of the random parameters, where a checkpoint was read.
    """
    if meant or not random:
        return None
    if weights == "random":
        sentence = (
            f"no pretrained weights were loaded (model.weights: random): all {total:,} parameters of the body began at "
            f"random, and method {method} is meant for a pretrained model"
        )
    else:
        share = f"{random:,} of {total:,} parameters of the body ({random / max(total, 1):.1%})"
        sentence = f"{share} are not in the checkpoint and began at random, e.g. {names[0]}"
        return RunWarning(code="weights_missing", sentence=sentence)
    return RunWarning(code="weights_not_loaded", sentence=sentence)


# ---------------------------------------------------------------- the first loss


@dataclass(frozen=True, kw_only=True)
class FirstLabels:
    """Label items of the first step's examples. expected: the loss of equal probabilities for all outcomes.

    constant: the lowest loss that the same answer to all of them can have, the entropy of their shares. In nats.
    """

    outcomes: str
    count: int
    expected: float
    constant: float


def first_labels(features: Iterable[Mapping[str, Any]], num_labels: int, *, multi_label: bool) -> FirstLabels | None:
    """Return the labels of a task head's first examples; None where its loss is not one over labels.

    features: encoded, of texts, sentences with tags, or multiple choice. Raises nothing for spans and numbers: None.
    """
    rows = list(features)
    if not rows:
        return None
    if "pairs" in rows[0]:
        counts = [len(row["pairs"]) for row in rows]
        expected = float(np.log(counts).mean())
        return _first([row["labels"] for row in rows], f"{max(counts)} choices", expected)
    if "word_labels" in rows[0]:
        tags = [tag for row in rows for tag in row["word_labels"] if tag != IGNORED]
        return _first(tags, f"{num_labels} tags", math.log(num_labels)) if tags and num_labels > 1 else None
    labels = [row["labels"] for row in rows]
    if multi_label:
        shares = np.array(labels, dtype=float).mean(0)
        entropy = float(np.mean([_entropy([share, 1 - share]) for share in shares]))
        count = int(np.size(labels))
        return FirstLabels(outcomes="yes or no for each label", count=count, expected=math.log(2), constant=entropy)
    if num_labels < 2 or not all(isinstance(label, int | np.integer) for label in labels):
        return None
    return _first(labels, f"{num_labels} labels", math.log(num_labels))


def _first(labels: Sequence[int], outcomes: str, expected: float) -> FirstLabels:
    _, counts = np.unique(labels, return_counts=True)
    constant = _entropy(counts / counts.sum())
    return FirstLabels(outcomes=outcomes, count=len(labels), expected=expected, constant=constant)


def _entropy(shares: Iterable[float]) -> float:
    return -sum(share * math.log(share) for share in shares if share > 0)


def first_loss(loss: float, labels: FirstLabels, *, is_new: bool) -> RunWarning | None:
    """Return a warning of a first loss far from that of equal probabilities, ln K for K labels.

    loss: before the first update, a mean over label items. is_new: the head began at random; one that was trained
    before may well be right from the start, but not confidently wrong.
    """
    near = f"equal probabilities for {labels.outcomes} give {labels.expected:.3f}"
    if loss > HIGH_FACTOR * labels.expected + HIGH_OFFSET:
        what = "so that the head is confidently wrong before its first update"
        sentence = f"the loss of the first step is {loss:.3f}, while {near}, {what}"
        return RunWarning(code="first_loss_high", sentence=sentence)
    if is_new and labels.count >= FEWEST_LABELS and loss < LOW_FACTOR * labels.constant:
        sentence = (
            f"the loss of the first step is {loss:.3f}, while {near}, and no constant answer to its {labels.count:,} "
            f"labels goes below {labels.constant:.3f}: a new head can't know that much before its first update"
        )
        return RunWarning(code="first_loss_low", sentence=sentence)
    return None


# ---------------------------------------------------------------- scored, not trained


def within_chance(
    where: str,
    name: str,
    score: Score,
    floors: Mapping[str, float | int | None],
    *,
    higher_is_better: bool,
    is_prompted: bool = True,
) -> RunWarning | None:
    """Return a warning of an untrained score that is not above what needs no model, by its own interval.

    floors: name of a baseline -> its value of the same metric. where: what was scored, e.g. "before test".
    is_prompted: or else the model answers by a head that its checkpoint brought.
    """
    code = "within_chance" if is_prompted else "kept_head_within_chance"
    value, sign = score.value, 1 if higher_is_better else -1
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    ends = [end for end in (score.low, score.high) if isinstance(end, int | float)]
    worst = min((sign * end for end in ends), default=sign * value)
    reached = {
        kind: floor
        for kind, floor in floors.items()
        if isinstance(floor, int | float) and math.isfinite(floor) and worst <= sign * floor
    }
    if not reached:
        return None
    listed = ", ".join(f"{kind} {floor:.3f}" for kind, floor in reached.items())
    shown, verb = "no interval", "is not above"
    if len(ends) == 2:
        shown = f"95 % interval {ends[0]:.3f} to {ends[1]:.3f}"
        held = any(min(ends) <= floor <= max(ends) for floor in reached.values())
        verb = "can't be distinguished from" if held else "is below"
    sentence = f"{where}: {name} {value:.3f} on {score.examples:,} examples ({shown}) {verb} answers without a model"
    if len(ends) == 2 and max(ends) <= 1 and abs(ends[1] - ends[0]) > WIDE:
        return RunWarning(
            code=code,
            sentence=f"{sentence} ({listed}); so few examples leave it open: score more before concluding anything",
        )
    return RunWarning(code=code, sentence=f"{sentence} ({listed})")
