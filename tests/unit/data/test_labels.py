"""Labels: names in every spelling, class names of files, ids, flags and lists; what the splits do not share."""

import json
import time

import datasets
import pandas
import pyarrow
import pyarrow.parquet
import pytest

from bench.config.cards import DatasetCard
from bench.data import dataset, label_names
from bench.errors import DataError
from tests.helpers.cases import together

NEG_POS = ("neg", "pos")


@pytest.fixture
def card(tmp_path):
    """card("jsonl", labels=...) -> a card on the files train and test in tmp_path."""

    def make(kind="jsonl", **changes):
        source = {"kind": kind, "folder": str(tmp_path)}
        if kind != "saved":
            source["files"] = {name: f"{name}.{kind}" for name in ("train", "test")}
        content = {"task": "text_classification", "licence": "none", "source": source}
        return DatasetCard.model_validate({**content, "splits": {"train": "train", "test": "test"}, **changes})

    return make


@pytest.fixture
def lines(write):
    """lines(train, test): write the labels as JSON lines, each with a text of its own."""

    def write_both(train, test):
        for name, values in (("train", train), ("test", test)):
            rows = ({"text": f"{name} {number}", "label": value} for number, value in enumerate(values))
            write(f"{name}.jsonl", "\n".join(map(json.dumps, rows)))

    return write_both


@pytest.fixture
def classes(tmp_path):
    """classes(name, ids, names): write a Parquet file whose metadata name the class ids; without names, plain ids."""

    def write_file(name, ids, names):
        columns = {"text": [f"{name} {number}" for number in range(len(ids))], "label": ids}
        path = tmp_path / f"{name}.parquet"
        if names is None:
            pyarrow.parquet.write_table(pyarrow.table(columns), path)
        else:
            table_of(columns, names).to_parquet(path)

    return write_file


def table_of(columns, names):
    """A table of `datasets` with class labels, or with lists of these."""
    label = datasets.ClassLabel(names=list(names))
    label = datasets.Sequence(label) if isinstance(columns["label"][0], list) else label
    features = datasets.Features({"text": datasets.Value("string"), "label": label})
    return datasets.Dataset.from_dict(columns, features=features)


def load(card, limit=None):
    return dataset.load(card, limit or {}, {"train", "test"})


def labels_in(corpus):
    """The names of the labels of the training rows, and of the test rows."""
    return tuple(
        [
            [name for name, on in zip(corpus.labels, row["label"], strict=True) if on]
            if isinstance(row["label"], list)
            else corpus.labels[row["label"]]
            for row in corpus.splits[name].rows
        ]
        for name in ("train", "test")
    )


def refused(card):
    with pytest.raises(DataError) as caught:
        load(card)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def codes(corpus):
    return [warning.code for warning in corpus.warnings]


# ---------------------------------------------------------------- spellings

SPELLINGS = [
    (["1.0", "0.0"], [1, 0], ["1", "0"], ["1", "0"]),
    ([1.0, 0.0], ["0", "1"], ["1", "0"], ["0", "1"]),
    ([" neg", "pos"], ["neg", "pos"], ["neg", "pos"], ["neg", "pos"]),
    (["neg\u00a0", "\ufeffpos"], ["neg", "pos"], ["neg", "pos"], ["neg", "pos"]),
    (["Neg", "Pos"], ["neg", "pos"], ["neg", "pos"], ["neg", "pos"]),
    (["za\u017c\u00f3\u0142\u0107", "b"], ["zaz\u0307o\u0301\u0142c\u0301", "b"], ["zażółć", "b"], ["zażółć", "b"]),
    (["very  good", "bad"], ["very good", "bad"], ["very good", "bad"], ["very good", "bad"]),
    (["\uff4e\uff45\uff47", "pos"], ["neg", "pos"], ["neg", "pos"], ["neg", "pos"]),
    (["+1", "2"], [1, 2], ["1", "2"], ["1", "2"]),
    (["1.", "2.00"], ["1", "2"], ["1", "2"], ["1", "2"]),
]


