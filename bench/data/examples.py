"""Encoded examples of one split, ready for the model."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

# Inputs of a model, and labels, of one example: lists of whole numbers by name, and what a reader needs beside them.
Feature = dict[str, Any]


# What the gold values of a split are: label ids or rows of flags, texts, numbers, or a tag for each word.
Kind = Literal["labels", "answers", "numbers", "tags"]


def row_lengths(feature: Feature) -> list[int]:
    """Return the tokens of each row that a model reads for an example: one, or a pair for each of its choices."""
    return [len(pair["input_ids"]) for pair in feature["pairs"]] if "pairs" in feature else [len(feature["input_ids"])]


def per_row(items: Iterable[Any]) -> np.ndarray:
    """Return [examples] Python objects; `np.array` would make a table of lists of equal length."""
    return np.fromiter(items, dtype=object)


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One split ready for the model: `features[i]` belongs to `ids[i]`. truncated: number of texts that were cut.

    sizes: tokens per example, where a feature is not one row of `input_ids`. in_words: labels are gold texts,
    or tags of words: tuples.
    """

    name: str
    ids: tuple[str, ...]
    features: list[Feature]
    truncated: int
    sizes: tuple[int, ...] | None = None
    in_words: bool = False

    @property
    def lengths(self) -> list[int]:
        """Return the number of tokens of each example."""
        if self.sizes is not None:
            return list(self.sizes)
        return [len(feature["input_ids"]) for feature in self.features]

    @property
    def references(self) -> np.ndarray:
        """Return [examples] label ids, or [examples, labels] of 0 and 1; or [examples] lists of gold texts."""
        return as_array([feature["labels"] for feature in self.features], texts=self.in_words)


def as_array(items: list[Any], *, texts: bool) -> np.ndarray:
    """Return per-example values as an array: [examples], or [examples, labels]; texts and tags stay one object each."""
    return per_row(items) if texts else np.array(items)


def kind_of(references: np.ndarray) -> Kind:
    """Return what an array of `as_array` holds. Tags of a sentence are a tuple, gold texts of a question a list."""
    if references.dtype == object:
        return "tags" if len(references) and isinstance(references[0], tuple) else "answers"
    return "numbers" if references.dtype.kind == "f" else "labels"
