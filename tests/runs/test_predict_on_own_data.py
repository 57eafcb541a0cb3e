"""bench predict on the very file of the test split: every form of data gives the predictions of the run, unasked."""

import json

import pytest

from bench.cli.main import main
from bench.runner import lifecycle
from tests.helpers.launching import read_lines

pytestmark = pytest.mark.usefixtures("bare_runs")

PLACES, GOODS = ("Leeds", "Turin", "Malmö", "Porto", "Gdynia"), ("lamp", "chair", "kettle", "scarf")
KEYS = [(place, good, number) for number in range(2) for place in PLACES for good in GOODS]
HALVES = {"train": KEYS[:28], "test": KEYS[28:]}
BERT, LLAMA = "tiny_bert", "tiny_llama"
SPLITS = "splits: {train: train, test: test}\n"
# Hardly trained, so that the predictions differ.
SETTINGS = """
training: {steps: 1, global_batch: 8, learning_rate: 1e-4}
evaluation: {before: false}
max_length: 96
"""


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def table(rows, encoding="utf-8", sign=","):
    cells = [list(rows[0]), *(row.values() for row in rows)]
    return "".join(sign.join(f'"{cell}"' for cell in row) + "\n" for row in cells).encode(encoding)


def plain(place, good, number):
    name = f"A {good}<br /><br />from   {place}"
    # `tokens`, `messages` and `choices` are columns like any other here.
    return {"name": name, "body": f"number &lt;{number}", "tokens": 7, "choices": "x", "mark": len(place) % 2}


def question(place, good, number):
    passage = f"The {good} number {number} was made in {place}."
    answer = {"text": place, "answer_start": passage.index(place)}
    asked = {"id": f"{place}-{good}-{number}", "question": f"Where was the {good} made?", "answers": [answer]}
    return {"title": place, "paragraphs": [{"context": passage, "qas": [asked]}]}


def squad(rows):
    return json.dumps({"version": "1.1", "data": rows}).encode()


def turns(place, good, number):
    said = [("human", f"Where is {good} {number} from?"), ("gpt", f"From {place}.")]
    return {"conversations": [{"from": who, "value": what} for who, what in said], "messages_total": 3}


