"""Pages: their commands are run on a few tiny runs, their recipes resolved, their Python executed."""

import csv
import json
import re

import pytest
import yaml

import bench
from bench.cli import main
from bench.config import named_cards, resolve
from bench.memory import job
from bench.sweeps import study
from tests.helpers import blocks
from tests.helpers.foreign_results import peft_result
from tests.helpers.launching import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# What is on the Hub, and the small one that takes its place here.
OFFLINE = {"Qwen/Qwen3-0.6B": "tiny_qwen2", "distilbert/distilbert-base-uncased": "tiny_distilbert"}
# What a study's launches would have left.
STUDIED = {"runs/imdb": "runs/compared"}
SMALL = {"training__steps": 2, "training__epochs": None, "limit": {"train": 32, "test": 16}}
# Launches, of which other tests make many: here what they would do is written, and their recipes are validated.
LAUNCHED = ("try", "sweep")
# These take long, or end by what they find, and have tests of their own; tests/structure/test_docs.py parses them.
ELSEWHERE = ("gate", "lm-eval", "ship")


@pytest.fixture(scope="module")
def here(tmp_path_factory, bare_runs):
    """A folder as a reader of the pages has it: texts of one's own, and the runs that the pages have made so far."""
    folder = tmp_path_factory.mktemp("reader")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("recipes", "accelerate_configs", "reports", "scripts"):
            (folder / name).symlink_to(ROOT / name)
        rows = [
            (f"{word} text number {n}", label) for n in range(40) for word, label in (("good", "up"), ("bad", "down"))
        ]
        for name, names in {"tweets.csv": ("text", "sentiment"), "tickets.csv": ("body", "queue")}.items():
            write_csv(folder / name, [names, *rows])
        bench.run_recipe("tiny/bert-full", out="runs/first", seed=14, **SMALL)
        for recipe, seed in (("tiny/bert-full", 13), ("tiny/bert-full", 14), ("tiny/none-tfidf", 13)):
            more = SMALL if "bert" in recipe else {"limit": SMALL["limit"]}
            bench.run_recipe(recipe, out=f"runs/compared/{recipe.partition('/')[2]}-{seed}", seed=seed, **more)
        results = folder / "peft" / "method_comparison" / "MetaMathQA" / "results"
        results.mkdir(parents=True)
        (results / "r32.json").write_text(json.dumps(peft_result("lora/r32", 636 / 1319)), encoding="utf-8")
        lines = (folder / "runs/first/predictions/after-test.jsonl").read_text(encoding="utf-8").splitlines()
        scored = [(line["id"], "positive") for line in map(json.loads, lines)]
        write_csv(folder / "my_predictions.csv", [("id", "prediction"), *scored])
        yield folder


def write_csv(path, rows, delimiter=","):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)


def test_commands_of_the_pages_do_what_they_say(here, capsys):
    known, done = set(), []
    for document, words in blocks.commands(PAGES):
        words = [OFFLINE.get(word, word) for word in words]
        if words[0] != main.PROGRAM or words[1] in ELSEWHERE or tuple(words) in known:
            continue
        known.add(tuple(words))
        if words[1] == "report":
            words = [STUDIED.get(word, word) for word in words]
        if words[1] == "run":  # a launch: its recipe is loaded by tests/structure/test_docs.py
            continue
        if words[1] in LAUNCHED and "--dry-run" not in words:
            words.append("--dry-run")
        code = main.main(words[1:])
        said = capsys.readouterr()
        assert code == 0, (document.name, words, said.err)
        assert "error" not in said.err, (document.name, words, said.err)
        done.append(words[1])
    assert {
        "try",
        "sweep",
        "check",
        "list",
        "card",
        "plan",
        "compare",
        "report",
        "predict",
        "export",
        "import",
        "push",
        "cloud",
    } <= {*done}
    for made in (
        "runs/report/report.md",
        "runs/report.html",
        "my_model/config.json",
        "scores.csv",
        "hub/models/owner/name/README.md",
        "cloud/two/kubernetes.yaml",
    ):
        assert (here / made).is_file(), made
    assert not (here / "runs/imdb").exists()  # dry runs


def test_python_of_the_pages_runs(here, capsys):
    """After the commands, which have exported the model that it starts from."""
    program = "\n".join(text for _, text in blocks.of("python", [ROOT / "docs" / "python.md"]))
    program = program.replace("training__steps=20", "training__steps=2, limit={'train': 32, 'test': 16}")
    quick = '"method": "lora", "training": {"steps": 2}, "limit": {"train": 16, "test": 8}}'
    assert '"method": "lora"}' in program
    exec(compile(program.replace('"method": "lora"}', quick), "docs/python.md", "exec"), {})
    printed = capsys.readouterr().out
    assert re.search(r"^\d\.\d+ \d\.\d+ \d\.\d+ 16$", printed, re.MULTILINE)
    assert "none" in printed or "tfidf" in printed


def test_recipes_and_cards_of_the_pages_resolve(here, tmp_path, monkeypatch):
    rows = [("body", "queue"), *((f"text number {n} of {kind}", kind) for n in range(40) for kind in ("sales", "help"))]
    write_csv(tmp_path / "tickets.csv", rows, delimiter=";")
    monkeypatch.chdir(tmp_path)
    named_cards.forget()
    kinds = []
    for number, (document, text) in enumerate(blocks.of("yaml", PAGES)):
        for name, small in OFFLINE.items():
            text = text.replace(name, small)
        keys = set(yaml.safe_load(text))
        folder = tmp_path / f"study{number}"
        folder.mkdir()
        if "matrix" in keys or "runs" in keys:
            (folder / study.FILE).write_text(text, encoding="utf-8")
            study.check(folder / study.FILE)
            kinds.append("study")
        elif "source" in keys:
            card = folder / "datasets" / "own.yaml"
            card.parent.mkdir()
            card.write_text(text, encoding="utf-8")
            resolve.load_card("dataset", card)
            kinds.append("card")
        elif "micro_batch" in keys:
            (folder / "job.yaml").write_text(text, encoding="utf-8")
            job.load(folder / "job.yaml")
            kinds.append("job")
        else:
            (folder / "own.yaml").write_text(text, encoding="utf-8")
            assert resolve.load(folder / "own.yaml").recipe.dataset.task, document
            kinds.append("recipe")
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "recipe": kinds.count("recipe"),
        "study": 2,
        "card": 1,
        "job": 1,
    }
    assert kinds.count("recipe") >= 7
