"""Figure sections of the report of many runs: figures of a group of systems with their notes. Loads no torch."""

import re
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bench.analysis import accessors, text_baseline, train_log
from bench.analysis.accessors import MATRIX_LABELS
from bench.analysis.costs import Costs, is_trained_by_steps
from bench.analysis.leaderboard import Group, RankedSystem
from bench.data import tagging
from bench.records.record import Record
from bench.reporting import markdown as md
from bench.reporting.figures import charts, study
from bench.reporting.figures.study import Bar, Point
from bench.reporting.study_sections import is_untrained
from bench.utils import numbers

FOLDER = "figures"
PER_LABEL = ("f1_per_label", "accuracy_per_label", "entity_f1_per_type")
Draw = Callable[[Path], None]
# Costs whose largest exceeds the least by no more than this share differ by what repeated runs do.
ALIKE = 0.05


class Gallery:
    """Draws the figures of one group into `folder`/figures. prefix: makes file names unique between groups."""

    def __init__(self, folder: Path, prefix: str) -> None:
        self.folder = folder / FOLDER
        self.prefix = prefix
        self.charts: dict[str, Any] = {}

    def show(self, name: str, text: str, draw: Draw, chart: Callable[[], dict[str, Any]]) -> str:
        """Draw a figure and return a link to it, or the reason why it can't be drawn. chart: its numbers."""
        file = f"{self.prefix}-{name}.png"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            draw(self.folder / file)
            self.charts[f"{FOLDER}/{file}"] = chart()
        except Exception as error:  # a bug, a missing matplotlib, malformed counts: must not fail the report
            return f"This figure could not be drawn: {md.escape(f'{type(error).__name__}: {error}')}."
        return f"![{text}]({FOLDER}/{quote(file)})"


def prefix(number: int, data_set: str) -> str:
    """Return the file name prefix of a group's figures, e.g. 01-sst2, safe for any name of a data set."""
    return f"{number:02d}-{re.sub(r'[^A-Za-z0-9]+', '_', data_set)[:40].strip('_') or 'data'}"


def clear(folder: Path) -> None:
    """Remove the figures of an earlier report, recognised by name; keep other files."""
    for path in (folder / FOLDER).glob("*.png"):
        if re.fullmatch(r"\d{2,}-\w+-(scores|cost|curves|labels|confusion|sizes)\.png", path.name):
            path.unlink()


def scores(group: Group, gallery: Gallery) -> str:
    """Return the scores of all systems with their intervals, those before training, and the baseline."""
    bars = [
        Bar(name=one.label, score=one.score, low=one.low, high=one.high, before=_before(group, one))
        for one in group.systems if one.score is not None
    ]  # fmt: skip
    if len(bars) < 2 or group.metric is None:
        return ""
    floor = next(
        (found for one in group.systems for record in one.records
         if (found := accessors.constant_baseline(record, group.split or "", group.metric)) is not None), None,
    )  # fmt: skip
    limits = study.axis_limits(bars, floor[1] if floor else None, accessors.metric_bounds(group.metric))
    others = any(record.method != text_baseline.METHOD for one in group.systems for record in one.records)
    words = text_baseline.of(group) if others else {}
    floors = [
        *([floor] if floor else []),
        *((name, float(value)) for name, value in words.items() if value is not None),
    ]
    lines = zip(floors, study.FLOOR_LINES, strict=False)
    told = [
        "dot: score", *(["line: 95 % interval"] if any(bar.low is not None for bar in bars) else []),
        *(["circle: before training"] if any(bar.before is not None for bar in bars) else []),
        *(f"{kind}: the baseline `{md.escape(name)}`" for (name, _), (kind, _) in lines),
    ]  # fmt: skip
    draw = partial(study.scores, bars, limits, metric=group.metric, floors=floors)
    chart = partial(charts.scores, bars, limits, metric=group.metric, higher=group.higher_is_better, floors=floors)
    text = f"{md.escape(group.metric)} of all systems with intervals"
    legend = f"{'; '.join(told).capitalize()}."
    return md.joined([gallery.show("scores", text, draw, chart), legend])


def _before(group: Group, system: RankedSystem) -> float | None:
    values = accessors.finite_values(system.records, "before", group.split, group.metric or "")
    return statistics.mean(values) if len(values) == len(system.records) else None


