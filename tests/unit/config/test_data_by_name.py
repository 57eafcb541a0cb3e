"""Data by name in a recipe: what may stand beside a path, what an id means, and what is told of wrong keys."""

import bz2
import gzip
import lzma

import pytest

from bench.config import named_cards, resolve
from bench.config.data_source import FILE_KINDS
from bench.data import card_from_source, split_files
from bench.errors import RecipeError
from tests.helpers.cases import together

RECIPE = "dataset: {dataset}\nmodel: {model}\nmethod: full\n{more}"
TITLES = "title;body;queue\n" + "".join(f"case {n};please help {n};{'ab'[n % 2]}\n" for n in range(40))
TABLE = "text,label\n" + "".join(f"please help {n},{'ab'[n % 2]}\n" for n in range(40))


@pytest.fixture
def load(write, monkeypatch, tmp_path):
    """load(what `dataset:` says, ..., *overrides) -> Resolved; the recipe and its data are in one folder."""
    named_cards.forget()

    def loaded(dataset, *overrides, model="tiny_bert", more=""):
        write("title.csv", TITLES)
        write("both/train.csv", TABLE)
        write("both/dev.csv", TABLE.replace("please", "do"))
        write("both/eval.csv", TABLE.replace("please", "pray"))
        monkeypatch.chdir(tmp_path)
        return resolve.load(write("own.yaml", RECIPE.format(dataset=dataset, model=model, more=more)), overrides)

    return loaded


@pytest.fixture
def refused(load):
    def message(*arguments, **more):
        with pytest.raises(RecipeError) as caught:
            load(*arguments, **more)
        return str(caught.value)

    return message


def test_columns_are_composed_as_the_message_advises(load, refused):
    said = refused("{path: title.csv, delimiter: ';'}")
    assert '`compose: {whole: "{title}: {body}"}` and `columns: {text: whole, label: queue}`' in said
    beside = 'delimiter: ";", encoding: utf-8, compose: {whole: "{title}: {body}"}'
    card = load(f"{{path: title.csv, {beside}, columns: {{text: whole, label: queue}}}}").recipe.dataset
    assert card.source.compose == {"whole": "{title}: {body}"}
    assert (card.source.delimiter, card.source.encoding) == (";", "utf-8")
    assert (card.columns.text, card.columns.label, card.labels) == ("whole", "queue", ("a", "b"))


def test_files_are_named_beside_a_path_as_the_message_advises(load, refused):
    said = refused("{path: both}")
    line = said.partition(", as `")[2].partition("`")[0]
    assert line == "source: {files: {train: train.csv, validation: dev.csv, test: eval.csv}}"
    for task in ("", ", task: text_classification"):
        card = load(f"{{path: both, {line}{task}}}").recipe.dataset
        assert card.source.files == {"train": "train.csv", "validation": "dev.csv", "test": "eval.csv"}
        assert card.splits == {name: name for name in ("train", "validation", "test")}


def test_an_id_is_never_a_path(refused, write):
    write("own/data/train.csv", TABLE)
    said = refused("{id: own/data}")
    assert "own.yaml:1: dataset: 'own/data' is on the Hub and a file or folder here" in said
    assert "name the folder as `path: ./own/data`" in said
    assert "expected a data set of the Hub, owner/name; a file or folder is `path: ./own/data`" in refused(
        "{id: ./own/data}"
    )


WRONG = {
    "{path: title.csv, columns: review}": "dataset.columns: expected a mapping of keys to values, got 'review'.",
    "{path: title.csv, columns: {text: [a, b]}}": "dataset.columns.text: expected text, got ['a', 'b'].",
    "{path: title.csv, splits: 5}": "dataset.splits: expected a mapping of keys to values, got 5.",
    "{path: title.csv, divide: {of: train}}": "dataset.divide: expected a list, as in [a, b]",
    "{path: title.csv, source: 5}": "dataset.source: expected a mapping of keys to values, got 5.",
    "{path: title.csv, task: [a]}": "dataset.task: expected text, got ['a'].",
    "{path: both, source: {files: {train: []}}}": "dataset.source.files.train: expected text or at least one item",
    "{path: both, source: {files: {}}}": "needs `files`, as `split: file name`",
    "{path: title.csv, delimiter: ';', licence: a, license: b}": "two spellings of one key; remove one",
    "{path: both/dev.csv, labels: [a, '']}": "dataset.labels.1: expected a text that is not empty, got ''.",
    '{path: both/dev.csv, labels: [a, "b\\nc"]}': "dataset.labels.1: 'b\\nc' is not a name: expected one line of text",
    "{path: both/dev.csv, divide: []}": "needs `splits` (name: source split) or `divide`, or both",
    "{path: both/dev.csv, splits: null}": "dataset.splits: expected a mapping of keys to values, got nothing.",
    "{path: both, source: {files: null}}": "each could be the split 'validation'",
    "{path: both/dev.csv, columns: {label_flags: true}}": "one column per label needs `labels`, and `multi",
    "{id: a/b, delimiter: ';'}": "`delimiter` is for files at a `path`; a data set of the Hub has none",
}


@together("dataset", WRONG)
def test_wrong_keys_of_data_are_told_with_all_other_problems(refused, dataset):
    lines = refused(dataset, more="sed: 3\n").splitlines()
    assert any(WRONG[dataset] in line and "own.yaml:1: " in line for line in lines), lines
    assert any("own.yaml:4: sed: unknown key. Did you mean 'seed'?" in line for line in lines), lines


@together("model", ["{architecture: 5}", "{id: ./m, revision: 5}", "{architecture: {model_type: 5}}"])
def test_wrong_keys_of_a_model(refused, model):
    lines = refused("both/dev.csv", model=model, more="sed: 3\n").splitlines()
    assert sum("own.yaml:2: model" in line for line in lines) == 1, lines
    assert any("own.yaml:4: sed: unknown key" in line for line in lines), lines


def test_what_a_maker_did_not_foresee_is_a_problem_among_others(refused, monkeypatch):
    def broken(*_, **__):
        raise IndexError("list index out of range")

    monkeypatch.setattr(card_from_source.column_roles, "find", broken)
    lines = refused("both/dev.csv", more="sed: 3\n").splitlines()
    told = "own.yaml:1: dataset: no card could be made of 'dev.csv': IndexError: list index out of range"
    assert [told in line or "sed: unknown key" in line for line in lines] == [True, True]


def test_the_suffixes_of_data_are_those_that_are_read(tmp_path):
    assert {*split_files.KINDS.values()} == {*FILE_KINDS} - {"squad"}
    assert set(named_cards.DATA_SUFFIXES) == {*split_files.KINDS, *named_cards.PACKED}
    openers = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    assert set(openers) == set(named_cards.PACKED)
    for packed, opener in openers.items():
        path = tmp_path / f"a.csv{packed}"
        with opener(path, "wt") as stream:
            stream.write(TABLE)
        assert card_from_source.make({"path": str(path)}).card["labels"] == ["a", "b"]
        assert named_cards.short_name({"path": str(path)}) == "a"