@together("train, test, expected_train, expected_test", SPELLINGS)
def test_spellings_of_a_label_are_one_with_a_note(card, lines, train, test, expected_train, expected_test):
    lines(train, test)
    corpus = load(card())
    names = [[label_names.key_of(name) for name in found] for found in labels_in(corpus)]
    assert names == [expected_train, expected_test]
    assert len(corpus.labels) == 2
    assert any("in another spelling are read" in note for note in corpus.notes)
    assert corpus.warnings == ()


def test_spellings_are_counted(card, lines):
    lines([" neg", " neg", "pos", 1], ["neg", "pos", "1.0"])
    assert [note for note in load(card()).notes if "spelling" in note] == [
        "train: labels in another spelling are read: ' neg' as 'neg' (2)",
        "test: labels in another spelling are read: '1.0' as '1' (1)",
    ]


@together(
    "train, test",
    [
        ([True, False], [1, 0]),
        (["True", "False"], ["1", "0"]),
        (["true", "false"], [1.0, 0.0]),
        ([1, 0], [True, False]),
    ],
)
def test_true_and_one_are_one_label(card, lines, train, test):
    lines(train, test)
    corpus = load(card())
    assert corpus.labels == ("false", "true")
    assert labels_in(corpus) == (["true", "false"], ["true", "false"])
    assert "'label' holds true and false, and 0 and 1: read as the same two labels" in corpus.notes


@together("labels", [("true", "false"), ("1", "0"), ("0", "1"), ("false", "true")])
def test_listed_true_and_one_are_one_label(card, lines, labels):
    lines([True, False, "1"], [1, 0, "TRUE"])
    true, false = (next(name for name in labels if name in pair) for pair in (("1", "true"), ("0", "false")))
    assert labels_in(load(card(labels=labels))) == ([true, false, true], [true, false, true])


def test_codes_that_begin_with_zero_are_no_numbers(card, lines):
    lines(["01", "1"], ["01", "1"])
    assert load(card()).labels == ("01", "1")


@together("names", [("Co", "CO"), ("a", "a ")])
def test_listed_labels_that_differ_by_little_stay_two(card, lines, names):
    lines(list(names), list(names))
    assert labels_in(load(card(labels=names))) == (list(names), list(names))


def test_cases_mixed_in_one_split_are_one_label_with_a_warning(card, lines):
    lines(["us", "US", "uk"], ["us", "uk"])
    corpus = load(card())
    assert (corpus.labels, codes(corpus)) == (("uk", "us"), ["label_spellings"])
    assert "'US', 'us' in 'train' are read as one label" in corpus.warnings[0].sentence


@together("train", [["NEG", "Pos"], [0, 1], [0.0, 1.0], ["0", "1.0"], [False, True], [" neg ", "pos\t"]])
def test_listed_labels_are_found_in_every_spelling(card, lines, train):
    lines(train, ["neg", "pos"])
    assert labels_in(load(card(labels=NEG_POS))) == (["neg", "pos"], ["neg", "pos"])


def test_words_for_true_and_false_in_the_other_order(card, lines):
    lines([True, False], [True, False])
    found = refused(card(labels=("yes", "no")))
    assert "True could be read in two ways: of two labels true is the second, 'no', but it means 'yes'" in found
    assert labels_in(load(card(labels=("no", "yes"))))[0] == ["yes", "no"]
    lines([1, 0], [1, 0])
    corpus = load(card(labels=("yes", "no")))
    assert (labels_in(corpus)[0], codes(corpus)) == (["no", "yes"], ["label_order"])


# ---------------------------------------------------------------- labels that may be none


@together("word", ["nan", "NaN", "NA", "N/A", "null", "None", "none", "<NA>", "-", "?", "#N/A", " nan "])
def test_a_word_for_a_missing_value_is_warned_of(card, lines, word):
    lines(["neg", "pos", word, word], ["neg", "pos", word])
    corpus = load(card())
    assert codes(corpus) == ["missing_value_label"]
    assert "is a label of 3 rows" in corpus.warnings[0].sentence
    # Whoever lists it says that it is one.
    assert codes(load(card(labels=("neg", "pos", word)))) == []
    left = load(card(filters={"labels": NEG_POS}))
    assert (codes(left), left.labels) == ([], NEG_POS)


