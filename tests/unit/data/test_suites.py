"""Cards of public suites: each reads its owners' layout from a Hub, and ranks by the official metric."""

import datasets
import pytest
import yaml

from bench.analysis import accessors
from bench.config import registry
from bench.config.resolve import find_cards, load_card
from bench.data import card_from_source, dataset
from bench.errors import RecipeError
from tests.helpers import suites
from tests.helpers.cases import together
from tests.helpers.hub_server import Hub

CARDS = {path.stem: load_card("dataset", path) for path in find_cards("dataset") if path.stem in suites.LAYOUTS}
# The value that each suite ranks by, where it is not the accuracy.
OFFICIAL = {
    "cola": "mcc",
    **{f"tweet_eval_{name}": "f1_macro" for name in ("emoji", "emotion", "hate", "offensive")},
    "tweet_eval_sentiment": "recall_macro",
    "tweet_eval_irony": "f1_positive",
    **{f"tweet_eval_stance_{topic}": "f1_positive" for topic in suites.TOPICS},
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A Hub with the data sets of all cards, each at the commit that its card names."""
    datasets.disable_progress_bars()
    monkeypatch = pytest.MonkeyPatch()
    found = {}
    for name, card in CARDS.items():
        source = card.source
        repository = found.setdefault(source.id, {"sha": source.revision, "files": {}, "configs": {}})
        assert repository["sha"] == source.revision, "cards of one suite name one commit"
        folder = source.config or "data"
        repository["files"] |= suites.files(name, folder)
        if source.config:
            splits = suites.LAYOUTS[name][2]
            paths = [{"split": split, "path": f"{folder}/{split}-*"} for split in splits]
            repository["configs"][folder] = {"config_name": folder, "data_files": paths}
    with Hub() as server:
        server.redirect(monkeypatch, tmp_path_factory.mktemp("cache"))
        monkeypatch.chdir(tmp_path_factory.mktemp("empty"))
        for identity, repository in found.items():
            head = yaml.safe_dump({"license": "other", "configs": list(repository["configs"].values())})
            readme = {"README.md": f"---\n{head}---\n"} if repository["configs"] else {}
            server.add(f"datasets/{identity}", files={**repository["files"], **readme}, sha=repository["sha"])
        yield server
    monkeypatch.undo()


def test_every_suite_has_its_cards():
    assert set(CARDS) == set(suites.LAYOUTS)


@together("name", CARDS)
def test_a_card_reads_its_owners_layout(hub, name):
    card, (_, classes, splits, hidden) = CARDS[name], suites.LAYOUTS[name]
    corpus = dataset.load(card, {}, {*card.split_names})
    # Of a few rows, validation has not every label.
    assert {warning.code for warning in corpus.warnings} <= {"label_not_scored"}
    assert {"train", "validation", "test"} <= set(corpus.splits)
    assert not hidden or set(card.splits.values()).isdisjoint(hidden)
    assert set(card.splits.values()) | {"train"} <= set(splits)
    rows = corpus.splits["test"].rows
    assert [row["label"] for row in rows] == [number % len(corpus.labels) for number in range(len(rows))]
    assert all(row["text"].startswith(card.splits["test"]) or name == "wic" for row in rows)
    assert all((row["text_pair"] is None) == (card.columns.text_pair is None) for row in rows)
    if classes is not None and name != "wic":
        assert corpus.labels == classes
    else:
        assert corpus.labels == ("no", "yes")


@together("name", CARDS)
def test_the_official_metric_ranks(name):
    card = CARDS[name]
    task = registry.literals("tasks", card.task)["METRICS"]["single_label"]
    values = [
        value for metric in card.metrics or task for value in registry.literals("metrics", metric)["higher_is_better"]
    ]
    assert accessors.ranking_metric(values) == OFFICIAL.get(name, "accuracy")
    for metric in ("loss", "confusion_matrix"):
        assert metric in (card.metrics or task)


def test_glue_s_f1_is_scored_beside_the_accuracy():
    for name in ("mrpc", "qqp"):
        assert "f1_positive" in CARDS[name].metrics
        assert CARDS[name].labels[1] in ("equivalent", "duplicate"), "F1 is of the second label"


def test_both_tests_of_mnli_are_scored():
    assert CARDS["mnli"].defaults["evaluation"] == {"splits": ("test", "test_mismatched")}


@together("name", [name for name in CARDS if name not in ("mnli", "dbpedia_14", "wic", "mrpc", "boolq")])
def test_a_made_card_says_what_the_shipped_one_says(hub, name):
    card = CARDS[name]
    spec = {"id": card.source.id, "config": card.source.config}
    made = card_from_source.make({key: value for key, value in spec.items() if value is not None}).card
    assert made["source"] == card.source.model_dump(exclude_defaults=True)
    assert made["task"] == card.task
    dumped = {**card.columns.model_dump(exclude={"tokens", "tags"}), **card.columns.model_dump(exclude_defaults=True)}
    own = {key: value for key, value in dumped.items() if value and key not in ("id", "label_flags")}
    assert {key: value for key, value in made["columns"].items() if value} == own
    assert tuple(made["labels"]) == suites.LAYOUTS[name][1]
    assert made.get("splits", {}) == card.splits
    assert [part["of"] for part in made.get("divide", ())] == [list(part.of) for part in card.divide]


def test_what_a_made_card_asks_for(hub):
    asked = {
        "dbpedia_14": "the text could be 'title'",
        "mnli": "the split 'validation' could be 'validation_matched' or",
    }
    for name, message in asked.items():
        source = CARDS[name].source
        spec = {"id": source.id, **({"config": source.config} if source.config else {})}
        with pytest.raises(RecipeError, match=message):
            card_from_source.make(spec)
    # The labels of MRPC's test are public, and it is scored where the shipped card follows GLUE.
    assert card_from_source.make({"id": "nyu-mll/glue", "config": "mrpc"}).card["splits"]["test"] == "test"


def test_another_language_of_xnli_needs_no_card(hub):
    made = card_from_source.make({"id": "facebook/xnli", "config": "de"}).card
    assert made["columns"] == {"text": "premise", "text_pair": "hypothesis", "label": "label"}
    assert (made["labels"], made["splits"]) == (list(suites.NLI), {name: name for name in suites.FEW})
