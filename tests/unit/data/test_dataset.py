"""Data: every kind of file and label, what is refused and with which row, and that nothing is dropped uncounted."""

import json
from collections import Counter

import datasets
import pytest

from bench.config import resolve
from bench.config.cards import DatasetCard
from bench.data import dataset
from bench.errors import DataError
from bench.runner import comparability
from tests.helpers.cases import together

WORDS = ["film", "plot", "cast", "score", "pace", "set", "end", "cut", "role", "song"]


def sentences(count, start=0):
    """Different sentences, good and bad in turn."""
    return [
        {"id": f"r{n}", "text": f"{WORDS[n % 10]} number {n} is {'good' if n % 2 else 'bad'}", "label": n % 2}
        for n in range(start, start + count)
    ]


def json_lines(rows):
    return "\n".join(json.dumps(row) for row in rows) + "\n"


@pytest.fixture
def card(tmp_path):
    """card(source={...}, ...) -> a DatasetCard on tmp_path with the columns id, text and label."""

    def make(kind="jsonl", **changes):
        content = {
            "task": "text_classification",
            "licence": "none",
            "labels": ("bad", "good"),
            "columns": {"id": "id"},
            "splits": {"train": "all"},
            "source": {"kind": kind, "folder": str(tmp_path)},
        }
        if kind != "saved":
            content["source"]["files"] = {"all": f"all.{kind}"}
        return DatasetCard.model_validate({**content, **changes})

    return make


def load(card, limit=None, needed=None):
    return dataset.load(card, limit or {}, needed or {*card.split_names})


def rows_of(card, **options):
    """(id, text, pair, label) of the training rows."""
    return [tuple(row.values()) for row in load(card, **options).splits["train"].rows]


def refused(card, **options):
    with pytest.raises(DataError) as caught:
        load(card, **options)
    return str(caught.value)


# Files


def test_json_lines(card, write):
    write("all.jsonl", b"\xef\xbb\xbf" + json_lines([{"id": 7, "text": "Zażółć", "label": 1}]).encode() + b"\r\n \n"
          + '{"id": "x", "text": "a\\nb \u2028 c", "label": "bad", "more": 3}'.encode())  # fmt: skip
    assert rows_of(card()) == [("7", "Zażółć", None, 1), ("x", "a\nb \u2028 c", None, 0)]


def test_csv_with_quotes_and_line_breaks(card, write):
    write("all.csv", b'\xef\xbb\xbfid,text,label\r\n1,"a\nb ""q"", c",good\r\n2,plain,0\r\n\r\n')
    assert rows_of(card("csv")) == [("1", 'a\nb "q", c', None, 1), ("2", "plain", None, 0)]


def test_tsv_has_no_quoting(card, write):
    write("all.tsv", 'id\ttext\tlabel\n1\t"open quote, and so on\tgood\r\n2\t\'s "fine"\tbad\n')
    assert rows_of(card("tsv")) == [("1", '"open quote, and so on', None, 1), ("2", '\'s "fine"', None, 0)]


def test_parquet(card, tmp_path):
    table = {"id": [1, 2], "text": ["NA", "2020-01-01"], "label": [0, 1]}
    datasets.Dataset.from_dict(table).to_parquet(tmp_path / "all.parquet")
    assert rows_of(card("parquet")) == [("1", "NA", None, 0), ("2", "2020-01-01", None, 1)]


def test_a_saved_data_set_with_splits_and_without(card, tmp_path):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["x", "y"])})
    one = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    one.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"all": one}).save_to_disk(tmp_path / "dict")
    expected = [("train-000000", "a", None, 1), ("train-000001", "b", None, 0)]
    saved = {"kind": "saved", "folder": str(tmp_path / "one")}
    assert rows_of(card("saved", source=saved, splits={"train": "train"}, columns={})) == expected
    saved["folder"] = str(tmp_path / "dict")
    found = rows_of(card("saved", source=saved, columns={}))
    assert found == [("all-" + row[0][6:], *row[1:]) for row in expected]


