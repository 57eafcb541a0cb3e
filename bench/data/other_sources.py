"""Source splits of a data set and of the other sources that its card names: trained on one, scored on another."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from bench.config.cards import DatasetCard
from bench.data import sources
from bench.data.sources import Table
from bench.errors import DataError, did_you_mean


def read(card: DatasetCard, wanted: Iterable[str]) -> dict[str, Table]:
    """Return the wanted source splits by name; those of another source are called `<its name>/<split>`.

    Raises DataError for a missing or malformed source, and for a column to rename that is not there.
    """
    names = list(wanted)
    apart = {name for name in names if name.partition("/")[0] in card.other_sources and "/" in name}
    tables = sources.read(card.source, [name for name in names if name not in apart])
    for key, other in card.other_sources.items():
        splits = [name.partition("/")[2] for name in names if name in apart and name.partition("/")[0] == key]
        for split, table in sources.read(other.source, splits).items() if splits else ():
            rows = [_renamed(row, other.rename, f"{key}/{split}") for row in table.rows]
            tables[f"{key}/{split}"] = replace(table, rows=rows)
    return {name: tables[name] for name in names}


def _renamed(row: dict[str, Any], rename: dict[str, str], split: str) -> dict[str, Any]:
    for name in rename:
        if name not in row:
            raise DataError(f"the split {split!r} has no column {name!r} to rename.{did_you_mean(name, row)}")
    return {rename.get(name, name): value for name, value in row.items()}
