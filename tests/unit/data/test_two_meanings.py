"""Data that could be meant in two ways: columns that are named decide, what is left open is asked for, none is lost."""

import json

import pytest

from bench.config import named_cards
from bench.config.cards import Columns, DatasetCard
from bench.data import card_from_source
from bench.data.targets import reference
from bench.errors import BenchError, DataError
from tests.helpers.cases import together

CLASSIFY = "text_classification"
MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]


@pytest.fixture
def data(tmp_path):
    """data(rows or text, name) -> the file as a spec."""

    def write(rows, name="a.jsonl"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows))
        return {"path": str(path)}

    return write


def refused(spec):
    with pytest.raises(BenchError) as caught:
        card_from_source.make(spec)
    return str(caught.value)


def rows_of(**columns):
    """30 rows; a column is a value, or what gives it for the number of the row."""
    return [{key: one(n) if callable(one) else one for key, one in columns.items()} for n in range(30)]


def text(n):
    return f"text number {n}"


def sign(n):
    return ("neg", "pos")[n % 2]


def bit(n):
    return n % 2


TAGGED = rows_of(text=text, label=sign, tokens=["a", "b"], pos_tags=["N", "V"])
WITH_CHOICES = rows_of(text=text, label=sign, choices=["x", "y"])
COPA_LIKE = rows_of(text=text, choice1="x", choice2="y", label=bit)
ARC_LIKE = rows_of(question=text, choices=["x", "y"], answerKey=lambda n: "AB"[n % 2])
TEXT_LABEL = {"text": "text", "label": "label"}

# name -> rows, what is written beside the path, task, columns
DECIDED = {
    "tags": (TAGGED, {"columns": TEXT_LABEL}, CLASSIFY, TEXT_LABEL),
    "a label beside tags": (TAGGED, {"columns": {"label": "label"}}, CLASSIFY, TEXT_LABEL),
    "tags by name": (
        TAGGED,
        {"columns": {"tags": "pos_tags"}},
        "token_classification",
        {"tokens": "tokens", "tags": "pos_tags"},
    ),
    "choices": (WITH_CHOICES, {"columns": TEXT_LABEL}, CLASSIFY, TEXT_LABEL),
    "choices that the label is none of": (WITH_CHOICES, {}, CLASSIFY, TEXT_LABEL),
    "numbered choices": (COPA_LIKE, {"columns": TEXT_LABEL}, CLASSIFY, TEXT_LABEL),
    "choices by the task": (
        COPA_LIKE,
        {"task": "multiple_choice"},
        "multiple_choice",
        {"text": "text", "choices": ["choice1", "choice2"], "label": "label"},
    ),
    "a score beside a label": (
        rows_of(premise=text, hypothesis=lambda n: f"other {n}", label=sign, score=lambda n: n / 7),
        {},
        CLASSIFY,
        {"text": "premise", "text_pair": "hypothesis", "label": "label"},
    ),
    "a score by name": (
        rows_of(premise=text, hypothesis=lambda n: f"other {n}", label=sign, score=lambda n: n / 7),
        {"columns": {"label": "score"}},
        "regression",
        {"text": "premise", "text_pair": "hypothesis", "label": "score"},
    ),
    "instructions": (
        rows_of(instruction=text, output="done", label=sign),
        {"columns": {"text": "instruction", "label": "label"}},
        CLASSIFY,
        {"text": "instruction", "label": "label"},
    ),
    "conversations": (
        rows_of(text=text, messages=MESSAGES, label=sign),
        {"columns": TEXT_LABEL},
        CLASSIFY,
        TEXT_LABEL,
    ),
    "a reference by name": (
        rows_of(instruction=text, input="", output="done"),
        {"columns": {"reference": "output"}},
        "generation",
        {"text": "instruction", "input": "input", "reference": "output"},
    ),
    "a prompt by name": (
        rows_of(prompt=text, messages=MESSAGES, response="done"),
        {"columns": {"text": "prompt"}},
        "generation",
        {"text": "prompt", "reference": "response"},
    ),
    "dolly": (
        rows_of(instruction=text, context="of this", response="done", category="qa"),
        {},
        "generation",
        {"text": "instruction", "input": "context", "reference": "response"},
    ),
    "metamath": (
        rows_of(type="GSM", query=text, original_question=text, response="7"),
        {},
        "generation",
        {"text": "query", "reference": "response"},
    ),
}


