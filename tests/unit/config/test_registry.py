"""Drop-ins are found by walking the folders, and by nothing else."""

import pytest

from bench.config import registry
from bench.config.contracts import LoadPlan
from bench.errors import RecipeError


@pytest.mark.parametrize("kind", registry.KINDS)
def test_the_folder_is_the_registry(kind):
    files = {path.stem for path in (registry.PACKAGE / kind).glob("*.py")} - {"__init__"}
    assert files
    assert registry.names(kind) == sorted(files)
    for name in files:
        assert registry.path_of(kind, name).is_file()
        assert registry.literals(kind, name)["doc"], f"{name} does not say in its first line what it is"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../full", "full.py", "methods/full", "/etc/passwd", "__init__", "FULL"]
)
def test_a_name_without_a_file_leads_nowhere(name):
    for look_up in (registry.path_of, registry.load):
        with pytest.raises(RecipeError, match="there is no method"):
            look_up("methods", name)


def test_the_nearest_name_is_offered():
    with pytest.raises(RecipeError, match=r"^there is no method 'lroa'\. Did you mean 'lora'\?$"):
        registry.load("methods", "lroa")
    with pytest.raises(RecipeError, match=r"^there is no task 'zzz'\. Known: question_answering, text_classification"):
        registry.load("tasks", "zzz")


def test_files_that_are_no_drop_ins_are_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "PACKAGE", tmp_path)
    (tmp_path / "methods").mkdir()
    for name in ("good.py", "__init__.py", "_helper.py", ".#good.py", "good-copy.py", "good.py.orig", "notes.md"):
        (tmp_path / "methods" / name).write_text('"""x"""\n', encoding="utf-8")
    assert registry.names("methods") == ["good"]


@pytest.mark.parametrize("name", registry.names("methods"))
def test_every_method_keeps_the_contract(name):
    module = registry.load("methods", name)
    assert isinstance(module.load_plan(module.Options()), LoadPlan)
    assert module.load_plan(module.Options()).trains in ("gradient", "features", "nothing")
    assert callable(module.adapt)
    assert module.Options.model_config["extra"] == "forbid"
    assert module.Options.model_config["strict"] is True


@pytest.mark.parametrize("name", registry.names("tasks"))
def test_every_task_keeps_the_contract(name):
    module = registry.load("tasks", name)
    read = registry.literals("tasks", name)
    assert read["OBJECTIVES"] == module.OBJECTIVES
    assert read["METRICS"] == module.METRICS
    for metrics in module.METRICS.values():
        assert metrics
        assert set(metrics) <= set(registry.names("metrics"))


@pytest.mark.parametrize("name", registry.names("metrics"))
def test_what_a_recipe_wants_to_know_of_a_metric_is_literal(name):
    found = registry.literals("metrics", name)
    assert set(found["configs"]) <= {"default", "multilabel"}
    assert found["configs"]
    assert all(isinstance(better, bool) for better in found["higher_is_better"].values())


def test_literals_are_read_without_running_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "PACKAGE", tmp_path)
    (tmp_path / "metrics").mkdir()
    source = '"""First line.\n\nMore."""\nraise SystemExit\nA = 1\nB: tuple[str, ...] = ("x",)\nC = len("x")\nD: int\n'
    (tmp_path / "metrics" / "odd_one_for_this_test.py").write_text(source + "class M:\n    e = {'f': True}\n")
    found = registry.literals("metrics", "odd_one_for_this_test")
    assert found == {"doc": "First line.", "A": 1, "B": ("x",), "e": {"f": True}}
