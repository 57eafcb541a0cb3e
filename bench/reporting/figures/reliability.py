"""Reliability diagram: mean probability of each bin against the share of right predictions in it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.records.record import Number, Record
from bench.reporting.figures import style

# Number of examples, mean probability and share of right ones of each bin.
Bins = Sequence[Sequence[Number]]
WITH = "with the fitted temperature"


def curves(record: Record, split: str) -> dict[str, Bins]:
    """Return name of a curve -> its bins, in the order of drawing; {} where no run took the calibration error."""
    known = {
        "before training": record.reliability.get("before", {}).get(split),
        "after training": record.reliability.get("after", {}).get(split),
        WITH: record.temperature.reliability.get(split) if record.temperature is not None else None,
    }
    return {name: bins for name, bins in known.items() if bins}


def reliability_diagram(curves: Mapping[str, Bins], title: str, path: Path) -> None:
    """Draw the curves with the diagonal of a calibrated model. A point's area is its bin's number of examples."""
    colours = {"before training": style.GREY, "after training": style.BLUE, WITH: style.SERIES[1]}
    with style.figure(path, 4.8, 4.2) as figure:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=style.GREY, linewidth=1, linestyle="--", label="calibrated")
        for name, bins in curves.items():
            counts, predicted, right = zip(*bins, strict=True)
            axes.plot(predicted, right, color=colours[name], linewidth=1.2, label=name)
            largest = max(counts)
            axes.scatter(predicted, right, s=[60 * count / largest for count in counts], color=colours[name])
        axes.set(title=title, xlabel="mean probability", ylabel="share of right predictions")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.legend(loc="upper left")
