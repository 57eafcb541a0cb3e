"""Reads the log that a training leaves beside its record, `train_log.jsonl`."""

import json
from pathlib import Path
from typing import Any

from bench.utils import files
from bench.utils.numbers import whole_number

FILE = "train_log.jsonl"


def read_log(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the rows of a `train_log.jsonl` and the number of unreadable lines. Raises OSError without the file."""
    rows, broken = [], 0
    for line in files.read_bytes(path).decode("utf-8", "replace").split("\n"):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_int=whole_number)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            broken += 1
    return rows, broken
