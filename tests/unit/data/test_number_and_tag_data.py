"""Numbers and tags as gold values, files in CoNLL form, and windows of words: what is read, and what is refused how."""

import csv
import json
import math

import numpy as np
import pytest

from bench.config.cards import DatasetCard
from bench.data import dataset, tagging
from bench.data.word_windows import make_windows
from bench.errors import DataError, SetupError
from tests.helpers.cases import together


def card(folder, kind, name, task, **content):
    base = {
        "task": task,
        "licence": "none",
        "source": {"kind": kind, "folder": str(folder), "files": {"train": name}},
        "splits": {"train": "train"},
        "leakage": "allow",
    }
    return DatasetCard.model_validate(base | content, strict=False)


def numbers_of(tmp_path, values, needed=("train",), limit=None, **content):
    rows = [{"text": f"text {number}", "label": value} for number, value in enumerate(values)]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    found = card(tmp_path, "jsonl", "rows.jsonl", "regression", **content)
    return dataset.load(found, limit or {}, set(needed))


def tagged(tmp_path, rows, **content):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    found = card(tmp_path, "jsonl", "rows.jsonl", "token_classification", **content)
    return dataset.load(found, {}, {"train"})


# ---------------------------------------------------------------- numbers


def test_numbers_are_read_as_they_are(tmp_path):
    corpus = numbers_of(tmp_path, [1, 2.5, "3.25", "-1e2", 0])
    assert [row["label"] for row in corpus.splits["train"].rows] == [1.0, 2.5, 3.25, -100.0, 0.0]
    assert corpus.labels == ()
    assert corpus.splits["train"].labels(()) == {}


def test_numbers_of_a_csv_file(tmp_path):
    with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["text", "score"], ["a b", "4.75"], ["c d", "0.5"]])
    found = card(tmp_path, "csv", "rows.csv", "regression", columns={"label": "score"})
    assert [row["label"] for row in dataset.load(found, {}, {"train"}).splits["train"].rows] == [4.75, 0.5]


def test_draws_take_as_many_of_each_tenth(tmp_path):
    values = np.random.default_rng(0).exponential(3, 400).tolist()
    whole = numbers_of(tmp_path, values).splits["train"].rows
    drawn = numbers_of(tmp_path, values, limit={"train": 50}).splits["train"].rows
    edges = np.quantile(values, np.arange(1, 10) / 10)
    assert np.bincount(np.searchsorted(edges, [row["label"] for row in whole])).tolist() == [40] * 10
    assert np.bincount(np.searchsorted(edges, [row["label"] for row in drawn])).tolist() == [5] * 10


@together(
    "value, expected",
    [
        ("good", r"expected a number, got 'good'; for labels that are names set task: text_classification"),
        ("1,5", r"expected a number, got '1,5'.*write decimals with a point"),
        (None, r"expected a number, the value is missing"),
        ("", r"expected a number, the value is missing"),
        (True, r"expected a number, got True; true and false are labels"),
        (math.inf, r"the column 'label' is not finite: inf"),
        ("nan", r"the column 'label' is not finite: 'nan'"),
        ([1], r"expected a number, got \[1\]"),
    ],
)
def test_what_is_no_number_is_refused_with_its_row(tmp_path, value, expected):
    with pytest.raises(DataError, match=expected) as refused:
        numbers_of(tmp_path, [1.0, 2.0, value])
    assert str(refused.value).startswith("row train-000002 of the split 'train': the column 'label'")


def test_hidden_numbers_are_refused(tmp_path):
    with pytest.raises(DataError, match="every number of the split 'train' is -1, which marks hidden ones"):
        numbers_of(tmp_path, [-1.0, -1, "-1.0"])