def test_built_in(card):
    source = {"kind": "builtin", "id": "reviews", "sizes": {"train": 20, "test": 10}}
    splits = {"train": "train", "test": "test"}
    corpus = load(card("builtin", source=source, splits=splits, labels=("negative", "positive")))
    assert [len(split.rows) for split in corpus.splits.values()] == [20, 10]
    assert set(corpus.splits["train"].labels(corpus.labels)) == {"negative", "positive"}


@together("text", ["NA", "null", "None", "nan", "NaN", "N/A", "n/a", "-", "#N/A", "true", "007", "1e5", "1.0"])
@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_words_and_numbers_in_text_files_stay_as_written(card, write, kind, text):
    separator = "," if kind == "csv" else "\t"
    lines = [("id", "text", "label"), ("1", text, "bad"), ("2", text + text, "good")]
    write(f"all.{kind}", "\n".join(separator.join(line) for line in lines))
    assert [row[1] for row in rows_of(card(kind))] == [text, text + text]


def test_texts_that_look_like_dates_stay_texts_in_json_lines(card, write):
    write(
        "all.jsonl",
        json_lines([{"id": 1, "text": "2020-01-01", "label": 0}, {"id": 2, "text": "2021-01-01", "label": 1}]),
    )
    assert [row[1] for row in rows_of(card())] == ["2020-01-01", "2021-01-01"]


def test_a_field_longer_than_csv_allows_by_itself(card, write):
    write("all.csv", f"id,text,label\n1,{'x' * 200_000},bad\n")
    assert len(rows_of(card("csv"))[0][1]) == 200_000


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("jsonl", '{"id": 1, "text": "a", "label": 0}\n{"id": 2, "text": "b\n', "all.jsonl:2: not valid JSON"),
        ("jsonl", '[{"id": 1}]', "all.jsonl:1: expected a JSON object, got [{"),
        ("jsonl", "[" * 100_000, "all.jsonl:1: not valid JSON"),
        ("jsonl", b'{"id": 1, "text": "\xff"}', "all.jsonl: not UTF-8 text"),
        ("jsonl", "", "the split 'all' is empty: the source holds no rows for it"),
        ("csv", "", "the split 'all' is empty"),
        ("csv", "id,text,label\n", "the split 'all' is empty"),
        ("csv", "id,text,label\n1,a,b,bad\n", "all.csv:2: 4 fields, but the header names 3 columns"),
        ("csv", "id,text,label\n1,a,bad\n2,b\n", "all.csv:3: 2 fields, but the header names 3 columns"),
        ("csv", 'id,text,label\n1,"a" b,bad\n', "all.csv:2: not valid CSV"),
        ("csv", 'id,text,label\n1,"a,bad\n', "not valid CSV: unexpected end of data"),
        ("csv", "id,text,text\n1,a,b\n", "all.csv:1: duplicate column in the header: id, text, text"),
        ("tsv", "id\ttext\tlabel\n1\ta\n", "all.tsv:2: 2 fields, but the header names 3 columns"),
        ("parquet", b"PAR1 but not really", "can't be read"),
    ],
)
def test_files_that_cannot_be_read(card, write, kind, content, message):
    write(f"all.{kind}", content)
    found = refused(card(kind))
    assert message in found
    assert "\n" not in found


def test_missing_folder_file_and_split(card, tmp_path, write):
    assert "the data file 'all.jsonl' is missing in" in refused(card())
    away = card(source={"kind": "jsonl", "folder": "/no/such", "files": {"all": "a.jsonl"}})
    assert "the data folder '/no/such' does not exist; put the files there, or name another with" in refused(away)
    saved = card("saved", source={"kind": "saved", "folder": str(tmp_path)})
    assert "can't be read" in refused(saved)
    builtin = card("builtin", source={"kind": "builtin", "id": "reviews"}, splits={"train": "tran"})
    assert refused(builtin) == "the source has no split 'tran'. Did you mean 'train'?"
    unknown = card("builtin", source={"kind": "builtin", "id": "reviws"})
    assert "Did you mean 'reviews'?" in refused(unknown)


def test_a_link_in_the_folder_may_lead_elsewhere(card, write, tmp_path):
    real = write("store/blob", json_lines(sentences(4)))
    (tmp_path / "all.jsonl").symlink_to(real)
    assert len(rows_of(card())) == 4


