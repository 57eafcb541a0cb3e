"""Tests whether a form of a model gives the same answers: changed answers, and equivalence within a margin.

The difference of two scores on the same examples has a 90 % interval (two one-sided tests at 5 %, Schuirmann 1987). Of
shares of right answers it is Tango's score interval for matched pairs; of other metrics the BCa bootstrap interval over
examples; where not a single answer changed, the share of changed answers that n unchanged ones exclude at 5 %. Of a
metric of probabilities, which change although answers do not, it is the wider one of these two. Each form is a decision
of its own, so there is no correction for their number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bench.analysis import accessors
from bench.analysis.compare import BOOTSTRAP_SEED, DRAWS, discordant
from bench.analysis.stats import multiple, paired, tables
from bench.analysis.stats.intervals import wilson
from bench.analysis.stats.sums import Line, Tally
from bench.errors import DataError

Verdict = Literal["equivalent", "not equivalent", "undecided"]
ALPHA = 0.05
CONFIDENCE = multiple.equivalence_confidence(1, ALPHA)


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Changed answers, of `examples`. low, high: 95 % interval of their share (Wilson).

    right_to_wrong, wrong_to_right, wrong_to_other: None where an answer is neither right nor wrong.
    """

    examples: int
    changed: int
    low: float
    high: float
    right_to_wrong: int | None
    wrong_to_right: int | None
    wrong_to_other: int | None


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A form against the model it was made from. difference: form - model, in the metric's unit; low, high: at 90 %.

    changes: None of numbers, which hardly ever stay the same to the last bit. p: exact McNemar, None of other metrics.
    """

    score: float
    difference: float
    low: float
    high: float
    verdict: Verdict
    interval: str
    changes: Changes | None
    p: float | None


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Answers of one model. lines: by id; tally: the metric's statistics, in the order of the lines."""

    lines: Mapping[str, Line]
    tally: Tally


def default_margin(metric: str) -> float:
    """Return 0.01 of a metric that ends at 1, 1 of one that ends at 100. Raises DataError for one without an end."""
    _, most = accessors.metric_bounds(metric)
    if not np.isfinite(most):
        raise DataError(f"{metric} has no largest value, so that no margin fits it by default; give --margin")
    return 0.01 * most


def check_margin(metric: str, margin: float) -> None:
    """Raise DataError for a margin within which any two scores of the metric lie, so that all would be the same."""
    least, most = accessors.metric_bounds(metric)
    if margin >= most - least:
        raise DataError(
            f"--margin {margin:g}: no two scores of {metric}, which lies between {least:g} and {most:g}, differ by "
            "more; give a smaller one"
        )


def compare(form: Answers, model: Answers, metric: str, margin: float) -> Compared:
    """Compare the answers of a form with those of the model it was made from. Raises DataError for other examples."""
    if list(form.lines) != list(model.lines):
        raise DataError("the two were not scored on the same examples")
    changes = changes_of(list(form.lines.values()), list(model.lines.values()))
    examples, p = form.tally.examples, None
    if form.tally.is_binary and model.tally.is_binary:
        only = discordant(form.tally, model.tally)
        low, high = paired.matched_score_interval(*only, examples, CONFIDENCE)
        p, how = paired.mcnemar(*only), "Tango"
    else:
        # Unchanged answers may still have other probabilities, on which the metric may depend.
        is_same = tables.are_same(form.tally.rows, model.tally.rows)
        low, high = (0.0, 0.0) if is_same else _bootstrapped(form.tally, model.tally)
        how = "bootstrap, BCa"
        if changes is not None and not changes.changed:
            most = _unseen(examples) * _scale(metric)
            how = "no answer changed" if is_same else f"{how}, and at least what unchanged answers leave open"
            by = form.tally.score - model.tally.score
            low, high = min(low, by - most), max(high, by + most)
    score, before = form.tally.score, model.tally.score
    return Compared(
        score=score,
        difference=score - before,
        low=low,
        high=high,
        verdict=judged(score - before, low, high, margin),
        interval=how,
        changes=changes,
        p=p,
    )


def judged(difference: float, low: float, high: float, margin: float) -> Verdict:
    """Return the verdict on a difference with its 90 % interval.

    Equivalent: the interval lies within the margin. Not equivalent: it excludes 0, and the observed difference is the
    margin or more. Source of testing both: Lakens, Scheel and Isager 2018, "Equivalence testing for psychological
    research: a tutorial", Advances in Methods and Practices in Psychological Science 1.
    """
    if multiple.is_equivalent(low, high, margin):
        return "equivalent"
    return "not equivalent" if abs(difference) >= margin and (low > 0 or high < 0) else "undecided"


def _scale(metric: str) -> float:
    _, most = accessors.metric_bounds(metric)
    return most if np.isfinite(most) else 1.0


def _unseen(examples: int) -> float:
    """Return the share of changed answers at which n unchanged ones have a probability of 5 %."""
    return float(1 - ALPHA ** (1 / examples))


def _bootstrapped(form: Tally, model: Tally) -> tuple[float, float]:
    stack = paired.stack([form.rows, model.rows])
    drawn = paired.bootstrap_values(stack, form.value, DRAWS, BOOTSTRAP_SEED)
    differences = drawn[:, 0] - drawn[:, 1]
    differences = differences[np.isfinite(differences)]  # a correlation is not defined in a draw of equal numbers
    left_out = paired.jackknife_values(form.rows, form.value) - paired.jackknife_values(model.rows, model.value)
    low, high = paired.bca_interval(differences, form.score - model.score, left_out, CONFIDENCE)
    return float(low), float(high)


def changes_of(form: Sequence[Line], model: Sequence[Line]) -> Changes | None:
    """Count the answers that changed, of lines of the same examples; None of numbers."""
    if any(isinstance(line.prediction, float) or isinstance(line.reference, float) for line in model):
        return None
    differ = [new.prediction != old.prediction for new, old in zip(form, model, strict=True)]
    rights = [(_is_right(old), _is_right(new)) for new, old in zip(form, model, strict=True)]
    known = all(before is not None and after is not None for before, after in rights)
    counted = [pair for pair, changed in zip(rights, differ, strict=True) if changed]
    low, high = wilson(sum(differ), len(differ))
    return Changes(
        examples=len(differ),
        changed=sum(differ),
        low=low,
        high=high,
        right_to_wrong=counted.count((True, False)) if known else None,
        wrong_to_right=counted.count((False, True)) if known else None,
        wrong_to_other=counted.count((False, False)) if known else None,
    )


def _is_right(line: Line) -> bool | None:
    """Return whether an answer is right; of an answer in words by its own value of the metric, None without one."""
    reference: Any = line.reference
    if isinstance(line.prediction, str) and isinstance(reference, list):
        return None if line.value is None else line.value >= 1
    return bool(line.prediction == reference)
