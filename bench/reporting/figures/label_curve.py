"""The figure of label curves: score against the number of training examples, with intervals and fitted laws."""

from collections.abc import Sequence
from pathlib import Path

from bench.analysis.label_curves import Curve
from bench.reporting.figures import study, style

# Shift of each curve's points, as a factor of the number of examples, so that their intervals stand side by side.
SHIFT = 1.02


def draw(curves: Sequence[Curve], path: Path, *, score: str) -> None:
    """Draw each curve with its colour and marker; a line is the fitted law, dotted between points without one."""
    names = study.legend_names([curve.name for curve in curves])
    legend_in = study.LINE_IN * -(-len(names) // study.LEGEND_COLUMNS) + 0.3
    with style.figure(path, style.WIDTH_IN, 4.0 + legend_in) as figure:
        panel = figure.subplots()
        handles = []
        for place, (curve, (colour, marker)) in enumerate(zip(curves, study.marker_styles(len(curves)), strict=True)):
            shift = SHIFT ** (place - (len(curves) - 1) / 2)
            for point in curve.points:
                if point.low is not None and point.high is not None:
                    panel.vlines(point.examples * shift, point.low, point.high, color=colour, linewidth=1.2, alpha=0.7)
            places = [point.examples * shift for point in curve.points]
            scores = [point.score for point in curve.points]
            panel.plot(places, scores, marker=marker, markersize=6, color=colour, linestyle="none")
            if curve.law is not None:
                panel.plot(curve.law.grid, curve.law.scores, color=colour, linewidth=1.4)
            else:
                panel.plot(places, scores, color=colour, linewidth=1.2, linestyle=":")
            handles.append(study.handle((colour, marker), names[place]))
        sizes = sorted({point.examples for curve in curves for point in curve.points})
        panel.set_xscale("log")
        panel.minorticks_off()
        panel.set_xticks(sizes, [f"{size:,}" for size in sizes])
        panel.set_xlabel("training examples (logarithmic)")
        panel.set_ylabel(score)
        style.widen(panel)
        figure.legend(handles=handles, loc="outside lower left", ncols=study.LEGEND_COLUMNS)
