"""The figures of one group of systems: which are drawn, from what, and what is said below them. Loads no torch."""

import re
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bench.analysis.costs import Costs, is_trained_by_steps
from bench.analysis.leaderboard import Group, Standing
from bench.records.record import Record
from bench.reporting import markdown as md
from bench.reporting.figures import study
from bench.reporting.figures.study import Point
from bench.reporting.study_sections import is_untrained
from bench.utils import numbers

FOLDER = "figures"
PER_LABEL = ("f1_per_label", "accuracy_per_label")
Draw = Callable[[Path], None]


class Gallery:
    """Draws figures of one group into `folder`/figures. prefix: of their names, so that groups do not mix."""

    def __init__(self, folder: Path, prefix: str) -> None:
        self.folder = folder / FOLDER
        self.prefix = prefix

    def show(self, name: str, text: str, draw: Draw) -> str:
        """Draws a figure and returns the link to it; in place of one that can't be drawn, the reason."""
        file = f"{self.prefix}-{name}.png"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            draw(self.folder / file)
        except Exception as error:  # a defect, a missing matplotlib, counts of another shape: the tables still hold
            return f"This figure could not be drawn: {md.escape(f'{type(error).__name__}: {error}')}."
        return f"![{text}]({FOLDER}/{quote(file)})"


def prefix(number: int, data_set: str) -> str:
    """01-sst2: what the names of a group's figures begin with, whatever the data set is called."""
    return f"{number:02d}-{re.sub(r'[^A-Za-z0-9]+', '_', data_set)[:40].strip('_') or 'data'}"


def clear(folder: Path) -> None:
    """Removes figures of an earlier report, known by their names; other files stay."""
    for path in (folder / FOLDER).glob("*.png"):
        if re.fullmatch(r"\d{2,}-\w+-(cost|curves|labels|confusion)\.png", path.name):
            path.unlink()


def score_against_cost(group: Group, found: Sequence[Costs], gallery: Gallery) -> str:
    """Score against memory and against training time, with the front of what is shown to be better."""
    scored = [(one, cost) for one, cost in zip(group.standings, found, strict=True) if one.score is not None]
    if len(scored) < 2:
        return ""
    notes, panels = [], {}
    on_gpu = [cost.gpu for _, cost in scored]
    title = "GPU peak, GiB" if any(on_gpu) else "RAM peak, GiB"
    panels[title] = [_point(one, cost.gpu.least if cost.gpu else None) if any(on_gpu) else _point(one, cost.ram_gib)
                     for one, cost in scored]  # fmt: skip
    kinds = sorted({memory.kind for memory in on_gpu if memory})
    notes += [f"GPU memory is {' or '.join(kinds)}, see the table above."] if kinds else []
    if len({cost.machine for _, cost in scored}) == 1:
        panels["training, s"] = [_point(one, _training_s(one, cost)) for one, cost in scored]
    else:
        notes.append("The systems ran on different machines, so score against time is not drawn.")
    for name, points in panels.items():
        missing = sum(point.cost is None for point in points)
        notes += [f"{name}: not known of {missing} of {len(points)} systems."] if missing else []
    if group.comparison:
        notes.append(
            "Dashed: the front. It begins with the cheapest system; a dearer one is on it (filled) only where paired "
            "tests show it to be better than every cheaper one. Costs are taken as measured. Lines: 95 % intervals, "
            "which may run out of the picture. Systems that hide one another are named beside their place."
        )
    else:
        notes.append(
            "No front is drawn, since there are no paired tests. Lines: 95 % intervals, which may run out of the "
            "picture. Systems that hide one another are named beside their place."
        )
    if not any(point.cost is not None for points in panels.values() for point in points):
        return md.bullets(notes)
    standings = [one for one, _ in scored]
    is_better = partial(_is_better, group, standings) if group.comparison else None
    draw = partial(study.score_against_cost, panels, is_better, score=group.metric or "score")
    return md.joined([gallery.show("cost", "Score against memory and time", draw), md.bullets(notes)])


def _is_better(group: Group, standings: Sequence[Standing], first: int, second: int) -> bool:
    return group.is_better(standings[first], standings[second])


def _point(standing: Standing, cost: float | None) -> Point:
    assert standing.score is not None
    return Point(name=standing.label, score=standing.score, low=standing.low, high=standing.high, cost=cost)


def _training_s(standing: Standing, cost: Costs) -> float | None:
    return 0.0 if is_untrained(standing.records) else cost.training_s


