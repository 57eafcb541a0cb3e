"""Sections of the report of many runs on what a study does beside runs: label curves, folds, and tuning."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.analysis import folds, label_curves
from bench.analysis.accessors import Located
from bench.reporting import folds_page, label_curve_page, tuning_page
from bench.reporting.study_sections import Shorten


def whole(records: Sequence[Located]) -> list[Located]:
    """Return the runs for all other sections: none on folds, and of a series over sizes those at its largest."""
    return label_curves.take(folds.take(records)[1])[1]


def sections(
    records: Sequence[Located], folder: Path, metric: str | None, shorten: Shorten, charts: dict[str, Any] | None = None
) -> list[str]:
    """Return the sections on label curves, folds and tuning; their figures are drawn into `folder`/figures.

    charts: is given the numbers of the figures, see `figures.charts`.
    """
    return [
        *label_curve_page.sections(records, folder, metric, shorten, charts),
        *folds_page.sections(records, metric, shorten),
        tuning_page.section(records, shorten),
    ]