# Columns, ids, texts


def test_texts_that_are_words_for_a_missing_value_are_noted(card, write):
    rows = [*sentences(3), {"id": "m", "text": "nan", "label": 0}, {"id": "n", "text": "None", "label": 1}]
    write("all.jsonl", json_lines(rows))
    assert load(card()).notes == ("all: 2 texts are a word for a missing value, as 'nan' and 'None'",)


def test_missing_column(card, write):
    write("all.jsonl", json_lines([{"id": 1, "txt": "a", "label": 0}]))
    assert refused(card()) == "the split 'all' has no column 'text'. Did you mean 'txt'?"


def test_a_later_row_without_the_column(card, write):
    write("all.jsonl", json_lines([*sentences(2), {"id": "r2", "text": "x", "lable": 0}]))
    assert refused(card()) == "row r2 of the split 'all' has no 'label'. Did you mean 'lable'?"


def test_ids_given_or_numbered(card, write):
    write("all.jsonl", json_lines(sentences(2)))
    assert [row[0] for row in rows_of(card())] == ["r0", "r1"]
    assert [row[0] for row in rows_of(card(columns={}))] == ["all-000000", "all-000001"]


@pytest.mark.parametrize("wrong", [None, "", float("nan")])
def test_no_id(card, write, wrong):
    write("all.jsonl", json_lines([*sentences(1), {"id": wrong, "text": "x", "label": 0}]))
    assert refused(card()) == "row 2 of the split 'all' has no value in the id column 'id'"


@pytest.mark.parametrize("twin", ["r0", 5])
def test_duplicate_ids(card, write, twin):
    rows = [*sentences(1), {"id": twin, "text": "x", "label": 0}, {"id": str(twin), "text": "y", "label": 0}]
    write("all.jsonl", json_lines(rows))
    assert refused(card()) == f"duplicate id '{twin}' in the split 'all'"


@pytest.mark.parametrize("empty", ["", "  \n\t", None, "\u00a0", "\u200b\ufeff"])
def test_empty_texts_are_refused_or_dropped_and_counted(card, write, empty):
    write("all.jsonl", json_lines([*sentences(3), {"id": "e", "text": empty, "label": 0}]))
    assert (
        refused(card())
        == "row e of the split 'all' has an empty text ('text'); remove the row, or set filters.drop_empty: true"
    )
    corpus = load(card(filters={"drop_empty": True}))
    assert [row["id"] for row in corpus.splits["train"].rows] == ["r0", "r1", "r2"]
    assert corpus.splits["train"].dropped == {"drop_empty": 1}
    assert corpus.notes == ("train: 1 rows left out (drop_empty)",)


def test_a_text_that_cleaning_empties(card, write):
    write("all.jsonl", json_lines([*sentences(2), {"id": "e", "text": "<br />", "label": 0}]))
    assert "row e of the split 'all' has an empty text" in refused(card(clean=("html_breaks", "whitespace")))


@pytest.mark.parametrize("value", [3, 1.5, True, ["a"], {"a": 1}])
def test_other_values_are_no_text(card, write, value):
    write("all.jsonl", json_lines([*sentences(2), {"id": "n", "text": value, "label": 0}]))
    assert f"row n of the split 'all': the column 'text': expected text, got {value!r}" in refused(card())


def test_two_texts(card, write):
    rows = [{"id": n, "text": f"premise {n % 2}", "second": f"guess {n}", "label": n % 2} for n in range(4)]
    write("all.jsonl", json_lines(rows))
    pairs = card(columns={"id": "id", "text_pair": "second"})
    assert rows_of(pairs)[1] == ("1", "premise 1", "guess 1", 1)
    # Two pairs with the same first text are no duplicates.
    assert (
        len(rows_of(pairs.model_copy(update={"filters": pairs.filters.model_copy(update={"drop_duplicates": True})})))
        == 4
    )
    write("all.jsonl", json_lines([*rows, {"id": 4, "text": "a", "second": "", "label": 0}]))
    assert "row 4 of the split 'all' has an empty text ('second')" in refused(pairs)
    dropping = card(columns={"id": "id", "text_pair": "second"}, filters={"drop_empty": True})
    assert load(dropping).splits["train"].dropped == {"drop_empty": 1}


