"""Figures of one run; the same input gives the same bytes. matplotlib is imported when the first one is drawn."""

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.analysis.accessors import MATRIX_LABELS
from bench.records.record import Record, Score
from bench.reporting.figures import reliability, style
from bench.reporting.markdown import clean

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

Points = tuple[list[float], list[float]]  # steps, values
# Suffix of the name of a score before training, which is drawn in grey.
BEFORE = " before training"
# With more labels than this: bars for the lowest scores only, and a matrix without numbers in its cells.
READABLE_LABELS = 30
ROOMY_LABELS = 12
# Labels with a row of outcomes each, of several labels an example; of more, those with most errors.
MOST_OUTCOMES = 100
# Maximum number of labels -> cell size in inches: the largest fits a label's name, the smallest "100 %".
CELLS_IN = {4: 1.0, ROOMY_LABELS: 0.66, READABLE_LABELS: 0.46}
# Outcomes of a binary label, in the order of the columns.
OUTCOMES = ("true\npositive", "false\nnegative", "false\npositive", "true\nnegative")


def draw_all(
    folder: Path,
    record: Record,
    log_rows: Sequence[Mapping[str, Any]],
    lengths_by_split: Mapping[str, Sequence[int]],
) -> dict[str, str]:
    """Draw all available figures into `folder`/figures; return name -> path relative to `folder`.

    A figure that can't be drawn becomes a note in the record and does not fail the run.
    """
    drawn: dict[str, str] = {}
    for name, draw in _plan(record, log_rows, lengths_by_split).items():
        relative = f"figures/{name}.png"
        try:
            (folder / "figures").mkdir(parents=True, exist_ok=True)
            draw(folder / relative)
            drawn[name] = relative
        except Exception as error:  # a bug, a missing matplotlib, a full disk: must not fail the run
            reason = f"{type(error).__name__}: {clean(str(error))[:200]}"
            record.note(f"the figure {name} could not be drawn: {reason}")
    return drawn


def _plan(
    record: Record, log_rows: Sequence[Mapping[str, Any]], lengths_by_split: Mapping[str, Sequence[int]]
) -> dict[str, Callable[[Path], None]]:
    """Return figure name -> drawing function, for every figure with data."""
    plan: dict[str, Callable[[Path], None]] = {}
    if any(key == "loss" or key.startswith("validation_") for row in log_rows for key in row):
        plan["learning_curves"] = partial(learning_curves, log_rows)
    if any(len(lengths) for lengths in lengths_by_split.values()):
        limit = record.recipe.resolved.get("max_length")
        plan["length_histogram"] = partial(length_histogram, lengths_by_split, limit)
    labels = record.data.labels if record.data else []
    for split in dict.fromkeys(split for stage in record.scores.values() for split in stage):
        # Figures show the trained model, or the untrained one if the run got no further.
        stage = "after" if split in record.scores.get("after", {}) else "before"
        scores, ending = record.scores.get(stage, {}).get(split, {}), re.sub(r"[^A-Za-z0-9_.]", "_", split)
        title = f"{split}, {stage} training"
        if "confusion_matrix" in scores:
            counts = scores["confusion_matrix"].value
            plan[f"confusion_matrix-{ending}"] = partial(confusion_matrix, counts, labels, title=title)
        if diagram := reliability.curves(record, split):
            plan[f"reliability-{ending}"] = partial(reliability.reliability_diagram, diagram, f"{split}, reliability")
        bars = _bar_scores(record, stage, split)
        if bars:
            plan[f"per_label-{ending}"] = partial(per_label_bars, bars, labels, title=title)
    return plan


def _bar_scores(record: Record, stage: str, split: str) -> dict[str, Score]:
    """Return per-label scores to draw as bars, with F1 before training beside those after it."""
    scores = record.scores.get(stage, {}).get(split, {})
    names = ("f1", "precision", "recall") if "f1_per_label" in scores else ("accuracy",)
    bars = {name: scores[f"{name}_per_label"] for name in names if f"{name}_per_label" in scores}
    before = record.scores.get("before", {}).get(split, {}).get(f"{names[0]}_per_label")
    if bars and before is not None and stage == "after":
        bars = {f"{names[0]}{BEFORE}": before, **bars}
    return bars


