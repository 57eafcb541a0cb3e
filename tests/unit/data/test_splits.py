"""Dividing rows: exact sizes, disjoint, deterministic, in proportion to the labels."""

import random
from collections import Counter

import pytest

from bench.data.splits import divide, divide_groups, label_counts
from bench.errors import DataError
from tests.helpers.cases import together

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
@together("stratified", [True, False])
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


@together("seed", range(200))
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
        ({"a": 101}, "the splits ask for 101 rows, but there are 100"),
        ({"a": 60, "b": 41}, "ask for 101 rows"),
        ({"a": 0.5, "b": 51}, "ask for 101 rows"),
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
@together("balanced", [True, False])
def test_impossible_sizes(into, message, balanced):
    with pytest.raises(DataError) as caught:
        divide(LABELS, into, balanced=balanced)
    assert message in str(caught.value)


def test_no_rows_at_all():
    with pytest.raises(DataError, match="ask for 3 rows, but there are 0"):
        divide([], {"a": 3})
    with pytest.raises(DataError, match="would be empty"):
        divide([], {"a": 0.5})


def test_label_counts():
    assert label_counts([0, 1, 1], ("no", "yes", "maybe")) == {"no": 1, "yes": 2, "maybe": 0}
    assert label_counts([[1, 0], [1, 1], [0, 0]], ("x", "y")) == {"x": 2, "y": 1}
    assert label_counts([], ("x",)) == {"x": 0}


# ---------------------------------------------------------------- groups that stay together


def grouped(sizes, seed=0, rare=0.3):
    """(labels, groups): groups of these sizes, each with its own share of the label "no"."""
    chooser = random.Random(seed)
    labels, groups = [], []
    for number, size in enumerate(sizes):
        share = chooser.random() * 2 * rare
        labels += ["no" if chooser.random() < share else "yes" for _ in range(size)]
        groups += [f"group {number}"] * size
    rows = list(zip(labels, groups, strict=True))
    chooser.shuffle(rows)
    return [label for label, _ in rows], [group for _, group in rows]


@together("seed", range(5))
@pytest.mark.parametrize("into", [{"train": 0.8, "test": 0.2}, {"a": 0.7, "b": 0.2, "c": 0.1}, {"a": 500, "b": 0.3}])
def test_groups_stay_together_near_the_sizes_and_shares_asked(into, seed):
    chooser = random.Random(seed)
    labels, groups = grouped([chooser.randrange(5, 60) for _ in range(60)], seed)
    found = divide_groups(labels, groups, into, seed=seed)
    assert list(found) == list(into)
    sides = [{groups[row] for row in rows} for rows in found.values()]
    assert sum(map(len, sides)) == len(set().union(*sides)), "a group is in two splits"
    assert all(rows == sorted(set(rows)) for rows in found.values())
    share = labels.count("no") / len(labels)
    for name, rows in found.items():
        asked = into[name] * len(labels) if isinstance(into[name], float) else into[name]
        assert abs(len(rows) - asked) <= 0.02 * asked + 1, name
        assert abs(sum(labels[row] == "no" for row in rows) / len(rows) - share) < 0.02, name
        # A group is in a split whole.
        assert {row for row, group in enumerate(groups) if group in {groups[row] for row in rows}} == set(rows)
    if all(isinstance(amount, float) for amount in into.values()):
        assert sum(len(rows) for rows in found.values()) == len(labels)


def test_as_many_articles_as_squad_has():
    """442 articles of unequal length, and as many answerable questions as in SQuAD v2.0."""
    chooser = random.Random(4)
    labels, groups = grouped([int(chooser.lognormvariate(5.5, 0.5)) for _ in range(442)], rare=1 / 3)
    found = divide_groups(labels, groups, {"train": 0.95, "validation": 0.05})
    share = labels.count("no") / len(labels)
    for name, asked in (("train", 0.95), ("validation", 0.05)):
        assert len(found[name]) / len(labels) == pytest.approx(asked, abs=0.0005)
        assert sum(labels[row] == "no" for row in found[name]) / len(found[name]) == pytest.approx(share, abs=0.002)


