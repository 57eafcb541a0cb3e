"""Reads the examples of a run that is exported."""

from pathlib import Path
from typing import Any

from bench.analysis.disagreements import HIDDEN, TEXT_ANSWERS, task_of, why_hidden
from bench.analysis.predictions import MissingPredictions, prediction_rows
from bench.records.record import Record


def rows_of(path: Path, record: Record, stage: str, split: str) -> list[dict[str, Any]]:
    """Return the lines of a run's predictions; none where it has no such file. path: of the record.

    Texts of a data set that may not be quoted are replaced by HIDDEN: what the model wrote, and answers and references
    that are texts.
    """
    try:
        rows = list(prediction_rows(path, stage, split))
    except MissingPredictions:
        return []
    if why_hidden(record) is None:
        return rows
    hidden = ("prediction", "reference", "text", "nbest") if task_of(record) in TEXT_ANSWERS else ("text",)
    return [{key: HIDDEN if key in hidden else value for key, value in row.items()} for row in rows]
