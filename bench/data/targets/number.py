"""A number, as in STS-B: read as it is, and drawn by bins of equally many rows."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bench.config.cards import DatasetCard
from bench.data.labels import Labels, field_of
from bench.data.sources import Row, Rows, Table
from bench.data.targets.target import Target
from bench.errors import DataError

# Draws and new splits take as many rows of each tenth of the numbers as there are.
BINS = 10
# What GLUE writes in place of numbers that are kept secret.
HIDDEN = -1.0


def columns(card: DatasetCard) -> list[str | None]:
    """Return the columns of the texts, and that of the number."""
    return [card.columns.text, card.columns.text_pair, card.columns.label]


def reads_all_splits(card: DatasetCard) -> bool:
    """Return False: every row says by itself what its number is."""
    return False


def read(tables: Mapping[str, Table], used: Sequence[str], card: DatasetCard) -> Target:
    """Return how numbers are read. Raises DataError for a split whose numbers are kept secret."""
    column = card.columns.label
    values = {name: _finite(table.rows, column) for name, table in tables.items()}
    for name in used:
        if len(values[name]) and all(value == HIDDEN for value in values[name]):
            raise DataError(
                f"every number of the split {name!r} is -1, which marks hidden ones, as in GLUE's test splits; use "
                "another split"
            )
    # Of all splits, so that what is drawn of one does not depend on the others that a run needs.
    everything = np.array([value for found in values.values() for value in found])
    edges = np.unique(np.quantile(everything, np.arange(1, BINS) / BINS)) if len(everything) else np.empty(0)

    def fields(row: Row, place: str) -> dict[str, Any]:
        """Return the number of a row, and the number of its bin."""
        value = number(field_of(row, column, place), column, place)
        return {"label": value, "stratum": int(np.searchsorted(edges, value, side="right"))}

    return Target(labels=Labels(names=(), column=column), fields=fields, compares_labels=False)


def _finite(rows: Rows, column: str) -> list[float]:
    """Return the finite numbers of a column; what else it holds is refused with its row."""
    found = (_parsed(row.get(column)) for row in rows)
    return [value for value in found if value is not None and math.isfinite(value)]


def _parsed(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def number(value: Any, column: str, place: str) -> float:
    """Return a value as a finite number. Raises DataError, with `place`, for anything else."""
    found = _parsed(value)
    if found is None:
        missing = value is None or (isinstance(value, str) and not value.strip())
        hint = "the value is missing" if missing else f"got {value!r:.60}"
        if isinstance(value, str) and not missing:
            hint += "; for labels that are names set task: text_classification"
            hint += ", and write decimals with a point" if "," in value else ""
        elif isinstance(value, bool):
            hint += "; true and false are labels: set task: text_classification"
        raise DataError(f"{place}: the column {column!r}: expected a number, {hint}")
    if not math.isfinite(found):
        raise DataError(f"{place}: the column {column!r} is not finite: {value!r:.60}; remove the row, or correct it")
    return found