def score_against_cost(group: Group, costs: Sequence[Costs], gallery: Gallery) -> str:
    """Return score against memory and training time, with the front of significantly better systems.

    A cost in which the systems hardly differ is left out, and all of it where neither scores nor costs differ.
    """
    scored = [(one, cost) for one, cost in zip(group.systems, costs, strict=True) if one.score is not None]
    if len(scored) < 2:
        return ""
    notes, panels = [], {}
    on_gpu = [cost.gpu for _, cost in scored]
    title = "GPU peak memory, GiB" if any(on_gpu) else "RAM peak, GiB"
    panels[title] = [_point(one, cost.gpu.least if cost.gpu else None) if any(on_gpu) else _point(one, cost.ram_gib)
                     for one, cost in scored]  # fmt: skip
    kinds = sorted({memory.kind for memory in on_gpu if memory})
    notes += [f"GPU memory is {' or '.join(kinds)}, see the table above."] if kinds else []
    if len({cost.machine for _, cost in scored}) == 1:
        panels["training, s"] = [_point(one, _training_s(one, cost)) for one, cost in scored]
    else:
        notes.append("Score against time is not drawn, since the systems ran on different machines.")
    for name, points in list(panels.items()):
        known = [point.cost for point in points if point.cost is not None]
        missing = len(points) - len(known)
        notes += [f"{name}: not measured for {missing} of {len(points)} systems."] if missing else []
        if len(known) > 1 and max(known) <= (1 + ALIKE) * min(known):
            notes.append(f"{name}: not drawn, since it is nearly the same for all systems ({_range(known)}).")
            del panels[name]
    panels = {name: points for name, points in panels.items() if any(point.cost is not None for point in points)}
    if not panels:
        return md.bullets(notes)
    tested = group.comparison is not None
    notes.append(
        "Dashed: the front. It starts with the cheapest system; a more expensive one is on it (filled) only if "
        "paired tests find it significantly better than every cheaper one on the front; a cheaper one off it may do as "
        "well. Costs are taken as measured."
        if tested else "No front is drawn, since there are no paired tests."
    )  # fmt: skip
    notes.append("Vertical lines: 95 % intervals. Overlapping systems are labelled.")
    is_better = partial(_is_better, group, [one for one, _ in scored]) if tested else None
    metric = group.metric or "score"
    draw = partial(study.score_against_cost, panels, is_better, score=metric)
    fronts = {name: study.front(points, is_better) if is_better else None for name, points in panels.items()}
    chart = partial(charts.cost, panels, fronts, metric=metric)
    return md.joined([gallery.show("cost", "Score against memory and time", draw, chart), md.bullets(notes)])


def _range(values: Sequence[float]) -> str:
    return " to ".join(dict.fromkeys(md.significant(end) for end in (min(values), max(values))))


def _is_better(group: Group, systems: Sequence[RankedSystem], first: int, second: int) -> bool:
    return group.is_better(systems[first], systems[second])


def _point(system: RankedSystem, cost: float | None) -> Point:
    assert system.score is not None
    return Point(name=system.label, score=system.score, low=system.low, high=system.high, cost=cost)


def _training_s(system: RankedSystem, cost: Costs) -> float | None:
    return 0.0 if is_untrained(system.records) else cost.training_s


def learning_curves(group: Group, gallery: Gallery) -> str:
    """Return the learning curves of all systems, from the logs beside the records."""
    logs, missing, broken = {}, 0, 0
    for system in group.systems:
        runs = []
        for path, record in system.runs:
            try:
                rows, unread = train_log.read_log(path.parent / train_log.FILE)
            except OSError:
                missing += is_trained_by_steps(record)
                continue
            broken += unread
            runs.append(rows)
        if any(runs):
            logs[system.label] = runs
    notes = [f"Training runs without a log: {missing}."] if missing else []
    notes += [f"Unreadable lines in logs: {broken}."] if broken else []
    if not study.has_curves(logs):
        return md.bullets(notes)
    if len(logs) > study.MOST_CURVES:
        notes.append(f"Shown: the {study.MOST_CURVES} best of {len(logs)} systems.")
    notes.append("One line per seed. Losses of task heads and of generated answers have different scales.")
    chosen = _chosen_by(group)
    by = ", ".join(map(md.escape, chosen))
    notes += [f"Checkpoints were selected, or training stopped, by validation {by}."] if chosen else []
    first = [*chosen, *([group.metric] if group.metric else [])]
    draw = partial(study.learning_curves, logs, first=first, places=_places(group))
    chart = partial(charts.curves, logs, first, _places(group))
    return md.joined([gallery.show("curves", "Learning curves", draw, chart), md.bullets(notes)])