def test_clean_up_steps_in_order(card, write):
    write("all.jsonl", json_lines([{"id": 1, "text": " a<br />b  &amp; @you http://x.y ", "label": 0}, *sentences(1)]))
    steps = ("html_breaks", "handles", "urls", "whitespace")
    assert rows_of(card(clean=steps))[0][1] == "a b & @user http"


# Labels


@pytest.mark.parametrize(
    ("values", "names", "expected"),
    [
        ([0, 1, 1], ("bad", "good"), [0, 1, 1]),
        (["good", "bad", "good"], ("bad", "good"), [1, 0, 1]),
        ([True, False, True], ("bad", "good"), [1, 0, 1]),
        ([True, False], ("True", "False"), [0, 1]),
        (["1", "0"], ("bad", "good"), [1, 0]),
        (["TRUE", "false"], ("bad", "good"), [1, 0]),
        # Names that are numbers are names: five stars have the id 4.
        ([1, 5, 3], ("1", "2", "3", "4", "5"), [0, 4, 2]),
        (["1", "5"], ("1", "2", "3", "4", "5"), [0, 4]),
        ([-1, 1, 0], ("-1", "0", "1"), [0, 2, 1]),
        # Not listed: the names found, numbers by value.
        ([10, 2, 1], (), [2, 1, 0]),
        (["b", "a", "b"], (), [1, 0, 1]),
        ([True, False], (), [1, 0]),
    ],
)
def test_labels(card, write, values, names, expected):
    write("all.jsonl", json_lines({"id": n, "text": f"text {n}", "label": value} for n, value in enumerate(values)))
    assert [row[3] for row in rows_of(card(labels=names))] == expected


def test_found_labels_have_their_own_names(card, write):
    write("all.jsonl", json_lines({"id": n, "text": f"text {n}", "label": label} for n, label in enumerate([10, 2, 2])))
    corpus = load(card(labels=()))
    assert corpus.labels == ("2", "10")
    assert corpus.splits["train"].labels(corpus.labels) == {"2": 2, "10": 1}


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_labels_in_text_files(card, write, kind):
    separator = "," if kind == "csv" else "\t"
    lines = [("id", "text", "label"), ("1", "a", "1"), ("2", "b", "bad"), ("3", "c", "False")]
    write(f"all.{kind}", "\n".join(separator.join(line) for line in lines))
    assert [row[3] for row in rows_of(card(kind))] == [1, 0, 0]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (2, "has the unknown label 2. Known: bad, good."),
        (-1, "has the unknown label -1. -1 marks a hidden label, as in GLUE's test splits; score another"),
        ("goood", "has the unknown label 'goood'. Did you mean 'good'?"),
        ("", "has the unknown label ''. The label is missing; write it, or remove the row."),
        (None, "has the unknown label None. The label is missing; write it, or remove the row."),
        (1.5, "has the unknown label 1.5."),
        (["good"], "has the unknown label ['good']."),
        ("2", "has the unknown label '2'."),
    ],
)
def test_unknown_labels(card, write, value, message):
    write("all.jsonl", json_lines([*sentences(2), {"id": "u", "text": "x", "label": value}]))
    assert refused(card()).startswith(f"row u of the split 'all' {message}")


def test_where_names_are_numbers_a_number_is_a_name(card, write):
    write("all.jsonl", json_lines([{"id": 1, "text": "a", "label": 1}, {"id": 2, "text": "b", "label": 0}]))
    assert refused(card(labels=("1", "2", "3"))).startswith("row 2 of the split 'all' has the unknown label 0.")


def test_secret_labels_are_no_labels_of_their_own(card, write):
    write("all.jsonl", json_lines([*sentences(4), {"id": "u", "text": "x", "label": -1}]))
    assert "-1 marks a hidden label" in refused(card(labels=()))