# Name -> file of a half, task, source and columns and more of the card, row of a key, rows -> content, model.
FORMS = {
    "text": (
        "csv", "text_classification",
        'source: {kind: csv, delimiter: ";", encoding: cp1252, compose: {whole: "{name}: {body}"}, %s}\n'
        "columns: {text: whole, label: mark}\nclean: [html_breaks, whitespace]",
        plain, lambda rows: table(rows, "cp1252", ";"), BERT,
    ),
    "pair": (
        "tsv", "text_classification",
        "source: {kind: tsv, quoting: true, %s}\ncolumns: {text: one, text_pair: other, label: same}",
        lambda place, good, number: {"one": place, "other": f"{good} {number} of {place}", "same": len(good) % 2},
        lambda rows: table(rows, sign="\t"), BERT,
    ),
    "several": (
        "jsonl", "text_classification",
        "source: {kind: jsonl, %s}\ncolumns: {text: review, label: topics}\nmulti_label: true",
        lambda place, good, number: {
            "review": f"{good} {number} of {place}", "topics": [good[:1], place[:1]], "tokens": ["other", "words"],
        },
        lines, BERT,
    ),
    "tags": (
        "jsonl", "token_classification",
        "source: {kind: jsonl, %s}\ncolumns: {tokens: words, tags: ner}",
        lambda place, good, number: {"words": ["No.", str(number), good, "of", place], "ner": [*"OOOO", "B-LOC"]},
        lines, BERT,
    ),
    "choices": (
        "csv", "multiple_choice",
        "source: {kind: csv, %s}\ncolumns: {text: start, choices: [end0, end1, end2], label: right}",
        lambda place, good, number: {
            "start": f"{good} {number}", "end0": f"is of {place}", "end1": f"was {good}",
            "end2": "" if number else "none", "right": len(good) % 2,
        },
        table, BERT,
    ),
    "messages": (
        "jsonl", "generation",
        "source: {kind: jsonl, %s}\ncolumns: {messages: conversations}\ndefaults: {prompting: {max_new_tokens: 6}}",
        turns, lines, LLAMA,
    ),
    "alpaca": (
        "json", "generation",
        "source: {kind: json, %s}\ncolumns: {text: instruction, input: input, reference: output}\n"
        "defaults: {prompting: {max_new_tokens: 6}}",
        lambda place, good, number: {
            "instruction": f"Say it {number} times", "input": f"{good} of {place}" if len(good) > 4 else "",
            "output": place,
        },
        lambda rows: json.dumps(rows).encode(), LLAMA,
    ),
    "squad": (
        "json", "question_answering",
        "source: {kind: squad, %s}\ncolumns: {id: id, text: context, text_pair: question, answers: answers}\n"
        "metrics: [squad]",
        question, squad, BERT,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """trained(form) -> (folder of its run, file of its test split)."""
    folder, found = tmp_path_factory.mktemp("own"), {}
    (folder / "datasets").mkdir()

    def run_once(name):
        ending, task, card, row, content, model = FORMS[name]
        if name not in found:
            for half, keys in HALVES.items():
                (folder / f"{name}-{half}.{ending}").write_bytes(content([row(*key) for key in keys]))
            files = f"folder: {folder}, files: {{train: {name}-train.{ending}, test: {name}-test.{ending}}}"
            text = f"task: {task}\nlicence: none\n{card % files}\nleakage: allow\n{SPLITS}"
            (folder / "datasets" / f"own_{name}.yaml").write_text(text, encoding="utf-8")
            recipe, out = folder / f"{name}.yaml", folder / "runs" / name
            text = f"dataset: own_{name}\nmodel: {model}\nmethod: full\n{SETTINGS}"
            recipe.write_text(text, encoding="utf-8")
            assert lifecycle.main([str(recipe), "--include", str(folder), "--out", str(out)]) == 0, name
            found[name] = out, folder / f"{name}-test.{ending}"
        return found[name]

    return run_once


def asked(capsys, folder, file, *options):
    capsys.readouterr()
    assert main(["predict", str(folder), "--file", str(file), "--json", *options]) == 0, capsys.readouterr().err
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def assert_same(answers, folder):
    """Assert that these are the run's own predictions of its test split."""
    known = sorted(read_lines(folder / "predictions" / "after-test.jsonl"), key=lambda row: row["id"])
    assert len(answers) == len(known)
    for answer, row in zip(answers, known, strict=True):
        if "tags" in answer:
            assert answer["tags"] == row["prediction"]
        elif "choice_bytes" in row:
            assert list(answer["scores"]).index(answer["label"]) == "ABC".index(row["prediction"])
            assert list(answer["scores"].values()) == pytest.approx(list(row["scores"].values()), abs=1e-4)
        else:
            assert answer["label"] == row["prediction"]
            if answer["scores"] and "answer" in answer["scores"]:
                assert answer["scores"]["no_answer"] == pytest.approx(row["scores"]["no_answer"], abs=1e-4)
            elif answer["scores"]:
                assert answer["scores"] == pytest.approx(row["scores"], abs=1e-4)
            else:
                assert answer["written"] == row["text"]


@pytest.mark.parametrize("name", FORMS)
def test_the_file_of_the_test_split_gives_the_predictions_of_the_run(name, trained, capsys):
    folder, file = trained(name)
    answers = asked(capsys, folder, file)
    if name == "squad":  # its rows have ids of their own, and are in the file's order
        order = [paragraph["qas"][0]["id"] for item in json.loads(file.read_bytes())["data"]
                 for paragraph in item["paragraphs"]]  # fmt: skip
        answers = [answer for _, answer in sorted(zip(order, answers, strict=True), key=lambda pair: pair[0])]
    assert_same(answers, folder)