@together("value", [None, "", "  ", "\u200b", float("nan"), {"a": 1}, 0.5])
def test_what_can_be_no_label_is_refused_with_its_row(card, lines, value):
    lines(["neg", "pos", value], ["neg", "pos"])
    for labels in ((), NEG_POS):
        assert refused(card(labels=labels)).startswith("row train-000002 of the split 'train' has the unknown label")


def test_several_labels_in_one_text_are_warned_of(card, lines):
    lines(["a", "b", "a;b", "a, b"], ["a", "b", "a;b", "a, b"])
    corpus = load(card())
    assert codes(corpus) == ["label_list"]
    assert corpus.warnings[0].sentence.startswith("'a, b', 'a;b' (4 rows)")
    lines(["['a']", "['a', 'b']"], ["['a']"])
    assert "holds lists that are written as text, as" in refused(card())


def test_scores_are_warned_of(card, lines):
    lines(["0.5", "1.0", "2.5"], ["0.5", "1.0", "2.5"])
    assert codes(load(card())) == ["label_scores"]
    lines([0.5, 2.5], [1.5])
    said = "the column 'label' has 0 labels; expected 2 or more; 0.5 can't be one; did you mean task: regression?"
    assert refused(card()) == said


def test_names_of_rows_are_not_labels(card, lines):
    names = [f"row {number}" for number in range(20)]
    lines(names, names[:2])
    assert "the column 'label' has 20 different values in 22 rows, which are names of rows" in refused(card())
    assert load(card(labels=tuple(names))).labels == tuple(names)
    lines(names[:19], names[:19])
    assert len(load(card()).labels) == 19


@pytest.mark.parametrize(
    ("train", "expected"), [([-1, 1, 1], ("-1", "1")), (["-1", "+1"], ("-1", "1")), ([-1.0, 1.0], ("-1", "1"))]
)
def test_minus_one_and_one_are_two_labels(card, lines, train, expected):
    lines(train, [-1, 1])
    assert load(card()).labels == expected


@together("train, test", [([-1, 0, 1], [0, 1]), ([0, 1, 2, -1], [0, 1]), ([0, 1], [-1, -1]), (["a", "b"], [-1])])
def test_minus_one_among_others_is_refused_with_both_readings(card, lines, train, test):
    lines(train, test)
    found = refused(card())
    assert "-1 marks a hidden label, as in GLUE's test splits" in found
    assert "Where it is a label, list it in `labels`" in found


def test_rows_without_a_label_are_left_out_by_the_filter(card, lines):
    lines([-1, 0, 1, -1], [0, -1, 1])
    for listed in ((), ("-1", "0", "1")):
        corpus = load(card(labels=listed, filters={"labels": ("0", "1")}))
        assert labels_in(corpus) == (["0", "1"], ["0", "1"])
        assert corpus.splits["train"].dropped == {"labels": 2}


def test_ids_that_count_from_one(card, lines):
    lines([1, 2, 3], [1, 2, 3])
    assert "Ids go from 0 to 2; where the data count from 1, write names" in refused(card(labels=("a", "b", "c")))
    lines([1, 2, 1], [2, 1])
    corpus = load(card(labels=("a", "b", "c")))
    assert codes(corpus) == ["label_in_no_row"]
    assert corpus.warnings[0].sentence.endswith(
        "if the data count their ids from 1, every label is read as the next one"
    )


# ---------------------------------------------------------------- splits against one another


