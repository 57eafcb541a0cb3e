"""Gold texts of answers that are written: what a task of lm-evaluation-harness would be answered with."""

from collections.abc import Mapping, Sequence
from typing import Any

from bench.config.cards import DatasetCard
from bench.data.labels import Labels, field_of
from bench.data.sources import Row, Table
from bench.data.targets.target import Target


def columns(card: DatasetCard) -> list[str | None]:
    """Return the columns of the text and of its gold answers."""
    return [card.columns.text, card.columns.label]


def reads_all_splits(card: DatasetCard) -> bool:
    """Return False: every row has its own gold answers."""
    return False


def read(tables: Mapping[str, Table], used: Sequence[str], card: DatasetCard) -> Target:
    """Return how gold texts are read: as they stand, in a list."""

    def fields(row: Row, place: str) -> dict[str, Any]:
        """Return the gold texts."""
        return {"label": 0, "answers": list(field_of(row, card.columns.label, place))}

    return Target(labels=Labels(names=("answer",), kept=(0,)), fields=fields, compares_labels=False)