def test_secret_labels_of_a_split_that_nobody_scores_do_no_harm(card, write, tmp_path):
    write("all.jsonl", json_lines(sentences(4)))
    write("rest.jsonl", json_lines([{"id": "u", "text": "x", "label": -1}]))
    source = {"kind": "jsonl", "folder": str(tmp_path), "files": {"all": "all.jsonl", "rest": "rest.jsonl"}}
    both = card(source=source, splits={"train": "all", "test": "rest"})
    assert set(load(both, needed={"train"}).splits) == {"train"}
    assert "hidden label" in refused(both)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a", "a"], "the column 'label' has 1 labels; expected 2 or more"),
        ([None, None], "has 0 labels"),
        ([1.5, 2.5], "has 0 labels"),
        ([f"text {n}" for n in range(1001)], "has 1001 different values, too many for labels; check columns.label"),
    ],
)
def test_labels_that_cannot_be_found(card, write, values, message):
    write("all.jsonl", json_lines({"id": n, "text": f"text {n}", "label": value} for n, value in enumerate(values)))
    assert message in refused(card(labels=()))


@pytest.mark.parametrize(
    "values", [[["joy", "fear"], [], ["fear"]], [[0, 1], [], [1]], [["fear", "joy", "joy"], [], [1]]]
)
def test_several_labels_as_lists(card, write, values):
    write("all.jsonl", json_lines({"id": n, "text": f"text {n}", "label": value} for n, value in enumerate(values)))
    several = card(labels=("joy", "fear", "trust"), multi_label=True)
    assert [row[3] for row in rows_of(several)] == [[1, 1, 0], [0, 0, 0], [0, 1, 0]]
    corpus = load(several)
    assert corpus.splits["train"].labels(corpus.labels) == {"joy": 1, "fear": 2, "trust": 0}


@pytest.mark.parametrize(
    ("kind", "on", "off"),
    [("jsonl", True, False), ("jsonl", 1, 0), ("csv", "true", "FALSE"), ("csv", "1", "0"), ("tsv", "True", "False")],
)
def test_several_labels_as_columns(card, write, kind, on, off):
    rows = [{"id": "1", "text": "a", "joy": on, "fear": off}, {"id": "2", "text": "b", "joy": off, "fear": off}]
    separator = "," if kind == "csv" else "\t"
    lines = separator.join(rows[0]), *(separator.join(map(str, row.values())) for row in rows)
    write(f"all.{kind}", json_lines(rows) if kind == "jsonl" else "\n".join(lines))
    flags = card(kind, labels=("joy", "fear"), multi_label=True, columns={"id": "id", "label_flags": True})
    assert [row[3] for row in rows_of(flags)] == [[1, 0], [0, 0]]


@pytest.mark.parametrize(("value", "flag"), [("yes", 1), ("No", 0), ("true", 1), (0, 0), (True, 1), ("1", 1)])
def test_words_for_a_flag(card, write, value, flag):
    write("all.jsonl", json_lines([{"id": 1, "text": "a", "joy": value, "fear": 0}]))
    flags = card(labels=("joy", "fear"), multi_label=True, columns={"id": "id", "label_flags": True})
    assert [row[3] for row in rows_of(flags)] == [[flag, 0]]


@pytest.mark.parametrize("value", ["maybe", "", None, 2, 0.5, []])
def test_columns_that_are_no_flags(card, write, value):
    write("all.jsonl", json_lines([{"id": 1, "text": "a", "joy": value, "fear": 0}]))
    flags = card(labels=("joy", "fear"), multi_label=True, columns={"id": "id", "label_flags": True})
    assert refused(flags).startswith(
        "row 1 of the split 'all': the column 'joy': expected true or false, 1 or 0, or yes or no, got"
    )


def test_a_missing_flag(card, write):
    write("all.jsonl", json_lines([{"id": 1, "text": "a", "joy": 1}]))
    flags = card(labels=("joy", "fear"), multi_label=True, columns={"id": "id", "label_flags": True})
    assert refused(flags) == "the split 'all' has no column 'fear'. Known: id, joy, text."


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("joy", "expected a list of labels, got 'joy'"),
        (["jy"], "Did you mean 'joy'"),
        ([0, 0, 1], "[0, 0, 1] looks like one flag per label, for it has an item twice; expected label names or ids"),
    ],
)
def test_several_labels_refused(card, write, value, message):
    write("all.jsonl", json_lines([{"id": 1, "text": "a", "label": value}]))
    assert message in refused(card(labels=("joy", "fear"), multi_label=True))


