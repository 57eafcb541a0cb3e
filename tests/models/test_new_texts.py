"""evaluation/new_texts.py: texts are read as they are written, and an odd file or line is refused with its number."""

import json
import os

import pytest

from bench.errors import DataError
from bench.evaluation import new_texts
from bench.evaluation.new_rows import Trained

SINGLE = {"task": "text_classification", "pairs": False}
PAIRS = {"task": "text_classification", "pairs": True}
PROMPT = {"task": "text_classification", "prompt": {"template": "{text} / {text_pair}"}, "pairs": None}
QUESTIONS = {"task": "question_answering", "pairs": True}


def row(text, pair=None):
    return {"text": text, "text_pair": pair}


def test_texts_are_read_as_they_are_written(write):
    content = '\ufeffone\r\n\n  two \u2028 lines\x85\n{"text": 1\n'.encode()
    assert new_texts.read_texts(write("a.txt", content)) == [
        row("one"), row("  two \u2028 lines\x85"), row('{"text": 1'),
    ]  # fmt: skip
    lines = '\ufeff{"text": "a\\nb", "text_pair": "c", "id": 3}\r\n\n{"text": "d", "text_pair": null}'
    for name in ("a.jsonl", "a.JSONL", "a.json", "a.ndjson"):
        assert new_texts.read_texts(write(name, lines)) == [row("a\nb", "c") | {"id": 3}, row("d")]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nonsense", "a.jsonl:2: this is not a line of JSON"),
        ("{", "an indented file is not JSON lines"),
        ("[", "an indented file is not JSON lines"),
        ('{"text": "a"', "this is not a line of JSON"),
        ('{"text": "a"} {"text": "b"}', "this is not a line of JSON: Extra data"),
        ("null", "expected a JSON object with `text`, got null"),
        ("7", "expected a JSON object with `text`, got 7"),
        ('"a"', 'expected a JSON object with `text`, got "a"'),
        ('[{"text": "a"}]', "expected a JSON object with `text`, got a list"),
        ("{}", "the key `text` is missing. It is empty."),
        ('{"txt": "a"}', "the key `text` is missing. Its 'txt' must be called 'text', or be named: --columns text=txt"),
        ('{"sentence": "a", "label": 1}', "the key `text` is missing. Its keys: label, sentence. Say which one is the"),
        (
            '{"Text": "a"}',
            "the key `text` is missing. Its 'Text' must be called 'text', or be named: --columns text=Text",
        ),
        ('{"text": "a", "text": "b"}', "a.jsonl:2: the key 'text' is there twice"),
        ('{"text": "a", "more": {"x": 1, "x": 2}}', "a.jsonl:2: the key 'x' is there twice"),
        ('{"text": null}', "`text` must be a text, got null"),
        ('{"text": 7}', "`text` must be a text, got 7"),
        ('{"text": NaN}', "`text` must be a text, got NaN"),
        ('{"text": true}', "`text` must be a text, got true"),
        ('{"text": ["a", "b"]}', '`text` must be a text, got ["a", "b"]'),
        ('{"text": {"a": 1}}', "`text` must be a text, got {"),
        ('{"text": "a", "text_pair": 7}', "`text_pair` must be a text, got 7"),
        ("[" * 200_000, "this JSON is nested too deeply"),
        ('{"text": ' + "9" * 5000 + "}", "this is not a line of JSON"),
    ],
)
def test_an_odd_line_is_refused_by_its_number(line, words, write):
    with pytest.raises(DataError) as raised:
        new_texts.read_texts(write("a.jsonl", f'{{"text": "fine"}}\n{line}\n'))
    assert "a.jsonl:2: " in str(raised.value)
    assert words in str(raised.value)
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "a.csv",
            "sentence,label\na,1\n",
            "a.csv: row 1: the key `text` is missing. Its keys: label, sentence. Say",
        ),
        ("a.csv", "text,label\na,1\nb\n", "a.csv:3: 1 fields, but the header names 2 columns"),
        ("a.csv", "text,label\n", "a.csv is empty: there is no text in it to predict"),
        ("a.TSV", "text\tlabel\n", "a.TSV is empty: there is no text in it to predict"),
        (
            "a.parquet",
            "PAR1",
            "a.parquet can't be read as Parquet; it is damaged, or of another kind: Could",
        ),
        ("a.txt", "\n \n", "a.txt is empty: there is no text in it to predict"),
        ("a.jsonl", "", "a.jsonl is empty: there is no text in it to predict"),
        ("a.yaml", "- a\n", "the lines of a .yaml file are not texts"),
        ("a.txt", '{"text": "a"}\n{"text": "b"}\n', "its lines are JSON objects; name it .jsonl"),
        ("a.txt", "a\n".encode("utf-16"), "this is UTF-16; save it as UTF-8"),
        ("a.txt", b"a\nb\nc\xff\n", "a.txt:3: can't be read as UTF-8 text"),
        ("a.txt", b"\x1f\x8b\x08more", "not a text file, or a compressed one"),
        ("a.txt", b"PK\x03\x04more", "not a text file, or a compressed one"),
        ("a.jsonl", b'{"text": "a\x00"}', "not a text file"),
    ],
)
def test_a_file_of_another_kind_is_refused(name, content, words, write):
    with pytest.raises(DataError) as raised:
        new_texts.read_texts(write(name, content))
    assert words in str(raised.value)