@together("seed", range(10))
def test_of_few_groups_the_best_division_is_found(seed):
    chooser = random.Random(seed)
    sizes = [chooser.randrange(1, 40) for _ in range(7)]
    labels, groups = grouped(sizes, seed)
    found = divide_groups(labels, groups, {"train": 0.75, "test": 0.25}, stratified=False, seed=seed)
    best = min(
        abs(sum(size for number, size in enumerate(sizes) if ways >> number & 1) - len(labels) * 0.25)
        for ways in range(1, 2**7 - 1)
    )
    asked = len(labels) - round(0.75 * len(labels))
    assert abs(len(found["test"]) - asked) <= best + 1


def test_equal_arguments_give_equal_groups_and_another_seed_others():
    labels, groups = grouped([10 + number % 7 for number in range(50)])
    into = {"train": 0.8, "test": 0.2}
    first = divide_groups(labels, groups, into, seed=1)
    assert divide_groups(labels, groups, into, seed=1) == first
    assert divide_groups(labels, groups, {"test": 0.2, "train": 0.8}, seed=1) == first
    assert divide_groups(labels, groups, into, seed=2) != first
    # Pinned, as above.
    pinned = divide_groups(
        "aabbaabbab", [f"g{n}" for n in (1, 1, 2, 2, 3, 3, 4, 4, 5, 5)], {"x": 0.6, "y": 0.4}, seed=7
    )
    assert pinned == {"x": [0, 1, 6, 7, 8, 9], "y": [2, 3, 4, 5]}
    groups = [f"g{row // 7}" for row in range(140)]
    rows = divide_groups(["aab"[row % 3] for row in range(140)], groups, {"x": 0.7, "y": 0.3}, seed=7)["y"]
    assert {groups[row] for row in rows} == {"g9", "g1", "g14", "g15", "g7", "g2"}


def test_stratified_groups_have_more_equal_shares_than_others():
    labels, groups = grouped([10] * 40, seed=3)

    def distance(**options):
        rows = divide_groups(labels, groups, {"a": 0.5, "b": 0.5}, **options)["a"]
        return abs(sum(labels[row] == "no" for row in rows) - labels.count("no") / 2)

    assert distance() <= 1
    assert max(distance(stratified=False, seed=seed) for seed in range(5)) > 5


def test_many_small_groups_are_dealt_out_fast():
    labels, groups = grouped([2] * 3000)
    found = divide_groups(labels, groups, {"train": 0.9, "test": 0.1})
    assert len(found["test"]) == pytest.approx(600, abs=4)


@pytest.mark.parametrize(
    ("into", "message"),
    [
        ({"a": 0.5, "b": 0.25, "c": 0.25}, "3 splits can't be made of 2 groups that stay together"),
        ({"a": 0.9, "b": 0.2}, "must not exceed 1 together"),
        ({"a": 11}, "ask for 11 rows, but there are 10"),
    ],
)
def test_impossible_groups(into, message):
    with pytest.raises(DataError) as caught:
        divide_groups(["x"] * 10, ["one"] * 4 + ["two"] * 6, into)
    assert message in str(caught.value)


def test_no_split_is_left_without_a_group():
    # The nearest sizes to 270 and 30 would be 300 and none.
    found = divide_groups(["x"] * 300, [f"g{row // 100}" for row in range(300)], {"train": 0.9, "test": 0.1})
    assert {name: len(rows) for name, rows in found.items()} == {"train": 200, "test": 100}


def test_what_is_not_asked_for_is_left_over():
    labels, groups = grouped([10] * 30)
    found = divide_groups(labels, groups, {"a": 50, "b": 100})
    assert {name: len(rows) for name, rows in found.items()} == {"a": 50, "b": 100}
