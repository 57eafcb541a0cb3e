"""Figure sections of the report of many runs: figures of a group of systems with their notes. Loads no torch."""

import re
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bench.analysis.accessors import MATRIX_LABELS
from bench.analysis.costs import Costs, is_trained_by_steps
from bench.analysis.leaderboard import Group, RankedSystem
from bench.data import tagging
from bench.records.record import Record
from bench.reporting import markdown as md
from bench.reporting.figures import study
from bench.reporting.figures.study import Point
from bench.reporting.study_sections import is_untrained
from bench.utils import numbers

FOLDER = "figures"
PER_LABEL = ("f1_per_label", "accuracy_per_label", "entity_f1_per_type")
Draw = Callable[[Path], None]


class Gallery:
    """Draws the figures of one group into `folder`/figures. prefix: makes file names unique between groups."""

    def __init__(self, folder: Path, prefix: str) -> None:
        self.folder = folder / FOLDER
        self.prefix = prefix

    def show(self, name: str, text: str, draw: Draw) -> str:
        """Draw a figure and return a link to it, or the reason why it can't be drawn."""
        file = f"{self.prefix}-{name}.png"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            draw(self.folder / file)
        except Exception as error:  # a bug, a missing matplotlib, malformed counts: must not fail the report
            return f"This figure could not be drawn: {md.escape(f'{type(error).__name__}: {error}')}."
        return f"![{text}]({FOLDER}/{quote(file)})"


def prefix(number: int, data_set: str) -> str:
    """Return the file name prefix of a group's figures, e.g. 01-sst2, safe for any name of a data set."""
    return f"{number:02d}-{re.sub(r'[^A-Za-z0-9]+', '_', data_set)[:40].strip('_') or 'data'}"


def clear(folder: Path) -> None:
    """Remove the figures of an earlier report, recognised by name; keep other files."""
    for path in (folder / FOLDER).glob("*.png"):
        if re.fullmatch(r"\d{2,}-\w+-(cost|curves|labels|confusion|sizes)\.png", path.name):
            path.unlink()


def score_against_cost(group: Group, costs: Sequence[Costs], gallery: Gallery) -> str:
    """Return score against memory and training time, with the front of significantly better systems."""
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
    for name, points in panels.items():
        missing = sum(point.cost is None for point in points)
        notes += [f"{name}: not measured for {missing} of {len(points)} systems."] if missing else []
    if group.comparison:
        notes.append(
            "Dashed: the front. It starts with the cheapest system; a more expensive one is on it (filled) only if "
            "paired tests find it significantly better than every cheaper one. Costs are taken as measured. Lines: "
            "95 % intervals, which may exceed the axes. Overlapping systems are labelled."
        )
    else:
        notes.append(
            "No front is drawn, since there are no paired tests. Lines: 95 % intervals, which may exceed the axes. "
            "Overlapping systems are labelled."
        )
    if not any(point.cost is not None for points in panels.values() for point in points):
        return md.bullets(notes)
    systems = [one for one, _ in scored]
    is_better = partial(_is_better, group, systems) if group.comparison else None
    draw = partial(study.score_against_cost, panels, is_better, score=group.metric or "score")
    return md.joined([gallery.show("cost", "Score against memory and time", draw), md.bullets(notes)])


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
                rows, unread = study.read_log(path.parent / "train_log.jsonl")
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
    draw = partial(study.learning_curves, logs, first=first)
    return md.joined([gallery.show("curves", "Learning curves", draw), md.bullets(notes)])


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
    scores = _per_label(group, name)
    number = len(group.systems)
    notes = [f"Available for {len(scores)} of {number} systems."] if len(scores) < number else []
    if len(scores) > study.MOST_BARS:
        notes.append(f"Shown: the {study.MOST_BARS} best of {len(scores)} systems.")
    notes.append("Means over seeds, without intervals.")
    shown = name.replace("_", " ")
    names = _label_names(group)
    names = list(tagging.kinds_of(names)) if name.endswith("_per_type") else names
    draw = partial(study.label_scores, scores, names, score=shown)
    return md.joined([gallery.show("labels", md.escape(shown), draw), md.bullets(notes)])


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
    return md.joined([gallery.show("confusion", "Confusion matrices", draw), md.bullets(notes)])


def _added(counts: Sequence[list[Any]]) -> list[list[float]] | None:
    """Return the sum of square matrices; None if one is missing or has another shape, as in multi-label data."""
    size = len(counts[0]) if counts else 0
    for matrix in counts:
        square = len(matrix) == size and all(isinstance(row, list) and len(row) == size for row in matrix)
        if not size or not square or any(numbers.finite(cell) is None for row in matrix for cell in row):
            return None
    return [[float(sum(matrix[row][column] for matrix in counts)) for column in range(size)] for row in range(size)]
