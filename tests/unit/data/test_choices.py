"""Choices of a row's own: how they and the right one are read, and what is refused, in which words."""

import json

import pytest
from pydantic import ValidationError

from bench.config.cards import DatasetCard
from bench.data import dataset
from bench.data.targets.choices import position_names
from bench.errors import DataError
from tests.helpers.cases import together

SIZES = [["one", "two"], ["red", "green", "blue"], ["up", "down", "left", "right"]]


def card_of(folder, columns, **keys):
    """A card of train.jsonl and test.jsonl of a folder."""
    return DatasetCard.model_validate(
        {
            "task": "multiple_choice",
            "source": {"kind": "jsonl", "folder": str(folder), "files": {"train": "train.jsonl", "test": "test.jsonl"}},
            "licence": "none",
            "columns": columns,
            "splits": {"train": "train", "test": "test"},
            **keys,
        },
        strict=False,
    )


@pytest.fixture
def load(tmp_path):
    """load(rows of the test split, columns, train=rows, **keys of the card) -> Corpus."""

    def _load(rows, columns=None, train=None, **keys):
        for name, part in (("train", train or [{**rows[0], "text": "another text"}]), ("test", rows)):
            lines = "".join(json.dumps(row) + "\n" for row in part)
            (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        columns = {"choices": "choices"} if columns is None else columns
        return dataset.load(card_of(tmp_path, columns, **keys), {}, {"train", "test"})

    return _load


def rows_of(labels, sizes=SIZES):
    return [
        {"text": f"text {number}", "choices": own, "label": label}
        for number, (own, label) in enumerate(zip(sizes, labels, strict=True))
    ]


def right_ones(corpus):
    return [row["label"] for row in corpus.splits["test"].rows]


@together(
    "labels",
    [
        [0, 2, 3],
        ["0", "2", "3"],
        [0.0, 2.0, 3.0],
        [1, 3, 4],
        ["A", "C", "D"],
        ["a", "c", "d"],
        ["one", "blue", "right"],
    ],
)
def test_the_right_one_is_a_number_a_letter_or_a_text(labels, load):
    corpus = load(rows_of(labels))
    assert right_ones(corpus) == [0, 2, 3]
    assert corpus.labels == ("A", "B", "C", "D")  # the places, as many as the longest row has
    assert [row["choices"] for row in corpus.splits["test"].rows] == SIZES
    assert "test: rows have 2 to 4 choices" in corpus.notes


def test_the_names_beside_the_choices_are_what_the_label_is(load):
    """As in ARC, where some rows count and others have letters."""
    own = [{"text": ["x", "y"], "label": ["A", "B"]}, {"text": ["x", "y", "z"], "label": ["1", "2", "3"]}]
    listed = [[{"text": "x", "label": "k"}, {"text": "y", "label": "l"}], own[1]]
    for choices, labels in ((own, ["B", "1"]), (listed, ["l", "1"])):
        rows = [{"text": "a", "choices": choices[0], "label": labels[0]}]
        rows.append({"text": "b", "choices": choices[1], "label": labels[1]})
        assert right_ones(load(rows)) == [1, 0]


def test_choices_in_columns_of_their_own(load):
    named = {"choices": ["first", "second", "third"]}
    rows = [{"text": "a", "first": "x", "second": "y", "third": "", "label": "second"}]
    rows.append({"text": "b", "first": "x", "second": "y", "third": "z", "label": "third"})
    corpus = load(rows, named)
    assert right_ones(corpus) == [1, 2]
    assert [len(row["choices"]) for row in corpus.splits["test"].rows] == [2, 3]


def test_what_can_be_read_in_two_ways_is_asked(load):
    with pytest.raises(DataError, match=r"'label' can be read in two ways: .* has the label '1', which is .*label_as"):
        load(rows_of([1, 1, 2]))
    assert right_ones(load(rows_of([1, 1, 2]), {"choices": "choices", "label_as": "from_0"})) == [1, 1, 2]
    assert right_ones(load(rows_of([1, 1, 2]), {"choices": "choices", "label_as": "from_1"})) == [0, 0, 1]
    # A number that another split has settles it.
    train = [{"text": "t", "choices": SIZES[2], "label": 4}]
    assert right_ones(load(rows_of([1, 1, 2]), train=train)) == [0, 0, 1]
    with pytest.raises(DataError, match="the label '0', which is '1' as 'from_0' and '0' as 'text'"):
        load([{"text": "a", "choices": ["1", "0"], "label": "0"}, {"text": "b", "choices": ["0", "1"], "label": "1"}])


REFUSED = [
    ([0, 2, 9], "row 3 of the split 'test' has the label '9', which is none of its 4 choices: expected a number"),
    (["one", "blue", "none"], "has the label 'none', which is none of its 4 choices"),
    ([0, 1, True], "has the label True, which is none of its 4 choices"),
    ([0, 1, -1], "-1, which is none of its choices. The right choice is hidden"),
    ([0, 1, ""], "The right choice is hidden"),
    ([0, 1, None], "The right choice is hidden"),
]


@together("labels, message", REFUSED)
def test_a_label_outside_is_refused(labels, message, load):
    with pytest.raises(DataError, match=message):
        load(rows_of(labels))


@together(
    "choices, message",
    [
        (["only"], "has 1 choices; expected two at least"),
        (["x", " "], "choice 2 of 2 is empty"),
        (["x", None], "choice 2 of 2 is empty"),
        (["x", 1.5], "choice 2 of 2 must be a text, got 1.5"),
        ("x, y", "expected a list of texts.*name the columns of the choices"),
        ({"text": ["x", "y"], "label": ["A"]}, "has 2 texts of choices, but 1 labels"),
        (["x", "y", "x"], "the right choice, 'x', is there 2 times; .*drop_equal_choices: true"),
    ],
)
def test_choices_that_are_none_are_refused(choices, message, load):
    with pytest.raises(DataError, match=message):
        load([{"text": "a", "choices": choices, "label": 0}], {"choices": "choices", "label_as": "from_0"})


def test_equal_choices_are_counted_or_left_out(load):
    rows = [
        {"text": "a", "choices": ["x", "y", "y"], "label": 0},
        {"text": "b", "choices": ["x", "x", "y"], "label": 0},
    ]
    corpus = load(rows, filters={"drop_equal_choices": True}, train=[{**rows[0], "text": "t"}])
    assert [row["text"] for row in corpus.splits["test"].rows] == ["a"]
    assert corpus.splits["test"].dropped == {"drop_equal_choices": 1}
    assert any("2 rows have a choice twice" in note for note in corpus.notes)


def test_the_same_text_with_other_choices_is_no_leak(load):
    rows = [{"text": "a", "choices": ["x", "y"], "label": 0}]
    assert load(rows, train=[{"text": "a", "choices": ["x", "z"], "label": 0}]).splits["train"].rows
    with pytest.raises(DataError, match="leakage"):
        load(rows, train=[{"text": "A ", "choices": ["y", "x"], "label": 1}])


def test_names_of_places():
    assert position_names(3) == ("A", "B", "C")
    assert position_names(27)[-1] == "27"


@together(
    "keys, message",
    [
        ({"columns": {}}, "columns.choices"),
        ({"task": "text_classification"}, "only task 'multiple_choice' has choices"),
        ({"labels": ["a", "b"]}, "a row's label is the right one of its own choices"),
        ({"multi_label": True}, "a row's label is the right one of its own choices"),
    ],
)
def test_a_card_that_contradicts_itself_is_refused(keys, message, tmp_path):
    given = {"columns": {"choices": "choices"}, **keys}
    columns = given.pop("columns")
    with pytest.raises(ValidationError, match=message):
        card_of(tmp_path, columns, **given)
