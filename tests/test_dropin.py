"""Drop-ins are found by walking the folders, and by nothing else."""

import pytest

from bench import dropin
from bench.dropin import LoadPlan
from bench.errors import RecipeError


@pytest.mark.parametrize("kind", dropin.KINDS)
def test_the_folder_is_the_registry(kind):
    files = {path.stem for path in (dropin.PACKAGE / kind).glob("*.py")} - {"__init__"}
    assert files
    assert dropin.names(kind) == sorted(files)
    for name in files:
        assert dropin.path_of(kind, name).is_file()
        assert dropin.literals(kind, name)["doc"], f"{name} does not say in its first line what it is"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../full", "full.py", "methods/full", "/etc/passwd", "__init__", "FULL"]
)
def test_a_name_without_a_file_leads_nowhere(name):
    for look_up in (dropin.path_of, dropin.load):
        with pytest.raises(RecipeError, match="there is no method"):
            look_up("methods", name)


def test_the_nearest_name_is_offered():
    with pytest.raises(RecipeError, match=r"^there is no method 'lroa'\. Did you mean 'lora'\?$"):
        dropin.load("methods", "lroa")
    with pytest.raises(RecipeError, match=r"^there is no task 'zzz'\. Known: question_answering, text_classification"):
        dropin.load("tasks", "zzz")


def test_files_that_are_no_drop_ins_are_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(dropin, "PACKAGE", tmp_path)
    (tmp_path / "methods").mkdir()
    for name in ("good.py", "__init__.py", "_helper.py", ".#good.py", "good-copy.py", "good.py.orig", "notes.md"):
        (tmp_path / "methods" / name).write_text('"""x"""\n', encoding="utf-8")
    assert dropin.names("methods") == ["good"]


@pytest.mark.parametrize("name", dropin.names("methods"))
def test_every_method_keeps_the_contract(name):
    module = dropin.load("methods", name)
    assert isinstance(module.load_plan(module.Options()), LoadPlan)
    assert module.load_plan(module.Options()).trains in ("gradient", "features", "nothing")
    assert callable(module.adapt)
    assert module.Options.model_config["extra"] == "forbid"
    assert module.Options.model_config["strict"] is True


@pytest.mark.parametrize("name", dropin.names("tasks"))
def test_every_task_keeps_the_contract(name):
    module = dropin.load("tasks", name)
    read = dropin.literals("tasks", name)
    assert read["OBJECTIVES"] == module.OBJECTIVES
    assert read["METRICS"] == module.METRICS
    for metrics in module.METRICS.values():
        assert metrics
        assert set(metrics) <= set(dropin.names("metrics"))


@pytest.mark.parametrize("name", dropin.names("metrics"))
def test_what_a_recipe_wants_to_know_of_a_metric_is_literal(name):
    found = dropin.literals("metrics", name)
    assert set(found["configs"]) <= {"default", "multilabel"}
    assert found["configs"]
    assert all(isinstance(better, bool) for better in found["higher_is_better"].values())


def test_literals_are_read_without_running_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(dropin, "PACKAGE", tmp_path)
    (tmp_path / "metrics").mkdir()
    source = '"""First line.\n\nMore."""\nraise SystemExit\nA = 1\nB: tuple[str, ...] = ("x",)\nC = len("x")\nD: int\n'
    (tmp_path / "metrics" / "odd_one_for_this_test.py").write_text(source + "class M:\n    e = {'f': True}\n")
    found = dropin.literals("metrics", "odd_one_for_this_test")
    assert found == {"doc": "First line.", "A": 1, "B": ("x",), "e": {"f": True}}