@together(
    "train, test, expected",
    [
        (["a", "b"], ["a", "b"], []),
        (["a", "b"], ["a", "b", "c"], ["label_not_in_training"]),
        (["a", "b", "c"], ["a", "b"], ["label_not_scored"]),
        (["a", "b"], ["b", "c"], ["label_not_in_training", "label_not_scored"]),
        (["a", "b"], ["A1", "B1"], ["labels_disjoint"]),
        (["neg", "pos"], [0, 1], ["labels_disjoint"]),
        (["yes", "no"], [True, False], ["labels_disjoint"]),
        (["01", "02"], [1, 2], ["labels_disjoint"]),
    ],
)
def test_labels_that_the_splits_do_not_share(card, lines, train, test, expected):
    lines(train, test)
    assert codes(load(card())) == expected


def test_the_sentences_say_which_and_how_many(card, lines):
    lines(["a", "a", "b"], ["a", "c", "c"])
    new, unscored = (warning.sentence for warning in load(card()).warnings)
    assert new.startswith("the label 'c' is in 'test' (2 of 3 rows) and not in 'train'")
    assert unscored.startswith("the label 'b' is in 'train' (1 of 3 rows) and not in 'test'")
    lines(["a", "b"], ["c", "d"])
    (disjoint,) = load(card()).warnings
    assert disjoint.sentence.startswith(
        "'test' and 'train' have no label in common: 'c', 'd' there, 'a', 'b' in training"
    )


def test_a_listed_label_that_no_row_has(card, lines):
    lines(["neg", "pos"], ["neg", "pos"])
    corpus = load(card(labels=("neg", "neu", "pos")))
    assert codes(corpus) == ["label_in_no_row"]
    assert (
        "the label 'neu' is among those of the data set, and in no row of 'train', 'test'"
        in corpus.warnings[0].sentence
    )


def test_what_a_limit_leaves_out_is_noted_only(card, lines):
    lines(["a"] * 20 + ["b"] * 20 + ["c"], ["a", "b", "c"])
    corpus = load(card(), {"train": 4})
    assert corpus.warnings == ()
    assert any(note.startswith("by `limit`, the label 'c' is in 'test' (1 of 3 rows)") for note in corpus.notes)


def test_what_leakage_takes_from_training_is_warned_of(card, write):
    rows = [{"text": f"text {number}", "label": "abc"[number % 3]} for number in range(6)]
    write("train.jsonl", "\n".join(map(json.dumps, rows)))
    write("test.jsonl", "\n".join(json.dumps(row) for row in [rows[2], rows[5], {"text": "other", "label": "a"}]))
    corpus = load(card(leakage="drop"))
    assert codes(corpus) == ["label_not_in_training", "label_not_scored"]


def test_several_labels_are_compared_too(card, lines):
    lines([["a"], ["a", "b"]], [["a"], ["b", "c"]])
    assert codes(load(card(multi_label=True))) == ["label_not_in_training"]


# ---------------------------------------------------------------- class names of files


@pytest.mark.parametrize("kind", ["parquet", "saved"])
@pytest.mark.parametrize("listed", [(), NEG_POS, ("pos", "neg"), ("Pos", "NEG")])
def test_class_names_are_compared_per_file(card, classes, tmp_path, kind, listed):
    if kind == "parquet":
        classes("train", [0, 1, 1], NEG_POS)
        classes("test", [0, 1], ("pos", "neg"))
    else:
        tables = {
            "train": table_of({"text": ["a", "b", "c"], "label": [0, 1, 1]}, NEG_POS),
            "test": table_of({"text": ["d", "e"], "label": [0, 1]}, ("pos", "neg")),
        }
        saved = datasets.DatasetDict(tables)
        # A format hides columns, and turns values into NumPy's.
        saved.set_format("numpy", columns=["label"])
        saved.save_to_disk(tmp_path)
    corpus = load(card(kind, labels=listed))
    assert corpus.labels == (listed or NEG_POS)
    names = [[name.lower() for name in found] for found in labels_in(corpus)]
    assert names == [["neg", "pos", "pos"], ["pos", "neg"]]
    assert any("read by their names" in note for note in corpus.notes)