TABLE = 'id,sentence,question\n1,first text,which?\n2,"second, text",why?\n'
PAIR_ROWS = [row("first text", "which?") | {"id": "1"}, row("second, text", "why?") | {"id": "2"}]


def test_columns_are_named_or_those_that_the_model_was_trained_on(write):
    path = write("a.csv", TABLE)
    named = {"text": "sentence", "text_pair": "question"}
    assert new_texts.parse_columns("text=sentence,text_pair=question") == named
    assert new_texts.read_texts(path, columns=named) == PAIR_ROWS
    assert new_texts.read_texts(path, trained=Trained(columns=named)) == PAIR_ROWS
    assert new_texts.read_texts(path, columns={"text": "question"}) == [
        row("which?") | {"id": "1"},
        row("why?") | {"id": "2"},
    ]
    # What is named stands before what is usual; what is usual serves where the model's own is not there.
    assert new_texts.read_texts(path, columns={"text": "sentence"}, trained=Trained(columns=named)) == PAIR_ROWS
    usual = write("b.csv", "text\none\n")
    assert new_texts.read_texts(usual, trained=Trained(columns={"text": "sentence", "text_pair": None})) == [row("one")]
    lines = write("a.jsonl", '{"sentence": "a", "question": "b"}\n{"sentence": "c", "question": null}\n')
    assert new_texts.read_texts(lines, trained=Trained(columns=named)) == [row("a", "b"), row("c")]


def test_all_kinds_of_tables_give_the_same_rows(write, tmp_path):
    import pyarrow
    import pyarrow.parquet

    columns = {"text": "sentence", "text_pair": "question"}
    tabs = "id\tsentence\tquestion\n1\tfirst text\twhich?\n2\tsecond, text\twhy?\n"
    rows = [{"id": 1, "sentence": "first text", "question": "which?"}]
    rows.append({"id": 2, "sentence": "second, text", "question": "why?"})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    lines = "".join(json.dumps(one) + "\n" for one in rows)
    for path in (tmp_path / "a.parquet", write("a.jsonl", lines)):
        numbered = [one | {"id": int(one["id"])} for one in PAIR_ROWS]
        assert new_texts.read_texts(path, columns=columns) == numbered
    assert new_texts.read_texts(write("a.tsv", tabs), columns=columns) == PAIR_ROWS
    assert new_texts.read_texts(write("a.dat", TABLE), "csv", columns) == PAIR_ROWS


@pytest.mark.parametrize(
    ("columns", "own", "words"),
    [
        ({"text": "sentense"}, {}, "--columns text=sentense: there is no such key. Did you mean 'sentence'?"),
        (
            {},
            {"text": "sentence"},
            "`sentence`, as in the data that the model was trained on, and `text` are both there",
        ),
    ],
)
def test_columns_that_are_not_plain_are_asked_for(columns, own, words, write):
    with pytest.raises(DataError) as raised:
        new_texts.read_texts(write("a.csv", "sentence,text\na,b\n"), columns=columns, trained=Trained(columns=own))
    assert words in str(raised.value)