def learning_curves(group: Group, gallery: Gallery) -> str:
    """Losses of all systems over one another, from the logs beside the records."""
    logs, missing, broken = {}, 0, 0
    for standing in group.standings:
        runs = []
        for path, record in standing.runs:
            try:
                rows, unread = study.read_log(path.parent / "train_log.jsonl")
            except OSError:
                missing += is_trained_by_steps(record)
                continue
            broken += unread
            runs.append(rows)
        if any(runs):
            logs[standing.label] = runs
    notes = [f"Trained runs without a log beside their record: {missing}."] if missing else []
    notes += [f"Lines of logs that could not be read: {broken}."] if broken else []
    if not study.has_curves(logs):
        return md.bullets(notes)
    if len(logs) > study.MOST_CURVES:
        notes.append(f"The {study.MOST_CURVES} best of {len(logs)} systems.")
    notes.append("A line for each seed. Losses of a task head and of written answers are not on one scale.")
    chosen = _chosen_by(group)
    by = ", ".join(map(md.escape, chosen))
    notes += [f"Weights were chosen, or training stopped, by this of the validation split: {by}."] if chosen else []
    first = [*chosen, *([group.metric] if group.metric else [])]
    draw = partial(study.learning_curves, logs, first=first)
    return md.joined([gallery.show("curves", "Learning curves", draw), md.bullets(notes)])


def _chosen_by(group: Group) -> list[str]:
    """Metrics by which the best weights were kept, of all systems, each once."""
    settings = [record.recipe.resolved.get("training") for one in group.standings for record in one.records]
    found = [training.get("best") for training in settings if isinstance(training, dict)]
    return sorted({name for name in found if isinstance(name, str)})


def labels(group: Group, gallery: Gallery) -> str:
    """Scores by label of all systems."""
    name = next((name for name in PER_LABEL if _per_label(group, name)), None)
    if name is None:
        return ""
    found = _per_label(group, name)
    number = len(group.standings)
    notes = [f"Known of {len(found)} of {number} systems."] if len(found) < number else []
    if len(found) > study.MOST_BARS:
        notes.append(f"The {study.MOST_BARS} best of {len(found)} systems.")
    notes.append("Means over seeds, without intervals.")
    shown = name.replace("_", " ")
    draw = partial(study.label_scores, found, _label_names(group), score=shown)
    return md.joined([gallery.show("labels", md.escape(shown), draw), md.bullets(notes)])


def _per_label(group: Group, name: str) -> dict[str, list[float | None]]:
    found = {}
    for standing in group.standings:
        values = [_listed(record, group, name) for record in standing.records]
        if all(values) and len({len(item) for item in values}) == 1:
            by_label = [[numbers.finite(value) for value in column] for column in zip(*values, strict=True)]
            found[standing.label] = [
                statistics.mean(known) if len(known := [v for v in column if v is not None]) == len(column) else None
                for column in by_label
            ]
    return found


def _listed(record: Record, group: Group, name: str) -> list[Any]:
    item = record.scores.get("after", {}).get(group.split or "", {}).get(name)
    return item.value if item and isinstance(item.value, list) else []


def _label_names(group: Group) -> list[str]:
    return next((record.data.labels for one in group.standings for record in one.records if record.data), [])


def confusions(group: Group, gallery: Gallery) -> str:
    """Confusion matrices side by side, all seeds of a system together; of texts with one label only."""
    found = {}
    for standing in group.standings:
        counts = [_listed(record, group, "confusion_matrix") for record in standing.records]
        total = _added(counts)
        if total is not None:
            found[standing.label] = total
    if not found:
        return ""
    number = len(group.standings)
    notes = ["Shares of each row, all seeds together; grey: no such text."]
    if len(found) < number:
        notes.append(f"Known of {len(found)} of {number} systems.")
    if len(found) > study.MOST_MATRICES:
        notes.append(f"The {study.MOST_MATRICES} best of {len(found)} systems.")
    draw = partial(study.confusion_matrices, found, _label_names(group))
    return md.joined([gallery.show("confusion", "Confusion matrices", draw), md.bullets(notes)])


def _added(counts: Sequence[list[Any]]) -> list[list[float]] | None:
    """The sum of square matrices; None where one is missing or has another shape, as those of several labels have."""
    size = len(counts[0]) if counts else 0
    for matrix in counts:
        square = len(matrix) == size and all(isinstance(row, list) and len(row) == size for row in matrix)
        if not size or not square or any(numbers.finite(cell) is None for row in matrix for cell in row):
            return None
    return [[float(sum(matrix[row][column] for matrix in counts)) for column in range(size)] for row in range(size)]