def test_class_names_are_the_labels_in_their_order(card, classes):
    classes("train", [0, 1, 2], ("sports", "business", "arts"))
    classes("test", [2, 1, 0], ("sports", "business", "arts"))
    corpus = load(card("parquet"))
    assert corpus.labels == ("sports", "business", "arts")
    assert labels_in(corpus)[1] == ["arts", "business", "sports"]
    assert corpus.notes == corpus.warnings == ()


def test_class_names_that_are_numbers_are_names(card, classes):
    classes("train", [0, 4, 2], ("1", "2", "3", "4", "5"))
    classes("test", [0, 4, 2], ("1", "2", "3", "4", "5"))
    for listed in ((), ("1", "3", "5")):
        assert labels_in(load(card("parquet", labels=listed)))[0] == ["1", "5", "3"]


@together("names", [("0", "1"), ("LABEL_0", "LABEL_1")])
def test_class_names_that_say_nothing_are_ids(card, classes, names):
    classes("train", [0, 1], names)
    classes("test", [1, 0], names)
    assert labels_in(load(card("parquet", labels=("pos", "neg")))) == (["pos", "neg"], ["neg", "pos"])


def test_class_names_in_lists(card, classes):
    classes("train", [[0, 1], [1], [0]], ("joy", "fear"))
    classes("test", [[0], [1]], ("fear", "joy"))
    corpus = load(card("parquet", multi_label=True, labels=("fear", "joy")))
    assert labels_in(corpus) == ([["fear", "joy"], ["fear"], ["joy"]], [["fear"], ["joy"]])


def test_class_names_of_shards(card, classes, tmp_path):
    classes("train-00000-of-00002", [0, 1], NEG_POS)
    classes("train-00001-of-00002", [0, 1], ("pos", "neg"))
    classes("test", [0, 1], NEG_POS)
    source = {"kind": "parquet", "folder": str(tmp_path), "files": {"train": "train-*.parquet", "test": "test.parquet"}}
    corpus = load(card(source=source))
    assert labels_in(corpus)[0] == ["neg", "pos", "pos", "neg"]
    assert "train: read from 2 files: train-00000-of-00002.parquet (2 rows), train-00001-of-00002.parquet (2 rows)" in (
        corpus.notes
    )


def test_other_words_in_the_card_are_matched_by_position(card, classes):
    for name in ("train", "test"):
        classes(name, [0, 1], NEG_POS)
    abbreviated = load(card("parquet", labels=("negative", "positive")))
    assert labels_in(abbreviated)[0] == ["negative", "positive"]
    assert any("matched by position" in note for note in abbreviated.notes)
    assert codes(abbreviated) == []
    assert codes(load(card("parquet", labels=("bad", "good")))) == ["labels_by_position"]
    assert "by position, 'neg' would be 'positive', by the names it would not" in (
        refused(card("parquet", labels=("positive", "negative")))
    )


@together(
    "names, labels", [(("yes", "no"), ("false", "true")), (("n", "y"), ("true", "false")), (("off", "on"), ("Y", "N"))]
)
def test_words_for_true_and_false_in_class_names(card, classes, names, labels):
    for name in ("train", "test"):
        classes(name, [0, 1], names)
    assert "by the names it would not" in refused(card("parquet", labels=labels))
    assert labels_in(load(card("parquet", labels=labels[::-1])))[0] == list(labels[::-1])


def test_other_words_with_class_names_in_two_orders_are_refused(card, classes):
    classes("train", [0, 1], NEG_POS)
    classes("test", [0, 1], ("pos", "neg"))
    found = refused(card("parquet", labels=("bad", "good")))
    assert "are in different orders ('train.parquet': 'neg', 'pos'; 'test.parquet': 'pos', 'neg')" in found


def test_a_file_without_class_names_beside_one_with(card, classes):
    classes("train", [0, 1, 1], ("pos", "neg"))
    classes("test", [0, 1], None)
    corpus = load(card("parquet"))
    assert labels_in(corpus) == (["pos", "neg", "neg"], ["pos", "neg"])
    assert "'test.parquet': ids in 'label' are read by the class names of the other files, 'pos', 'neg'" in corpus.notes
    assert labels_in(load(card("parquet", labels=("pos", "neg"))))[1] == ["pos", "neg"]
    assert "by the class names of the other files, 0 is 'pos', by the card's labels it is 'neg'" in (
        refused(card("parquet", labels=NEG_POS))
    )


