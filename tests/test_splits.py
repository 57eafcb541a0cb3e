"""Dividing rows: exact sizes, disjoint, deterministic, in proportion to the labels."""

import random
from collections import Counter

import pytest

from bench.errors import DataError
from bench.splits import divide, label_counts

LABELS = ["a"] * 60 + ["b"] * 30 + ["c"] * 10


@pytest.mark.parametrize(
    ("into", "sizes"),
    [
        ({"train": 0.7, "dev": 0.2, "test": 0.1}, [70, 20, 10]),
        ({"train": 0.5, "test": 0.25}, [50, 25]),
        ({"train": 71, "test": 29}, [71, 29]),
        ({"train": 0.5, "test": 10}, [50, 10]),
        ({"all": 1.0}, [100]),
        ({"one": 1}, [1]),
        ({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, [33, 34, 33]),
    ],
)
@pytest.mark.parametrize("stratified", [True, False])
def test_sizes_are_exact_and_splits_disjoint(into, sizes, stratified):
    found = divide(LABELS, into, stratified=stratified)
    assert list(found) == list(into)
    assert [len(rows) for rows in found.values()] == sizes
    rows = [row for chosen in found.values() for row in chosen]
    assert len(set(rows)) == len(rows)
    assert set(rows) <= set(range(100))
    assert all(chosen == sorted(chosen) for chosen in found.values())


def test_shares_that_make_one_use_every_row():
    for total in range(10, 200):
        found = divide(["a"] * total, {"train": 0.7, "dev": 0.2, "test": 0.1})
        assert sorted(row for rows in found.values() for row in rows) == list(range(total))


def test_equal_arguments_give_equal_rows_and_another_seed_others():
    into = {"train": 0.7, "test": 0.3}
    assert divide(LABELS, into, seed=1) == divide(LABELS, into, seed=1)
    assert divide(LABELS, into, seed=1) != divide(LABELS, into, seed=2)
    # Pinned: a data set divided last year must be divided the same way next year.
    assert divide("aabbaabbab", {"train": 6, "test": 4}, seed=7) == {
        "train": [0, 1, 3, 5, 7, 9],
        "test": [2, 4, 6, 8],
    }


def test_the_order_of_the_names_does_not_matter():
    one = divide(LABELS, {"train": 0.7, "dev": 0.2, "test": 0.1})
    other = divide(LABELS, {"test": 0.1, "train": 0.7, "dev": 0.2})
    assert one == other
    assert list(other) == ["test", "train", "dev"]


@pytest.mark.parametrize("seed", range(200))
def test_labels_in_proportion_to_within_a_row(seed):
    chooser = random.Random(seed)
    labels = [chooser.choice("aaaabbc") for _ in range(chooser.randrange(5, 80))]
    count = chooser.randrange(1, len(labels))
    (rows,) = divide(labels, {"drawn": count}, seed=seed).values()
    drawn, all_ = Counter(labels[row] for row in rows), Counter(labels)
    for label in all_:
        assert abs(drawn[label] - count * all_[label] / len(labels)) < 1


def test_labels_in_proportion_in_each_of_several_splits():
    found = divide(LABELS, {"train": 0.7, "dev": 0.2, "test": 0.1})
    counts = {name: Counter(LABELS[row] for row in rows) for name, rows in found.items()}
    assert counts == {
        "train": {"a": 42, "b": 21, "c": 7}, "dev": {"a": 12, "b": 6, "c": 2}, "test": {"a": 6, "b": 3, "c": 1},
    }  # fmt: skip


def test_without_stratification_labels_are_not_looked_at():
    assert divide(LABELS, {"a": 40}, stratified=False) == divide(range(100), {"a": 40}, stratified=False)


def test_sets_of_labels_are_drawn_in_proportion_too():
    labels = [str(row) for row in [[1, 0]] * 40 + [[0, 1]] * 20 + [[1, 1]] * 10 + [[0, 0]] * 10]
    (rows,) = divide(labels, {"drawn": 16}).values()
    assert Counter(labels[row] for row in rows) == {"[1, 0]": 8, "[0, 1]": 4, "[1, 1]": 2, "[0, 0]": 2}
    each_its_own = divide([str(number) for number in range(50)], {"drawn": 20})
    assert len(each_its_own["drawn"]) == 20


def test_balanced_draws_equally():
    found = divide(LABELS, {"dev": 12, "test": 8}, balanced=True)
    assert Counter(LABELS[row] for row in found["dev"]) == {"a": 4, "b": 4, "c": 4}
    assert Counter(LABELS[row] for row in found["test"]) == {"a": 3, "b": 3, "c": 2}
    assert set(found["dev"]).isdisjoint(found["test"])


def test_balanced_wants_enough_rows_of_every_label():
    with pytest.raises(DataError, match=r"the balanced split 'dev' needs 11 rows of label 'c', 10 are left"):
        divide(LABELS, {"dev": 33}, balanced=True)


@pytest.mark.parametrize(
    ("into", "message"),
    [
        ({"a": 101}, "a division asks for 101 rows, but there are 100"),
        ({"a": 60, "b": 41}, "asks for 101 rows"),
        ({"a": 0.5, "b": 51}, "asks for 101 rows"),
        ({"a": 0.7, "b": 0.4}, "must not exceed 1 together"),
        ({"a": 1.5}, "must not exceed 1"),
        ({"a": -0.5}, "must be above 0"),
        ({"a": 0.0}, "must be above 0"),
        ({"a": float("nan")}, "must be above 0"),
        ({"a": 0}, "the split 'a' would be empty: 0 of 100 rows"),
        ({"a": -3}, "the split 'a' would be empty"),
        ({"a": 0.001, "b": 0.9}, "the split 'a' would be empty: 0.001 of 100 rows"),
    ],
)
@pytest.mark.parametrize("balanced", [True, False])
def test_impossible_sizes(into, message, balanced):
    with pytest.raises(DataError) as caught:
        divide(LABELS, into, balanced=balanced)
    assert message in str(caught.value)


def test_no_rows_at_all():
    with pytest.raises(DataError, match="asks for 3 rows, but there are 0"):
        divide([], {"a": 3})
    with pytest.raises(DataError, match="would be empty"):
        divide([], {"a": 0.5})


def test_label_counts():
    assert label_counts([0, 1, 1], ("no", "yes", "maybe")) == {"no": 1, "yes": 2, "maybe": 0}
    assert label_counts([[1, 0], [1, 1], [0, 0]], ("x", "y")) == {"x": 2, "y": 1}
    assert label_counts([], ("x",)) == {"x": 0}
