"""Parts of the data: subsets that lie inside one another, folds, and what can't be taken."""

import itertools
from collections import Counter

import pytest

from bench.config import resolve
from bench.config.cards import DatasetCard
from bench.config.data_part import DataPart
from bench.data import data_part, dataset
from bench.errors import DataError

CARD = {
    "task": "text_classification",
    "source": {"kind": "builtin", "id": "reviews"},
    "columns": {"id": "id"},
    "labels": ("negative", "positive"),
    "splits": {"train": "train", "validation": "validation", "test": "test"},
    "leakage": "drop",
}


def load(needed=("train", "test"), seed=13, limit=None, card=None, **part):
    return dataset.load(DatasetCard(**{**CARD, **(card or {})}), limit or {}, set(needed), DataPart(**part), seed)


def ids(corpus, split="train"):
    return [row["id"] for row in corpus.splits[split].rows]


@pytest.mark.parametrize("counts", [(500, 500), (900, 100), (997, 2, 1), (40,) * 77, (7,)])
@pytest.mark.parametrize("seed", [0, 13])
def test_every_beginning_of_the_order_holds_each_label_in_proportion(counts, seed):
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    order = data_part.nested_order(labels, seed)
    assert sorted(order) == list(range(len(labels)))
    taken = Counter()
    for number, row in enumerate(order, 1):
        taken[labels[row]] += 1
        for label, count in enumerate(counts):
            assert abs(taken[label] - number * count / len(labels)) < 2, (number, label)


def test_rare_labels_come_as_often_early_as_late():
    """Every label has one row: no label is preferred by its name or its number."""
    places = [data_part.nested_order(range(50), seed).index(0) for seed in range(400)]
    assert 22 < sum(places) / len(places) < 27
    assert data_part.nested_order([1] * 30, 1) != data_part.nested_order([1] * 30, 2)


def test_smaller_parts_lie_inside_larger_ones_and_what_is_scored_stays():
    whole = load()
    parts = [load(train_examples=n) for n in (2, 10, 51, 200, len(ids(whole)))]
    for small, large in itertools.pairwise([*parts, whole]):
        assert set(ids(small)) <= set(ids(large))
        assert ids(small, "test") == ids(large, "test")
    assert [len(ids(one)) for one in parts] == [2, 10, 51, 200, len(ids(whole))]
    assert (parts[2].subset.examples, parts[2].subset.of, parts[2].subset.seed) == (51, len(ids(whole)), 13)
    assert parts[2].splits["train"].dropped["train_examples"] == len(ids(whole)) - 51
    assert whole.subset is None
    # All rows in their own order: the same data as without the key.
    assert parts[-1].splits["train"].fingerprint == whole.splits["train"].fingerprint
    assert "train_examples" not in parts[-1].splits["train"].dropped


def test_the_runs_seed_draws_the_part_unless_another_is_named():
    first, other = (load(seed=seed, train_examples=30) for seed in (13, 14))
    assert ids(first) != ids(other)
    named = [load(seed=seed, train_examples=30, train_subset_seed=13) for seed in (14, 15)]
    assert [ids(one) for one in named] == [ids(first)] * 2
    assert named[0].subset.seed == 13


def test_the_part_is_of_what_filters_limits_and_leakage_leave():
    assert len(ids(load(limit={"train": 40}, train_examples=40))) == 40
    with pytest.raises(DataError, match=r"data.train_examples: 41 rows are asked for.* training split has 40"):
        load(limit={"train": 40}, train_examples=41)
    with pytest.raises(DataError, match=r"1 rows are fewer than the 2 labels in the training split"):
        load(train_examples=1)


def test_numbers_are_taken_by_their_size_and_have_no_number_of_labels():
    card = resolve.load_card("dataset", resolve.SHIPPED / "datasets" / "ratings.yaml")
    train = dataset.load(card, {}, {"train"}, DataPart(train_examples=4), 13).splits["train"]
    assert len(train.rows) == 4
    assert len({row["stratum"] for row in train.rows}) == 4


def test_folds_hold_every_row_once_and_labels_in_proportion():
    whole = load()
    folds = [load(("train", "fold", "test"), folds=5, fold=number) for number in range(1, 6)]
    held = [ids(one, "fold") for one in folds]
    assert sorted(itertools.chain(*held)) == sorted(ids(whole))
    sizes = [len(one) for one in held]
    assert max(sizes) - min(sizes) <= 1
    counts = [one.splits["fold"].labels(one.labels)["positive"] for one in folds]
    assert max(counts) - min(counts) <= 1
    for one in folds:
        assert not set(ids(one)) & set(ids(one, "fold"))
        assert ids(one, "test") == ids(whole, "test")
        assert one.held_out.train_examples + one.held_out.examples == len(ids(whole))
    assert len({one.held_out.fingerprint for one in folds}) == 1
    other = load(("train", "fold"), seed=14, folds=5, fold=1)
    assert ids(other, "fold") != held[0]
    assert other.held_out.fingerprint != folds[0].held_out.fingerprint


def test_folds_of_all_splits_and_a_part_of_what_is_left():
    everything = load(("train", "validation", "test"), card={"leakage": "allow"})
    total = sum(len(split.rows) for split in everything.splits.values())
    part = {"folds": 4, "fold": 2, "fold_of": ("train", "validation", "test")}
    found = load(("train", "fold"), card={"leakage": "allow"}, **part)
    assert set(found.splits) == {"train", "fold"}
    assert len(ids(found)) + len(ids(found, "fold")) == total
    small = load(("train", "fold"), train_examples=20, card={"leakage": "allow"}, **part)
    assert len(ids(small)) == 20
    assert ids(small, "fold") == ids(found, "fold")


def test_groups_stay_in_one_fold():
    card = resolve.load_card("dataset", resolve.SHIPPED / "datasets" / "passages.yaml")
    folds = [dataset.load(card, {}, {"train", "fold"}, DataPart(folds=3, fold=number), 13) for number in (1, 2, 3)]
    titles = [{row["title"] for row in one.splits["fold"].rows} for one in folds]
    assert all(titles)
    assert sum(map(len, titles)) == len(set.union(*titles))
    assert all(not mine & {row["title"] for row in one.splits["train"].rows}
               for mine, one in zip(titles, folds, strict=True))  # fmt: skip


@pytest.mark.parametrize(
    ("part", "limit", "problem"),
    [
        ({"folds": 30, "fold": 1}, {"train": 20}, "30 folds can't be made of 20 rows"),
        ({"folds": 3, "fold": 1, "fold_of": ("training",)}, {}, "no split 'training'; it has train, validation, test"),
    ],
)
def test_folds_that_can_not_be_made(part, limit, problem):
    with pytest.raises(DataError, match=problem):
        load(("train", "fold"), limit=limit, **part)


def test_a_card_with_a_split_called_fold():
    with pytest.raises(DataError, match="the card has a split 'fold' of its own"):
        load(("train",), card={"splits": {"train": "train", "fold": "test"}}, folds=3, fold=1)
