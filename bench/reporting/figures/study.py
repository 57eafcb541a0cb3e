"""Figures of many runs: score against cost, learning curves, scores by label, confusion matrices.

Every system keeps its colour and marker in all figures of its group. The same input gives the same bytes.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.reporting.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MarkerStyle = tuple[str, str]  # colour, marker
# Distinguishable in black and white; 7 colours and 8 markers have no common divisor, so 56 systems differ.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
NAME_CHARACTERS = 44
# More than these would be unreadable; the page says how many are shown.
MOST_CURVES, MOST_BARS, MOST_LABELS, MOST_MATRICES = 12, 12, 30, 6
# With more labels than this, a matrix has no numbers in its cells.
NUMBERED_LABELS = 8
LEGEND_COLUMNS = 2
# Points closer than these shares of the x and y axes overlap: about the size of a marker.
HIDDEN_BY = (0.03, 0.03)
# Height of a legend line, inches.
LINE_IN = 0.19


@dataclass(frozen=True, kw_only=True)
class Point:
    """A system in a plot of score against cost. cost: None if unknown."""

    name: str
    score: float
    low: float | None
    high: float | None
    cost: float | None
    note: str = ""


# Name and value of a baseline; its line, and the word for it, by its place.
Floor = tuple[str, float]
FLOOR_LINES = (("dashed", "--"), ("dotted", ":"))


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A system in a plot of scores. before: the score before training; None where unknown."""

    name: str
    score: float
    low: float | None
    high: float | None
    before: float | None


def marker_styles(number: int) -> list[MarkerStyle]:
    """Return a colour and a marker for each of `number` systems."""
    pairs = zip(itertools.cycle(style.SERIES), itertools.cycle(MARKERS))
    return list(itertools.islice(pairs, number))


