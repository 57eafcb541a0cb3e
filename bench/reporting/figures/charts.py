"""The numbers of the figures of many runs, from which the script of an HTML page draws them. Loads no matplotlib.

A chart is {"kind", "legend", ...} of plain JSON values; `page_scripts/report.js` has a function for each kind.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.analysis.label_curves import Curve
from bench.reporting.figures import study, style
from bench.reporting.figures.study import Bar, Floor, Logs, Point
from bench.reporting.markdown import clean

# Points of a curve; of a longer one every n-th is kept.
MOST_POINTS = 150
NAME_CHARACTERS = 100


def scores(
    bars: Sequence[Bar], limits: tuple[float, float], *, metric: str, higher: bool, floors: Sequence[Floor]
) -> dict[str, Any]:
    """Return the chart of scores with their intervals. floors: baselines."""
    return {
        "kind": "scores", "metric": clean(metric), "higher": higher, "domain": _numbers(limits),
        "baselines": [{"name": clean(name), "value": _number(value)} for name, value in floors],
        "systems": [
            {"name": _name(bar.name), "score": _number(bar.score), "low": _number(bar.low), "high": _number(bar.high),
             "before": _number(bar.before)}
            for bar in bars
        ],
    }  # fmt: skip


def cost(
    panels: Mapping[str, Sequence[Point]], fronts: Mapping[str, Sequence[int] | None], *, metric: str
) -> dict[str, Any]:
    """Return the chart of score against each cost. fronts: title -> the indices on the front, None without tests."""
    drawn = []
    for title, points in panels.items():
        front = fronts[title]
        most = 1.06 * max((point.cost for point in points if point.cost is not None), default=0.0) or 1.0
        steps = [[_number(points[place].cost), _number(points[place].score)] for place in front or ()]
        drawn.append({
            "title": clean(title), "most": _number(most),
            "front": [*steps, [_number(most), steps[-1][1]]] if steps else [],
            "points": [
                {"name": _name(point.name), "sign": study.letter(point.name, place), "place": place,
                 "cost": _number(point.cost), "score": _number(point.score), "low": _number(point.low),
                 "high": _number(point.high), "front": front is None or place in front}
                for place, point in enumerate(points) if point.cost is not None
            ],
        })  # fmt: skip
    points = next(iter(panels.values()))
    places = {point.name: place for place, point in enumerate(points)}
    return {"kind": "cost", "metric": clean(metric), "domain": _numbers(study.score_limits(points)), "panels": drawn,
            "legend": _legend(list(places), places)}  # fmt: skip


def curves(logs: Logs, first: Sequence[str], places: Mapping[str, int]) -> dict[str, Any]:
    """Return the chart of learning curves, as `study.learning_curves` draws them. places: of systems among all."""
    shown = dict(list(logs.items())[: study.MOST_CURVES])
    panels = []
    for key in study.curve_panels(logs, first):
        of_runs = [(places[name], _thinned(*study.curve(rows, key))) for name, runs in shown.items() for rows in runs]
        lines = [{"place": place, "points": points} for place, points in of_runs if points]
        values = [value for _, points in of_runs for _, value in points if value is not None]
        panels.append({
            "title": clean(study.curve_title(key)), "unit": study.curve_unit(key), "lines": lines,
            "domain": _numbers(style.widened(min(values), max(values))) if values else [0, 1],
        })  # fmt: skip
    return {"kind": "curves", "legend": _legend(shown, places), "panels": panels}


def labels(
    by_system: Mapping[str, Sequence[float | None]], names: Sequence[str], places: Mapping[str, int], *, metric: str
) -> dict[str, Any]:
    """Return the chart of scores by label: of many labels those with the lowest mean."""
    shown = dict(list(by_system.items())[: study.MOST_BARS])
    table, chosen = study.lowest_labels(list(shown.values()))
    lowest = min((value for row in table for value in row if math.isfinite(value)), default=0.0)
    return {
        "kind": "labels", "metric": clean(metric), "domain": [_number(min(0.0, lowest)), 1],
        "legend": _legend(shown, places), "labels": [_label(names, place) for place in chosen],
        "values": [[_number(row[place]) for place in chosen] for row in table.tolist()],
    }  # fmt: skip


def sizes(curves: Sequence[Curve], *, metric: str) -> dict[str, Any]:
    """Return the chart of label curves: scores with intervals over numbers of training examples, and fitted laws."""
    ends = [(point.score, point.low, point.high) for curve in curves for point in curve.points]
    values = [value for end in ends for value in end if value is not None]
    values += [value for curve in curves if curve.law for value in curve.law.scores]
    return {
        "kind": "sizes", "metric": clean(metric), "domain": _numbers(style.widened(min(values), max(values))),
        "sizes": sorted({point.examples for curve in curves for point in curve.points}),
        "legend": [{"place": place, "name": _name(curve.name)} for place, curve in enumerate(curves)],
        "points": [
            {"place": place, "examples": point.examples, "score": _number(point.score), "low": _number(point.low),
             "high": _number(point.high)}
            for place, curve in enumerate(curves) for point in curve.points
        ],
        "laws": [{"place": place, "points": _thinned(curve.law.grid, curve.law.scores)}
                 for place, curve in enumerate(curves) if curve.law is not None],
    }  # fmt: skip


def confusion(by_system: Mapping[str, Sequence[Sequence[float]]], names: Sequence[str]) -> dict[str, Any]:
    """Return the chart of confusion matrices."""
    shown = dict(list(by_system.items())[: study.MOST_MATRICES])
    size = len(next(iter(shown.values())))
    return {
        "kind": "confusion",
        "labels": [_label(names, place) for place in range(size)],
        "matrices": [{"name": _name(name), "counts": [_numbers(row) for row in counts]}
                     for name, counts in shown.items()],
    }  # fmt: skip


def _legend(names: Iterable[str], places: Mapping[str, int]) -> list[dict[str, Any]]:
    return [{"place": places[name], "name": _name(name)} for name in names]


def _label(names: Sequence[str], place: int) -> str:
    return _name(names[place]) if place < len(names) and names[place] else f"label {place}"


def _name(text: str) -> str:
    shown, half = clean(text), NAME_CHARACTERS // 2
    return shown if len(shown) <= NAME_CHARACTERS else f"{shown[:half]}…{shown[-half:]}"


def _number(value: Any) -> float | None:
    """Return six digits of a finite number, else None: more are not drawn."""
    known = style.plottable(value)
    return None if math.isnan(known) else float(f"{known:.6g}")


def _numbers(values: Iterable[Any]) -> list[float | None]:
    return [_number(value) for value in values]


def _thinned(steps: Sequence[float], values: Sequence[float]) -> list[list[float | None]]:
    """Return at most MOST_POINTS pairs, with the last one."""
    pairs = [[_number(step), _number(value)] for step, value in zip(steps, values, strict=True)]
    every = math.ceil(len(pairs) / MOST_POINTS)
    return pairs if every <= 1 else [*pairs[:-1:every], pairs[-1]]