def test_more_class_names_than_labels(card, classes):
    classes("train", [0, 1], ("neg", "pos", "neu"))
    classes("test", [2, 1], ("neg", "pos", "neu"))
    assert "has the unknown label 'neu'" in refused(card("parquet", labels=NEG_POS))
    classes("test", [1, 0], ("pos", "neg"))
    assert labels_in(load(card("parquet", labels=NEG_POS)))[1] == ["neg", "pos"]


def test_class_names_that_differ_by_case_alone(card, classes):
    for name in ("train", "test"):
        classes(name, [0, 1], ("Co", "CO"))
    assert "the class names 'Co', 'CO' of 'label' could be read as one label or as several" in refused(card("parquet"))
    corpus = load(card("parquet", labels=("CO", "Co")))
    assert labels_in(corpus)[0] == ["Co", "CO"]
    classes("train", [1, 0], ("CO", "Co"))
    same = load(card("parquet", labels=("CO", "Co")))
    assert labels_in(same) == (["Co", "CO"], ["Co", "CO"])


def test_hidden_class_ids_stay_hidden(card, classes):
    classes("train", [0, 1], NEG_POS)
    classes("test", [-1, -1], NEG_POS)
    assert "-1 marks a hidden label" in refused(card("parquet"))


def test_class_names_of_flags(card, tmp_path):
    features = {"text": datasets.Value("string"), "joy": datasets.ClassLabel(names=["yes", "no"])}
    for name in ("train", "test"):
        rows = {"text": [f"{name} a", f"{name} b"], "joy": [0, 1]}
        datasets.Dataset.from_dict(rows, features=datasets.Features(features)).to_parquet(tmp_path / f"{name}.parquet")
    flags = card("parquet", labels=("joy",), multi_label=True, columns={"label_flags": True})
    assert labels_in(load(flags))[0] == [["joy"], []]


def test_categories_of_pandas(card, tmp_path):
    for name in ("train", "test"):
        frame = pandas.DataFrame({"text": [f"{name} a", f"{name} b"], "label": pandas.Categorical(["pos", "neg"])})
        frame.to_parquet(tmp_path / f"{name}.parquet")
    assert labels_in(load(card("parquet")))[0] == ["pos", "neg"]


# ---------------------------------------------------------------- lists: names, ids or flags

ABC = ("a", "b", "c")


@together(
    "rows",
    [
        [[1, 0, 0], [0, 1, 1], [0, 0, 0]],
        [[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0, 0, 0]],
        [[True, False, False], [False, True, True], [False] * 3],
        [["1", "0", "0"], ["0", "1", "1"], ["0", "0", "0"]],
    ],
)
def test_lists_as_long_as_the_listed_labels_are_flags(card, lines, rows):
    lines(rows, rows)
    assert labels_in(load(card(labels=ABC, multi_label=True)))[0] == [["a"], ["b", "c"], []]


def test_flags_from_parquet(card, tmp_path):
    for name in ("train", "test"):
        frame = pandas.DataFrame(
            {"text": [f"{name} {i}" for i in range(3)], "label": [[1, 0, 0], [0, 1, 1], [0, 0, 0]]}
        )
        frame.to_parquet(tmp_path / f"{name}.parquet")
    assert labels_in(load(card("parquet", labels=ABC, multi_label=True)))[0] == [["a"], ["b", "c"], []]


@together("names, rows", [(("a", "b"), [[1, 0], [0, 1]]), (("toxic",), [[0], [1]])])
def test_flags_of_one_or_two_labels(card, lines, names, rows):
    lines(rows, rows)
    expected = [[name for name, on in zip(names, row, strict=True) if on] for row in rows]
    assert labels_in(load(card(labels=names, multi_label=True)))[0] == expected