def lines(number: int) -> list[tuple[str, str]]:
    """Return a colour, the same as in `marker_styles`, and a line style for each of `number` systems."""
    styles = ("-", "--", ":")
    return [(style.SERIES[place % len(style.SERIES)], styles[place // len(style.SERIES) % len(styles)])
            for place in range(number)]  # fmt: skip


def front(points: Sequence[Point], is_better: Callable[[int, int], bool]) -> list[int]:
    """Return the indices of the front: the cheapest point, then each that is significantly better than all cheaper
    ones on the front.

    A cheaper system off the front does not keep one from it: it may tie with both, and ties are not transitive. Of
    points with equal cost the first counts as cheaper.
    """
    known = [number for number, point in enumerate(points) if point.cost is not None]
    chosen: list[int] = []
    for number in sorted(known, key=lambda place: (points[place].cost, place)):
        if all(is_better(number, one) for one in chosen):
            chosen.append(number)
    return chosen


def score_against_cost(
    panels: Mapping[str, Sequence[Point]],
    is_better: Callable[[int, int], bool] | None,
    path: Path,
    *,
    score: str,
) -> None:
    """Draw a panel for each cost (its name with the unit), with the same systems in the same order, best first.

    is_better: tells whether one system (by index) is significantly better than another; None draws no front.
    Overlapping points get a label that names all of them. Raises ValueError where no point has a cost.
    """
    shown = {title: points for title, points in panels.items() if any(point.cost is not None for point in points)}
    if not shown:
        raise ValueError("no system has both a score and a cost")
    points = next(iter(shown.values()))
    names = legend_names([point.name for point in points])
    legend_in = LINE_IN * math.ceil(len(names) / LEGEND_COLUMNS) + 0.3
    with style.figure(path, style.WIDTH_IN, 3.3 + legend_in) as figure:
        axes = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for panel, (title, costed) in zip(axes, shown.items(), strict=True):
            _draw_points(panel, costed, front(costed, is_better) if is_better else None)
            panel.set_xlabel(title)
            panel.tick_params(labelleft=True)
        axes[0].set_ylabel(score)
        axes[0].set_ylim(score_limits(points))
        for panel, costed in zip(axes, shown.values(), strict=True):
            _label_overlapping(panel, costed)
        handles = [handle(sign, name) for sign, name in zip(marker_styles(len(names)), names, strict=True)]
        handles += [_line_handle()] if is_better else []
        figure.legend(handles=handles, loc="outside lower left", ncols=LEGEND_COLUMNS)


def axis_limits(bars: Sequence[Bar], floor: float | None, bounds: tuple[float, float]) -> tuple[float, float]:
    """Return limits of an axis of scores that holds all intervals and starts at the baseline, or at 0 without one.

    bounds: the least and highest possible score, which the axis exceeds by an edge at most.
    """
    known = [value for bar in bars for value in (bar.score, bar.low, bar.high, bar.before) if value is not None]
    start = floor if floor is not None else 0.0
    low, high = min([start, *known]), max([start, *known])
    edge = 0.04 * (high - low) or 0.04
    return max(low - edge, bounds[0] - edge / 2), min(high + edge, bounds[1] + edge / 2)


def scores(
    bars: Sequence[Bar], limits: tuple[float, float], path: Path, *, metric: str, floors: Sequence[Floor]
) -> None:
    """Draw a row per system, best first: score with interval, score before training, and a line at each baseline."""
    names = legend_names([bar.name for bar in bars])
    with style.figure(path, style.WIDTH_IN, 0.3 * len(bars) + 1.0) as figure:
        panel = figure.subplots()
        told = []
        for (name, value), (kind, line) in zip(floors, FLOOR_LINES, strict=False):
            panel.axvline(value, color="#666666", linestyle=line, linewidth=1)
            told.append(f"{kind}: {style.label_names([name], 1)[0]} {value:.3f}")
        if told:
            panel.set_title("; ".join(told), color="#666666", fontsize=9)
        for row, (bar, (colour, _)) in enumerate(zip(bars, marker_styles(len(bars)), strict=True)):
            if bar.low is not None and bar.high is not None:
                panel.hlines(row, bar.low, bar.high, color=colour, linewidth=2, alpha=0.75)
            if bar.before is not None:
                panel.plot(bar.before, row, marker="o", markersize=5.5, color="#666666", markerfacecolor="white")
            panel.plot(bar.score, row, marker="o", markersize=7, color=colour)
        panel.set_yticks(range(len(bars)), names)
        panel.set(xlim=limits, ylim=(len(bars) - 0.5, -0.5), xlabel=metric)
        panel.grid(axis="y", visible=False)
        panel.tick_params(axis="y", length=0)


def _draw_points(panel: "Axes", points: Sequence[Point], best: list[int] | None) -> None:
    for number, (point, (colour, marker)) in enumerate(zip(points, marker_styles(len(points)), strict=True)):
        if point.cost is None:
            continue
        on_front = best is None or number in best
        if point.low is not None and point.high is not None:
            panel.vlines(point.cost, point.low, point.high, color=colour, linewidth=1.2, alpha=0.7)
        face = colour if on_front else "white"
        panel.plot(
            point.cost, point.score, marker=marker, markersize=8, color=colour, markerfacecolor=face, linestyle="none"
        )
    # The axis starts at 0, so that distances show ratios, and is slightly wider than the points.
    dearest = max(point.cost for point in points if point.cost is not None) or 1.0
    right = 1.06 * dearest
    panel.set_xlim(-0.04 * dearest, right)
    if best:
        steps = [(points[number].cost, points[number].score) for number in best]
        steps.append((right, steps[-1][1]))
        panel.step(*zip(*steps, strict=True), where="post", color="#333333", linewidth=1.2, linestyle="--", zorder=1.5)


def score_limits(points: Sequence[Point]) -> tuple[float, float]:
    """Return axis limits that hold all scores with their intervals, and a tenth of the range around them.

    Without intervals in it, an axis over scores that differ by less than chance would make them look far apart.
    """
    known = [value for point in points for value in (point.score, point.low, point.high) if value is not None]
    low, high = min(known), max(known)
    # Scores without intervals: at least a fiftieth of them.
    edge = max(0.1 * (high - low), 0.01 * max(abs(low), abs(high)), 1e-3)
    return low - edge, high + edge


def together(points: Sequence[Point], width: float, height: float) -> list[list[int]]:
    """Return groups of at least two indices of points within `width` and `height` of the first of their group."""
    places: list[list[int]] = []
    for number, point in enumerate(points):
        if point.cost is None:
            continue
        for place in places:
            first = points[place[0]]
            assert first.cost is not None
            if abs(first.cost - point.cost) <= width and abs(first.score - point.score) <= height:
                place.append(number)
                break
        else:
            places.append([number])
    return [place for place in places if len(place) > 1]


def _label_overlapping(panel: "Axes", points: Sequence[Point]) -> None:
    """Label overlapping points with their letters, since only the last drawn one is fully visible."""
    (left, right), (low, high) = panel.get_xlim(), panel.get_ylim()
    for place in together(points, HIDDEN_BY[0] * (right - left), HIDDEN_BY[1] * (high - low)):
        first = points[place[0]]
        assert first.cost is not None
        at_right = first.cost > (left + right) / 2
        panel.annotate(
            ", ".join(letter(points[number].name, number) for number in place),
            (first.cost, first.score),
            # Below, since markers of similar scores would be beside it.
            xytext=(-5 if at_right else 5, -11),
            textcoords="offset points",
            ha="right" if at_right else "left",
            va="center",
            fontsize=8,
            # In front of intervals and the dashed line.
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
        )


def letter(name: str, number: int) -> str:
    """Return the letter before the colon, as in "AB: model / lora"; else the position in the legend."""
    first, colon, _ = name.partition(":")
    return first if colon and first.isascii() and first.isalpha() and first.isupper() else str(number + 1)


def handle(sign: MarkerStyle, name: str) -> Any:
    """Return the entry of a legend for a system's colour and marker."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=sign[0], marker=sign[1], markersize=7, linestyle="none", label=name)


def _line_handle() -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color="#333333", linestyle="--", linewidth=1.2, label="front (filled): significantly better")


def legend_names(names: Sequence[str]) -> list[str]:
    """Return one-line names, long ones cut in the middle; one that the font can't render gets its number."""
    shown = style.label_names(names, len(names), most=NAME_CHARACTERS, missing="system")
    # A legend leaves out what begins with an underscore.
    return [f" {name}" if name.startswith("_") else name for name in shown]


Logs = Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]
"""System -> the logs of its runs, best system first."""


def has_curves(logs: Logs) -> bool:
    """Return whether the logs hold any loss or metric."""
    return bool(curve_panels(logs))


def learning_curves(logs: Logs, path: Path, first: Sequence[str] = (), places: Mapping[str, int] | None = None) -> None:
    """Draw training loss, and validation loss and metrics if any, by step; one line per seed.

    first: metrics shown before others. places: of the systems among all, which decide their colours. Long series are
    smoothed by a running mean. Only the first MOST_CURVES systems are drawn. Raises ValueError without any loss or
    metric.
    """
    panels = curve_panels(logs, first)
    if not panels:
        raise ValueError("the logs hold neither a loss nor a validation metric")
    shown = dict(list(logs.items())[:MOST_CURVES])
    names = legend_names(list(shown))
    drawn = _of_places(lines, list(shown), places)
    legend_in = LINE_IN * math.ceil(len(names) / LEGEND_COLUMNS) + 0.2
    with style.figure(path, style.WIDTH_IN, 2.4 * len(panels) + 0.4 + legend_in) as figure:
        axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for panel, key in zip(axes, panels, strict=True):
            for runs, line in zip(shown.values(), drawn, strict=True):
                for rows in runs:
                    _draw_curve(panel, rows, key, line)
            panel.set(title=curve_title(key), ylabel=curve_unit(key))
            style.widen(panel)
        axes[-1].set_xlabel("optimiser step")
        handles = [_curve_handle(line, name) for line, name in zip(drawn, names, strict=True)]
        figure.legend(handles=handles, loc="outside lower left", ncols=LEGEND_COLUMNS)


def _of_places(
    signs: Callable[[int], list[MarkerStyle]], names: Sequence[str], places: Mapping[str, int] | None
) -> list[MarkerStyle]:
    """Return the signs of these systems; a system that one figure lacks takes no sign from the others."""
    taken = [place if places is None else places[name] for place, name in enumerate(names)]
    every = signs(max(taken, default=-1) + 1)
    return [every[place] for place in taken]


def _curve_handle(line: tuple[str, str], name: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=line[0], linestyle=line[1], linewidth=2, label=name)


def curve_panels(logs: Logs, first: Sequence[str] = ()) -> list[str]:
    """Return the keys to draw: losses, the metrics of `first`, then others up to two metrics."""
    rows = [row for runs in logs.values() for run in runs for row in run]
    keys = {key for row in rows for key, value in row.items() if math.isfinite(style.plottable(value))}
    metrics = sorted(key for key in keys if key.startswith("validation_") and key != "validation_loss")
    wanted = [key for name in dict.fromkeys(first) if (key := f"validation_{name}") in metrics]
    others = [key for key in metrics if key not in wanted]
    return [key for key in ("loss", "validation_loss") if key in keys] + wanted + others[: max(0, 2 - len(wanted))]


def curve_title(key: str) -> str:
    """Return the title of a panel of curves."""
    return "Training loss" if key == "loss" else f"Validation: {key.removeprefix('validation_')}"


def curve_unit(key: str) -> str:
    """Return the unit of a panel of curves."""
    return "nats" if key.endswith("loss") else "score"


def curve(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Return steps and values of a key in a log, in order; long series are smoothed by a running mean."""
    points = [(style.plottable(row.get("step")), style.plottable(row[key])) for row in rows if key in row]
    known = sorted(point for point in points if not math.isnan(point[0]))
    values = [value for _, value in known]
    if len(known) > style.SMOOTHED_FROM:
        values = style.running_mean(values, len(known) // 20)
    return [step for step, _ in known], values


def _draw_curve(panel: "Axes", rows: Sequence[Mapping[str, Any]], key: str, line: tuple[str, str]) -> None:
    steps, values = curve(rows, key)
    if steps:
        marker = "." if len(steps) < 10 else None
        panel.plot(steps, values, color=line[0], linestyle=line[1], linewidth=1.1, alpha=0.85, marker=marker)


def lowest_labels(rows: Sequence[Sequence[float | None]]) -> tuple[np.ndarray, list[int]]:
    """Return values [systems, labels], NaN where unknown, and the labels to draw: of many those of the lowest mean."""
    number = max((len(values) for values in rows), default=0)
    table = np.full((len(rows), number), np.nan)
    for row, values in zip(table, rows, strict=True):
        row[: len(values)] = [style.plottable(value) for value in values]
    columns = [place for place in range(number) if np.isfinite(table[:, place]).any()]
    chosen = sorted(columns, key=lambda place: (float(np.nanmean(table[:, place])), place))[:MOST_LABELS]
    return table, sorted(chosen) if len(columns) <= MOST_LABELS else chosen


def label_scores(
    by_system: Mapping[str, Sequence[float | None]],
    labels: Sequence[str],
    path: Path,
    *,
    score: str,
    places: Mapping[str, int] | None = None,
) -> None:
    """Draw one row per label with a marker for each system; of many labels those with the lowest mean.

    by_system: name -> values [labels], best system first; only the first MOST_BARS are drawn. places: as in
    `learning_curves`. Raises ValueError without any value.
    """
    shown = dict(list(by_system.items())[:MOST_BARS])
    table, chosen = lowest_labels(list(shown.values()))
    if not chosen:
        raise ValueError("no scores by label")
    number = table.shape[1]
    known = int(np.isfinite(table).any(axis=0).sum())
    title = f"{len(chosen)} of {number} labels with the lowest scores" if known > MOST_LABELS else ""
    names, systems = style.label_names(labels, number), legend_names(list(shown))
    legend_in = LINE_IN * math.ceil(len(systems) / LEGEND_COLUMNS) + 0.2
    line_in = 0.12 * len(shown) + 0.2
    signs = _of_places(marker_styles, list(shown), places)
    with style.figure(path, style.WIDTH_IN, line_in * len(chosen) + 0.9 + legend_in) as figure:
        panel = figure.subplots()
        for place, (row, (colour, marker)) in enumerate(zip(table, signs, strict=True)):
            shift = (place - (len(shown) - 1) / 2) * 0.8 / len(shown)
            heights = [line + shift for line in range(len(chosen))]
            panel.plot(row[chosen], heights, color=colour, marker=marker, markersize=6, linestyle="none")
        panel.hlines([line + 0.5 for line in range(len(chosen) - 1)], 0, 1, color="#BBBBBB", linewidth=0.8)
        panel.set_yticks(range(len(chosen)), [names[place] for place in chosen])
        low = min(0.0, float(np.nanmin(table)))
        panel.set(title=title, xlim=(low - 0.02, 1.02), ylim=(len(chosen) - 0.5, -0.5), xlabel=score)
        panel.grid(axis="y", visible=False)
        panel.tick_params(axis="y", length=0)
        handles = [handle(sign, name) for sign, name in zip(signs, systems, strict=True)]
        figure.legend(handles=handles, loc="outside lower left", ncols=LEGEND_COLUMNS)


def confusion_matrices(by_system: Mapping[str, Any], labels: Sequence[str], path: Path) -> None:
    """Draw row shares of [labels][labels] counts of the first MOST_MATRICES systems side by side.

    Raises ValueError for counts of another shape, and without any.
    """
    import matplotlib
    from matplotlib.colors import PowerNorm

    shown = {name: np.asarray(counts, dtype=float) for name, counts in list(by_system.items())[:MOST_MATRICES]}
    shapes = {counts.shape for counts in shown.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2 or len(set(next(iter(shapes)))) != 1 or 0 in next(iter(shapes)):
        raise ValueError(f"expected counts of one shape [labels][labels] for all systems, got {sorted(shapes)}")
    number = next(iter(shapes))[0]
    side_in = min(5.0, max(1.8, (0.55 if number <= NUMBERED_LABELS else 0.2) * number))
    columns = max(1, min(len(shown), int(9 / side_in), 3))
    lines = math.ceil(len(shown) / columns)
    names, systems = style.label_names(labels, number), legend_names(list(shown))
    colours = matplotlib.colormaps[style.SHADES].with_extremes(bad="#DDDDDD")
    with style.figure(path, columns * (side_in + 0.3) + 1.4, lines * (side_in + 0.9)) as figure:
        axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
        for panel, counts, name in zip(axes.flat, shown.values(), systems, strict=False):
            totals = counts.sum(axis=1, keepdims=True)
            shares = np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
            panel.imshow(shares, cmap=colours, norm=PowerNorm(0.5, vmin=0, vmax=1))
            style.hide_frame(panel)
            # The lightest shade is nearly white: without an edge, cells of 0 look missing.
            panel.spines[:].set(visible=True, color=style.EDGE)
            panel.set_title(_wrapped(name, side_in), fontsize=9)
            if number <= NUMBERED_LABELS:
                _write_shares(panel, shares)
        _name_matrices(axes, len(shown), names, side_in / number)


def _wrapped(name: str, width_in: float) -> str:
    """Wrap a name to a width in inches, at 0.08 inches per letter."""
    import textwrap

    return "\n".join(textwrap.wrap(name, max(12, int(width_in / 0.08)))) or name


def _write_shares(panel: "Axes", shares: np.ndarray) -> None:
    for (row, column), share in np.ndenumerate(shares):
        if not math.isnan(share):
            ink = "white" if share > 0.35 else "black"
            panel.text(column, row, style.percent(float(share)), ha="center", va="center", color=ink)


def _name_matrices(axes: np.ndarray, number: int, names: list[str], cell_in: float) -> None:
    """Label the left of each row and the bottom of each column; hide unused axes."""
    lines, columns = axes.shape
    for line, column in np.ndindex(lines, columns):
        panel: Axes = axes[line, column]
        place = line * columns + column
        if place >= number:
            panel.set_visible(False)
            continue
        lowest = place + columns >= number
        style.name_ticks(panel.yaxis, names, cell_in)
        style.name_ticks(panel.xaxis, names, cell_in, upright=max(map(len, names)) * 0.085 > cell_in)
        panel.tick_params(labelleft=column == 0, labelbottom=lowest)
        panel.set(ylabel="reference" if column == 0 else "", xlabel="predicted" if lowest else "")
