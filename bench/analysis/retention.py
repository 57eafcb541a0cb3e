"""Compares a model before and after a training on other data: the same examples, in pairs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.analysis import predictions
from bench.analysis.stats import paired
from bench.analysis.stats.sums import BY_PROBABILITY, Line, Tally, tally
from bench.errors import DataError
from bench.records.record import Kept

DRAWS = 2000


def lines_of(path: Path, stage: str, part: str, metric: str) -> list[Line]:
    """Return the lines of a file of predictions, sorted by id. path: of the run's record.

    Raises DataError for a file that is not there or can't be read.
    """
    rows = sorted(predictions.prediction_rows(path, stage, part), key=lambda row: str(row["id"]))
    return [_line(row, metric) for row in rows]


def _line(row: Mapping[str, Any], metric: str) -> Line:
    return Line(
        prediction=row["prediction"],
        reference=row["reference"],
        value=row["metrics"].get(metric),
        loss=row.get("reference_nll"),
        tokens=row.get("reference_tokens"),
        scores=row.get("scores") if metric in BY_PROBABILITY else None,
    )


def kept(
    metric: str,
    before: Sequence[Line],
    after: Sequence[Line],
    labels: Sequence[str],
    *,
    multi_label: bool,
    scheme: str | None = None,
) -> Kept:
    """Return the difference that a training made to a score, with its interval and the p-value of a paired test.

    Of right and wrong answers McNemar's exact test and Agresti and Min's interval; else 2,000 draws of approximate
    randomisation, and of the bootstrap by example. Raises DataError for a metric whose value does not follow from the
    lines, and for one that is not defined.
    """
    tallies = [tally(metric, lines, labels, multi_label=multi_label, scheme=scheme) for lines in (before, after)]
    first, second = (one.score for one in tallies)
    if not (np.isfinite(first) and np.isfinite(second)):
        raise DataError(f"{metric} is not defined before or after the training")
    if all(one.is_binary for one in tallies):
        return _of_answers(metric, tallies, first, second)
    stacked = paired.stack([one.rows for one in tallies])
    drawn = paired.bootstrap_values(stacked, tallies[0].value, DRAWS, seed=0)
    low, high = paired.percentile_interval((drawn[:, 1] - drawn[:, 0])[np.isfinite(drawn).all(axis=1)])
    (p_value,) = paired.randomisation_test(stacked, tallies[0].value, [(0, 1)], DRAWS, seed=0)
    return Kept(
        metric=metric, before=first, after=second, difference=second - first, low=low, high=high, p=float(p_value),
        test=f"approximate randomisation, {DRAWS} draws; bootstrap 95 % by example",
    )  # fmt: skip


def _of_answers(metric: str, tallies: Sequence[Tally], first: float, second: float) -> Kept:
    right = [one.rows[:, 0].astype(bool) for one in tallies]
    lost, gained = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    low, high = paired.matched_interval(gained, lost, len(right[0]))
    return Kept(
        metric=metric, before=first, after=second, difference=second - first, low=low, high=high,
        p=paired.mcnemar(gained, lost), lost=lost, gained=gained, test="McNemar, exact; Agresti and Min 95 %",
    )  # fmt: skip
