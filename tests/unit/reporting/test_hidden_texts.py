"""Texts of a data set that may not be quoted: in no report, no export, no push, no prompt of a record."""

import pytest

from bench.analysis import accessors, leaderboard
from bench.errors import DataError
from bench.exchange import examples
from bench.records import store
from bench.reporting import study_sections
from bench.reporting.hub import push
from tests.helpers import studies
from tests.helpers.pages import tables_of


def disagreements_of(folder, texts_from="files"):
    """The table of disagreements of a study's report."""
    (group,) = leaderboard.groups(accessors.read_all([folder])[0], None)
    return study_sections.disagreements_table(group, texts_from=texts_from)


def change_cards(folder, **card):
    for path in store.find([folder]):
        record = store.read(path)
        record.recipe.resolved["dataset"] |= card
        store.write(record, path.parent)


def test_answers_that_are_texts_are_hidden_where_texts_may_not_be_shown(tmp_path):
    folder = studies.write_study(tmp_path, {"one": 0.5, "two": 0.9}, seeds=(13,), examples=40)
    change_cards(folder, task="question_answering")
    shown = disagreements_of(folder)
    assert "negative" in shown
    body = disagreements_of(folder, texts_from="nowhere")
    assert "negative" not in body
    (table,) = tables_of(body)
    assert table[0][:2] == ["example", "reference"]
    assert {cell for row in table[1:] for cell in row[1:]} == {"(not shown)", "<b>(not shown)</b>"}
    change_cards(folder, task="text_classification", quote=False)
    body = disagreements_of(folder)
    assert "fine film" not in body
    assert "Texts are not shown: the card of the data set says quote: false." in body
    assert "negative" in body  # a label is no text of the data


def test_exported_examples_hold_no_texts(tmp_path):
    run = studies.write_run(tmp_path / "run", "s--one--full", 13, [True, False])
    path = run / "record.json"

    def keys_hidden(**card):
        change_cards(run, **card)
        (first, _) = examples.rows_of(path, store.read(run), "after", "test")
        return {key for key, value in first.items() if value == examples.HIDDEN}

    assert keys_hidden() == set()
    assert keys_hidden(quote=False) == set()  # labels are no texts of the data
    assert keys_hidden(quote=False, task="generation") == {"prediction", "reference"}
    assert keys_hidden(quote=True) == set()
    assert examples.rows_of(path, store.read(run), "before", "test") == []


def test_a_push_holds_no_texts(tmp_path):
    run = studies.write_run(tmp_path / "run", "s--one--full", 13, [True, False])
    assert push.shareable_record(run, with_texts=True)
    change_cards(run, quote=False)
    assert push.shareable_record(run, with_texts=True)
    change_cards(run, task="question_answering")
    with pytest.raises(DataError, match=r"quote: false, and its predictions are texts; push without --with-predicti"):
        push.shareable_record(run, with_texts=True)
    assert push.shareable_record(run)


def test_one_run_that_hides_its_texts_hides_them_in_the_whole_section(tmp_path):
    """`quote` is no part of a recipe's hash, so that runs with and without it stand in one comparison."""
    folder = studies.write_study(tmp_path, {"one": 0.5, "two": 0.9}, seeds=(13,), examples=40)
    assert "fine film" in disagreements_of(folder)
    (worse,) = (path for path in folder.iterdir() if "one" in path.name)
    change_cards(worse, quote=False)
    body = disagreements_of(folder)
    assert "fine film" not in body
    assert "the card of the data set says quote: false" in body