@together("name", DECIDED)
def test_columns_that_are_named_decide(data, name):
    rows, beside, task, columns = DECIDED[name]
    made = card_from_source.make({**data(rows), **beside})
    assert (made.card["task"], made.card["columns"]) == (task, columns)


ASKED = {
    "tags": (TAGGED, {}, "words with tags, or texts to classify by 'label' (e.g. 'neg'); write `task: token_class"),
    "numbered choices": (COPA_LIKE, {}, "write `task: multiple_choice` or `task: text_classification`"),
    "label of choices": (
        ARC_LIKE,
        {"columns": {"label": "answerKey"}},
        "write `task: multiple_choice` or `task: text_classification`",
    ),
    "columns of two tasks": (
        TAGGED,
        {"columns": {"tags": "pos_tags", "label": "label"}},
        "`columns.tags` and `columns.label` are of different tasks; remove one, `task: token_classification` or",
    ),
    "two conversations": (
        rows_of(chosen=MESSAGES, rejected=MESSAGES),
        {},
        "hold conversations: chosen, rejected; write the one you mean, as `columns: {messages: chosen}`",
    ),
    "commas": (
        rows_of(text=text, label=lambda n: ("1,5", "2,5", "3")[n % 3]),
        {},
        "the column 'label' holds numbers with commas ('1,5'); write them with a point, as 1.5, and set `task: reg",
    ),
    "commas by another name": (
        rows_of(text=text, rating=lambda n: f"{n},25"),
        {"task": "regression"},
        "the column 'rating' holds numbers with commas ('0,25'); write them with a point, as 0.25",
    ),
    "a column of splits": (
        rows_of(text=text, label=sign, part=lambda n: ("train", "train", "val", "test")[n % 4]),
        {},
        "the column 'part' says which split each row is of (train 16, val 7, test 7); write the rows of each",
    ),
}  # fmt: skip


@together("name", ASKED)
def test_what_is_open_is_asked_for(data, name):
    rows, beside, expected = ASKED[name]
    assert expected in refused({**data(rows), **beside})


def test_numbers_with_commas_that_are_listed_are_labels(data):
    rows = rows_of(text=text, label=lambda n: ("1,5", "2,5")[n % 2])
    assert card_from_source.make({**data(rows), "labels": ["1,5", "2,5"]}).card["labels"] == ["1,5", "2,5"]


