"""evaluation/new_rows.py: rows are read by the names and for the task of the training data, and cleaned likewise."""

import json

import pytest

from bench.config.cards import DatasetCard
from bench.errors import DataError
from bench.evaluation import new_rows, new_texts
from bench.evaluation.new_rows import Trained
from bench.evaluation.new_texts import Written, read_texts

SOURCE = {"kind": "jsonl", "folder": ".", "files": {"train": "train.jsonl", "test": ["a.jsonl.gz", "b.ndjson"]}}
TURNS = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hi."}]


def trained(task, source=SOURCE, **card):
    """What the description of a model says that was trained on such data, written and read as JSON."""
    full = {"task": task, "source": source, "splits": {"train": "train"}, **card}
    description = new_rows.described(DatasetCard.model_validate(full, strict=False))
    return Trained.of(json.loads(json.dumps({"task": task, **description})))


CLASSIFIER = trained("text_classification", columns={"text": "review"})
TAGGER = trained("token_classification", columns={"tokens": "words", "tags": "ner"})
CHOOSER = trained("multiple_choice", columns={"text": "start", "choices": ["end0", "end1"], "label": "right"})
LISTED = trained("multiple_choice", columns={"choices": "options"})
CHAT = trained("generation", columns={"messages": "conversations"})
ALPACA = trained("generation", columns={"text": "instruction", "input": "context", "reference": "output"})
EARLIER = Trained.of({"task": "generation", "columns": {"text": "text", "text_pair": None}})


def one(write, row, known, **columns):
    (found,) = read_texts(write("a.jsonl", json.dumps(row)), columns=columns, trained=known)
    return found


def test_what_other_tasks_read_is_a_column_like_any_other(write):
    row = {"review": "fine", "tokens": ["other", "words"], "choices": 3, "messages": [], "input": "x"}
    for columns in ({}, {"text": "review"}):
        assert one(write, row, CLASSIFIER, **columns) == {"text": "fine", "text_pair": None}
    table = write("a.csv", "review,tokens,choices,messages\nfine,7,x,y\n")
    assert read_texts(table, trained=CLASSIFIER) == [{"text": "fine", "text_pair": None}]
    pairs = trained("text_classification", columns={"text": "one", "text_pair": "other"})
    row = {"one": "a", "other": "b", "tokens": ["a"]}
    assert one(write, row, pairs) == {"text": "a", "text_pair": "b"}
    with pytest.raises(DataError, match="--columns tokens=words: this model does not read tokens, but text, text_pair"):
        one(write, {"words": ["a"]}, CLASSIFIER, tokens="words")


def test_parts_are_found_by_the_names_of_the_training_data(write):
    words = {"text": "a b", "text_pair": None, "tokens": ["a", "b"]}
    assert one(write, {"words": ["a", "b"], "ner": ["O", "O"]}, TAGGER) == words
    assert one(write, {"tokens": ["a", "b"]}, TAGGER) == words
    assert one(write, {"text": "a b"}, TAGGER) == {"text": "a b", "text_pair": None}
    assert one(write, {"mine": ["a", "b"], "words": 7}, TAGGER, tokens="mine") == words
    chosen = {"text": "so", "text_pair": None, "choices": ["x", "y"]}
    assert one(write, {"start": "so", "end0": "x", "end1": "y"}, CHOOSER) == chosen
    assert one(write, {"text": "so", "choices": ["x", "y"]}, CHOOSER) == chosen
    for options in (["x", "y"], {"text": ["x", "y"], "label": ["A", "B"]}):
        assert one(write, {"text": "so", "options": options}, LISTED) == chosen
    said = {"text": "Hello?", "text_pair": None, "messages": TURNS[:1]}
    for key in ("conversations", "messages"):
        assert one(write, {key: TURNS[:1], "text": "other"}, CHAT) == said
    assert one(write, {"messages": TURNS[:1], "text": "other"}, EARLIER) == said
    # Of a model that was trained on texts, a text is what is meant.
    assert one(write, {"instruction": "Say", "messages": TURNS[:1]}, ALPACA) == {"text": "Say", "text_pair": None}
    assert one(write, {"messages": TURNS[:1]}, ALPACA) == said