@together("rows", [[["a", "c"], ["b"], []], [[0, 2], [1], []], [["0", "2.0"], [1], []], [[2, 0], [1.0], []]])
def test_lists_of_names_and_of_ids(card, lines, rows):
    lines(rows, rows)
    assert labels_in(load(card(labels=ABC, multi_label=True)))[0] == [["a", "c"], ["b"], []]


def test_ids_in_lists_as_long_as_the_labels(card, lines):
    lines([[0, 1, 2], [2, 1, 0]], [[1, 2, 0]])
    assert labels_in(load(card(labels=ABC, multi_label=True)))[0] == [["a", "b", "c"], ["a", "b", "c"]]


@together(
    "rows",
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[1, 0], [0, 1]],
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
        [[True, False], [False, True]],
        [["1", "0", "0"], ["0", "1", "0"]],
        [[0], [1]],
        [[0, 0, 1, 0], [0, 1]],
        [[0, 3, 3], [1, 1, 0]],
    ],
)
def test_numbers_in_lists_without_listed_labels_are_refused_with_both_readings(card, lines, rows):
    lines(rows, rows)
    assert "could be read in two ways: as" in refused(card(multi_label=True))


@together(
    "names, rows",
    [
        (("a", "b"), [[0, 1], [0, 1]]),
        (("0", "1"), [[0, 1], [1, 0]]),
        (("0", "1", "2"), [[0, 1, 0], [1, 0, 0]]),
        (("toxic",), [[0], [0]]),
    ],
)
def test_lists_with_two_readings_are_refused(card, lines, names, rows):
    lines(rows, rows)
    assert f"could be read in two ways: as flags of {len(names)} labels, or as the labels '0'" in (
        refused(card(labels=names, multi_label=True))
    )


@together("flags", [[[1, 0], [0, 1]], [[1, 0], [1, 0]], [[0, 1]], [[1, 1], [0, 0]]])
def test_flags_in_one_split_and_names_in_another_are_refused(card, lines, flags):
    for train, test in ((flags, [["a"], ["b"]]), ([["a"], ["b", "a"]], flags)):
        lines(train, test)
        assert "in one split they are numbers, ids or a flag for each of 2 labels, in another one names, as 'a'" in (
            refused(card(labels=("a", "b"), multi_label=True))
        )


def test_ids_in_one_split_and_names_in_another(card, lines):
    lines([[0, 1], [1], []], [["a"], ["b"]])
    assert labels_in(load(card(labels=("a", "b"), multi_label=True)))[0] == [["a", "b"], ["b"], []]
    lines([[0, 1], [1], []], [[0, 1]])
    assert labels_in(load(card(labels=("a", "b"), multi_label=True)))[1] == [["a", "b"]]


@together(
    "rows, message",
    [
        ([[1, 0, 0], []], "[1, 0, 0] looks like one flag per label, for it has an item twice"),
        ([[1, 0, 0], [0, 1]], "[1, 0, 0] looks like one flag per label"),
        ([[0.5, 0.5, 0.0], [0, 1, 0]], "expected 3 flags, one per label, got [0.5, 0.5, 0.0]"),
        ([[True, False]], "the lists of true and false in 'label' have 2 items, but the card lists 3 labels"),
        (["0;1"], "expected a list of labels, got '0;1'"),
        (["[0, 1]"], "expected a list of labels, got '[0, 1]'"),
        ([[-1, -1, -1]], "-1 marks a hidden label"),
    ],
)
def test_lists_that_fit_no_reading(card, lines, rows, message):
    lines(rows, rows)
    assert message in refused(card(labels=ABC, multi_label=True))


def test_one_label_in_a_list_needs_the_key(card, lines):
    lines([["a"], ["b"]], [["a"]])
    assert "For lists of labels set multi_label: true" in refused(card())
    assert labels_in(load(card(multi_label=True)))[0] == [["a"], ["b"]]


