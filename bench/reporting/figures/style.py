"""Colours, fonts and sizes of all figures, and a canvas that writes the same bytes for the same drawing."""

import contextlib
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.reporting.markdown import clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Okabe and Ito 2008, "Color Universal Design": distinguishable with all common colour vision deficiencies.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8C8C8C"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, "#56B4E9", "#E69F00", "#000000")
SHADES = "Blues"
EDGE = "#C8C8C8"
# Twice the usual screen density: a figure 7 inches wide has 1,008 pixels, the width of a page on GitHub.
DPI = 144
WIDTH_IN = 7.0
FONT = "DejaVu Sans"  # comes with matplotlib, so it is the same on all machines
STYLE: Any = {
    "font.family": FONT,
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.8,
    "legend.fontsize": 9.0,
    "legend.frameon": False,
    "text.usetex": False,
    "text.parse_math": False,  # a label may contain dollar signs
}
LABEL_CHARACTERS = 26
# More logged losses than this are drawn with a running mean over 1/20 of them.
SMOOTHED_FROM = 60
# Of an accuracy of 0.8, eight points: several times what a few hundred validation examples vary by.
LEAST_RANGE = 0.1


@contextlib.contextmanager
def figure(path: Path, width_in: float, height_in: float, *, arranged: bool = True) -> Iterator["Figure"]:
    """Yield a figure that is written to `path` when the block ends. Uses neither pyplot nor a display.

    arranged: use a constrained layout; else panels and legends stay where they are placed.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's matplotlibrc would change the figures
        matplotlib.rcParams.update(STYLE)
        made = Figure(figsize=(width_in, height_in), layout="constrained" if arranged else None)
        FigureCanvasAgg(made)
        yield made
        # "Software" would be matplotlib's version; its PNGs hold no date. Tight: no label is cut off.
        metadata: Any = {"Software": None}
        made.savefig(path, format="png", dpi=DPI, metadata=metadata, bbox_inches="tight", pad_inches=0.08)


def label_names(
    labels: Sequence[str], number: int, *, most: int = LABEL_CHARACTERS, missing: str = "label"
) -> list[str]:
    """Return one-line names of limited length; one that is missing or that the font can't render gets its number."""
    from matplotlib import font_manager, ft2font

    glyphs = ft2font.FT2Font(font_manager.findfont(FONT)).get_charmap()
    names = [clean(label) for label in labels[:number]] + [""] * (number - len(labels))
    return [
        _shortened(name, most) if name and all(ord(sign) in glyphs for sign in name) else f"{missing} {index}"
        for index, name in enumerate(names)
    ]


def _shortened(name: str, most: int) -> str:
    """Cut a name in the middle: long labels often share their beginning."""
    half = (most - 1) // 2
    return name if len(name) <= most else f"{name[:half]}…{name[-half:]}"


def plottable(value: Any) -> float:
    """Return a float; NaN, which matplotlib skips, for anything that is not a finite number."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return float(value) if known else math.nan


def percent(share: float) -> str:
    """Return a share as 12 %, or <1 % for a small positive one."""
    return "<1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"


def name_ticks(axis: "Axis", names: list[str], cell_in: float, *, upright: bool = False) -> None:
    """Label an axis with as many names as fit: a line of text takes 0.17 inches."""
    places = range(0, len(names), max(1, math.ceil(0.17 / cell_in)))
    axis.set_ticks(places, [names[place] for place in places], rotation=90 if upright else 0)


def hide_frame(panel: "Axes") -> None:
    """Remove ticks, grid and frame."""
    panel.tick_params(length=0)
    panel.grid(visible=False)
    panel.spines[:].set_visible(False)


def widen(panel: "Axes") -> None:
    """Give the y axis a range of at least LEAST_RANGE of its largest value: in a tight one noise looks like a trend."""
    panel.set_ylim(*widened(*panel.get_ylim()))


def widened(low: float, high: float) -> tuple[float, float]:
    """Return limits around these with a range of at least LEAST_RANGE of the larger one."""
    missing = max(0.0, LEAST_RANGE * max(abs(low), abs(high)) - (high - low))
    return low - missing / 2, high + missing / 2


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Return the trailing mean of at most `window` values at each position, ignoring NaN."""
    means = []
    for end in range(1, len(values) + 1):
        known = [value for value in values[max(0, end - window) : end] if not math.isnan(value)]
        means.append(sum(known) / len(known) if known else math.nan)
    return means