def test_the_input_stands_behind_the_instruction(write):
    for row, text in (
        ({"instruction": "Sort", "context": "b a"}, "Sort\n\nb a"),
        ({"instruction": "Sort", "input": "b a"}, "Sort\n\nb a"),
        ({"instruction": "Sort", "context": " "}, "Sort"),
        ({"instruction": "Sort", "context": None}, "Sort"),
        ({"instruction": "Sort"}, "Sort"),
    ):
        assert one(write, row, ALPACA) == {"text": text, "text_pair": None}


def test_a_row_with_all_columns_of_the_training_is_read_as_one_of_it(write):
    row = {"instruction": "Sort", "context": "b a", "output": "a b", "text": "all of it", "input": "other"}
    assert one(write, row, ALPACA) == {"text": "Sort\n\nb a", "text_pair": None}
    with pytest.raises(DataError, match="`instruction`, as in the data that the model was trained on, and `text` are"):
        one(write, {"instruction": "Sort", "text": "all of it"}, ALPACA)


def test_an_answer_in_a_conversation_is_left_out_and_told(write, capsys):
    assert one(write, {"conversations": TURNS}, CHAT)["messages"] == TURNS[:1]
    assert "a.jsonl: 1 conversations end with the assistant's turn, which is left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "known", "words"),
    [
        ({"words": "a b"}, TAGGER, 'a.jsonl:1: `words` must be a list of words, got "a b"'),
        ({"tokens": []}, TAGGER, "`tokens` must be a list of words, got []"),
        ({"words": ["a"], "tokens": ["b"]}, TAGGER, "`words`, as in the data that the model was trained on, and"),
        ({"start": "so", "end0": "x"}, CHOOSER, "a.jsonl:1 has no 'end1'"),
        ({"start": "so", "end0": "x", "end1": ""}, CHOOSER, "a.jsonl:1 has 1 choices; expected two at least"),
        ({"text": "so", "options": "x y"}, LISTED, "the column 'options': expected a list of texts"),
        ({"text": "a", "end0": "x", "choices": []}, CHOOSER, "`end0, end1`, as in the data that the model was"),
        ({"conversations": [{"role": "tool", "content": "x"}]}, CHAT, "unknown role 'tool'"),
        ({"instruction": "a", "context": 7}, ALPACA, "`input` must be a text, got 7"),
    ],
)
def test_an_odd_part_is_refused(row, known, words, write):
    with pytest.raises(DataError) as raised:
        one(write, row, known)
    assert words in str(raised.value)


EXCEL = {
    "kind": "csv", "folder": ".", "files": {"train": "train.txt"}, "delimiter": ";", "encoding": "cp1252",
    "compose": {"whole": "{title}: {body}"},
}  # fmt: skip
COMPOSED = trained("text_classification", EXCEL, columns={"text": "whole"})


def test_tables_are_read_as_those_of_the_training(write):
    content = "title;body\nOne;caf\u00e9, tea\n"
    expected = [{"text": "One: caf\u00e9, tea", "text_pair": None}]
    for name in ("a.csv", "a.txt"):  # the training data were in a .txt file
        assert read_texts(write(name, content.encode("cp1252")), trained=COMPOSED) == expected
    commas = write("b.csv", content.replace(", ", "").replace(";", ",").encode())
    plain = [{"text": "One: caf\u00e9tea", "text_pair": None}]
    assert read_texts(commas, trained=COMPOSED, written=Written(delimiter=",", encoding="utf-8")) == plain
    assert read_texts(write("a.jsonl", '{"whole": "as it is"}'), trained=COMPOSED)[0]["text"] == "as it is"
    tabs = write("c.csv", content.replace(";", "\t"))
    for sign in ("\t", r"\t"):
        assert read_texts(tabs, trained=COMPOSED, written=Written(delimiter=sign, encoding="utf-8")) == expected


@pytest.mark.parametrize(
    ("content", "known", "written", "words"),
    [
        ("text;label\na;1\n", Trained(), {}, "its names look separated by ';': write `--delimiter \";\"`"),
        ("title,body\na,1\n", COMPOSED, {}, "its names look separated by ',': write `--delimiter \",\"`"),
        ("title;text_\na;1\n", COMPOSED, {}, "it was made of '{title}: {body}'; of these keys it lacks body"),
        ("text\n\u00e9\n".encode("latin-1"), Trained(), {}, "Excel's is often `--encoding cp1252`"),
        ("text\na\n".encode("utf-16"), COMPOSED, {}, "byte order mark of UTF-16; give --encoding UTF-16"),
        ("text\na\n", Trained(), {"delimiter": "ab"}, "'ab' is not a delimiter; write one character"),
        ("text\na\n", Trained(), {"encoding": "none"}, "there is no text encoding 'none'; write one of Python's"),
    ],
)
def test_what_is_wrong_with_a_table_names_options_of_the_command(content, known, written, words, write):
    with pytest.raises(DataError) as raised:
        read_texts(write("a.csv", content), trained=known, written=Written(**written))
    assert words in str(raised.value)


