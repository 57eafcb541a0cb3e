"""One label of a set, or any number of them."""

from collections.abc import Mapping, Sequence

from bench.config.cards import DatasetCard
from bench.data import labels
from bench.data.sources import Table
from bench.data.targets.target import Target


def columns(card: DatasetCard) -> list[str | None]:
    """Return the columns of the texts, and that of the label or those of the flags."""
    own = card.labels if card.columns.label_flags else (card.columns.label,)
    return [card.columns.text, card.columns.text_pair, *own]


def reads_all_splits(card: DatasetCard) -> bool:
    """Return whether the names of the labels come from the data."""
    return not card.labels


def read(tables: Mapping[str, Table], used: Sequence[str], card: DatasetCard) -> Target:
    """Return how labels are read. Raises DataError where they can't be known, or could be read in two ways."""
    known = labels.read(tables, card)
    return Target(labels=known, fields=lambda row, place: {"label": known.of(row, place)})
