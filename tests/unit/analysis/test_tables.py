"""stats/tables.py: sparse tables hold what dense ones hold, and bootstraps draw the same from both."""

import numpy as np
import pytest

from bench.analysis.stats import intervals, paired, sums, tables
from bench.analysis.stats.sums import Line
from tests.helpers.cases import together

FORMULAS = ("f1_macro", "f1_weighted", "f1_micro", "precision_macro", "recall_macro", "recall_weighted", "mcc")


def label_ids(labels, examples=300, missing=0.0, seed=0):
    draw = np.random.default_rng(seed)
    reference = draw.integers(labels, size=examples)
    predicted = np.where(draw.random(examples) < 0.6, reference, draw.integers(labels, size=examples))
    predicted[draw.random(examples) < missing] = -1
    return predicted, reference


def sparse_rows(labels, missing=0.0, seed=0, dtype=np.uint8):
    predicted, reference = label_ids(labels, missing=missing, seed=seed)
    rows = sums.label_rows(tables.of_labels(predicted, labels), tables.of_labels(reference, labels))
    return rows.astype(dtype)


def tally(metric, labels, missing=0.0, seed=0):
    predicted, reference = label_ids(labels, missing=missing, seed=seed)
    lines = [
        Line(prediction=f"l{left}" if left >= 0 else None, reference=f"l{right}")
        for left, right in zip(predicted, reference, strict=True)
    ]
    return sums.tally(metric, lines, [f"l{number}" for number in range(labels)], multi_label=False)


@together("labels", [1, 2, 7, 300])
def test_tables_of_labels(labels):
    predicted, _ = label_ids(labels, missing=0.2)
    one_hot = (predicted[:, None] == np.arange(labels)).astype(np.uint8)
    for given in (predicted, one_hot.astype(int), np.where(predicted[:, None] < 0, -1, one_hot.astype(int))):
        table = tables.of_labels(given, labels)
        assert tables.is_sparse(table)
        np.testing.assert_array_equal(tables.dense(table), one_hot)
        np.testing.assert_array_equal(tables.label_counts(given, labels), one_hot.sum(0))


@together("dtype", [np.uint8, np.int8, np.int64, np.float64])
def test_distinct_rows_come_in_the_same_order_from_both_kinds(dtype):
    for labels in (2, 3, 40):
        table = sparse_rows(labels, missing=0.2, dtype=dtype)
        signed = tables.beside([table, -tables.of_labels(label_ids(labels)[0], labels).astype(dtype)])
        for each in (table, signed):
            rows, counts = tables.distinct_rows(each)
            dense_rows, dense_counts = tables.distinct_rows(each.toarray())
            np.testing.assert_array_equal(tables.dense(rows), dense_rows)
            np.testing.assert_array_equal(counts, dense_counts)


def test_a_bootstrap_draws_the_same_from_both_kinds():
    for labels, missing in ((2, 0.0), (30, 0.0), (30, 0.2)):
        table = sparse_rows(labels, missing=missing)

        def values(total):
            return {name: sums.label_value(name)(total) for name in ("f1_macro", "f1_per_label")}

        found, expected = (intervals.bootstrap(each, values, draws=200) for each in (table, table.toarray()))
        for name, ends in expected.items():
            np.testing.assert_array_equal(found[name], ends)


def test_examples_drawn_one_by_one_have_the_interval_of_drawn_counts(monkeypatch):
    """Of many distinct rows; both are samples of the same distribution."""
    table = np.random.default_rng(0).random((400, 1))
    by_counts = intervals.bootstrap(table, lambda total: {"mean": total[..., 0] / 400}, draws=4000)["mean"]
    monkeypatch.setattr(intervals, "MOST_COUNTS", 0)
    by_examples = intervals.bootstrap(table, lambda total: {"mean": total[..., 0] / 400}, draws=4000)["mean"]
    np.testing.assert_allclose(by_examples, by_counts, atol=0.003)
    assert by_examples != by_counts


@pytest.mark.parametrize("metric", FORMULAS)
def test_a_jackknife_computes_only_the_labels_of_an_example_again(metric):
    for labels, missing in ((2, 0.0), (9, 0.2), (200, 0.1)):
        statistics = tally(metric, labels, missing)
        assert tables.is_sparse(statistics.rows)
        found = paired.jackknife_values(statistics.rows, statistics.value)
        expected = paired.jackknife_values(statistics.rows.toarray(), statistics.value)
        np.testing.assert_allclose(found, expected, atol=1e-14)


@pytest.mark.parametrize("metric", FORMULAS)
def test_paired_draws_are_the_same_from_both_kinds(metric):
    for labels in (2, 60):
        runs = [tally(metric, labels, 0.1, seed) for seed in range(3)]
        value = runs[0].value
        found, expected = (paired.stack([make(run.rows) for run in runs]) for make in (lambda rows: rows, tables.dense))
        np.testing.assert_array_equal(found.totals, expected.totals)
        drawn = [paired.bootstrap_values(each, value, 50, 0) for each in (found, expected)]
        np.testing.assert_array_equal(*drawn)
        swapped = [paired.randomisation_test(each, value, [(0, 1), (1, 2)], 50, 0) for each in (found, expected)]
        np.testing.assert_array_equal(*swapped)


def test_a_table_without_entries_or_examples():
    empty = tables.of_labels(np.array([-1, -1]), 4)
    rows, counts = tables.distinct_rows(empty)
    assert rows.shape == (1, 4)
    assert counts.tolist() == [2]
    nothing = tables.of_labels(np.array([], dtype=int), 4)
    found = intervals.bootstrap(nothing, lambda total: {"sum": total.sum(-1)}, draws=5)
    assert np.isnan(found["sum"]).all()


def test_memory_and_time_follow_entries_not_labels_squared():
    """3,000 examples of 20,000 labels: dense statistics would take 1.4 GB for F1 alone, a confusion matrix 3.2 GB."""
    predicted, reference = label_ids(20_000, examples=3000)
    rows = sums.label_rows(tables.of_labels(predicted, 20_000), tables.of_labels(reference, 20_000))
    assert rows.data.nbytes + rows.indices.nbytes + rows.indptr.nbytes < 1e6
    found = paired.jackknife_values(rows, sums.label_value("f1_macro"))
    assert found.shape == (3000,)


def test_a_confusion_matrix_of_many_labels_is_its_cells(tmp_path):
    from bench.analysis.accessors import MATRIX_LABELS
    from bench.metrics import confusion_matrix

    assert confusion_matrix.MOST_LABELS == MATRIX_LABELS
    metric = confusion_matrix.ConfusionMatrix(keep_in_memory=True, cache_dir=str(tmp_path))
    for labels in (MATRIX_LABELS, MATRIX_LABELS + 1):
        predicted, reference = label_ids(labels, missing=0.1)
        found = metric.compute_values(predicted, reference, labels)["confusion_matrix"]
        matrix = np.zeros((labels, labels), dtype=int)
        np.add.at(matrix, (reference[predicted >= 0], predicted[predicted >= 0]), 1)
        if labels > MATRIX_LABELS:
            rows, columns = matrix.nonzero()
            np.testing.assert_array_equal(found, np.stack([rows, columns, matrix[rows, columns]], axis=1))
        else:
            np.testing.assert_array_equal(found, matrix)