# Filters and leakage


def test_filters_are_counted(card, write):
    rows = [
        {"id": "short", "text": "one", "label": 0},
        {"id": "long", "text": "a b c d e f g", "label": 0},
        {"id": "other", "text": "of another label", "label": 2},
        {"id": "first", "text": "said twice", "label": 1},
        {"id": "twin", "text": " Said  TWICE", "label": 1},
        {"id": "empty", "text": " ", "label": 1},
    ]
    write("all.jsonl", json_lines(rows))
    filters = {"min_words": 2, "max_words": 6, "labels": ("bad", "good"), "drop_duplicates": True, "drop_empty": True}
    corpus = load(card(labels=("bad", "good", "mixed"), filters=filters))
    assert [row["id"] for row in corpus.splits["train"].rows] == ["first"]
    assert corpus.splits["train"].dropped == {
        "min_words": 1, "max_words": 1, "labels": 1, "drop_duplicates": 1, "drop_empty": 1,
    }  # fmt: skip
    assert len(corpus.notes) == 5


def test_filters_that_leave_nothing(card, write):
    write("all.jsonl", json_lines(sentences(3)))
    assert refused(card(filters={"min_words": 50})) == "the split 'all' is empty: left out 3 rows by min_words"
    unknown = card(labels=(), filters={"labels": ("0", "baad")})
    assert refused(unknown) == "filters.labels has 'baad', which is not a label of the data. Known: 0, 1."


@pytest.fixture
def leaking(card, write, tmp_path):
    """leaking(policy): five of the ten test texts, differently spelt, stand in train, and two in validation."""

    def make(policy, **changes):
        train, test = sentences(30), sentences(10, start=25)
        test = [{**row, "text": "\ufeff" + row["text"].upper().replace(" ", "\u200b  ")} for row in test]
        validation = [*sentences(4, start=100), *sentences(2, start=33)]
        for name, rows in (("train", train), ("validation", validation), ("test", test)):
            write(f"{name}.jsonl", json_lines(rows))
        files = {name: f"{name}.jsonl" for name in ("train", "validation", "test")}
        source = {"kind": "jsonl", "folder": str(tmp_path), "files": files}
        return card(source=source, splits={name: name for name in files}, leakage=policy, **changes)

    return make


def test_leakage_is_refused(leaking):
    found = refused(leaking("error"))
    assert found.startswith(
        "leakage: 2 texts of 'validation' also occur in another split (r33 = r33, r34 = r34); set leak"
    )
    assert refused(leaking("error"), needed={"train", "test"}).startswith(
        "leakage: 5 texts of 'train' also occur in another split (r25 = r25, r26 = r26, r27 = r27, ...);"
    )


def test_leakage_is_dropped_and_counted(leaking):
    corpus = load(leaking("drop"))
    counts = {name: (len(split.rows), split.dropped) for name, split in corpus.splits.items()}
    assert counts == {"train": (25, {"leakage": 5}), "validation": (4, {"leakage": 2}), "test": (10, {})}
    assert "train: 5 rows left out (leakage)" in corpus.notes


def test_leakage_is_allowed_noted_and_warned_of(leaking):
    corpus = load(leaking("allow"))
    assert [(warning.code, warning.sentence) for warning in corpus.warnings if warning.code == "leakage"] == [
        (
            "leakage",
            "training reads the text of 5 of 10 rows of test (leakage: allow in the card): scores there are in part of "
            "what was learned by heart",
        )
    ]
    assert not load(leaking("drop")).warnings
    assert [len(split.rows) for split in corpus.splits.values()] == [30, 6, 10]
    assert any(note.startswith("leakage allowed by the card: 5 texts of 'train'") for note in corpus.notes)


def test_leakage_that_would_leave_nothing(card, write, tmp_path):
    write("all.jsonl", json_lines(sentences(5)))
    found = refused(card(splits={"train": "all", "test": "all"}, leakage="drop"))
    assert "5 texts of 'train'" in found
    assert "the split would be empty without them" in found


