"""Encoded examples of one split, ready for the model."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np


def per_row(items: Iterable[Any]) -> np.ndarray:
    """[examples] Python objects; `np.array` would make a table of lists of equal length."""
    return np.fromiter(items, dtype=object)


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One split ready for the model: `features[i]` belongs to `ids[i]`. truncated: how many texts were cut.

    sizes: tokens per example, where a feature is not one row of `input_ids`. in_words: labels are gold texts.
    """

    name: str
    ids: tuple[str, ...]
    features: list[dict[str, Any]]
    truncated: int
    sizes: tuple[int, ...] | None = None
    in_words: bool = False

    @property
    def lengths(self) -> list[int]:
        """Tokens per example."""
        if self.sizes is not None:
            return list(self.sizes)
        return [len(feature["input_ids"]) for feature in self.features]

    @property
    def references(self) -> np.ndarray:
        """[examples] label ids, or [examples, labels] of 0 and 1; or lists of gold texts."""
        return as_array([feature["labels"] for feature in self.features], texts=self.in_words)


def as_array(items: list[Any], *, texts: bool) -> np.ndarray:
    """Return per-example values as an array: [examples], or [examples, labels]; texts stay one object each."""
    return per_row(items) if texts else np.array(items)
