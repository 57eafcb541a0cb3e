"""evaluation/new_texts.py: texts are read as they are written, and an odd file or line is refused with its number."""

import json
import os

import pytest

from bench.errors import DataError
from bench.evaluation import new_texts

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
        assert new_texts.read_texts(write(name, lines)) == [row("a\nb", "c"), row("d")]


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
        ('{"txt": "a"}', "the key `text` is missing. Did you mean 'txt'?"),
        ('{"sentence": "a", "label": 1}', "the key `text` is missing. Its keys: label, sentence."),
        ('{"Text": "a"}', "the key `text` is missing. Did you mean 'Text'?"),
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
        ("a.csv", "text,label\na,1\n", "the lines of a .csv file are not texts"),
        ("a.TSV", "text\tlabel\n", "the lines of a .tsv file are not texts"),
        ("a.parquet", "PAR1", "the lines of a .parquet file are not texts"),
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
        ([row("a")], PROMPT, "text 1 has no second text"),
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