def test_the_pair_decides_about_leakage(card, write, tmp_path):
    rows = [{"id": n, "text": "the same", "second": f"other {n}", "label": n % 2} for n in range(6)]
    write("train.jsonl", json_lines(rows[:4]))
    write("test.jsonl", json_lines(rows[4:]))
    source = {"kind": "jsonl", "folder": str(tmp_path), "files": {"train": "train.jsonl", "test": "test.jsonl"}}
    splits = {"train": "train", "test": "test"}
    columns = {"id": "id", "text_pair": "second"}
    assert len(load(card(source=source, splits=splits, columns=columns)).splits["train"].rows) == 4
    assert "leakage" in refused(card(source=source, splits=splits))


# Dividing and limits


def test_divided_splits(card, write):
    write("all.jsonl", json_lines(sentences(100)))
    parts = ({"of": ("all",), "into": {"train": 0.7, "validation": 10, "test": 0.2}},)
    corpus = load(card(splits={}, divide=parts))
    assert {name: len(split.rows) for name, split in corpus.splits.items()} == {
        "train": 70,
        "validation": 10,
        "test": 20,
    }
    ids = [row["id"] for split in corpus.splits.values() for row in split.rows]
    assert sorted(ids) == sorted(f"r{n}" for n in range(100))
    assert all(
        split.labels(corpus.labels) == {"bad": n, "good": n}
        for split, n in zip(corpus.splits.values(), (35, 5, 10), strict=True)
    )
    again = load(card(splits={}, divide=parts), needed={"test"})
    assert again.splits["test"].fingerprint == corpus.splits["test"].fingerprint
    other = load(card(splits={}, divide=({**parts[0], "seed": 1},)))
    assert other.splits["test"].fingerprint != corpus.splits["test"].fingerprint


def test_joined_splits_keep_their_ids_apart(card, write, tmp_path):
    write("a.jsonl", json_lines(sentences(6)))
    write("b.jsonl", json_lines([{**row, "text": row["text"] + "!"} for row in sentences(6)]))
    source = {"kind": "jsonl", "folder": str(tmp_path), "files": {"a": "a.jsonl", "b": "b.jsonl"}}
    parts = ({"of": ("a", "b"), "into": {"train": 8, "test": 4}},)
    corpus = load(card(source=source, splits={}, divide=parts))
    ids = [row["id"] for split in corpus.splits.values() for row in split.rows]
    assert sorted(ids) == sorted(f"{name}/r{n}" for name in "ab" for n in range(6))
    alone = load(card(source=source, splits={"test": "b"}, divide=({"of": ("a",), "into": {"train": 4}},)))
    assert {row["id"] for row in alone.splits["train"].rows} <= {f"r{n}" for n in range(6)}


def test_joined_saved_splits_keep_their_ids_apart(card, tmp_path):
    tables = {
        name: datasets.Dataset.from_dict({"id": [0, 1], "text": [f"{name}0", f"{name}1"], "label": [0, 1]})
        for name in "ab"
    }
    datasets.DatasetDict(tables).save_to_disk(tmp_path / "saved")
    source = {"kind": "saved", "folder": str(tmp_path / "saved")}
    corpus = load(card("saved", source=source, splits={}, divide=({"of": ("a", "b"), "into": {"train": 4}},)))
    assert [row["id"] for row in corpus.splits["train"].rows] == ["a/0", "a/1", "b/0", "b/1"]


def test_too_few_rows_to_divide(card, write):
    write("all.jsonl", json_lines(sentences(10)))
    assert "ask for 11 rows, but there are 10" in refused(
        card(splits={}, divide=({"of": ("all",), "into": {"train": 10, "test": 1}},))
    )


def test_texts_with_several_labels_are_divided_by_their_sets(card, write):
    kinds = [["joy"]] * 20 + [["joy", "fear"]] * 10 + [[]] * 10
    write("all.jsonl", json_lines({"id": n, "text": f"text {n}", "label": kind} for n, kind in enumerate(kinds)))
    several = card(
        labels=("joy", "fear"),
        multi_label=True,
        splits={},
        divide=({"of": ("all",), "into": {"train": 0.5, "test": 0.5}},),
    )
    for split in load(several).splits.values():
        assert Counter(str(row["label"]) for row in split.rows) == {"[1, 0]": 10, "[1, 1]": 5, "[0, 0]": 5}


