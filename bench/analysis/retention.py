"""Scores running texts, and compares a model before and after a training on other data: the same examples, in pairs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.analysis import predictions
from bench.analysis.stats import paired
from bench.analysis.stats.running_text import BY_UNIT, RULES
from bench.analysis.stats.sums import BY_PROBABILITY, Line, Tally, tally
from bench.errors import DataError
from bench.records.record import Kept, Score

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
        words=row.get("reference_words"),
        bytes=row.get("reference_bytes"),
    )


def text_scores(lines: Sequence[Line], signature: str) -> dict[str, Score]:
    """Return perplexities of a running text with intervals by window, and how many tokens, words and bytes it has.

    Words and bytes only where the tokenizer says where its tokens stand. signature: of the windows.
    """
    scores = {}
    for name, (unit, _) in BY_UNIT.items():
        if any(getattr(line, unit) is None for line in lines):
            continue
        found = tally_of(name, lines, (), multi_label=False)
        drawn = paired.bootstrap_values(paired.stack([found.rows]), found.value, DRAWS, seed=0)[:, 0]
        low, high = paired.percentile_interval(drawn[np.isfinite(drawn)]) if len(lines) > 1 else (None, None)
        scores[name] = Score(
            value=found.score,
            low=low,
            high=high,
            interval=None if low is None else f"bootstrap 95 %, {DRAWS} draws by window",
            examples=len(lines),
            signature=f"{name}|{RULES[name]}|{signature}",
            higher_is_better=False,
        )
        number = sum(getattr(line, unit) for line in lines)
        scores[unit] = Score(value=number, examples=len(lines), signature=f"{unit}|v1|{signature}")
    return scores


def tally_of(
    metric: str, lines: Sequence[Line], labels: Sequence[str], *, multi_label: bool, scheme: str | None = None
) -> Tally:
    """Return the statistics of a metric as `sums.tally` does, also of running text."""
    if metric not in BY_UNIT:
        return tally(metric, lines, labels, multi_label=multi_label, scheme=scheme)
    unit, value = BY_UNIT[metric]
    rows = [(line.loss, getattr(line, unit)) for line in lines]
    if any(part is None for row in rows for part in row):
        raise DataError(f"{metric} can't be computed: a line lacks reference_nll or reference_{unit}")
    return Tally(rows=np.array(rows, dtype=float), value=value)


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
    tallies = [tally_of(metric, lines, labels, multi_label=multi_label, scheme=scheme) for lines in (before, after)]
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