def test_delimiters_and_encodings_are_of_tables(write):
    for written in ({"delimiter": ";"}, {"encoding": "cp1252"}):
        with pytest.raises(DataError, match=r"is for CSV and TSV, and this is read as jsonl"):
            read_texts(write("a.jsonl", '{"text": "a"}'), written=Written(**written))


def test_files_in_conll_form_are_words_for_models_that_tag_them(write):
    path = write("a.conll", "-DOCSTART- O\n\nEU B-ORG\nrejects O\n\ncall O\n")
    rows = [{"text": text, "text_pair": None, "tokens": text.split()} for text in ("EU rejects", "call")]
    assert read_texts(path, trained=TAGGER) == rows
    assert read_texts(write("a.txt", path.read_bytes()), "conll", trained=TAGGER) == rows
    for kind in (None, "conll"):
        with pytest.raises(DataError, match="has a word and its tag on each line, and this model does not tag words"):
            read_texts(path, kind, trained=CLASSIFIER)


def test_packed_files_and_lists_are_read_as_those_of_the_training(write):
    import gzip

    packed = write("a.jsonl.gz", gzip.compress(b'{"review": "fine"}\n'))
    assert read_texts(packed, trained=CLASSIFIER) == [{"text": "fine", "text_pair": None}]
    listed = write("a.json", json.dumps([{"text": "one"}, {"text": "two"}]))
    assert [row["text"] for row in read_texts(listed, "json")] == ["one", "two"]


def test_texts_are_cleaned_as_those_of_the_training_were():
    steps = ["html_breaks", "whitespace"]
    given = [{"text": "a<br /><br />b", "text_pair": None}, {"text": "a", "text_pair": " b &amp;  c"}]
    cleaned = new_rows.cleaned(given, steps)
    assert cleaned == [{"text": "a b", "text_pair": None}, {"text": "a", "text_pair": "b & c"}]
    assert new_rows.cleaned(given, []) is given
    (row,) = new_rows.cleaned([{"text": "so ", "text_pair": None, "choices": ["x  y", "z"]}], steps)
    assert row == {"text": "so", "text_pair": None, "choices": ["x y", "z"]}


def test_predictions_show_what_was_given():
    given = [{"text": "so ", "text_pair": " but", "choices": ["x  y", "z"]}]
    cleaned = [{"text": "so", "text_pair": "but", "choices": ["x y", "z"]}]
    scores = {"x y": 0.75, "z": 0.25}
    found = new_rows.as_given([{"text": "so", "label": "x y", "scores": scores}], given, cleaned)
    assert found == [{"text": "so ", "text_pair": " but", "label": "x  y", "scores": {"x  y": 0.75, "z": 0.25}}]
    # The text of an answer is its question.
    answer = {"text": "why?", "label": "so", "scores": None}
    row = {"text": "so it is", "text_pair": "why?"}
    assert new_rows.as_given([answer], [row], [row]) == [answer]
    assert next(iter(new_rows.as_given([answer], [row | {"id": 7}], [row])[0].items())) == ("id", 7)


def test_a_row_keeps_its_id_of_the_training_datas_column_or_of_id():
    reader = new_rows.RowReader("a.csv", new_rows.Trained(id="number"), {})
    assert reader.read({"number": "n1", "id": "i1", "text": "so"}, "row 1")["id"] == "n1"
    assert reader.read({"id": 5, "text": "so"}, "row 2")["id"] == 5
    for odd in (None, True, ["a"], {}):
        assert "id" not in reader.read({"id": odd, "text": "so"}, "row 3")


def test_a_text_of_nothing_that_is_seen_is_empty():
    with pytest.raises(DataError, match="text 1 is empty"):
        new_texts.check([{"text": "\u200b", "text_pair": None}], {"task": "text_classification"})