@together(
    "content, message",
    [
        ({"task": "regression", "labels": ["a", "b"]}, "regression has numbers, not labels"),
        ({"task": "regression", "multi_label": True}, "several labels a text don't go with numbers"),
        ({"task": "regression", "filters": {"labels": ["a", "b"]}}, "rows of labels don't go with numbers"),
        ({"task": "regression", "scheme": "IOB2"}, "only task 'token_classification' has tags of words"),
        ({"task": "text_classification", "columns": {"tags": "x"}}, "only task 'token_classification' has tags"),
        ({"task": "token_classification", "clean": ["strip"]}, "would separate them from their tags"),
        ({"task": "token_classification", "prompt": {"template": "{text}"}}, "has no `objective: text`"),
        ({"task": "token_classification", "columns": {"text": "x"}}, "the words are in `columns.tokens`"),
        ({"task": "token_classification", "multi_label": True}, "don't go with tags"),
    ],
)
def test_keys_that_do_not_fit_the_task_are_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        card(tmp_path, "jsonl", "rows.jsonl", **content)


# ---------------------------------------------------------------- tags

SENTENCES = [
    {"tokens": ["Anna", "went", "to", "New", "York"], "tags": ["B-PER", "O", "O", "B-LOC", "I-LOC"]},
    {"tokens": ["It", "rains"], "tags": ["O", "O"]},
]


def test_tags_are_those_of_the_data_sorted_by_type(tmp_path):
    corpus = tagged(tmp_path, SENTENCES)
    assert corpus.labels == ("O", "B-LOC", "I-LOC", "B-PER")
    first, second = corpus.splits["train"].rows
    assert (first["text"], first["tokens"], first["tags"]) == (
        "Anna went to New York",
        SENTENCES[0]["tokens"],
        SENTENCES[0]["tags"],
    )
    assert (first["label"], second["label"]) == ([1, 1, 1, 1], [1, 0, 0, 0])
    assert (first["stratum"], second["stratum"]) == ("LOC PER", "")
    assert corpus.splits["train"].labels(corpus.labels) == {"O": 2, "B-LOC": 1, "I-LOC": 1, "B-PER": 1}


def test_ids_are_read_by_the_names_of_the_card_or_of_the_column(tmp_path):
    import datasets

    names = ["O", "B-PER", "I-PER"]
    rows = [{"tokens": ["a", "b"], "tags": [1, 2]}, {"tokens": ["c"], "tags": [0]}]
    corpus = tagged(tmp_path, rows, labels=names)
    assert [row["tags"] for row in corpus.splits["train"].rows] == [["B-PER", "I-PER"], ["O"]]
    features = datasets.Features({
        "tokens": datasets.Sequence(datasets.Value("string")),
        "tags": datasets.Sequence(datasets.ClassLabel(names=names)),
    })  # fmt: skip
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "rows.parquet")
    found = card(tmp_path, "parquet", "rows.parquet", "token_classification")
    by_name = dataset.load(found, {}, {"train"})
    assert by_name.labels == tuple(names)
    assert by_name.splits["train"].rows == corpus.splits["train"].rows


@together(
    "row, content, message",
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, {}, r"has 2 words in 'tokens', but 1 tags"),
        ({"tokens": ["a"], "tags": [3]}, {"labels": ["O", "B-X"]}, r"has the id 3, but ids of 2 tags go from 0 to 1"),
        ({"tokens": ["a"], "tags": [-1]}, {"labels": ["O", "B-X"]}, r"the id -1, which marks hidden tags"),
        ({"tokens": ["a"], "tags": [1]}, {}, r"holds ids \(1\) without names; list the tags in `labels`"),
        (
            {"tokens": ["a"], "tags": ["B-LOK"]},
            {"labels": ["O", "B-LOC"]},
            r"unknown tag 'B-LOK'. Did you mean 'B-LOC'",
        ),
        ({"tokens": ["a"], "tags": ["LOC"]}, {}, r"the tag 'LOC' is no tag of BIO, IOB1 or IOBES"),
        ({"tokens": ["a"], "tags": ["U-LOC"]}, {}, r"the tag 'U-LOC' is no tag of .*set dataset.scheme to BILOU"),
        ({"tokens": ["a"], "tags": ["S-LOC"]}, {"scheme": "IOB2"}, r"'S-LOC' is no tag of scheme IOB2, .*IOBES"),
        ({"tokens": "a b", "tags": ["O", "O"]}, {}, r"expected a list of words, got 'a b'; .*source.kind: conll"),
        ({"tokens": ["a"], "tags": "O"}, {}, r"expected a list of tags, got 'O'"),
        ({"tokens": ["a", 1], "tags": ["O", "O"]}, {}, r"expected words, got 1"),
        ({"tokens": [], "tags": []}, {}, r"has an empty text \('tokens'\); remove the row"),
        ({"tokens": [" "], "tags": ["O"]}, {}, r"has an empty text \('tokens'\)"),
        ({"tags": ["O"]}, {}, r"no 'tokens'"),
    ],
)
def test_what_are_no_tagged_words_is_refused_with_its_row(tmp_path, row, content, message):
    with pytest.raises(DataError, match=message):
        tagged(tmp_path, [*SENTENCES[:1], row] if not content else [{"tokens": ["a"], "tags": ["O"]}, row], **content)