def test_a_column_of_splits_is_left_where_the_split_is_said(data):
    rows = rows_of(text=text, label=sign, part=lambda n: ("train", "test")[n // 15])
    divide = [{"of": ["train"], "into": {"train": 0.5, "test": 0.5}}]
    assert card_from_source.make({**data(rows), "divide": divide}).card["divide"] == divide
    named = {"columns": {"label": "part", "text": "text"}}
    assert card_from_source.make({**data(rows), **named}).card["labels"] == ["test", "train"]


SYSTEM = rows_of(system="be short", instruction=text, output="done")


def test_columns_that_no_layout_reads_are_noted(data):
    notes = card_from_source.make(data(SYSTEM)).notes
    assert "columns that are not used: system" in notes
    line = (
        '`compose: {whole: "{system}\\n\\n{instruction}"}` and `columns: {text: whole, ...}` put them before each text'
    )
    assert f"the system prompts in 'system' are not read; {line}" in notes


def test_system_prompts_of_conversations_are_their_first_turns(data):
    system = {"role": "system", "content": "be short"}
    made = card_from_source.make(data(rows_of(system="be short", conversations=MESSAGES)))
    assert made.card["columns"] == {"messages": "conversations", "system": "system"}
    assert not [note for note in made.notes if "not used" in note]
    card = DatasetCard.model_validate(named_cards.as_read(made.card))
    assert reference.columns(card) == ["conversations", "system"]
    read = reference.read({}, (), card)

    def turns_of(prompt, turns):
        return read.fields({"system": prompt, "conversations": turns}, "row 1")["messages"]

    assert turns_of("be short", MESSAGES) == turns_of("be short", [system, *MESSAGES]) == [system, MESSAGES[0]]
    assert turns_of("", MESSAGES) == turns_of(None, MESSAGES) == [MESSAGES[0]]
    assert turns_of("", [system, *MESSAGES]) == [system, MESSAGES[0]]
    assert read.texts({"system": "be short", "conversations": MESSAGES}, "row 1") == ("hi", None)
    with pytest.raises(DataError, match="row 1: the conversation has a system turn, and 'system' another"):
        turns_of("be long", [system, *MESSAGES])


def test_a_column_of_system_prompts_is_for_conversations(data):
    said = refused({**data(SYSTEM), "columns": {"system": "system", "label": "output"}})
    assert "`columns.system` and `columns.label` are of different tasks" in said
    columns = {"text": "instruction", "reference": "output", "system": "system"}
    card = {"task": "generation", "source": {"kind": "builtin", "id": "x"}, "splits": {"train": "train"}}
    with pytest.raises(ValueError, match=r"only beside `columns\.messages`"):
        DatasetCard.model_validate({**card, "columns": columns})


def test_the_line_that_is_given_for_system_prompts_reads_them(data):
    spec = {**data(SYSTEM), "compose": {"whole": "{system}\n\n{instruction}"}}
    made = card_from_source.make({**spec, "columns": {"text": "whole", "reference": "output"}})
    assert made.card["columns"] == {"text": "whole", "reference": "output"}
    assert not [note for note in made.notes if "not used" in note]


# ---------------------------------------------------------------- folders


TABLE = "text,label\n" + "".join(f"text number {n},{'ab'[n % 2]}\n" for n in range(40))
# name -> files, the message, the line that it gives
FOLDERS = {
    "no train": (
        ["reviews.csv", "test.csv"],
        "none is called train, and reviews.csv may be it",
        "{files: {train: reviews.csv, test: test.csv}}",
    ),
    "versions": (
        ["train-v1.csv", "train-v2.csv"],
        "each could be the split 'train'",
        "{files: {train: train-v1.csv}}",
    ),
    "dotted versions": (
        ["train_v1.0.csv", "train_v1.1.csv"],
        "each could be the split 'train'",
        "{files: {train: train_v1.0.csv}}",
    ),
    "dev and eval": (
        ["train.csv", "dev.csv", "eval.csv"],
        "each could be the split 'validation'",
        "{files: {train: train.csv, validation: dev.csv, test: eval.csv}}",
    ),
    "only a test": (["test.csv", "readme.txt"], "its only split is 'test'", None),
}


@together("name", FOLDERS)
def test_folders_that_do_not_say_what_is_trained_on(data, tmp_path, name):
    files, expected, line = FOLDERS[name]
    for file in files:
        data(TABLE, f"{name}/{file}")
    spec = {"path": str(tmp_path / name)}
    said = refused(spec)
    assert expected in said
    if line is None:
        assert "write `divide: [{of: [test], into: {train: 0.8, validation: 0.1, test: 0.1}}]`" in said
        return
    assert f"`source: {line}`" in said
    pairs = [pair.split(": ") for pair in line.removeprefix("{files: {").removesuffix("}}").split(", ")]
    assert card_from_source.make({**spec, "source": {"files": dict(pairs)}}).card["source"]["files"] == dict(pairs)


def test_numbered_parts_of_one_file_are_still_one(data, tmp_path):
    for file in ("dev1.csv", "dev2.csv", "train-1.csv", "train-2.csv"):
        data(TABLE, f"parts/{file}")
    files = card_from_source.make({"path": str(tmp_path / "parts")}).card["source"]["files"]
    assert files == {"train": ("train-1.csv", "train-2.csv"), "validation": ("dev1.csv", "dev2.csv")}


# ---------------------------------------------------------------- types


TABLE_SPEC = {
    "columns": ("review", "columns: expected a mapping of keys to values, got 'review'."),
    "columns.text": ({"text": ["a", "b"]}, "columns.text: expected text, got ['a', 'b']."),
    "columns.label": ({"label": {"a": "b"}}, "columns.label: expected text, got {'a': 'b'}."),
    "columns.label (empty)": ({"label": ""}, "columns.label: expected a text that is not empty, got ''."),
    "columns.text_pair": ({"text": "text", "text_pair": "text"}, "columns.text_pair: 'text' is `columns.text` too"),
    "splits": (5, "splits: expected a mapping of keys to values, got 5."),
    "splits.train": ({"train": 1}, "splits.train: expected text, got 1."),
    "divide": ({"of": "train"}, "divide: expected a list, as in [a, b], got {'of': 'train'}."),
    "source": (5, "source: expected a mapping of keys to values, got 5."),
    "source.files": ({"files": 3}, "source.files: expected a mapping of keys to values, got 3."),
    "source.files.train": ({"files": {"train": []}}, "source.files.train: expected text or at least one item, got []."),
    "task": (["a"], "task: expected text, got ['a']."),
    "labels": (5, "labels: expected a list, as in [a, b], got 5."),
    "compose": (5, "compose: expected a mapping of keys to values, got 5."),
    "license": ("MIT", "`licence` and `license` are two spellings of one key; remove one"),
}


@together("key", TABLE_SPEC)
def test_keys_of_another_type(data, key):
    value, expected = TABLE_SPEC[key]
    more = {"licence": "MIT"} if key == "license" else {}
    said = refused({**data(TABLE, "a.csv"), **more, key.split(".")[0]: value})
    assert said.startswith(expected)


def test_all_keys_of_another_type_are_told_at_once(data):
    said = refused({**data(TABLE, "a.csv"), "columns": 5, "divide": 6}).splitlines()
    assert [line.partition(":")[0] for line in said] == ["columns", "divide"]


def test_columns_of_different_roles_may_be_one_where_they_are_not_read_as_two():
    assert Columns(text="context", text_pair="question", group="context").group == "context"


def answered(n):
    return "y" if n else "z"


CHOSEN = rows_of(question=text, choices=["x", "y"], answer=answered)
NEVER_CHOSEN = rows_of(question=text, choices=["x", "y"], answer="none of them")
TAGS_IN_ONE_TEXT = rows_of(tokens=lambda n: ["a", "bc"[n % 2]], tags="N V")
CHAT_CELLS = (
    "messages\n"
    + '"[{""role"": ""user"", ""content"": ""hi""}, {""role"": ""assistant"", ""content"": ""ho""}]"\n' * 30
)


def test_one_wrong_row_makes_no_other_task_of_choices(data):
    card = card_from_source.make(data(CHOSEN)).card
    assert (card["task"], card["columns"]["label"]) == ("multiple_choice", "answer")


def test_columns_of_a_layout_that_is_not_whole_are_no_labels(data):
    for rows in (NEVER_CHOSEN, TAGS_IN_ONE_TEXT):
        assert "can be told to be the label" in refused(data(rows))


def test_prompts_with_references_are_texts_to_generate_as_those_with_completions_are(data):
    for prompt, answer in (("prompt", "reference"), ("prompt", "completion"), ("text", "reference")):
        card = card_from_source.make(data(rows_of(**{prompt: text, answer: sign}), f"{prompt}-{answer}.jsonl")).card
        assert (card["task"], card["columns"]) == ("generation", {"text": prompt, "reference": answer})


def test_conversations_may_be_json_in_a_cell(data):
    card = card_from_source.make(data(CHAT_CELLS, "a.csv")).card
    assert (card["task"], card["columns"]) == ("generation", {"messages": "messages"})


def test_two_texts_without_a_label_may_be_a_prompt_and_its_answer(data):
    said = refused(data(rows_of(question=text, answer=lambda n: f"long answer {n}")))
    assert "for texts to be written, `task: generation` and `columns: {text: question, reference: answer}`" in said
    assert "'text number 0'" in said
    assert "x...', 'b', e.g." in refused(data(rows_of(a=lambda n: "x" * 80 + str(n), b=text)))


def test_a_first_line_that_is_a_row_is_asked_about(data):
    rows = "".join(f"a fine long day {n},{sign(n)}\n" for n in range(30))
    said = refused(data(rows, "a.csv"))
    assert "the first line looks like a row and not like the names of the columns: 'neg' is also a label below" in said
    columns = {"text": "a fine long day 0", "label": "neg"}
    assert f"`columns: {{text: {columns['text']}, label: neg}}`" in said
    assert card_from_source.make({**data(rows, "a.csv"), "columns": columns}).card["columns"] == columns
    named = "the long text of it,spam\n" + rows
    assert card_from_source.make(data(named, "b.csv")).card["columns"]["label"] == "spam"
