"""The gold values of a data set: how they are read from its rows, and what is known of all of them together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from bench.config.cards import DatasetCard
from bench.data.labels import Labels
from bench.data.sources import Row, Table

if TYPE_CHECKING:
    from bench.data.rows import Split


@dataclass(frozen=True, kw_only=True)
class Target:
    """A reader of the gold value of a row.

    labels: names of what is to be told apart; without names where there is nothing to count by name.
    fields: (row, place) -> the keys that `data/rows.py` adds to the parsed row: `label` always, and what the task needs
    beside it; `stratum`, where draws are to be balanced by something else than `label`. Raises DataError with `place`.
    texts: (row, place) -> text and pair, where these are not simply the columns `text` and `text_pair`.
    compares_labels: whether a label of one split that another one lacks is worth a warning.
    compared: (split, names of labels) -> the split with other labels, and their names, where these are compared.
    version: the version of SQuAD's rules; None for all other data.
    """

    labels: Labels
    fields: Callable[[Row, str], dict[str, Any]]
    texts: Callable[[Row, str], tuple[Any, Any]] | None = None
    compares_labels: bool = True
    compared: "Callable[[Split, Sequence[str]], tuple[Split, tuple[str, ...]]] | None" = None
    version: str | None = None
    notes: tuple[str, ...] = ()


class TargetKind(Protocol):
    """A file of this folder."""

    def columns(self, card: DatasetCard) -> list[str | None]:
        """Return the columns that every split must have, beside those of ids and groups."""

    def reads_all_splits(self, card: DatasetCard) -> bool:
        """Return whether all splits of the source are read for it, also those that this run does not use."""

    def read(self, tables: Mapping[str, Table], used: Sequence[str], card: DatasetCard) -> Target:
        """Return how gold values are read. tables: all source splits; used: those of them that this run needs."""
