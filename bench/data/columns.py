"""Describes the columns of a source: what kind of values they hold, by its features or else by its rows."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from bench.config.data_source import Source
from bench.data import sources
from bench.data.label_names import HIDDEN, key_of, written
from bench.data.sources import Rows, Table

Kind = Literal["text", "int", "float", "bool", "class", "mapping", "empty", "other"]

# Values of a column that a look at its kind reads: enough to see that one is not like the others.
_MOST_READ = 20_000
_INT = re.compile(r"\s*[+-]?\d+\s*")
_FLOAT = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
_SHOWN = 40


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column: the kind of its values, or of the items of its lists; keys of mappings; names of class ids."""

    name: str
    kind: Kind
    is_list: bool = False
    keys: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()


class Look:
    """The splits and columns of a source, which are read only where a question can't be answered without the rows.

    place: what messages call the source. features: those of `datasets`, as a mapping, where they are known.
    """

    def __init__(
        self, place: str, source: Source, splits: Sequence[str], features: Mapping[str, Any] | None = None
    ) -> None:
        self.place, self.source, self.splits = place, source, tuple(splits)
        self.main_split = next((name for name in self.splits if name == "train"), self.splits[0])
        self._features = features

    @cached_property
    def tables(self) -> dict[str, Table]:
        """Return the rows of all splits. Raises DataError where they can't be read."""
        return sources.read(self.source, self.splits)

    @property
    def is_read(self) -> bool:
        """Return whether the rows have been read."""
        return "tables" in self.__dict__

    @property
    def rows(self) -> Rows:
        """Return the rows of the split `train`, or of the first one."""
        return self.tables[self.main_split].rows

    @cached_property
    def columns(self) -> dict[str, Column]:
        """Return the columns by name, in their order."""
        if self._features is not None:
            return {name: _of_feature(name, feature) for name, feature in self._features.items()}
        names = dict.fromkeys(name for row in self.rows for name in row)
        as_cells = self.source.kind in ("csv", "tsv")
        found = {name: _of_values(name, self.values(name), as_cells) for name in names}
        for part in self.tables[self.main_split].parts:
            for name, class_names in part.class_names.items():
                if name in found:
                    found[name] = Column(name=name, kind="class", is_list=found[name].is_list, class_names=class_names)
        return found

    def values(self, name: str) -> list[Any]:
        """Return the values of a column in the main split that are not missing."""
        values = (row.get(name) for row in self.rows)
        return [value for value in values if value is not None and value != "" and value == value]

    def counts(self, name: str) -> Counter[str]:
        """Count the values of a column, or the items of its lists, in the main split; spellings of a label are one."""
        counts: Counter[str] = Counter()
        for value in self.values(name):
            for item in value if isinstance(value, list) else [value]:
                counts[key_of(written(item) or repr(item))] += 1
        return counts

    def is_hidden(self, split: str, name: str) -> bool:
        """Return whether a split has no labels in a column: it is missing, empty, or -1 in every row."""
        values = (row.get(name) for row in self.tables[split].rows)
        items = (item for value in values for item in (value if isinstance(value, list) else [value]))
        # What is no label's name, as a mapping, is not hidden.
        return {key_of(written(item) or repr(item)) for item in items if item is not None and item != ""} <= {HIDDEN}

    def example(self, name: str) -> str:
        """Return a value of a column as a message shows it."""
        values = self.values(name)
        if not values:
            return "nothing"
        shown = repr(values[0])
        if len(shown) <= _SHOWN:
            return shown
        end = shown[-1] if isinstance(values[0], str) else ""  # the quote that it began with
        return f"{shown[:_SHOWN]}...{end}"


def _of_feature(name: str, feature: Any) -> Column:
    is_list = False
    while True:
        if isinstance(feature, list) and len(feature) == 1:
            feature, is_list = feature[0], True
        elif isinstance(feature, Mapping) and feature.get("_type") in ("Sequence", "List", "LargeList"):
            feature, is_list = feature["feature"], True
        else:
            break
    if isinstance(feature, Mapping) and isinstance(feature.get("_type"), str):
        if feature["_type"] == "ClassLabel":
            return Column(name=name, kind="class", is_list=is_list, class_names=tuple(feature.get("names") or ()))
        dtype = str(feature.get("dtype"))
        kinds: dict[str, Kind] = {"string": "text", "large_string": "text", "string_view": "text", "bool": "bool"}
        kind = kinds.get(dtype, "other")
        if re.match(r"u?int\d", dtype):
            kind = "int"
        elif dtype.startswith(("float", "double", "decimal")):
            kind = "float"
        elif dtype == "null":
            kind = "empty"
        return Column(name=name, kind=kind, is_list=is_list)
    if isinstance(feature, Mapping):
        return Column(name=name, kind="mapping", is_list=is_list, keys=tuple(feature))
    return Column(name=name, kind="other", is_list=is_list)


def _of_values(name: str, values: Sequence[Any], as_cells: bool) -> Column:
    values = values[:_MOST_READ]
    lists = [value for value in values if isinstance(value, list)]
    if lists and len(lists) == len(values):
        inner = _of_values(name, [item for value in lists for item in value if item is not None], as_cells=False)
        return Column(name=name, kind=inner.kind, is_list=True, keys=inner.keys)
    kinds = {_kind_of(value, as_cells) for value in values}
    kind: Kind = "other"
    if not kinds:
        kind = "empty"
    elif len(kinds) == 1:
        kind = kinds.pop()
    elif kinds == {"int", "float"}:
        kind = "float"
    elif "text" in kinds and not kinds & {"mapping", "other"}:
        kind = "text"
    keys = values[0] if kind == "mapping" else ()
    # Arrow gives whole numbers of a column with a missing value as 1.0.
    if kind == "float" and all(float(value).is_integer() for value in values):
        kind = "int"
    return Column(name=name, kind=kind, keys=tuple(keys))


def _kind_of(value: Any, as_cells: bool) -> Kind:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int"
    if isinstance(value, float):
        return "float"
    if isinstance(value, Mapping):
        return "mapping"
    if not isinstance(value, str):
        return "other"
    if as_cells and _INT.fullmatch(value):
        return "int"
    if as_cells and _FLOAT.fullmatch(value):
        return "float"
    if as_cells and value.strip().lower() in ("true", "false"):
        return "bool"
    return "text"


def shown(names: Iterable[str], look: Look) -> str:
    """Return columns as a sentence lists them, each with a value: 'queue' (e.g. 'billing') or 'priority' (e.g. 3)."""
    return " or ".join(f"{name!r} (e.g. {look.example(name)})" for name in names)
