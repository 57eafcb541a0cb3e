"""Tables [examples, columns] of statistics: dense, or sparse where columns belong to labels and most are 0.

A sparse table takes memory and time in proportion to its entries that are not 0, so that a metric of many labels costs
what its examples and labels cost, not their product.
"""

import itertools
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

# A NumPy array, or a scipy.sparse.csr_array; scipy is imported where a sparse one is made.
Table: TypeAlias = Any


def is_sparse(table: Table) -> bool:
    """Return whether a table is stored by its entries."""
    return not isinstance(table, np.ndarray)


def dense(table: Table) -> np.ndarray:
    """Return a table as an array with all its zeros."""
    return table if isinstance(table, np.ndarray) else table.toarray()


def are_same(one: Table, other: Table) -> bool:
    """Return whether two tables of the same shape have the same entries; NaN is the same as NaN."""
    if is_sparse(one) or is_sparse(other):
        return not (one != other).sum()
    return np.array_equal(one, other, equal_nan=True)


def from_entries(rows: Any, columns: Any, shape: tuple[int, int]) -> Table:
    """Return a sparse table of 0 and 1 (uint8), which is 1 in these places; a place given twice counts once."""
    from scipy.sparse import csr_array

    rows, columns = np.asarray(rows, dtype=np.int64), np.asarray(columns, dtype=np.int64)
    table = csr_array((np.ones(len(rows), dtype=np.uint8), (rows, columns)), shape=shape)
    table.data[:] = 1  # duplicates were added up
    return table


def of_labels(labels: np.ndarray, num_labels: int) -> Table:
    """Return a sparse table [examples, labels] of 0 and 1; a negative label is a row of 0.

    labels: [examples] ids, or [examples, labels] of which the entries 1 count.
    """
    if labels.ndim == 1:
        rows = np.flatnonzero(labels >= 0)
        return from_entries(rows, labels[rows], (len(labels), num_labels))
    rows, columns = np.nonzero(labels == 1)
    return from_entries(rows, columns, (len(labels), num_labels))


def beside(parts: Sequence[Table]) -> Table:
    """Return tables of the same examples side by side; sparse if one is."""
    if not any(map(is_sparse, parts)):
        return np.concatenate(parts, axis=1)
    from scipy.sparse import hstack

    return hstack(parts, format="csr")


def label_counts(labels: np.ndarray, num_labels: int) -> np.ndarray:
    """Return how many examples have each label, float [labels]; see `of_labels`."""
    if labels.ndim == 1:
        return np.bincount(labels[labels >= 0], minlength=num_labels).astype(float)
    counts: np.ndarray = (labels == 1).sum(axis=0, dtype=float)
    return counts


def distinct_rows(table: Table) -> tuple[Table, np.ndarray]:
    """Return the distinct rows [distinct, columns], and how often each occurs [distinct].

    They come in the order of their bytes, in which a bootstrap draws them: the same for both kinds of table.
    """
    if is_sparse(table):
        return _distinct_entries(table)
    table = np.ascontiguousarray(table)
    # Compares rows as bytes: 4 to 14 times as fast as np.unique(axis=0) on 10,000 rows of 450 and 60 columns.
    as_bytes = table.view(np.dtype((np.void, table.itemsize * table.shape[1]))).reshape(-1)
    _, first, counts = np.unique(as_bytes, return_index=True, return_counts=True)
    return table[first], counts


def _distinct_entries(table: Table) -> tuple[Table, np.ndarray]:
    table.sum_duplicates()
    table.eliminate_zeros()
    # A row is the text of its entries, which sorts as its bytes would: an entry is more than the 0 that another row
    # has there, and so a row is the larger the earlier its first entry is.
    key = np.empty(table.nnz, dtype=[("place", ">u4"), ("value", "V", table.dtype.itemsize)])
    key["place"] = np.uint32(2**32 - 1) - table.indices.astype(np.uint32)
    key["value"] = table.data.view(f"V{table.dtype.itemsize}")
    text, width = key.tobytes(), key.dtype.itemsize
    ends = (table.indptr * np.int64(width)).tolist()
    first: dict[bytes, int] = {}
    counts: dict[bytes, int] = {}
    for row in range(table.shape[0]):
        entries = text[ends[row] : ends[row + 1]]
        first.setdefault(entries, row)
        counts[entries] = counts.get(entries, 0) + 1
    ordered = sorted(first)
    return table[[first[entries] for entries in ordered]], np.array([counts[entries] for entries in ordered])


def distinct_columns(table: Table) -> tuple[Table, np.ndarray]:
    """Return a table with each distinct column once, in the order of first places, and [columns] their numbers."""
    columns: Any = table.T
    if is_sparse(table):
        by_column = table.tocsc()
        by_column.sort_indices()
        ends = by_column.indptr
        columns = (
            by_column.indices[start:end].tobytes() + by_column.data[start:end].tobytes()
            for start, end in itertools.pairwise(ends)
        )
    else:
        columns = (column.tobytes() for column in table.T)
    first_of: dict[bytes, int] = {}
    places = np.array([first_of.setdefault(column, len(first_of)) for column in columns])
    chosen = table[:, np.unique(places, return_index=True)[1]]
    return (chosen if is_sparse(table) else np.ascontiguousarray(chosen)), places