@pytest.mark.parametrize("given", ["text", "text=", "body=text", "text=a,text=b", ""])
def test_columns_that_can_not_be_parsed(given):
    with pytest.raises(DataError, match="expected text=NAME, or text=NAME,text_pair=NAME"):
        new_texts.parse_columns(given)


@pytest.mark.parametrize(
    ("content", "words", "expected"),
    [
        ("one\n\ntwo\n", [], [row("one"), row("two")]),
        ('{"text": "one"}\n', ["jsonl"], [row("one")]),
        (TABLE, ["csv", {"text": "sentence", "text_pair": "question"}], PAIR_ROWS),
        ('{"text": "one"}\n', [], "standard input: its lines are JSON objects; give --format jsonl"),
        ("", [], "standard input is empty: there is no text in it to predict"),
        ("a,b\n1\n", ["csv"], "standard input:2: 1 fields, but the header names 2 columns"),
        ("a\n", ["parquet"], "standard input can't be Parquet"),
        ("a\n", ["text", {"text": "b"}], "--columns is for JSON lines and tables"),
    ],
)
def test_standard_input(content, words, expected, write):
    """In a process of its own would cost a second each: the descriptor is replaced here."""
    kept = os.dup(0)
    with write("input", content).open("rb") as stream:
        os.dup2(stream.fileno(), 0)
    try:
        if isinstance(expected, list):
            assert new_texts.read_texts(new_texts.STANDARD_INPUT, *words) == expected
        else:
            with pytest.raises(DataError) as raised:
                new_texts.read_texts(new_texts.STANDARD_INPUT, *words)
            assert expected in str(raised.value)
    finally:
        os.dup2(kept, 0)
        os.close(kept)


def test_what_is_no_file_is_refused(tmp_path):
    for path, words in ((tmp_path, "is a folder"), (tmp_path / "none", "No such file"), ("/dev/zero", "is a device")):
        with pytest.raises(DataError, match=words):
            new_texts.read_texts(tmp_path / path)


def test_a_pipe_is_read(write):
    reader, writer = os.pipe()
    os.write(writer, b"one\ntwo\n")
    os.close(writer)
    from pathlib import Path

    assert new_texts.read_texts(Path(f"/proc/self/fd/{reader}")) == [row("one"), row("two")]
    os.close(reader)


@pytest.mark.parametrize(
    ("rows", "description", "words"),
    [
        ([], SINGLE, "there are no texts"),
        ([row("a"), row(" \n")], SINGLE, "text 2 is empty"),
        ([row("a", "b")], SINGLE, "text 1 has a `text_pair`, and this model was trained on single texts"),
        ([row("a", "b"), row("a")], PAIRS, "text 2 has no second text, and this model was trained on pairs of texts"),
        ([row("a", "  ")], PAIRS, "text 1 has no second text"),
        (
            [row("a")],
            PROMPT,
            "text 1 has no second text, and this model was trained on pairs of texts: give --text-pair ",
        ),
        ([row("a")], QUESTIONS, "text 1 has no question"),
        ([row(json.loads('"\\ud800"'))], SINGLE, "text 1 is not valid Unicode: character 1 is half of one"),
        ([row("a", "x\udcff")], PAIRS, "text 1 is not valid Unicode: character 2"),
        ([row("a" * 10_000_001)], SINGLE, "text 1 has 10,000,001 characters"),
    ],
)
def test_texts_that_a_model_has_no_label_for(rows, description, words):
    with pytest.raises(DataError) as raised:
        new_texts.check(rows, description)
    assert words in str(raised.value)


def test_texts_of_the_kind_that_was_trained_on():
    new_texts.check([row("a"), row("b", "")], SINGLE)
    for description in (PAIRS, PROMPT, QUESTIONS):
        new_texts.check([row("a", "b")], description)
    new_texts.check([row("a"), row("a", "b")], {"task": "text_classification"})  # an earlier version's


def test_blank_lines_between_texts_are_told(write, capsys):
    for content, told in (
        ("one\n\n \ntwo\n\n", "blank lines are no texts, and have no answers: 2"),
        ("one\ntwo\n\n", ""),
    ):
        assert new_texts.read_texts(write("a.txt", content)) == [row("one"), row("two")]
        assert new_texts.read_texts(write("b.txt", "one \n")) == [row("one ")]
        said = capsys.readouterr().err
        assert told in said
        assert bool(said) == bool(told)