def learning_curves(log_rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw training and validation loss by step, and validation metrics, if any, in a panel below.

    log_rows: the lines of `train_log.jsonl`. Raises ValueError if they hold neither.
    """
    validation = sorted({key for row in log_rows for key in row if key.startswith("validation_")})
    losses = _points(log_rows, "loss"), _points(log_rows, "validation_loss")
    metrics = {key.removeprefix("validation_"): _points(log_rows, key) for key in validation}
    metrics = {name: points for name, points in metrics.items() if points[0] and name != "loss"}
    if not metrics and not any(steps for steps, _ in losses):
        raise ValueError("the log holds neither a loss nor a validation metric")
    with style.figure(path, style.WIDTH_IN, 5.6 if metrics else 3.2) as figure:
        panels = figure.subplots(2 if metrics else 1, 1, sharex=True, squeeze=False)[:, 0]
        _draw_losses(panels[0], *losses)
        for (name, points), colour in zip(metrics.items(), itertools.cycle(style.SERIES)):
            panels[-1].plot(*points, color=colour, marker="o", markersize=4, label=name)
        if metrics:
            panels[-1].set(title="Validation", ylabel="score")
            style.widen(panels[-1])
            panels[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        panels[-1].set_xlabel("optimiser step")


def _points(log_rows: Sequence[Mapping[str, Any]], key: str) -> Points:
    """Return steps and values of the rows with this key; values that are not finite become NaN."""
    rows = [row for row in log_rows if key in row and math.isfinite(style.plottable(row.get("step")))]
    return [float(row["step"]) for row in rows], [style.plottable(row[key]) for row in rows]


def _draw_losses(panel: "Axes", training: Points, validation: Points) -> None:
    steps, values = training
    smoothed = len(steps) > style.SMOOTHED_FROM
    if smoothed:
        window = len(steps) // 20
        panel.plot(steps, values, color=style.BLUE, alpha=0.3, label="training, as logged")
        mean = style.running_mean(values, window)
        panel.plot(steps, mean, color=style.BLUE, linewidth=1.8, label=f"training, mean of {window} logged")
    elif steps:
        panel.plot(steps, values, color=style.BLUE, marker=".", markersize=5, label="training")
    if validation[0]:
        panel.plot(*validation, color=style.ORANGE, marker="o", markersize=4, label="validation")
    broken = [step for step, value in zip(steps, values, strict=True) if math.isnan(value)]
    if broken:
        panel.axvline(broken[0], color="black", linestyle=":", label=f"not finite at step {broken[0]:,.0f}")
    panel.set(title="Loss", ylabel="nats")
    style.widen(panel)
    panel.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def confusion_matrix(counts: Any, labels: Sequence[str], path: Path, title: str = "") -> None:
    """Draw counts and row shares of [labels][labels] (row: reference), or of [labels][2][2] for multi-label data.

    The latter, [[true negatives, false positives], [false negatives, true positives]] as in scikit-learn, is
    drawn as one row per label. Of more labels than a matrix is kept of, [cells][3] of reference, prediction and count:
    the most frequent confusions are drawn as bars. Raises ValueError for any other shape.
    """
    import numpy as np

    array = np.asarray(counts, dtype=float)
    if array.ndim == 2 and array.shape[1] == 3 and len(labels) > MATRIX_LABELS:
        _draw_confused(array, labels, path, title)
    elif array.ndim == 3 and array.shape[1:] == (2, 2):
        _draw_outcomes(array, style.label_names(labels, len(array)), path, title)
    elif array.ndim == 2 and 0 < array.shape[0] == array.shape[1]:
        _draw_matrix(array, style.label_names(labels, len(array)), path, title)
    else:
        raise ValueError(f"expected counts of shape [labels][labels] or [labels][2][2], got {array.shape}")


def _draw_confused(cells: "np.ndarray", labels: Sequence[str], path: Path, title: str) -> None:
    """Draw the most frequent wrong predictions as bars. cells: [cells, 3]: reference, prediction, count."""
    wrong = cells[cells[:, 0] != cells[:, 1]]
    wrong = wrong[(-wrong[:, 2]).argsort(kind="stable")]
    shown, names = wrong[:READABLE_LABELS], style.label_names(labels, len(labels))
    with style.figure(path, style.WIDTH_IN, 0.25 * len(shown) + 1.2) as figure:
        panel = figure.subplots()
        panel.barh(range(len(shown)), shown[:, 2], color=style.SERIES[0])
        pairs = [f"{names[int(reference)]} as {names[int(predicted)]}" for reference, predicted, _ in shown]
        panel.set_yticks(range(len(shown)), pairs)
        title = f"{title} ({len(shown)} most frequent of {len(wrong):,} confusions)"
        panel.set(
            title=title, ylim=(len(shown) - 0.4, -0.6), xlabel="examples of the first label predicted as the second"
        )
        panel.grid(axis="y", visible=False)


def _draw_matrix(counts: "np.ndarray", names: list[str], path: Path, title: str) -> None:
    import matplotlib
    import numpy as np
    from matplotlib.colors import PowerNorm

    number = len(names)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
    cell_in = next((size for most, size in CELLS_IN.items() if number <= most), 12 / number)
    side_in = number * cell_in
    # Square-root colour scale: rare errors matter most and would be white on a linear scale.
    shades = PowerNorm(0.5, vmin=0, vmax=1)
    with style.figure(path, side_in, side_in, arranged=False) as figure:
        panel = figure.add_axes((0, 0, 1, 1))
        colours = matplotlib.colormaps[style.SHADES].with_extremes(bad="#DDDDDD")
        image = panel.imshow(shares, cmap=colours, norm=shades)
        if number <= READABLE_LABELS:
            _write_cells(panel, counts, shares)
        style.name_ticks(panel.yaxis, names, cell_in)
        style.name_ticks(panel.xaxis, names, cell_in, upright=max(map(len, names)) * 0.085 > cell_in)
        style.hide_frame(panel)
        unknown = " (grey: no example)" if np.isnan(shares).any() else ""
        panel.set(title=title, xlabel="predicted", ylabel=f"reference{unknown}")
        scale = figure.add_axes((1 + 0.15 / side_in, 0, 0.15 / side_in, min(1, 2.5 / side_in)))
        ticks = [0, 0.01, 0.05, 0.2, 0.5, 1]
        figure.colorbar(image, cax=scale, label="share of the row", ticks=ticks, format="{x:.0%}")


def _write_cells(panel: "Axes", counts: "np.ndarray", shares: "np.ndarray") -> None:
    """Write nonzero counts and, from 1 % on, their shares of the row into the cells."""
    for row, column in zip(*counts.nonzero(), strict=True):
        count, share = counts[row, column], shares[row, column]
        shown = f"{count:,.0f}" if len(counts) <= ROOMY_LABELS else _short_count(count)
        text = shown + (f"\n{style.percent(share)}" if share >= 0.01 else "")
        panel.text(column, row, text, ha="center", va="center", color="white" if share > 0.35 else "black")


def _short_count(count: float) -> str:
    """Return a count in at most four characters, to fit a small cell."""
    if count < 10_000:
        return f"{count:.0f}"
    return f"{count / 1e3:.0f}k" if count < 999_500 else f"{count / 1e6:.0f}M"


def _draw_outcomes(counts: "np.ndarray", names: list[str], path: Path, title: str) -> None:
    """Draw one row per label: true positives, false negatives, false positives, true negatives."""
    import matplotlib
    import numpy as np

    right, wrong = matplotlib.colormaps[style.SHADES], matplotlib.colormaps["Oranges"]
    if len(names) > MOST_OUTCOMES:
        worst = np.sort((-counts[:, 0, 1] - counts[:, 1, 0]).argsort(kind="stable")[:MOST_OUTCOMES])
        title = f"{title} ({MOST_OUTCOMES} of {len(names)} labels with most errors)"
        counts, names = counts[worst], [names[place] for place in worst]
    cells = counts[:, [1, 1, 0, 0], [1, 0, 1, 0]]  # [labels, outcomes]
    totals = np.repeat(cells.reshape(-1, 2, 2).sum(2), 2, axis=1)
    shares = np.divide(cells, totals, out=np.zeros_like(cells), where=totals > 0)
    colours = np.where(np.array([True, False, False, True])[:, None], right(shares), wrong(shares))
    with style.figure(path, style.WIDTH_IN - 1.6, 0.3 * len(names), arranged=False) as figure:
        panel = figure.add_axes((0, 0, 1, 1))
        panel.imshow(colours, aspect="auto")
        for row, column in np.ndindex(cells.shape):
            share = f" ({style.percent(shares[row, column])})" if totals[row, column] else ""
            ink = "white" if shares[row, column] > 0.6 else "black"
            panel.text(column, row, f"{cells[row, column]:,.0f}{share}", ha="center", va="center", color=ink)
        style.name_ticks(panel.yaxis, names, 0.3)
        style.name_ticks(panel.xaxis, list(OUTCOMES), 1)
        panel.xaxis.tick_top()
        style.hide_frame(panel)
        panel.axvline(1.5, color="white", linewidth=4)
        panel.set_title(title, pad=8)


def per_label_bars(
    score_by_metric: Mapping[str, Score | Sequence[float | None]],
    labels: Sequence[str],
    path: Path,
    title: str = "",
) -> None:
    """Draw bars with intervals, a group per label; of many labels those with the lowest first metric.

    Metrics whose name ends in " before training" are grey and not used to select labels.
    """
    values = {name: _numbers(getattr(item, "value", item)) for name, item in score_by_metric.items()}
    number = max((len(scores) for scores in values.values()), default=0)
    if number == 0:
        raise ValueError("no scores by label")
    names, shown = style.label_names(labels, number), list(range(number))
    if number > READABLE_LABELS:
        ranking = next((scores for name, scores in values.items() if not name.endswith(BEFORE)), [])
        shown = sorted(shown, key=lambda index: ranking[index] if index < len(ranking) else math.nan)
        shown = shown[:READABLE_LABELS]
        title = f"{title} ({len(shown)} of {number} labels with the lowest scores)"
    thickness = 0.8 / len(values)
    with style.figure(path, style.WIDTH_IN, len(shown) * (0.13 * len(values) + 0.12) + 1.2) as figure:
        panel = figure.subplots()
        colours = iter(style.SERIES)
        for place, (name, scores) in enumerate(values.items()):
            heights = [line + (place - (len(values) - 1) / 2) * thickness for line in range(len(shown))]
            lengths = [scores[index] if index < len(scores) else math.nan for index in shown]
            colour = style.GREY if name.endswith(BEFORE) else next(colours)
            panel.barh(heights, lengths, height=thickness * 0.9, color=colour, label=name)
            _draw_intervals(panel, score_by_metric[name], shown, heights)
        panel.set_yticks(range(len(shown)), [names[index] for index in shown])
        panel.set(title=title, xlim=(0, 1), ylim=(len(shown) - 0.4, -0.6), xlabel="score with interval")
        panel.grid(axis="y", visible=False)
        figure.legend(loc="outside lower center", ncols=len(values))


def _draw_intervals(panel: "Axes", item: Any, shown: Sequence[int], heights: Sequence[float]) -> None:
    lows, highs = _numbers(getattr(item, "low", None)), _numbers(getattr(item, "high", None))
    number = min(len(lows), len(highs))
    known = [(height, index) for height, index in zip(heights, shown, strict=True) if index < number]
    ends = [lows[index] for _, index in known], [highs[index] for _, index in known]
    panel.hlines([height for height, _ in known], *ends, color="#333333", linewidth=1)


def _numbers(values: Any) -> list[float]:
    return [style.plottable(value) for value in values] if isinstance(values, list | tuple) else []


def length_histogram(lengths_by_split: Mapping[str, Sequence[int]], max_length: int | None, path: Path) -> None:
    """Draw the distribution of tokens per example for each split, with a line at the truncation length.

    Raises ValueError without an example. Lengths beyond the axis are counted in the last bin.
    """
    import numpy as np

    known = {name: np.asarray(lengths) for name, lengths in lengths_by_split.items() if len(lengths)}
    if not known:
        raise ValueError("no examples")
    together = np.concatenate(list(known.values()))
    # A single extreme length would compress all others into one bin.
    end = max(float(np.percentile(together, 99.9)), 8.0)
    bins = np.arange(0, end + 1, max(1, math.ceil(end / 60)))
    bins = np.append(bins, bins[-1] + (bins[1] - bins[0]))
    with style.figure(path, style.WIDTH_IN, 3.4) as figure:
        panel = figure.subplots()
        for (name, lengths), colour in zip(known.items(), itertools.cycle(style.SERIES)):
            shares, _ = np.histogram(np.minimum(lengths, bins[-1]), bins)
            label = f"{clean(name)} ({len(lengths):,} examples)"
            panel.stairs(shares / len(lengths), bins, color=colour, linewidth=1.5, label=label)
        if max_length is not None:
            reaching = style.percent(float((together >= max_length).mean()))
            label = f"max_length {max_length:,} (reached by {reaching})"
            panel.axvline(max_length, color="black", linestyle="--", label=label)
        more = " (last bin: or more)" if together.max() > bins[-1] else ""
        panel.set(title="Tokens per example", xlabel=f"tokens{more}", ylabel="share of split", ylim=(0, None))
        panel.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
