"""Layouts of instruction and chat data are recognised, and their conversations read alike or refused with the place."""

import json

import pytest
from pydantic import ValidationError

from bench.config.cards import DatasetCard
from bench.data import dataset
from bench.data.builtin import corpora
from bench.data.chat_layouts import layout_of, turns_of
from bench.errors import DataError
from tests.helpers.cases import together

OPENAI = [{"role": "user", "content": "how many?"}, {"role": "assistant", "content": "seven"}]
SHAREGPT = [{"from": "human", "value": "how many?"}, {"from": "gpt", "value": "seven"}]
SYSTEM = {"role": "system", "content": "be short"}

PAIRS = [
    (["instruction", "input", "output"], "alpaca", ["instruction", "input", "output"]),
    (["instruction", "output"], "alpaca", ["instruction", None, "output"]),
    (["instruction", "context", "response", "category"], "dolly", ["instruction", "context", "response"]),
    (["instruction", "input", "response"], "instruction_response", ["instruction", "input", "response"]),
    (["prompt", "completion"], "prompt_completion", ["prompt", None, "completion"]),
    (["type", "query", "response"], "query_response", ["query", None, "response"]),
    (["id", "document", "summary"], "document_summary", ["document", None, "summary"]),
]


@together("columns, name, expected", PAIRS)
def test_pairs_of_columns(columns, name, expected):
    found = layout_of(columns, {})
    wanted = dict(zip(("text", "input", "reference"), expected, strict=True))
    assert (found.name, found.columns) == (name, {key: value for key, value in wanted.items() if value})


def test_pairs_that_are_not_those_that_a_person_names():
    columns = ["instruction", "query", "response"]
    assert layout_of(columns, {}).columns["text"] == "instruction"
    assert layout_of(columns, {}, {"text": "query"}).columns == {"text": "query", "reference": "response"}
    assert layout_of(columns, {}, {"text": "response"}) is None
    assert layout_of(["prompt", "completion"], {"messages": OPENAI[0]}, {"text": "prompt"}).name == "prompt_completion"


def test_columns_of_conversations():
    assert layout_of(["id"], {"messages": OPENAI[0]}).columns == {"messages": "messages"}
    found = layout_of([], {"chats": SHAREGPT[0]})
    assert (found.name, found.columns) == ("sharegpt", {"messages": "chats"})
    assert layout_of(["text", "label"], {}) is None
    assert layout_of([], {"messages": ()}) is None
    assert layout_of([], {"chosen": OPENAI[0], "messages": OPENAI[0]}).columns == {"messages": "messages"}
    with pytest.raises(DataError, match="several columns hold conversations: a, b; write the one you mean, as `"):
        layout_of([], {"a": OPENAI[0], "b": SHAREGPT[0]})


def test_all_layouts_give_the_same_turns():
    parts = [{"role": "user", "content": [{"type": "text", "text": "how many?"}]}, OPENAI[1]]
    developer = [{**SYSTEM, "role": "developer"}, *OPENAI]
    for value in (OPENAI, SHAREGPT, parts, json.dumps(OPENAI)):
        assert turns_of(value, "row 1") == OPENAI
    assert turns_of(developer, "row 1") == [SYSTEM, *OPENAI]
    assert turns_of(OPENAI[:1], "row 1", answered=False) == OPENAI[:1]


def changed(number, **others):
    return [{**turn, **(others if place == number else {})} for place, turn in enumerate(OPENAI)]


WRONG = {
    "row 1, turn 1: unknown role 'usr'": changed(0, role="usr"),
    "Did you mean 'user'": changed(0, role="usr"),
    "unknown role 'tool'; calls of tools are not supported": [*OPENAI, {"role": "tool", "content": "x"}],
    "row 1, turn 1: it is the assistant's, expected the user's": OPENAI[1:],
    "row 1, turn 2: it is the user's, expected the assistant's": [OPENAI[0], OPENAI[0], OPENAI[1]],
    "row 1, turn 3: it is the system's, expected the user's": [*OPENAI, SYSTEM, *OPENAI],
    "the last turn is the user's, so that there is no answer": OPENAI[:1],
    "turn 2: its content is empty": changed(1, content="  "),
    "turn 2: expected its content as text, got None": changed(1, content=None),
    "turn 2: it calls a tool": changed(1, tool_calls=[{"id": "1"}]),
    "a part that is not text; images": changed(0, content=[{"type": "image_url", "image_url": "x"}]),
    "turn 1: expected `role` and `content`": [{"speaker": "a", "text": "b"}],
    "expected a list of turns": {"role": "user"},
    "expected a list of turns, or its JSON": "how many?",
}


