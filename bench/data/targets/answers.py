"""Answers to a question, with their offsets in a passage; or none, in SQuAD v2.0."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from bench.config.cards import DatasetCard
from bench.data import squad
from bench.data.labels import Labels, field_of
from bench.data.sources import Row, Table
from bench.data.targets.target import Target


def columns(card: DatasetCard) -> list[str | None]:
    """Return the columns of passage, question and gold answers."""
    return [card.columns.text, card.columns.text_pair, card.columns.answers]


def reads_all_splits(card: DatasetCard) -> bool:
    """Return False: every row says by itself what its answers are."""
    return False


def read(tables: Mapping[str, Table], used: Sequence[str], card: DatasetCard) -> Target:
    """Return how answers are read, by the version of the rules that the rows of all splits need."""
    column = card.columns.answers or ""
    version = squad.version_of(itertools.chain(*(table.rows for table in tables.values())), column, card.filters.labels)

    def fields(row: Row, place: str) -> dict[str, Any]:
        """Return the answers of a row, their offsets, and whether there is one."""
        field_of(row, column, place)
        return {**squad.answers_of(row, column, place), "title": ""}

    # Of the labels the version's rules need both, whatever a filter leaves out.
    kept = [squad.LABELS.index(name) for name in card.filters.labels or squad.LABELS]
    return Target(
        labels=Labels(names=squad.LABELS, kept=tuple(kept)),
        fields=fields,
        compares_labels=version != "1.1",
        version=version,
        notes=tuple(note for name in used for note in squad.plausible_note(name, tables[name].rows)),
    )
