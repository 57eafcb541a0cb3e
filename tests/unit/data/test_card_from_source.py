"""Cards made from a file, a folder of splits, a saved data set or a Hub id: what is found, and what is asked for."""

import dataclasses
import io
import json

import datasets
import pytest
import yaml

from bench.config.cards import DatasetCard
from bench.data import card_from_source, dataset, sources
from bench.errors import BenchError, DataError, RecipeError
from tests.helpers.cases import together
from tests.helpers.hub_server import Hub

QUEUES = ("billing", "other", "tech")
# number, text, queue, priority
TICKETS = [
    (number, f"please help with case {number}", QUEUES[number % 3], ("high", "low")[number % 2]) for number in range(60)
]
TEXT_LABEL = "text,label\n" + "".join(f"{text},{queue}\n" for _, text, queue, _ in TICKETS)
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
BINARY = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})


@pytest.fixture
def written(tmp_path):
    """written("a.csv", content) -> its path as a spec."""

    def write(name, content, encoding="utf-8"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return {"path": str(path)}

    return write


def as_read(value):
    """A made card as the YAML reader would give it: sequences are tuples."""
    if isinstance(value, dict):
        return {key: as_read(inner) for key, inner in value.items()}
    return tuple(as_read(inner) for inner in value) if isinstance(value, list) else value


def loaded(made):
    """The corpus of a made card, which goes through YAML first, as when it is printed to be kept."""
    card = DatasetCard.model_validate(as_read(yaml.safe_load(yaml.safe_dump(made.card))))
    return dataset.load(card, {}, {*card.split_names})


def refused(spec):
    with pytest.raises(BenchError) as caught:
        card_from_source.make(spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def parquet(rows, features=None):
    stream = io.BytesIO()
    datasets.Dataset.from_list(rows, features=features).to_parquet(stream)
    return stream.getvalue()


# ---------------------------------------------------------------- one file


def test_a_csv_of_excel_with_its_delimiter_and_encoding(written):
    content = "id;body;queue\n" + "".join(f"{number};{text} né;{queue}\n" for number, text, queue, _ in TICKETS)
    spec = written("tickets.csv", content, "cp1252") | {"delimiter": ";", "encoding": "cp1252"}
    made = card_from_source.make(spec)
    assert made.card["task"] == "text_classification"
    assert made.card["columns"] == {"id": "id", "text": "body", "label": "queue"}
    assert made.card["labels"] == list(QUEUES)
    assert made.card["divide"] == [{"of": ["train"], "into": SHARES}]
    assert made.card["prompt"]["template"] == "Body: {text}\nLabel:"
    assert "licence" not in made.card
    assert made.sources.keys() == made.card.keys()
    assert made.sources["labels"] == "values of the label column"
    notes = " | ".join(made.notes)
    assert (
        "all splits are drawn from 'train', the only one with labels: train 0.8, validation 0.1, test 0.1 (stratified"
        in notes
    )
    assert "the label is read from 'queue' | the text is read from 'body'" in notes
    corpus = loaded(made)
    assert {name: split.labels(corpus.labels) for name, split in corpus.splits.items()} == {
        "train": dict.fromkeys(QUEUES, 16),
        "validation": dict.fromkeys(QUEUES, 2),
        "test": dict.fromkeys(QUEUES, 2),
    }
    assert all(row["text"].endswith(" né") for row in corpus.splits["train"].rows)
    assert {row["id"] for split in corpus.splits.values() for row in split.rows} == {str(row[0]) for row in TICKETS}


def test_what_is_written_beside_the_path_wins(written):
    spec = written("a.csv", TEXT_LABEL) | {
        "license": "MIT",
        "labels": ("other", "billing", "tech"),
        "divide": ({"of": ("train",), "into": {"train": 0.5, "test": 0.5}},),
        "leakage": "error",
        "prompt": {"template": "{text}"},
        "metrics": ("mcc",),
    }
    made = card_from_source.make(spec)
    assert made.card["licence"] == "MIT"
    assert made.card["labels"] == ["other", "billing", "tech"]
    assert made.card["divide"] == [{"of": ["train"], "into": {"train": 0.5, "test": 0.5}}]
    assert (made.card["leakage"], made.card["metrics"], made.card["prompt"]) == (
        "error",
        ["mcc"],
        {"template": "{text}"},
    )
    assert made.notes == ()
    assert {name: len(split.rows) for name, split in loaded(made).splits.items()} == {"train": 30, "test": 30}


@together("kind", ["csv", "tsv", "jsonl", "json", "lines", "parquet", "csv.gz"])
def test_every_kind_of_file_gives_the_same_rows(written, kind):
    import gzip

    rows = [{"text": text, "label": queue} for _, text, queue, _ in TICKETS]
    content = {
        "csv": TEXT_LABEL,
        "tsv": TEXT_LABEL.replace(",", "\t"),
        "jsonl": lines(*rows),
        "json": json.dumps(rows),
        "lines": lines(*rows),
        "parquet": parquet(rows),
        "csv.gz": gzip.compress(TEXT_LABEL.encode()),
    }[kind]
    made = card_from_source.make(written("all.json" if kind == "lines" else f"all.{kind}", content))
    assert (made.card["columns"], made.card["labels"]) == ({"text": "text", "label": "label"}, list(QUEUES))
    got = {(row["text"], QUEUES[row["label"]]) for split in loaded(made).splits.values() for row in split.rows}
    assert got == {(text, queue) for _, text, queue, _ in TICKETS}
    assert any("JSON lines" in note for note in made.notes) is (kind == "lines")


@together("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_read(written, encoding):
    made = card_from_source.make(written("a.csv", TEXT_LABEL, encoding))
    assert made.card["columns"] == {"text": "text", "label": "label"}
    assert len(loaded(made).splits["train"].rows) == 48


def test_a_file_is_read_once(written, monkeypatch):
    spec, opened = written("a.csv", TEXT_LABEL), []
    real = sources.files.text
    monkeypatch.setattr(
        sources.files, "text", lambda path, *more, **keys: opened.append(path) or real(path, *more, **keys)
    )
    made = card_from_source.make(spec)
    first = loaded(made)
    assert len(opened) == 1
    assert dataclasses.asdict(loaded(made)) == dataclasses.asdict(first)
    assert len(opened) == 2, "what was kept is given once"
    made = card_from_source.make(spec)
    written("a.csv", TEXT_LABEL.replace("please", "Please"))
    assert loaded(made).splits["train"].rows[0]["text"].startswith("Please"), "a changed file is read again"


def test_labels_of_a_parquet_file_are_the_names_of_its_ids(written):
    rows = [{"text": f"text {number}", "label": number % 2} for number in range(20)]
    made = card_from_source.make(written("a.parquet", parquet(rows, BINARY)))
    assert made.card["labels"] == ["neg", "pos"]
    assert loaded(made).splits["test"].labels(("neg", "pos")) == {"neg": 1, "pos": 1}


def test_numbers_with_a_column_of_their_names(written):
    rows = [{"text": text, "label": number % 3, "label_text": queue} for number, text, queue, _ in TICKETS]
    made = card_from_source.make(written("a.jsonl", lines(*rows)))
    assert made.card["labels"] == ["0", "1", "2"]
    assert any("`columns: {label: label_text}`" in note for note in made.notes)
    spec = written("a.jsonl", lines(*rows)) | {"columns": {"label": "label_text"}}
    assert card_from_source.make(spec).card["labels"] == list(QUEUES)


def test_lists_of_labels_and_columns_of_flags(written):
    rows = [{"text": text, "labels": [queue, priority]} for _, text, queue, priority in TICKETS]
    made = card_from_source.make(written("a.jsonl", lines(*rows)))
    assert (made.card["multi_label"], made.card["labels"]) == (True, ["billing", "high", "low", "other", "tech"])
    assert loaded(made).splits["train"].rows[0]["label"] == [1, 1, 0, 0, 0]
    flags = written(
        "b.csv",
        "comment,toxic,rude\n"
        + "".join(f"{text},{n % 2},{n % 3}\n" for n, text, *_ in TICKETS).replace(",2\n", ",0\n"),
    )
    said = refused(flags)
    assert "the label could be 'toxic' (e.g. '0') or 'rude' (e.g. '0')" in said
    assert "write `labels: [toxic, rude]`, `multi_label: true` and `columns: {label_flags: true}`" in said
    own = {"labels": ["toxic", "rude"], "multi_label": True, "columns": {"label_flags": True}}
    assert loaded(card_from_source.make({**flags, **own})).splits["train"].rows[1]["text"] == "please help with case 1"


# ---------------------------------------------------------------- tasks by their layout

PAIR = [{"sentence1": f"a {n}", "sentence2": f"b {n}", "score": n / 7} for n in range(30)]
MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
LAYOUTS = {
    "pair": (
        [{"premise": f"a {n}", "hypothesis": f"b {n}", "genre": "x y", "label": n % 2} for n in range(30)],
        ("text_classification", {"text": "premise", "text_pair": "hypothesis", "label": "label"}),
    ),
    "sts": (PAIR, ("regression", {"text": "sentence1", "text_pair": "sentence2", "label": "score"})),
    "messages": ([{"messages": MESSAGES}] * 3, ("generation", {"messages": "messages"})),
    "sharegpt": (
        [{"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]}] * 3,
        ("generation", {"messages": "conversations"}),
    ),
    "alpaca": (
        [{"instruction": "do", "input": "", "output": "done"}] * 3,
        ("generation", {"text": "instruction", "input": "input", "reference": "output"}),
    ),
    "completion": (
        [{"prompt": "do", "completion": "done"}] * 3,
        ("generation", {"text": "prompt", "reference": "completion"}),
    ),
    "tags": (
        [{"tokens": ["a", "b"], "ner_tags": ["O", "B-X"]}] * 3,
        ("token_classification", {"tokens": "tokens", "tags": "ner_tags"}),
    ),
    "arc": (
        [{"question": "who?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "A"}] * 3,
        ("multiple_choice", {"text": "question", "choices": "choices", "label": "answerKey"}),
    ),
    "hellaswag": (
        [{"ctx": "so", "endings": ["a", "b"], "label": "0"}] * 3,
        ("multiple_choice", {"text": "ctx", "choices": "endings", "label": "label"}),
    ),
    "copa": (
        [{"premise": "so", "choice1": "a", "choice2": "b", "question": "cause", "label": 0}] * 3,
        (
            "multiple_choice",
            {"text": "premise", "text_pair": "question", "choices": ["choice1", "choice2"], "label": "label"},
        ),
    ),
}  # fmt: skip


PROMPTS = {
    "pair": "Premise: {text}\nHypothesis: {text_pair}\nLabel:",
    "sts": "Sentence1: {text}\nSentence2: {text_pair}\nScore:",
    "alpaca": "Instruction: {text}\nOutput:",
    "completion": "{text}",
    "arc": "Question: {text}\nAnswer:",
    "hellaswag": "{text}",
    "copa": "Premise: {text}\nQuestion: {text_pair}\nAnswer:",
}


@together("name", LAYOUTS)
def test_the_task_is_known_by_the_layout(written, name):
    rows, (task, columns) = LAYOUTS[name]
    made = card_from_source.make(written("a.jsonl", lines(*rows)))
    assert (made.card["task"], made.card["columns"]) == (task, columns)
    stratified = made.card["divide"][0].get("stratified", True)
    assert stratified is (task == "text_classification")
    assert made.card.get("prompt", {}).get("template") == PROMPTS.get(name)


def test_the_official_json_of_squad_is_known_by_its_content(written):
    def article(number, impossible):
        questions = [{"id": f"{number}-0", "question": "who?", "answers": [{"text": "cat", "answer_start": 4}]}]
        if impossible:
            questions.append({"id": f"{number}-1", "question": "why?", "answers": [], "is_impossible": True})
        return {"title": f"T{number}", "paragraphs": [{"context": f"The cat {number} sat.", "qas": questions}]}

    for impossible, metric in ((False, "squad"), (True, "squad_v2")):
        content = json.dumps({"data": [article(number, impossible) for number in range(20)]})
        made = card_from_source.make(written("squad.json", content))
        assert (made.card["task"], made.card["source"]["kind"]) == ("question_answering", "squad")
        assert (made.card["metrics"], made.card["divide"][0]["by_group"]) == ([metric], True)
        assert len(loaded(made).splits["test"].rows) == 2 * (1 + impossible)


def test_a_task_that_is_named_takes_what_is_of_it(written):
    spec = written("a.csv", "text,rating,pages\n" + "".join(f"{text},{n / 7},{n}\n" for n, text, *_ in TICKETS))
    made = card_from_source.make({**spec, "task": "regression"})
    assert (made.card["task"], made.card["columns"]) == ("regression", {"text": "text", "label": "rating"})
    said = refused({**spec, "task": "token_classification"})
    assert (
        "do not say which are those of task 'token_classification'; write `columns: {tokens: ..., tags: ...}`" in said
    )


# ---------------------------------------------------------------- splits


def rows_of(split, count=30):
    return [{"text": f"{split} {number}", "label": QUEUES[number % 3]} for number in range(count)]


ALL = {"train": "train", "validation": "validation", "test": "test"}
HELD_OUT = {"train": 0.9, "validation": 0.1}
# name -> files, splits, and the shares of the training file
SPLITS = {
    "all": (["train.csv", "dev.csv", "test.csv"], ALL, None),
    "no validation": (["train.csv", "test.csv"], {"test": "test"}, HELD_OUT),
    "no test": (["a-train.csv", "a-val.csv"], {"test": "validation"}, HELD_OUT),
    "train only": (["train.csv"], None, SHARES),
    "other name": (["everything.csv"], None, SHARES),
    "shards": (
        ["data/train-00000-of-00002.csv", "data/train-00001-of-00002.csv", "data/test-00000-of-00001.csv"],
        {"test": "test"},
        HELD_OUT,
    ),
    "folders": (["training/0.csv", "training/1.csv", "testing/0.csv"], {"test": "test"}, HELD_OUT),
}


@together("name", SPLITS)
def test_a_folder_of_splits(written, tmp_path, name):
    names, splits, divided = SPLITS[name]
    for number, file in enumerate(names):
        written(
            f"{name}/{file}",
            "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows_of(f"{number}", 60)),
        )
    made = card_from_source.make({"path": str(tmp_path / name)})
    assert made.card.get("splits") == splits
    assert made.card.get("divide", [{}])[0].get("into") == divided
    corpus = loaded(made)
    assert set(corpus.splits) == {"train", "validation", "test"}
    assert sum(len(split.rows) for split in corpus.splits.values()) == 60 * len(names)


def test_a_test_file_without_labels_is_not_scored(written, tmp_path):
    written("two/train.csv", TEXT_LABEL)
    written("two/test.csv", "text\n" + "".join(f"other {number}\n" for number in range(9)))
    made = card_from_source.make({"path": str(tmp_path / "two")})
    assert made.card["divide"] == [{"of": ["train"], "into": SHARES}]
    assert "splits" not in made.card
    notes = " | ".join(made.notes)
    assert "the labels of the split 'test' are hidden (-1 or missing), so that it is not scored" in notes
    assert "all splits are drawn from 'train', the only one with labels: train 0.8, validation 0.1" in notes
    assert len(loaded(made).splits["test"].rows) == 6


def test_a_folder_that_save_to_disk_wrote(tmp_path):
    split = datasets.Dataset.from_list([{"text": f"t {n}", "label": n % 2} for n in range(20)], features=BINARY)
    datasets.DatasetDict(
        {"train": split, "test": split.map(lambda row: {"text": f"other {row['text']}"})}
    ).save_to_disk(str(tmp_path / "both"))
    split.save_to_disk(str(tmp_path / "one"))
    both = card_from_source.make({"path": str(tmp_path / "both")})
    assert (both.card["source"]["kind"], both.card["splits"], both.card["labels"]) == (
        "saved",
        {"test": "test"},
        ["neg", "pos"],
    )
    assert len(loaded(both).splits["test"].rows) == 20
    one = card_from_source.make({"path": str(tmp_path / "one")})
    assert len(loaded(one).splits["test"].rows) == 2


# ---------------------------------------------------------------- what is asked for, and what is refused

TABLES = {
    "two labels": ("text,queue,priority", lambda n, text, q, p: (text, q, p)),
    "two texts": ("title,content,label", lambda n, text, q, p: (text, f"more {text}", q)),
    "no label": ("title,content", lambda n, text, q, p: (text, f"more {text}")),
    "no text": ("size,label", lambda n, text, q, p: (n, q)),
    "names of rows": ("text,label", lambda n, text, q, p: (text, n)),
    "fractions": ("text,label", lambda n, text, q, p: (text, n / 7)),
    "fractions by another name": ("text,rating", lambda n, text, q, p: (text, n / 7)),
    "one label": ("text,label", lambda n, text, q, p: (text, "x")),
    "same names": ("text,label,text", lambda n, text, q, p: (text, q, text)),
    "semicolons": ("text;label", lambda n, text, q, p: (f"{text};{q}",)),
    "sep line": ("sep=;\ntext;label", lambda n, text, q, p: (f"{text};{q}",)),
    "tabs": ("text\tlabel", lambda n, text, q, p: (f"{text}\t{q}",)),
}
ASKED = {
    "two labels": (
        "the label could be 'queue' (e.g. 'billing') or 'priority' (e.g. 'high'); write the one you mean, as "
        "`columns: {text: text, label: queue}`"
    ),
    "two texts": (
        "the text could be 'title' (e.g. 'please help with case 0') or 'content' (e.g. 'more please help with case 0')"
        "; write the one you mean, as `columns: {text: title, label: label}`; for two texts that are judged together, "
        "`columns: {text: title, text_pair: content, label: label}`; for one text of both, "
        '`compose: {whole: "{title}: {content}"}` and `columns: {text: whole, label: label}`'
    ),
    "no label": "can be told to be the label; name it, as `columns: {text: title, label: ...}`",
    "no text": "holds texts; name one, as `columns: {text: ..., label: label}`",
    "names of rows": "the column 'label' has 60 different values in 60 rows ('0'), which are names of rows",
    "fractions": "the column 'label' holds numbers with fractions ('0.0'); did you mean `task: regression`?",
    "fractions by another name": "'rating' (e.g. '0.0') holds numbers with fractions: did you mean `task: regression`?",
    "one label": "the column 'label' has 1 labels; expected 2 or more",
    "same names": "duplicate column in the header: text, label, text",
    "semicolons": "the header is one column, 'text;label'; its names look separated by ';': write `delimiter: \";\"`",
    "sep line": "names a delimiter, 'sep=;', for Excel alone; remove this line, and write `delimiter: \";\"`",
    "tabs": "its names look separated by '\\t': write `delimiter: \"\\t\"`",
}  # fmt: skip


@together("name", ASKED)
def test_a_table_that_does_not_say_enough(written, name):
    header, cells = TABLES[name]
    content = header + "\n" + "".join(",".join(map(str, cells(*row))) + "\n" for row in TICKETS)
    said = refused(written("a.csv", content))
    assert ASKED[name] in said
    assert "a.csv" in said


def test_rows_that_name_themselves_are_labels_where_they_are_listed(written):
    rows = [{"text": f"t {number}", "label": f"l{number}"} for number in range(20)]
    made = card_from_source.make(written("a.jsonl", lines(*rows)) | {"labels": [row["label"] for row in rows]})
    assert len(made.card["labels"]) == 20


def test_one_text_is_composed_of_two_columns(written):
    content = "title,content,label\n" + "".join(f"{text},more {number},{queue}\n" for number, text, queue, _ in TICKETS)
    spec = written("a.csv", content) | {"compose": {"whole": "{title}: {content}"}}
    made = card_from_source.make({**spec, "columns": {"text": "whole"}})
    assert made.card["source"]["compose"] == {"whole": "{title}: {content}"}
    assert not [note for note in made.notes if "not used" in note]
    assert loaded(made).splits["train"].rows[0]["text"] == "please help with case 0: more 0"
    assert "has no column 'titel'. Did you mean 'title'?" in refused({**spec, "compose": {"whole": "{titel}"}})
    assert "has a column 'title'; choose another name" in refused({**spec, "compose": {"title": "{content}"}})
    assert "names no column; write a template" in refused({**spec, "compose": {"whole": "title"}})


def test_tags_of_two_kinds_are_asked_for(written):
    rows = [{"tokens": ["a"], "ner_tags": ["O"], "pos_tags": ["N"]}] * 3
    said = refused(written("a.jsonl", lines(*rows)))
    assert "could be 'ner_tags' (e.g. ['O']) or 'pos_tags' (e.g. ['N'])" in said
    assert "`columns: {tokens: tokens, tags: ner_tags}`" in said


def test_texts_to_generate_with_a_label_beside_them_are_asked_for(written):
    rows = [{"prompt": f"do {n}", "completion": f"done {n}", "label": n % 2 == 0} for n in range(30)]
    spec = written("a.jsonl", lines(*rows))
    assert "write `task: generation` or `task: text_classification`" in refused(spec)
    assert card_from_source.make({**spec, "task": "generation"}).card["columns"] == {
        "text": "prompt",
        "reference": "completion",
    }


def test_a_column_that_is_not_there(written):
    spec = written("a.csv", TEXT_LABEL)
    said = refused({**spec, "columns": {"label": "lable"}})
    assert "there is no column 'lable', which `columns.label` names; did you mean 'label'?" in said
    assert "its columns are 'text', e.g. 'please help with case 0', 'label'" in refused(
        {**spec, "columns": {"text": "zzz"}}
    )


BAD_FILES = {
    "empty.csv": (b"", "empty.csv is empty: there are no rows"),
    "header.csv": (b"text,label\n", "header.csv is empty: there are no rows"),
    "zip.csv": (b"PK\x03\x04rest", "is a ZIP archive (also an Excel file is one)"),
    "table.parquet": (b"text,label\na,b\n", "can't be read as Parquet; it is damaged, or of another kind"),
    "table.csv": (b"PAR1 and more", "is a Parquet file"),
    "array.jsonl": (b'[{"text": "a"}]', "set source.kind: json"),
    "sheet.xlsx": (b"PK\x03\x04", "the name must end in .csv, .tsv"),
    "latin.csv": ("text,label\né,b\n".encode("cp1252"), "Excel's is often `encoding: cp1252`"),
    "unmarked.csv": ("text,label\na,b\n".encode("utf-16-le"), "or write `encoding: utf-16-le`"),
}


@together("name", BAD_FILES)
def test_a_file_that_is_not_what_it_should_be(written, name):
    content, expected = BAD_FILES[name]
    assert expected in refused(written(name, content))


def test_paths_that_hold_no_data_or_several(written, tmp_path):
    written("a.csv", TEXT_LABEL)
    assert "Did you mean 'a.csv'?" in refused({"path": str(tmp_path / "b.csv")})
    (tmp_path / "nothing").mkdir()
    assert "has no data file (.csv, .tsv, .json, .jsonl, .ndjson, .parquet, .conll); it is empty" in refused(
        {"path": str(tmp_path / "nothing")}
    )
    written("notes/readme.txt", "x")
    assert "it holds readme.txt" in refused({"path": str(tmp_path / "notes")})
    written("b.csv", TEXT_LABEL)
    said = refused({"path": str(tmp_path)})
    assert "several data files, a.csv, b.csv: none is named after a split" in said
    assert "`source: {files: {train: a.csv}}`" in said
    made = card_from_source.make({"path": str(tmp_path), "source": {"files": {"train": "a.csv"}}})
    assert made.card["source"]["files"] == {"train": "a.csv"}
    written("two/train.csv", TEXT_LABEL)
    written("two/test.jsonl", lines(*rows_of("x")))
    assert "they are of different kinds" in refused({"path": str(tmp_path / "two")})


def test_keys_that_do_not_go_together(written):
    spec = written("a.csv", TEXT_LABEL)
    assert "needs `path` (a file or folder) or `id` (of the Hub)" in refused({"id": "me/x", **spec})
    assert "`revision` is for a data set of the Hub" in refused({**spec, "revision": "main"})
    assert 'write one character, as ";"' in refused({**spec, "delimiter": ";;"})
    assert "there is no text encoding 'utf-9'" in refused({**spec, "encoding": "utf-9"})
    marked = written("b.csv", TEXT_LABEL, "utf-8-sig")
    assert "begins with the byte order mark of UTF-8; remove `encoding: cp1252`" in refused(
        {**marked, "encoding": "cp1252"}
    )
    assert card_from_source.make({**marked, "encoding": "utf8"}).card["columns"] == {"text": "text", "label": "label"}
    assert "has no `delimiter`" in refused({**written("a.jsonl", lines(*rows_of("x"))), "delimiter": ";"})


# ---------------------------------------------------------------- the Hub


README = """---
license: cc-by-4.0
dataset_info:
  features:
  - name: text
    dtype: string
  - name: label
    dtype:
      class_label:
        names:
          '0': neg
          '1': pos
  splits:
  - name: train
    num_bytes: 1
    num_examples: 20
  - name: test
    num_bytes: 1
    num_examples: 10
---
"""
CONFIGS = "---\nconfigs:\n- config_name: en\n  data_files: en.jsonl\n- config_name: de\n  data_files: de.jsonl\n---\n"
COMMIT = "c0ffee" + "0" * 34


def binary(split, count, label=None):
    return parquet([{"text": f"{split} {n}", "label": n % 2 if label is None else label} for n in range(count)], BINARY)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A Hub with data sets of several layouts, which the libraries of this process read from."""
    monkeypatch = pytest.MonkeyPatch()
    with Hub() as server:
        server.redirect(monkeypatch, tmp_path_factory.mktemp("cache"))
        monkeypatch.chdir(tmp_path_factory.mktemp("empty"))
        files = {
            "data/train-00000-of-00001.parquet": binary("train", 20),
            "data/test-00000-of-00001.parquet": binary("test", 10),
        }
        older = {"v1": {"train.csv": TEXT_LABEL}}
        server.add("datasets/me/described", files={"README.md": README, **files}, sha=COMMIT, older=older)
        glue = {
            f"data/{name}-00000-of-00001.parquet": binary(name, count, label)
            for name, count, label in (("train", 40, None), ("validation", 10, None), ("test", 10, -1))
        }
        server.add("datasets/me/hidden", files=glue)
        mnli = {
            f"data/{name}-00000-of-00001.parquet": binary(name, 20, -1 if "test" in name else None)
            for name in ("train", "validation_matched", "validation_mismatched", "test_matched", "test_mismatched")
        }
        server.add("datasets/me/matched", files=mnli)
        server.add("datasets/me/table", files={"train.csv": TEXT_LABEL})
        server.add(
            "datasets/me/several",
            files={"README.md": CONFIGS, "en.jsonl": lines(*rows_of("en")), "de.jsonl": lines(*rows_of("de"))},
        )
        server.add("datasets/me/script", files={"script.py": "raise SystemExit", "train.csv": TEXT_LABEL})
        server.add("datasets/me/gated", files={"train.csv": TEXT_LABEL}, gated="auto")
        server.add("datasets/me/nothing", files={"README.md": "nothing"})
        yield server
    monkeypatch.undo()


def test_a_described_data_set_is_not_downloaded(hub):
    hub.seen.clear()
    made = card_from_source.make({"id": "me/described"})
    assert not [path for _, path, *_ in hub.seen if path.endswith(".parquet")]
    assert made.card["source"] == {"kind": "hub", "id": "me/described", "revision": COMMIT}
    assert (made.card["licence"], made.card["homepage"]) == (
        "cc-by-4.0",
        "https://huggingface.co/datasets/me/described",
    )
    assert (made.card["labels"], made.card["splits"]) == (["neg", "pos"], {"test": "test"})
    assert made.card["divide"] == [{"of": ["train"], "into": {"train": 0.9, "validation": 0.1}}]
    corpus = loaded(made)
    assert {name: len(split.rows) for name, split in corpus.splits.items()} == {
        "test": 10,
        "train": 18,
        "validation": 2,
    }


def test_the_same_name_gives_the_same_card_before_and_after_the_data_are_in_the_cache(hub):
    for spec in ({"id": "me/table"}, {"id": "me/hidden"}, {"id": "me/several", "config": "de"}):
        before = card_from_source.make(spec)
        loaded(before)
        assert card_from_source.make(spec) == before


def test_another_revision(hub):
    made = card_from_source.make({"id": "me/described", "revision": "v1"})
    assert made.card["labels"] == list(QUEUES)
    assert len(made.card["source"]["revision"]) == 40
    assert made.card["source"]["revision"] != COMMIT
    assert "has no revision 'v2'; name a commit, a branch or a tag of it" in refused(
        {"id": "me/described", "revision": "v2"}
    )


def test_hidden_labels_of_the_test_make_validation_the_test(hub):
    made = card_from_source.make({"id": "me/hidden"})
    assert made.card["splits"] == {"test": "validation"}
    assert made.card["divide"] == [{"of": ["train"], "into": {"train": 0.9, "validation": 0.1}}]
    notes = " | ".join(made.notes)
    assert "the labels of the split 'test' are hidden (-1 or missing)" in notes
    assert "the split 'validation' is the test" in notes
    assert {row["text"].split()[0] for row in loaded(made).splits["test"].rows} == {"validation"}


def test_lists_of_tags_in_the_test_are_not_hidden_labels(hub):
    rows = lines(*[{"tokens": ["a", "b"], "tags": ["O", "B-X"]}] * 3)
    files = {f"{name}.jsonl": rows for name in ("train", "validation", "test")}
    hub.add("datasets/me/tags", files=files)
    made = card_from_source.make({"id": "me/tags"})
    assert made.card["splits"] == {name: name for name in ("train", "validation", "test")}
    hub.add("datasets/me/no_tags", files={**files, "test.jsonl": rows.replace('["O", "B-X"]', "[]")})
    assert card_from_source.make({"id": "me/no_tags"}).card["splits"] == {"test": "validation"}


def test_two_splits_that_could_be_the_test_are_asked_for(hub):
    said = refused({"id": "me/matched"})
    assert "could be 'validation_matched' or 'validation_mismatched'" in said
    line = said.partition("as `")[2].rpartition("`")[0]
    keys = yaml.safe_load(f"{{{line}}}")
    made = card_from_source.make({"id": "me/matched", **keys})
    assert {row["text"].split()[0] for row in loaded(made).splits["test"].rows} == {"validation_matched"}


def test_a_config_is_named(hub):
    made = card_from_source.make({"id": "me/several", "config": "de"})
    assert made.card["source"]["config"] == "de"
    assert loaded(made).splits["train"].rows[0]["text"].startswith("de ")
    said = refused({"id": "me/several"})
    assert "has several configs, en, de; name one, as `dataset: {id: me/several, config: en}`" in said
    assert "has no config 'dee'. Did you mean 'de'?" in refused({"id": "me/several", "config": "dee"})


NOT_READ = {
    "me/script": "is a loading script, which is foreign code and is never run",
    "me/gated": "is gated: ask for access on https://huggingface.co/datasets/me/gated, and log in with `hf auth login`",
    "me/none": "there is no data set 'me/none' on the Hub, or it is private",
    "me/nothing": "has no file that can be read",
}


@together("name", NOT_READ)
def test_a_data_set_that_can_not_be_read(hub, name):
    assert NOT_READ[name] in refused({"id": name})


def test_offline_what_is_in_the_cache_is_read_and_all_else_is_refused(hub, monkeypatch):
    import huggingface_hub.constants

    loaded(card_from_source.make({"id": "me/hidden"}))
    online = card_from_source.make({"id": "me/hidden"})
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    assert card_from_source.make({"id": "me/hidden"}).card["source"] == online.card["source"]
    assert loaded(online).labels == ("neg", "pos")
    said = refused({"id": "me/elsewhere"})
    assert "is not in the cache" in said
    assert "`datasets.load_dataset('me/elsewhere')`" in said
    assert "HF_HUB_OFFLINE" in said
    with pytest.raises(DataError, match=f"is in the cache at the commit {'0' * 40}, not at {COMMIT}"):
        loaded(
            dataclasses.replace(online, card=online.card | {"source": {**online.card["source"], "revision": COMMIT}})
        )
    other = refused({"id": "me/hidden", "revision": COMMIT})
    assert f"is in the cache at the commit {'0' * 40}, not at {COMMIT}" in other


def test_a_folder_of_the_same_name_is_refused(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me" / "table").mkdir(parents=True)
    assert "name the folder as `path: ./me/table`" in refused({"id": "me/table"})


def test_errors_are_for_people():
    assert issubclass(DataError, BenchError)
    assert issubclass(RecipeError, BenchError)