def _places(group: Group) -> dict[str, int]:
    """Return the place of each system that has a score, by which it keeps its colour in all figures."""
    scored = [system.label for system in group.systems if system.score is not None]
    others = [system.label for system in group.systems if system.score is None]
    return {label: place for place, label in enumerate([*scored, *others])}


def _chosen_by(group: Group) -> list[str]:
    """Return the distinct validation metrics by which checkpoints were selected."""
    settings = [record.recipe.resolved.get("training") for one in group.systems for record in one.records]
    metrics = [training.get("best") for training in settings if isinstance(training, dict)]
    return sorted({name for name in metrics if isinstance(name, str)})


def labels(group: Group, gallery: Gallery) -> str:
    """Return the scores by label of all systems."""
    name = next((name for name in PER_LABEL if _per_label(group, name)), None)
    if name is None:
        return ""
    by_system = _per_label(group, name)
    number = len(group.systems)
    notes = [f"Available for {len(by_system)} of {number} systems."] if len(by_system) < number else []
    if len(by_system) > study.MOST_BARS:
        notes.append(f"Shown: the {study.MOST_BARS} best of {len(by_system)} systems.")
    notes.append("Means over seeds, without intervals.")
    shown = name.replace("_", " ")
    names = _label_names(group)
    names = list(tagging.kinds_of(names)) if name.endswith("_per_type") else names
    draw = partial(study.label_scores, by_system, names, score=shown, places=_places(group))
    chart = partial(charts.labels, by_system, names, _places(group), metric=shown)
    return md.joined([gallery.show("labels", md.escape(shown), draw, chart), md.bullets(notes)])


def _per_label(group: Group, name: str) -> dict[str, list[float | None]]:
    scores = {}
    for system in group.systems:
        values = [_listed(record, group, name) for record in system.records]
        if all(values) and len({len(item) for item in values}) == 1:
            by_label = [[numbers.finite(value) for value in column] for column in zip(*values, strict=True)]
            scores[system.label] = [
                statistics.mean(known) if len(known := [v for v in column if v is not None]) == len(column) else None
                for column in by_label
            ]
    return scores


def _listed(record: Record, group: Group, name: str) -> list[Any]:
    item = record.scores.get("after", {}).get(group.split or "", {}).get(name)
    return item.value if item and isinstance(item.value, list) else []


def _label_names(group: Group) -> list[str]:
    return next((record.data.labels for one in group.systems for record in one.records if record.data), [])


def confusions(group: Group, gallery: Gallery) -> str:
    """Return confusion matrices side by side, summed over the seeds of a system; single-label data only."""
    matrices = {}
    for system in group.systems:
        counts = [_listed(record, group, "confusion_matrix") for record in system.records]
        total = _added(counts)
        if total is not None:
            matrices[system.label] = total
    if not matrices:
        known = any(_listed(record, group, "confusion_matrix") for one in group.systems for record in one.records)
        kept = known and len(_label_names(group)) > MATRIX_LABELS
        return (
            md.bullets([f"Not drawn of more than {MATRIX_LABELS} labels: the records hold the cells."]) if kept else ""
        )
    number = len(group.systems)
    notes = ["Shares of each row, summed over seeds; grey: no example."]
    if len(matrices) < number:
        notes.append(f"Available for {len(matrices)} of {number} systems.")
    if len(matrices) > study.MOST_MATRICES:
        notes.append(f"Shown: the {study.MOST_MATRICES} best of {len(matrices)} systems.")
    draw = partial(study.confusion_matrices, matrices, _label_names(group))
    chart = partial(charts.confusion, matrices, _label_names(group))
    return md.joined([gallery.show("confusion", "Confusion matrices", draw, chart), md.bullets(notes)])


def _added(counts: Sequence[list[Any]]) -> list[list[float]] | None:
    """Return the sum of square matrices; None if one is missing or has another shape, as in multi-label data."""
    size = len(counts[0]) if counts else 0
    for matrix in counts:
        square = len(matrix) == size and all(isinstance(row, list) and len(row) == size for row in matrix)
        if not size or not square or any(numbers.finite(cell) is None for row in matrix for cell in row):
            return None
    return [[float(sum(matrix[row][column] for matrix in counts)) for column in range(size)] for row in range(size)]
