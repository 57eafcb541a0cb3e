"""Tables of a fitted temperature: scores of probabilities with and without it, of one run and of many."""

from statistics import mean
from typing import TYPE_CHECKING

from bench.analysis import accessors
from bench.records.record import Record
from bench.reporting import cells
from bench.reporting import markdown as md

if TYPE_CHECKING:  # it loads NumPy, which the page of one run does not need
    from bench.analysis.leaderboard import Group


def of_run(record: Record) -> str:
    """Return the temperature in a sentence, and a table by split; empty without one."""
    fitted = record.temperature
    if fitted is None:
        return ""
    rows = [
        [
            md.escape(split),
            md.escape(name),
            cells.shown_score(record.scores.get("after", {}).get(split, {}).get(name)),
            cells.shown_score(score),
        ]
        for split, scores in fitted.scores.items()
        for name, score in sorted(scores.items(), key=lambda pair: accessors.metric_order(pair[0]))
        if isinstance(score.value, int | float)
    ]
    sentence = (
        f"Temperature {md.fixed(fitted.value)}, fitted on {md.count(fitted.examples)} examples of "
        f"{md.escape(fitted.split)}, where it took the loss from {md.fixed(fitted.loss_before)} to "
        f"{md.fixed(fitted.loss_after)}. It changes no answer."
    )
    header = ["split", "metric", "without temperature", "with temperature"]
    return md.joined([sentence, md.table(header, rows, "llrr")])


def of_group(group: "Group") -> str:
    """Return the systems of a report with the means of their runs with and without a temperature; empty without one."""
    rows = []
    for system in group.systems:
        runs = [one for one in system.records if one.temperature is not None and group.split in one.temperature.scores]
        names = sorted({name for one in runs for name in _numbers(one, group.split)}, key=accessors.metric_order)
        for name in names:
            pairs = [
                (before, after)
                for one in runs
                if (after := _numbers(one, group.split).get(name)) is not None
                and (before := _value(one, group.split, name)) is not None
            ]
            if pairs:
                temperatures = [float(one.temperature.value or 0) for one in runs if one.temperature is not None]
                shown = [md.fixed(mean(column)) for column in zip(*pairs, strict=True)]
                rows.append([md.escape(system.label), md.fixed(mean(temperatures)), md.escape(name), *shown])
    header = ["system", "temperature", "metric", "without temperature", "with temperature"]
    return md.table(header, rows, "lrlrr")


def _numbers(record: Record, split: str | None) -> dict[str, float]:
    scores = record.temperature.scores.get(split or "", {}) if record.temperature is not None else {}
    return {name: float(one.value) for name, one in scores.items() if isinstance(one.value, int | float)}


def _value(record: Record, split: str | None, name: str) -> float | None:
    one = record.scores.get("after", {}).get(split or "", {}).get(name)
    return float(one.value) if one is not None and isinstance(one.value, int | float) else None
