"""cli/predict.py: which rows reach the model, and where its answers go. The model's part is replaced here."""

import csv
import json

import pytest

from bench.cli.main import main
from bench.evaluation import predict, saved_model
from tests.helpers.cases import together

ANSWERS = {
    "scores": {"negative": 0.25, "positive": 0.75},
    "label": "positive",
    "cut": False,
}


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """The rows that were predicted; the model was trained on `sentence` and `question`."""
    found = []
    columns = {"columns": {"text": "sentence", "text_pair": "question"}}
    monkeypatch.setattr(saved_model, "find", lambda folder: folder)
    monkeypatch.setattr(saved_model, "describe", lambda folder: columns)

    def answered(folder, rows):
        found.append(rows)
        return [{key: row[key] for key in ("id", "text") if key in row} | ANSWERS for row in rows]

    monkeypatch.setattr(predict, "predict", answered)
    monkeypatch.chdir(tmp_path)
    return found


def test_texts_and_their_pairs(asked, write, capsys):
    words = ["--text", "a", "--text-pair", "b", "--text", "c", "--text-pair", "d"]
    assert main(["predict", "run", *words]) == 0
    assert asked.pop() == [{"text": "a", "text_pair": "b"}, {"text": "c", "text_pair": "d"}]
    assert capsys.readouterr().out == "positive             0.750  a\npositive             0.750  c\n"
    write("mine.csv", "sentence,question,body\na,b,x\n")
    assert main(["predict", "run", "--file", "mine.csv"]) == 0
    assert main(["predict", "run", "--file", "mine.csv", "--columns", "text=body,text_pair=question"]) == 0
    assert asked == [[{"text": "a", "text_pair": "b"}], [{"text": "x", "text_pair": "b"}]]


def test_answers_keep_the_ids_of_their_rows(asked, write, tmp_path, capsys):
    write("mine.csv", "id,sentence,question\nq7,a,b\n")
    assert main(["predict", "run", "--file", "mine.csv", "--text", "c", "--out", "answers.csv"]) == 0
    with (tmp_path / "answers.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["id"], row["text"]) for row in rows] == [("", "c"), ("q7", "a")]


def test_answers_are_written_to_a_file(asked, write, tmp_path, capsys):
    words = ["predict", "run", "--text", "one, two", "--text", 'with "quotes"\nand a line']
    assert main([*words, "--out", "new/answers.csv"]) == 0
    assert capsys.readouterr().out == "answers: new/answers.csv (2 texts)\n"
    with (tmp_path / "new" / "answers.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    scores = {"score.negative": "0.25", "score.positive": "0.75"}
    assert rows[0] == {"text": "one, two", "label": "positive", "cut": "false", **scores}
    assert rows[1]["text"] == 'with "quotes"\nand a line'
    assert main([*words, "--out", "answers.jsonl"]) == 0
    lines = (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [{"text": row["text"], **ANSWERS} for row in asked[0]]
    assert main([*words, "--out", "answers.jsonl"]) == 2
    assert "this file is there already; give another name, or --overwrite" in capsys.readouterr().err
    assert main([*words, "--out", "answers.jsonl", "--overwrite"]) == 0


def test_second_texts_have_a_column_of_their_own(asked, monkeypatch, tmp_path):
    monkeypatch.setattr(predict, "predict", lambda folder, rows: [{**row, **ANSWERS} for row in rows])
    assert main(["predict", "run", "--text", "one", "--text-pair", "other", "--out", "pairs.csv"]) == 0
    header, row = (tmp_path / "pairs.csv").read_text(encoding="utf-8").splitlines()
    assert header == "text,text_pair,label,cut,score.negative,score.positive"
    assert row == "one,other,positive,false,0.25,0.75"


def test_tables_with_another_delimiter_and_encoding(asked, write):
    write("mine.csv", "sentence;question\ncaf\u00e9;b, c\n".encode("cp1252"))
    assert main(["predict", "run", "--file", "mine.csv", "--delimiter", ";", "--encoding", "cp1252"]) == 0
    assert asked == [[{"text": "caf\u00e9", "text_pair": "b, c"}]]


@together(
    "words, sentence",
    [
        ([], "give a text with --text, a file with --file, or --file - for standard input"),
        (["--text", "a", "--out", "a.txt"], "give a name that ends in .jsonl or .csv"),
        (["--text", "a", "--out", "a.csv", "--json"], "--json is for what is printed"),
        (["--text", "a", "--overwrite"], "--overwrite goes with --out"),
        (["--text", "a", "--text", "b", "--text-pair", "c"], "--text-pair is given 1 times and --text 2 times"),
        (["--text", "a", "--columns", "text=b"], "--columns goes with --file"),
        (["--text", "a", "--format", "csv"], "--format goes with --file"),
        (["--text", "a", "--delimiter", ";"], "--delimiter goes with --file"),
        (["--text", "a", "--encoding", "cp1252"], "--encoding goes with --file"),
        (["--file", "none.csv"], "none.csv: can't be read: there is no such file"),
        (["--file", "none.txt"], "none.txt: can't be read: No such file"),
        (["--file", "none.txt", "--columns", "x=y"], "--columns x=y: expected text=NAME"),
    ],
)
def test_what_is_asked_wrongly_is_a_sentence(asked, words, sentence, capsys):
    assert main(["predict", "run", *words]) == 2
    assert sentence in capsys.readouterr().err
    assert asked == []
