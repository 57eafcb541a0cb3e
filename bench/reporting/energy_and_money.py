"""Energy and money on pages: columns of the cost table, the section "to a score", and a section of one run's page."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from bench.analysis import spending, to_score
from bench.analysis.spending import Asked, Money, Spending
from bench.analysis.to_score import Spread
from bench.config import prices
from bench.errors import BenchError
from bench.records.record import Record
from bench.reporting import markdown as md

if TYPE_CHECKING:  # it loads NumPy, which the page of one run does not need
    from bench.analysis.leaderboard import Group

NOT_REACHED = "not reached"
NAME_CHARACTERS = 80
ENERGY_NOTE = (
    "Energy: by the devices' own counters, idle power included; of the training phase with what lies between its "
    "steps, without validation and saving; of scoring for all splits scored after training together."
)
MONEY_NOTE = (
    "Cost of a run: from its start to its end, times its devices, times the price of an hour; mean over seeds. Failed "
    "runs are not in it."
)


def columns(spent: Sequence[Spending]) -> list[dict[str, str]]:
    """Return the cells of each system by column: those that any system has, and no others."""
    cells = [
        {
            **{
                f"training, kJ ({name})": _shown(one.training.get(kind), one.training_std.get(kind), 1000)
                for kind, name in spending.KINDS.items()
            },
            **{
                f"J per 100 examples ({name})": _shown(one.per_100.get(kind), one.per_100_std.get(kind))
                for kind, name in spending.KINDS.items()
            },
            "hours paid": _hours(one.money),
            "cost of a run": _sum(one.money),
        }
        for one in spent
    ]
    known = [name for name in (cells[0] if cells else {}) if any(row[name] != md.DASH for row in cells)]
    return [{name: row[name] for name in known} for row in cells]


def _shown(value: float | None, std: float | None, unit: float = 1.0) -> str:
    """Return a mean over seeds with its deviation, in so many joules."""
    return md.DASH if value is None else md.mean_std(value / unit, None if std is None else std / unit)


def _hours(money: Money | None) -> str:
    return md.DASH if money is None else f"{md.mean_std(money.hours, money.hours_std)} {money.unit}"


def _sum(money: Money | None) -> str:
    return md.DASH if money is None else f"{md.mean_std(money.amount, money.amount_std)} {md.escape(money.currency)}"


def notes(names: Sequence[str], spent: Sequence[Spending]) -> list[str]:
    """Return the sentences below the cost table on what these columns are."""
    lines = [ENERGY_NOTE] if any(one.training or one.per_100 for one in spent) else []
    lines += [MONEY_NOTE] if any(one.money for one in spent) else []
    sums = {name: one.money or one.why_no_money for name, one in zip(names, spent, strict=True)}
    return lines + [md.escape(line, 2000) for line in spending.notes(sums)]


def to_score_section(group: "Group", asked: Asked) -> str:
    """Return the table of what each system needed to reach the asked score; empty where none was asked for."""
    target, metric = asked.to_score, group.metric
    if target is None or metric is None:
        return ""
    found = {
        md.escape(system.label, NAME_CHARACTERS): to_score.of_system(
            to_score.runs_of(system.runs, group.failed),
            metric,
            target,
            higher_is_better=group.higher_is_better,
            prices=asked.prices,
        )
        for system in group.systems
    }
    lines = [
        {
            "system": name,
            "reached by": md.DASH if one.why_not else f"{one.reached} of {one.runs}",
            "steps": _spread(one.steps, md.count),
            "s": _spread(one.seconds),
            **{f"kJ ({device})": _spread(one.joules.get(kind), _kilo) for kind, device in spending.KINDS.items()},
            "money": _spread(one.money) + (f" {one.currency}" if one.money and math.isfinite(one.money.median) else ""),
            "interval holds": _coverage(one.steps),
        }
        for name, one in found.items()
    ]
    shown = [name for name in (lines[0] if lines else {}) if any(line[name] != md.DASH for line in lines)]
    table = md.table_of([{name: line[name] for name in shown} for line in lines], ("system",))
    sign = "at least" if group.higher_is_better else "at most"
    caption = (
        f"The first validation with {md.escape(metric)} of {sign} {target:g}: median over seeds, and an interval "
        "between order statistics of the seeds (sign test), which holds the true median with the given probability; "
        "none from fewer than 3. A run that ended without the score, or diverged, counts as longer than all others."
    )
    details = [
        "Seconds are of the clock on the wall since training was set up, validations included. The score was reached "
        "between this validation and the one before.",
        *(["Energy: of training alone, without validations."] if any(one.joules for one in found.values()) else []),
        *(f"No numbers for {name}: {md.escape(one.why_not)}." for name, one in found.items() if one.why_not),
    ]
    return md.joined([caption, table, md.bullets(details)])


def _spread(spread: Spread | None, shown: Callable[[float], str] = md.significant) -> str:
    if spread is None:
        return md.DASH
    median = _end(spread.median, shown)
    if not _has_interval(spread):
        return median
    assert spread.low is not None
    assert spread.high is not None
    return f"{median} ({_end(spread.low, shown)}–{_end(spread.high, shown)})"


def _has_interval(spread: Spread) -> bool:
    """Return whether there is an interval, and any of it was reached."""
    return spread.low is not None and math.isfinite(spread.low)


def _end(value: float, shown: Callable[[float], str]) -> str:
    return NOT_REACHED if math.isinf(value) else shown(value)


def _kilo(value: float) -> str:
    return md.significant(value / 1000)


def _coverage(spread: Spread | None) -> str:
    return md.percent(spread.coverage) if spread is not None and _has_interval(spread) else md.DASH


def run_section(record: Record) -> str:
    """Return the energy and the cost of one run, with sources; "" for an older record without either."""
    energy = record.energy
    parts = []
    if energy is not None:
        measured = {phase: values for phase, values in energy.phases.items() if _is_known(values)}
        lines = [f"{spending.KINDS[kind]}: {text}." for kind, text in energy.sources.items()]
        lines += [f"Not measured, {what}: {why}." for what, why in energy.missing.items()]
        parts.append(md.grid("energy by phase, all processes", measured, skip=["per_rank"]))
        parts.append(md.bullets([md.escape(line, 2000) for line in lines]))
    return md.joined([*parts, _money(record)])


def _is_known(values: Mapping[str, object]) -> bool:
    return any(value is not None for name, value in values.items() if name != "per_rank")


def _money(record: Record) -> str:
    try:
        found = spending.money(record, prices.load())
    except BenchError as error:
        return f"No money: {md.escape(error, 2000)}"
    if found is None or isinstance(found, str):
        return f"No money: {md.escape(found, 2000)}." if found else ""
    price = found.price
    return (
        f"Cost: {_sum(found)}, for {md.significant(found.hours)} {found.unit} from start to end at {price.price:g} "
        f"{price.currency} ({md.escape(price.source)}; as of {price.date}; indicative)."
    )
