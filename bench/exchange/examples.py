"""Reads the examples of a run that is exported."""

from pathlib import Path
from typing import Any

from bench.analysis.predictions import MissingPredictions, prediction_rows


def rows_of(path: Path, stage: str, split: str) -> list[dict[str, Any]]:
    """Return the lines of a run's predictions; none where it has no such file. path: of the record."""
    try:
        return list(prediction_rows(path, stage, split))
    except MissingPredictions:
        return []
