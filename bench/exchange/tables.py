"""Scores of runs as one table: a row for each run, stage, split and metric, with its main settings. CSV or Parquet."""

import csv
import io
from collections.abc import Sequence
from typing import Any

import pyarrow
import pyarrow.parquet

from bench.analysis import accessors
from bench.analysis.accessors import Located
from bench.reporting.hub.cards import SCORE_FIELDS, score_rows

# Column -> its place in the resolved recipe.
SETTINGS = {
    "learning_rate": ("training", "learning_rate"),
    "epochs": ("training", "epochs"),
    "steps": ("training", "steps"),
    "global_batch": ("training", "global_batch"),
    "optimizer": ("training", "optimizer"),
}
_TYPES = {"string": pyarrow.string(), "int64": pyarrow.int64(), "float64": pyarrow.float64(), "bool": pyarrow.bool_()}
SCHEMA = pyarrow.schema(
    [(name, _TYPES[kind]) for name, kind in SCORE_FIELDS.items()]
    + [("learning_rate", pyarrow.float64()), ("epochs", pyarrow.float64()), ("steps", pyarrow.int64())]
    + [("global_batch", pyarrow.int64()), ("optimizer", pyarrow.string())]
    + [("parameters", pyarrow.int64()), ("trainable_parameters", pyarrow.int64()), ("train_seconds", pyarrow.float64())]
    + [("started_at", pyarrow.string())]
)


def rows(runs: Sequence[Located], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row with SCHEMA's columns for each single-valued score of completed runs, in the order of `runs`.

    names: of the runs, each another one.
    """
    found = []
    for (_, record), name in zip(runs, names, strict=True):
        counts = record.model.parameters if record.model else {}
        about = {
            **{name: _setting(record.recipe.resolved, place) for name, place in SETTINGS.items()},
            "parameters": counts.get("total"),
            "trainable_parameters": counts.get("trainable"),
            "train_seconds": accessors.training_s(record),
            "started_at": record.started_at,
        }
        found += [{**row, **about} for row in score_rows(record, name)]
    return found


def as_csv(table: Sequence[dict[str, Any]]) -> str:
    """Return rows as CSV with a header; null is an empty cell."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, SCHEMA.names, lineterminator="\n", extrasaction="raise")
    writer.writeheader()
    writer.writerows(table)
    return stream.getvalue()


def as_parquet(table: Sequence[dict[str, Any]]) -> bytes:
    """Return rows as a Parquet file with SCHEMA."""
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(table), schema=SCHEMA), sink)
    return bytes(sink.getvalue())


def _setting(resolved: dict[str, Any], place: Sequence[str]) -> Any:
    value: Any = resolved
    for key in place:
        value = value.get(key) if isinstance(value, dict) else None
    return value.get("name") if isinstance(value, dict) else value