def test_data_without_an_entity_are_refused(tmp_path):
    with pytest.raises(DataError, match="has no tag but O, so that there is nothing to learn"):
        tagged(tmp_path, SENTENCES[1:])


def test_an_i_without_its_b_is_noted(tmp_path):
    rows = [{"tokens": ["a", "b", "c", "d"], "tags": ["I-X", "O", "B-Y", "I-X"]}]
    (note,) = tagged(tmp_path, rows).notes
    assert note.startswith("train: 2 words have a tag I- (or E-) that follows none of its type: read as the beginning")
    (note,) = tagged(tmp_path, rows, scheme="IOB2").notes
    assert note.endswith("read as no entity by scheme IOB2")
    assert tagged(tmp_path, rows, scheme="IOB1").notes == ()


def test_a_type_that_training_lacks_is_warned_of(tmp_path):
    for name, rows in (("train", SENTENCES), ("test", [{"tokens": ["x", "y"], "tags": ["B-ORG", "B-LOC"]}])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    files = {"train": "train.jsonl", "test": "test.jsonl"}
    source = {"kind": "jsonl", "folder": str(tmp_path), "files": files}
    splits = {"train": "train", "test": "test"}
    found = card(tmp_path, "jsonl", "", "token_classification", source=source, splits=splits)
    warnings = {item.code: item.sentence for item in dataset.load(found, {}, {"train", "test"}).warnings}
    assert "the label 'ORG' is in 'test' (1 of 1 rows) and not in 'train'" in warnings["label_not_in_training"]
    # An I-LOC less is nothing to warn of; a type less is.
    assert "the label 'PER' is in 'train' (1 of 2 rows) and not in 'test'" in warnings["label_not_scored"]


# ---------------------------------------------------------------- files in CoNLL form


def conll(tmp_path, text, **content):
    (tmp_path / "data.txt").write_text(text, encoding="utf-8")
    found = card(tmp_path, "conll", "data.txt", "token_classification", **content)
    return dataset.load(found, {}, {"train"})


@together("separator", [" ", "\t"])
def test_files_in_conll_form(tmp_path, separator):
    lines = [
        "-DOCSTART- -X- -X- O", "", "EU NNP B-NP B-ORG", "rejects VBZ B-VP O", "", "", "-DOCSTART- -X- -X- O", "",
        "Peter NNP B-NP B-PER", "Blackburn NNP I-NP I-PER", ". . O O",
    ]  # fmt: skip
    text = "\n".join(line.replace(" ", separator) for line in lines)
    corpus = conll(tmp_path, text)
    rows = corpus.splits["train"].rows
    assert [row["tokens"] for row in rows] == [["EU", "rejects"], ["Peter", "Blackburn", "."]]
    assert [row["tags"] for row in rows] == [["B-ORG", "O"], ["B-PER", "I-PER", "O"]]
    assert "data.txt: 2 lines -DOCSTART- begin documents and are no sentences" in corpus.notes
    chunks = conll(tmp_path, text, columns={"tags": "column_3"})
    assert [row["tags"] for row in chunks.splits["train"].rows] == [["B-NP", "B-VP"], ["B-NP", "I-NP", "O"]]


def test_words_of_a_file_with_tabs_may_hold_spaces(tmp_path):
    (row,) = conll(tmp_path, "New York\tB-LOC\r\nrains\tO\r\n").splits["train"].rows
    assert (row["tokens"], row["tags"]) == (["New York", "rains"], ["B-LOC", "O"])


@together(
    "text, message",
    [
        ("a O\nb\n", r"data.txt:2: expected 2 columns as on the first line, separated by white space, got 'b'"),
        ("a\n", r"data.txt:1: expected word and tag, separated by white space"),
        ("a\tO\nb\t\n", r"data.txt:2: expected 2 columns"),
        ("", r"the split 'train' is empty"),
    ],
)
def test_faults_of_files_in_conll_form(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        conll(tmp_path, text)


# ---------------------------------------------------------------- windows of words


def tokenizer(kind="wordpiece", family="encoder"):
    from bench.config.cards import TokenizerCard
    from bench.data.tokenizer import train

    texts = ["a word or two", "anna went to york", "unbelievable"]
    return train(TokenizerCard(train=kind, vocab_size=300), family, texts)


def row_of(*words):
    return {"id": "1", "tokens": list(words), "text": " ".join(words)}


@together("kind, family", [("wordpiece", "encoder"), ("bpe", "decoder"), ("unigram", "encoder_decoder")])
def test_a_word_is_read_at_its_first_token_as_the_tokenizer_s_own_words_are(kind, family):
    made = tokenizer(kind, family)
    words = ["anna", "went", "unbelievably", "to", "yorkshire", ".", "x-ray"]
    found = make_windows([row_of(*words)], made, 100)
    ((window,),) = found.windows
    assert found.unseen == [()]
    expected = made(words, is_split_into_words=True)
    assert window["input_ids"] == expected["input_ids"]
    owners = expected.word_ids(0)
    places = dict(zip(window["words"], window["places"], strict=True))
    for number, word in enumerate(words):
        first = owners.index(number)
        if made.convert_ids_to_tokens(window["input_ids"][first]) in ("▁", "Ġ"):
            first += 1  # the mark of a space is no part of a word
        assert places[number] == first, word


@together("length", range(3, 12))
def test_each_word_is_read_once_by_the_window_with_most_context(length):
    made = tokenizer()
    words = [f"w{number}" for number in range(40)]  # of several tokens each
    whole = make_windows([row_of(*words)], made, 1000).windows[0][0]
    found = make_windows([row_of(*words)], made, length)
    (windows,) = found.windows
    assert all(len(window["input_ids"]) <= length for window in windows)
    assert sorted(word for window in windows for word in window["words"]) == list(range(40))
    assert found.unseen == [()]
    ids = dict(zip(whole["words"], whole["places"], strict=True))
    for window in windows:
        for word, place in zip(window["words"], window["places"], strict=True):
            assert window["input_ids"][place] == whole["input_ids"][ids[word]]
    if length >= 10:  # of inner words, at least a quarter of the window lies on either side
        inner = [(place, len(window["input_ids"])) for window in windows[1:-1] for place in window["places"]]
        assert all(min(place, size - 1 - place) >= (length - 2) // 4 for place, size in inner)


def test_words_without_a_token_are_named():
    made = tokenizer()
    found = make_windows([row_of("anna", "\u200b", "", "went"), row_of("\u200b\u200b")], made, 20)
    assert found.unseen[0][-1] == 2
    assert {0, 3} <= set(found.windows[0][0]["words"])
    assert 2 not in found.windows[0][0]["words"]


def test_special_tokens_spelt_out_are_text():
    made = tokenizer()
    found = make_windows([row_of("anna", "</s>", "went")], made, 30)
    ids = found.windows[0][0]["input_ids"]
    assert ids.count(made.eos_token_id) == 1
    assert ids[-1] == made.eos_token_id


def test_lengths_without_room_are_refused():
    with pytest.raises(SetupError, match="max_length 2 leaves no room for a word: the tokenizer adds 2 tokens"):
        make_windows([row_of("anna")], tokenizer(), 2)


def test_entities_are_shown_for_people():
    tags = ["B-PER", "I-PER", "O", "B-LOC"]
    assert tagging.shown(tags, ["Anna", "Hale", "in", "York"]) == "PER Anna Hale; LOC York"
    assert tagging.shown(tags) == "PER 1-2; LOC 4"
    assert tagging.shown(["O"]) == "(no entity)"
    assert tagging.entities([], "IOB2") == []
