"""Spellings of labels: what a value of the data is called, and which spellings are one label."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from bench.data import cleaning
from bench.data.sources import Row

# GLUE's test splits have it in place of labels that are kept secret.
HIDDEN = "-1"
FALSE_WORDS, TRUE_WORDS = ("false", "0", "no", "n", "f", "off"), ("true", "1", "yes", "y", "t", "on")
# What programs write for a value that is missing, by `key_of`.
MISSING_WORDS = frozenset((
    "nan", "na", "n/a", "#n/a", "#na", "<na>", "null", "none", "nil", "nat", "missing", "undefined", "-", "--", "?",
    ".", "(blank)", "(empty)",
))  # fmt: skip
FLAGS = frozenset(("0", "1", "false", "true"))
_WHOLE = re.compile(r"([+-]?)(0|[1-9][0-9]*)(?:\.0*)?")
# Items that a sentence names before it only counts the others.
_MOST_NAMED = 8


def written(value: Any) -> str | None:
    """Return a label of the data as text, true and false in lower case; None for a value that can't be a label."""
    if isinstance(value, float) and value.is_integer():
        return str(value)  # what pandas makes of whole numbers in a column where one is missing
    name = str(value) if isinstance(value, int | str) else None
    return name.lower() if name is not None and name.lower() in ("true", "false") else name


def key_of(name: str) -> str:
    """Return what all spellings of a label share: no case, no blanks around it, and `1` for `1.0` and `+1`."""
    key = cleaning.normalized(name)
    whole = _WHOLE.fullmatch(key)
    return f"{'-' if whole[1] == '-' and whole[2] != '0' else ''}{whole[2]}" if whole else key


def is_number(name: str) -> bool:
    """Return whether a label's name is a whole number."""
    return name.removeprefix("-").isdecimal()


def listed(names: Iterable[Any]) -> str:
    """Return names as a sentence lists them: the first few, and how many more."""
    names = list(names)
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(map(repr, names[:_MOST_NAMED])) + more


@dataclass(kw_only=True)
class Survey:
    """Survey of the values in the label column of one source split.

    counts: label as it is written -> how often. Of lists: their lengths; short: those of one or two labels, each once;
    repeats: how many have a label twice. num_booleans: values of true and false that are not text. other: one that
    can't be a label.
    """

    counts: Counter[str] = field(default_factory=Counter)
    lengths: set[int] = field(default_factory=set)
    short: set[tuple[str, ...]] = field(default_factory=set)
    repeats: int = 0
    num_booleans: int = 0
    other: Any = None

    @staticmethod
    def of(rows: Iterable[Row], column: str) -> "Survey":
        """Look at all values of a column. One that can't be a label is left out: it is refused with its row."""
        survey = Survey()
        alone = Counter[tuple[type, Any]]()
        for row in rows:
            value = row.get(column)
            if isinstance(value, list):
                survey._add(value, 1)
                keys = tuple(key_of(name) for item in value if (name := written(item)) is not None)
                survey.lengths.add(len(value))
                survey.repeats += len(set(keys)) < len(keys)
                if len(keys) <= 2:
                    survey.short.add(keys)
            elif isinstance(value, dict):
                survey._add([value], 1)
            else:
                alone[value.__class__, value] += 1
        for (_, value), count in alone.items():
            survey._add([value], count)
        return survey

    def _add(self, items: list[Any], count: int) -> None:
        for item in items:
            name = written(item)
            if name is not None and not cleaning.is_blank(name):
                self.counts[name] += count
            elif self.other is None:
                self.other = item
            self.num_booleans += count * isinstance(item, bool)

    @property
    def is_hidden(self) -> bool:
        """Return whether all labels of the split are kept secret."""
        return set(map(key_of, self.counts)) == {HIDDEN}

    def groups(self) -> dict[str, Counter[str]]:
        """Return key -> spellings and how often each occurs."""
        groups: dict[str, Counter[str]] = {}
        for spelling, count in self.counts.items():
            groups.setdefault(key_of(spelling), Counter())[spelling] += count
        return groups
