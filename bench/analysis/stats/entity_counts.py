"""Counts of entities by sentence, as seqeval counts them, from which F1, precision and recall follow as sums."""

from collections.abc import Iterable, Sequence

import numpy as np

from bench.data import tagging

Tags = Sequence[str]


def entity_rows(
    predictions: Iterable[Tags], references: Iterable[Tags], kinds: Sequence[str], scheme: str | None
) -> np.ndarray:
    """Return [sentences, 3 x types]: entities of each type in both, in the prediction, in the reference."""
    places = {kind: number for number, kind in enumerate(kinds)}
    pairs = list(zip(predictions, references, strict=True))
    rows = np.zeros((len(pairs), 3, len(kinds)), dtype=np.int64)
    for row, (predicted, reference) in zip(rows, pairs, strict=True):
        found, gold = (set(tagging.entities(tags, scheme)) for tags in (predicted, reference))
        for counts, chosen in zip(row, (found & gold, found, gold), strict=True):
            for entity in chosen:
                counts[places[entity.kind]] += 1
    return rows.reshape(len(pairs), 3 * len(kinds))


def accuracy_rows(predictions: Iterable[Tags], references: Iterable[Tags]) -> np.ndarray:
    """Return [sentences, 2]: words with the reference's tag, and words."""
    counts = [
        (sum(one == other for one, other in zip(predicted, reference, strict=True)), len(reference))
        for predicted, reference in zip(predictions, references, strict=True)
    ]
    return np.array(counts, dtype=np.int64).reshape(-1, 2)


def macro_f1(sums: np.ndarray) -> np.ndarray:
    """Return the mean F1 [...] of the types that a prediction or a reference has, from sums [..., 3 x types].

    As seqeval's macro average, which knows no other types. Where there is none it is 0, as micro F1 is there, and not
    NaN as at seqeval, which takes the mean of an empty list.
    """
    both, predicted, reference = np.split(sums.astype(float), 3, axis=-1)
    number = predicted + reference
    f1 = np.divide(2 * both, number, out=np.zeros(np.shape(number)), where=number > 0)
    kinds = (number > 0).sum(-1)
    mean: np.ndarray = np.divide(f1.sum(-1), kinds, out=np.zeros(np.shape(kinds)), where=kinds > 0)
    return mean


def share(sums: np.ndarray) -> np.ndarray:
    """Return right / all [...] from sums [..., 2] of `accuracy_rows`; NaN without a word."""
    right, words = sums[..., 0].astype(float), sums[..., 1]
    value: np.ndarray = np.divide(right, words, out=np.full(np.shape(words), np.nan), where=words > 0)
    return value