def test_flags_of_floats(card, write):
    for name in ("train", "test"):
        write(f"{name}.csv", f"text,joy\n{name} a,1.0\n{name} b,0.0\n")
    flags = card("csv", labels=("joy",), multi_label=True, columns={"label_flags": True})
    assert labels_in(load(flags))[0] == [["joy"], []]


# ---------------------------------------------------------------- the filter narrows the labels


@pytest.mark.parametrize("listed", [(), ("neg", "neu", "pos")])
def test_the_filter_narrows_the_labels(card, lines, listed):
    lines(["neg", "neu", "pos", "pos"], ["pos", "neu", "neg"])
    corpus = load(card(labels=listed, filters={"labels": ("pos", "neg")}))
    assert corpus.labels == NEG_POS
    assert labels_in(corpus) == (["neg", "pos", "pos"], ["pos", "neg"])
    assert {row["label"] for row in corpus.splits["train"].rows} == {0, 1}
    assert corpus.splits["test"].dropped == {"labels": 1}


def test_the_filter_narrows_several_labels(card, lines):
    lines([["a", "c"], ["b"], ["c"], ["a", "b"]], [["a"], ["b", "c"]])
    corpus = load(card(labels=ABC, multi_label=True, filters={"labels": ("a", "b")}))
    assert corpus.labels == ("a", "b")
    assert labels_in(corpus) == ([["a"], ["b"], ["a", "b"]], [["a"], ["b"]])


def test_the_filter_names_labels_in_any_spelling(card, lines):
    lines([0.0, 1.0, 2.0], [0, 1, 2])
    assert load(card(filters={"labels": ("0", "2.0")})).labels == ("0", "2")
    assert "leaves one label" in refused(card(filters={"labels": ("2", "2.0")}))


def test_a_filter_to_one_label_leaves_nothing_to_classify(card):
    for several in (False, True):
        with pytest.raises(ValueError, match="only rows of 'neg' would be left, so that there is nothing to classify"):
            card(labels=("neg", "neu", "pos"), multi_label=several, filters={"labels": ("neg",)})


def test_two_labels_of_which_one_is_left_out_may_have_the_same_answer(card):
    prompt = {"template": "{text}", "answers": {"neu": "bad", "neg": "bad"}}
    kept = card(labels=("neg", "neu", "pos"), filters={"labels": ("neg", "pos")}, prompt=prompt)
    assert kept.kept_labels == NEG_POS
    with pytest.raises(ValueError, match="two labels have the same answer, 'bad'"):
        card(labels=("neg", "neu", "pos"), prompt=prompt)


def test_answers_are_held_against_the_labels_that_are_found(card, lines):
    lines(["neg", "pos"], ["neg", "pos"])
    wrong = card(prompt={"template": "{text}", "answers": {"positiv": "good"}})
    assert refused(wrong) == "prompt.answers has 'positiv', which is not a label of the data. Did you mean 'pos'?"
    twice = card(prompt={"template": "{text}", "answers": {"neg": "pos"}})
    assert refused(twice) == "prompt.answers: two labels of the data have the same answer, 'pos'"


def test_thousands_of_labels_take_time_in_proportion(card, lines):
    number = 4000
    names = tuple(f"label {place}" for place in range(number))
    lines(names, names[::-1])
    answers = {name: f"word {name}" for name in names}
    corpus = load(card(labels=names, filters={"labels": names[1:]}, prompt={"template": "{text}", "answers": answers}))
    assert len(corpus.labels) == number - 1
    assert corpus.splits["test"].rows[0]["label"] == number - 2


def test_a_card_of_many_labels_is_checked_in_proportion():
    names = tuple(f"label {place}" for place in range(20_000))
    content = {"task": "text_classification", "licence": "none", "splits": {"train": "train"}, "labels": names}
    content |= {"source": {"kind": "builtin", "id": "reviews"}, "filters": {"labels": names[::-1]}}
    content["prompt"] = {"template": "{text}", "answers": {name: f"word {name}" for name in names}}
    start = time.process_time()
    assert DatasetCard.model_validate(content).kept_labels == names
    # Looking through all labels for each of them takes many times as long.
    assert time.process_time() - start < 2
