"""reporting/local_paths.py: pages name local models and recipes by what others need, and tell nobody's home folder."""

import html

import pytest

from bench.analysis import accessors
from bench.reporting import local_paths, run_page, short_table, study_page
from tests.helpers import pictures, studies
from tests.helpers.pages import full, tables_of

HOME = "/home/zuzanna"


@pytest.mark.parametrize(
    ("places", "names"),
    [
        (["org/model", "minilm", "./here/model"], ["org/model", "minilm", "./here/model"]),
        ([f"{HOME}/models/ours", "org/model"], ["ours", "org/model"]),
        (["/data/runs/a/model", "/data/runs/b/model"], ["a/model", "b/model"]),
        (["/home/zuzanna/ours", "/home/bob/ours"], ["ours", "ours (2)"]),
        (["/root/ours", "ours"], ["ours", "ours (2)"]),
    ],
)
def test_a_local_model_has_the_shortest_name_that_no_other_has(places, names):
    assert list(local_paths.names_of(places).values()) == names


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("recipes/sst2/lora.yaml", "recipes/sst2/lora.yaml"),
        ("mine.yaml", "mine.yaml"),
        (f"{HOME}/bench/recipes/studies/imdb/x.yaml", "recipes/studies/imdb/x.yaml"),
        ("/data/mine.yaml", "mine.yaml"),
    ],
)
def test_a_recipe_is_named_from_its_folder_on(path, shown):
    assert local_paths.recipe(path) == shown


def test_only_home_folders_that_a_record_has_are_cut_and_only_where_a_path_begins():
    record = full()
    record.recipe.overrides = [f"model={HOME}/models/ours", "dataset=/Users/bob_b/x.csv"]
    page = f"model={HOME}/m &quot;{HOME}&quot; file://{HOME}/x <code>/Users/bob_b/x</code> reports{HOME}/y /home/carol/"
    shown = html.unescape(local_paths.hide(page, [record]))
    assert shown == f'model=~/m "~" ~/x <code>~/x</code> reports{HOME}/y /home/carol/'


def test_paths_in_the_working_folder_are_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = f"<code>{tmp_path}/a/b.csv</code> in {tmp_path}, x"
    assert local_paths.hide(page, [full()]) == "<code>a/b.csv</code> in ., x"


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two runs of models in somebody's home folder, one of which fails with a path in its reason."""
    pictures.leave_unrendered(monkeypatch)
    for number, name in enumerate(("first", "second")):
        run = studies.write_run(tmp_path / "runs" / str(number), f"s--{name}--full", 13, [True, False] * 20)
        (_, record), *_ = accessors.read_all([run])[0]
        record.model.id = f"{HOME}/models/{name}"
        record.recipe.path = f"{HOME}/bench/mine-{name}.yaml"
        record.recipe.overrides = [f"model={HOME}/models/{name}"]
        record.notes = [f"read from {HOME}/data/x.csv"]
        studies.store.write(record, run)
    return tmp_path / "runs"


def test_no_page_tells_a_home_folder_and_commands_still_name_the_files(runs, tmp_path):
    study_page.write([runs], tmp_path / "report", tmp_path / "page.html")
    records = accessors.read_all([runs])[0]
    page = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    one = run_page.run_report(records[0][1], records[0][0].parent)
    for text in (page, (tmp_path / "page.html").read_text(encoding="utf-8"), one, short_table.table_report(records)):
        assert "zuzanna" not in text
    assert "python -m bench run ~/bench/mine-first.yaml model=~/models/first" in html.unescape(page)
    (settings,) = [table for table in tables_of(page) if table[0] == ["system", "model"]]
    assert settings[1:] == [["A: first", "first"], ["B: second", "second"]]
    assert "of <code>first</code>" in one
    assert "| id | first |" in one