def test_a_limit_keeps_the_labels_of_a_sorted_file_in_proportion(card, write):
    rows = sorted(sentences(60), key=lambda row: row["label"])
    write(
        "all.jsonl",
        json_lines([*rows, *({**row, "id": f"x{n}", "text": f"more {n}"} for n, row in enumerate(rows[30:]))]),
    )
    corpus = load(card(), limit={"train": 9})
    split = corpus.splits["train"]
    assert split.labels(corpus.labels) == {"bad": 3, "good": 6}
    assert split.dropped == {"limit": 81}
    assert corpus.notes == ("train: 81 rows left out (limit)",)
    assert [row["label"] for row in split.rows] == [0, 0, 0, 1, 1, 1, 1, 1, 1], "the file's order is kept"


def test_a_limit_is_the_splits_own_draw(leaking):
    whole = leaking("allow")
    one = load(whole, limit={"train": 10, "test": 4})
    other = load(whole, limit={"train": 10, "test": 6, "validation": 2})
    alone = load(whole, limit={"train": 10}, needed={"train"})
    assert one.splits["train"].fingerprint == other.splits["train"].fingerprint == alone.splits["train"].fingerprint
    assert load(whole, limit={"train": 30}).splits["train"].dropped == {}
    assert load(whole, limit={"train": 1000}).splits["train"].dropped == {}


def test_splits_of_equal_make_are_not_drawn_alike(card, write, tmp_path):
    files = {"train": "train.jsonl", "test": "test.jsonl"}
    for number, name in enumerate(files.values()):
        rows = sentences(100, start=100 * number)
        write(name, json_lines({**row, "id": n} for n, row in enumerate(rows)))
    source = {"kind": "jsonl", "folder": str(tmp_path), "files": files}
    corpus = load(card(source=source, splits={name: name for name in files}), limit=dict.fromkeys(files, 20))
    train, test = ([row["id"] for row in split.rows] for split in corpus.splits.values())
    assert train != test


def test_the_fingerprint_is_of_ids_texts_and_labels_in_order(card, write):
    def fingerprint(rows):
        write("all.jsonl", json_lines(rows))
        return load(card()).splits["train"].fingerprint

    rows = sentences(4)
    first = fingerprint(rows)
    assert fingerprint([dict(reversed(row.items())) for row in rows]) == first
    assert fingerprint([{**row, "more": 1} for row in rows]) == first
    others = [rows[::-1], rows[:3], [{**rows[0], "text": "x"}, *rows[1:]], [{**rows[0], "label": 1}, *rows[1:]]]
    others.append([{**rows[0], "id": "z"}, *rows[1:]])
    assert len({first, *map(fingerprint, others)}) == 6


# Comparability


def test_runs_are_comparable_when_they_were_scored_alike():
    def key(*overrides, signatures=None):
        resolved = resolve.load(
            resolve.SHIPPED / "tiny" / "bert-full.yaml", ("dataset.source.sizes.train=40", *overrides)
        )
        corpus = dataset.load(
            resolved.recipe.dataset, resolved.recipe.limit, {"train", *resolved.recipe.evaluation.splits}
        )
        return comparability.comparability(resolved, corpus, signatures or {"f1": "f1|macro|v1"}).key

    first = key()
    alike = [
        ("model=tiny_gpt2",), ("method=lora",), ("training.learning_rate=1",), ("seed=5",), ("limit.train=20",),
        ("max_length=32",), ("evaluation.threshold=0.1",),
    ]  # fmt: skip
    assert {key(*overrides) for overrides in alike} == {first}
    others = [("limit.test=20",), ("dataset.source.seed=1",), ("evaluation.splits=[test, validation]",)]
    others += [
        ("dataset.labels=[positive, negative]",),
        ("dataset.clean=[handles, whitespace]", "dataset.source.seed=2"),
    ]
    found = {first, key(signatures={"f1": "f1|micro|v1"}), *(key(*overrides) for overrides in others)}
    assert len(found) == len(others) + 2
    several = {key("dataset=posts", f"evaluation.threshold={value}") for value in (0.1, 0.5)}
    assert len(several) == 2