@together("message", WRONG)
def test_wrong_conversations_say_where(message):
    with pytest.raises(DataError) as caught:
        turns_of(WRONG[message], "row 1")
    assert message in str(caught.value)


def card(folder, rows, **keys):
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    (folder / "train.jsonl").write_text(text, encoding="utf-8")
    source = {"kind": "jsonl", "folder": str(folder), "files": {"all": "train.jsonl"}}
    whole = {"task": "generation", "source": source, "licence": "none", "splits": {"train": "all"}, **keys}
    return DatasetCard.model_validate(whole)


def rows_of(folder, rows, **keys):
    return dataset.load(card(folder, rows, **keys), {}, {"train"}).splits["train"].rows


def test_rows_of_every_layout(tmp_path):
    alpaca = [
        {"instruction": "add", "input": "1, 2", "output": "3"},
        {"instruction": "name a day", "input": "", "output": "monday"},
    ]
    columns = {"text": "instruction", "input": "input", "reference": "output"}
    found = rows_of(tmp_path, alpaca, columns=columns)
    assert [row["text"] for row in found] == ["add\n\n1, 2", "name a day"]
    assert [row["answers"] for row in found] == [["3"], ["monday"]]
    several = rows_of(tmp_path, [{"q": "a", "a": ["b", "c"]}], columns={"text": "q", "reference": "a"})
    assert several[0]["answers"] == ["b", "c"]
    chats = rows_of(tmp_path, [{"messages": [SYSTEM, *OPENAI, *OPENAI]}], columns={"messages": "messages"})
    assert chats[0]["answers"] == ["seven"]
    assert chats[0]["messages"] == [SYSTEM, *OPENAI, OPENAI[0]]
    assert chats[0]["text"] == "how many?\n\nseven\n\nhow many?"


def test_empty_references_are_refused_or_left_out(tmp_path):
    rows = [{"q": "a", "a": "b"}, {"q": "c", "a": " "}, {"q": "d", "a": None}]
    columns = {"text": "q", "reference": "a"}
    with pytest.raises(DataError, match=r"row all-000001 .* has an empty reference \('a'\); .* filters.drop_empty"):
        rows_of(tmp_path, rows, columns=columns)
    loaded = dataset.load(card(tmp_path, rows, columns=columns, filters={"drop_empty": True}), {}, {"train"})
    assert [row["answers"] for row in loaded.splits["train"].rows] == [["b"]]
    assert loaded.splits["train"].dropped == {"drop_empty": 2}
    with pytest.raises(DataError, match="expected a text or a list of texts, got 3"):
        rows_of(tmp_path, [{"q": "a", "a": 3}], columns=columns)


def test_a_split_of_another_source_has_the_cards_columns():
    other = {"source": {"kind": "builtin", "id": "sums", "sizes": {"test": 5}}, "rename": {"question": "text"}}
    whole = {
        "task": "generation",
        "source": {"kind": "builtin", "id": "reviews"},
        "columns": {"text": "text", "reference": "label"},
        "licence": "none",
        "splits": {"train": "train", "test": "sums/test"},
        "other_sources": {"sums": {**other, "rename": {"question": "text", "answer": "label"}}},
    }
    corpus = dataset.load(DatasetCard.model_validate(whole), {}, {"test"})
    assert [row["text"] for row in corpus.splits["test"].rows] == [
        row["question"] for row in corpora.generate("sums", sizes={"test": 5})["test"]
    ]
    wrong = {**whole, "other_sources": {"sums": {**other, "rename": {"queston": "text"}}}}
    with pytest.raises(DataError, match=r"'sums/test' has no column 'queston' to rename\. Did you mean 'question'"):
        dataset.load(DatasetCard.model_validate(wrong), {}, {"test"})
    with pytest.raises(ValidationError, match="another source is on the Hub or built in"):
        DatasetCard.model_validate({**whole, "other_sources": {"sums": {"source": {"kind": "saved", "folder": "x"}}}})
