"""Time, energy and money until a score is reached on the validation split, with intervals over seeds.

A run that never gets there counts as longer than every one that does; so medians and their intervals are right with
such runs among them, and "not reached" where half of the runs or more are.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.analysis import accessors, spending, train_log
from bench.analysis.accessors import Located
from bench.analysis.spending import Money
from bench.config.prices import Prices
from bench.errors import DataError
from bench.records.record import Record
from bench.utils import numbers

# Below so many runs there is no interval; of three, it holds the median with 75 %.
LEAST_RUNS = 3
COVERAGE = 0.95
# The status of a run whose settings kept it from the score; others that failed say nothing about these.
DIVERGED = "diverged"


@dataclass(frozen=True, kw_only=True)
class Reached:
    """Where one run reached the score: infinite where it did not. seconds: None where the log lacks them.

    joules: kind of device -> of training until there. money: None without a price. Both are infinite where it did not.
    """

    step: float
    seconds: float | None
    joules: dict[str, float] = field(default_factory=dict)
    money: float | None = None


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A median over runs, infinite for "not reached", and an interval that holds the true one with `coverage`."""

    median: float
    low: float | None = None
    high: float | None = None
    coverage: float | None = None


@dataclass(frozen=True, kw_only=True)
class ToScore:
    """Needs of one system. reached: how many of its `runs` did. joules: by kind of device. why_not: no numbers."""

    runs: int
    reached: int = 0
    steps: Spread | None = None
    seconds: Spread | None = None
    joules: dict[str, Spread] = field(default_factory=dict)
    money: Spread | None = None
    currency: str | None = None
    why_not: str | None = None


def of_system(
    runs: Sequence[Located], metric: str, target: float, *, higher_is_better: bool, prices: Prices | None = None
) -> ToScore:
    """Return what the runs of one system needed to reach the target by a validation metric.

    A run that diverged before, or without a validation, did not reach it. Times, energy and money are None where the
    runs were on different machines.
    """
    found: list[Reached] = []
    currencies: set[str] = set()
    for path, record in runs:
        curve = _curve(path, record, metric)
        if not curve and record.status != DIVERGED:
            return ToScore(runs=len(runs), why_not=f"no validation by {metric} in the log of a run")
        one = _reached(curve, record, target, higher_is_better=higher_is_better)
        if prices is not None and one.seconds is not None:
            priced = spending.money(record, prices, seconds=one.seconds)
            if isinstance(priced, Money):
                currencies.add(priced.currency)
                one = Reached(step=one.step, seconds=one.seconds, joules=one.joules, money=priced.amount)
        found.append(one)
    is_one_machine = len({accessors.machine(record) for _, record in runs}) == 1
    timed = found if is_one_machine else []
    kinds = [kind for kind in spending.KINDS if all(kind in one.joules for one in found)]
    return ToScore(
        runs=len(runs),
        reached=sum(math.isfinite(one.step) for one in found),
        steps=spread([one.step for one in found]),
        seconds=spread([one.seconds for one in timed]),
        joules={kind: over for kind in kinds if (over := spread([one.joules[kind] for one in timed])) is not None},
        money=spread([one.money for one in timed]) if len(currencies) == 1 else None,
        currency=next(iter(currencies)) if len(currencies) == 1 else None,
    )


def runs_of(counted: Sequence[Located], failed: Sequence[Located]) -> list[Located]:
    """Return the runs of a system with those of its seeds that diverged and were not repeated with another end."""
    keys = {accessors.system_key(record) for _, record in counted}
    seeds = {record.seed for _, record in counted}
    diverged = {
        record.seed: (path, record)
        for path, record in failed
        if record.status == DIVERGED and record.seed not in seeds and accessors.system_key(record) in keys
    }
    return [*counted, *diverged.values()]


def _curve(path: Path, record: Record, metric: str) -> list[dict[str, Any]]:
    """Return the rows of a run's log that have the metric; [] without a log. Before training is a row of step 0."""
    try:
        rows, _ = train_log.read_log(path.parent / train_log.FILE)
    except OSError:
        return []
    name = f"validation_{metric}"
    validated = [row for row in rows if numbers.finite(row.get(name)) is not None]
    split = (record.recipe.resolved.get("evaluation") or {}).get("validation")
    first = accessors.scalars(record, "before", split).get(metric)
    value = numbers.finite(first.value) if first is not None else None
    before = {"step": 0, "seconds": 0.0, "value": value, **dict.fromkeys(map(_joules_key, spending.KINDS), 0.0)}
    curve = [{**row, "value": row[name]} for row in validated]
    return [before, *curve] if value is not None and curve else curve


def _joules_key(kind: str) -> str:
    return f"{kind}_joules"


def _reached(curve: Sequence[dict[str, Any]], record: Record, target: float, *, higher_is_better: bool) -> Reached:
    """Return the first point of a curve at the target or beyond it."""
    sign = 1 if higher_is_better else -1
    first = next((row for row in curve if sign * row["value"] >= sign * target), None)
    # A counter that was no measurement of the whole training is none of its first part.
    kinds = spending.joules(record, "train")
    if first is None:  # the record of one that diverged may have no energy
        missed = spending.KINDS if record.status == DIVERGED else kinds
        return Reached(step=math.inf, seconds=math.inf, joules=dict.fromkeys(missed, math.inf))
    counted = {kind: numbers.finite(first.get(_joules_key(kind))) for kind in kinds}
    return Reached(
        step=first["step"],
        seconds=numbers.finite(first.get("seconds")),
        joules={kind: value for kind, value in counted.items() if value is not None},
    )


def spread(values: Sequence[float | None]) -> Spread | None:
    """Return the median of values, some of which may be infinite, with its interval; None for none, or an unknown one.

    The interval is between order statistics (Conover, Practical Nonparametric Statistics, 3rd ed., section 3.2): the
    narrowest symmetric pair that holds the median with at least 95 %, else the smallest and the largest value, which
    hold it with 1 - 2^(1-n). It assumes nothing of the distribution.
    """
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    ordered, size = sorted(known), len(known)
    median = statistics.median(ordered) if math.isfinite(ordered[size // 2]) else math.inf
    if size < LEAST_RUNS:
        return Spread(median=median)
    place = max((k for k in range(1, size // 2 + 1) if covered(k, size) >= COVERAGE), default=1)
    return Spread(median=median, low=ordered[place - 1], high=ordered[-place], coverage=covered(place, size))


def covered(place: int, size: int) -> float:
    """Return the probability that a median lies between the `place`-th smallest and the `place`-th largest value."""
    outside: int = sum(math.comb(size, k) for k in range(place))
    return 1 - 2 * outside / 2.0**size


def refuse_impossible(records: Sequence[Located], metric: str | None, target: float) -> None:
    """Raise DataError for a target that no metric by which these runs are ranked can have."""
    chosen = {metric} if metric is not None else set(_ranked_by(records))
    bounds = {name: accessors.metric_bounds(name) for name in chosen}
    if bounds and not any(low <= target <= high for low, high in bounds.values()):
        shown = ", ".join(f"{name} from {low:g} to {high:g}" for name, (low, high) in sorted(bounds.items()))
        raise DataError(f"--to-score {target:g} can't be reached: the runs are ranked by {shown}")


def _ranked_by(records: Sequence[Located]) -> list[str]:
    found = (
        accessors.ranking_metric(accessors.scalars(record, "after", split))
        for _, record in records
        for split in accessors.splits(record)[:1]
    )
    return [name for name in found if name is not None]
