"""Drop-ins are found by walking the folders, those of the package and those that are included, and by nothing else."""

import hashlib
import os
import subprocess
import sys

import pytest

from bench.cli.main import main
from bench.config import registry, resolve
from bench.config.contracts import LoadPlan
from bench.data.tagging import PREFIXES
from bench.errors import RecipeError
from bench.evaluation.metric_set import MetricSet
from bench.sweeps import jobs, study


@pytest.mark.parametrize("kind", registry.KINDS)
def test_the_folder_is_the_registry(kind):
    files = {path.stem for path in (registry.PACKAGE / kind).glob("*.py")} - {"__init__", "_base"}
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
    with pytest.raises(RecipeError, match=r"^there is no task 'zzz'\. Known: generation, lm_eval_generation, multi"):
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
    assert module.load_plan(module.Options()).trains in ("gradient", "features", "texts", "nothing")
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
        own = {name for name in metrics if not name.startswith("lm_eval:")}  # which the harness has no file of
        assert own <= set(registry.names("metrics"))
        assert own or name == "lm_eval_generation"


@pytest.mark.parametrize("name", registry.names("metrics"))
def test_what_a_recipe_wants_to_know_of_a_metric_is_literal(name):
    found = registry.literals("metrics", name)
    assert set(found["configs"]) <= {"default", "multilabel", *(PREFIXES if found["reads"] == "tags" else ())}
    assert found["configs"]
    assert all(isinstance(better, bool) for better in found["higher_is_better"].values())


def test_literals_are_read_without_running_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "PACKAGE", tmp_path)
    (tmp_path / "metrics").mkdir()
    source = '"""First line.\n\nMore."""\nraise SystemExit\nA = 1\nB: tuple[str, ...] = ("x",)\nC = len("x")\nD: int\n'
    (tmp_path / "metrics" / "odd_one_for_this_test.py").write_text(source + "class M:\n    e = {'f': True}\n")
    found = registry.literals("metrics", "odd_one_for_this_test")
    assert found == {"doc": "First line.", "A": 1, "B": ("x",), "e": {"f": True}}


# ---------------------------------------------------------------- included folders

METRIC = '''"""Mine: always 1."""

from bench.metrics import _base


class Mine(_base.MeanMetric):
    reads = "predictions"
    configs = ("default",)
    higher_is_better = {"mine": False}
    settings = {"mine": "v1"}

    def example_score(self, prediction, reference):
        return 1.0
'''
METHOD = '''"""Trains everything, as full does."""

from bench.config.contracts import LoadPlan
from bench.config.fields import Strict

OBJECTIVES = ("head",)


class Options(Strict):
    rate: float = 0.5


def load_plan(options):
    return LoadPlan()


def adapt(model, options):
    return model
'''
RECIPE = "dataset: {dataset}\nmodel: tiny_bert\nmethod: {{name: own_method, rate: 0.25}}\n"
RECIPE += "evaluation: {{metrics: [accuracy, mine]}}\n"


@pytest.fixture
def included(write, tmp_path, monkeypatch):
    """A folder with one metric, one method and one card; the environment variable is as before after the test."""
    monkeypatch.setenv(registry.INCLUDE, "")
    write("own/metrics/mine.py", METRIC)
    write("own/methods/own_method.py", METHOD)
    write("own/datasets/own_reviews.yaml", (registry.ROOT / "recipes" / "datasets" / "reviews.yaml").read_bytes())
    return tmp_path / "own"


def test_drop_ins_and_cards_of_an_included_folder_are_found(included, write):
    assert "mine" not in registry.names("metrics")
    registry.include([included])
    assert os.environ[registry.INCLUDE] == str(included)
    assert "mine" in registry.names("metrics")
    assert "accuracy" in registry.names("metrics")
    assert registry.path_of("metrics", "mine") == included / "metrics" / "mine.py"
    assert registry.literals("metrics", "mine")["doc"] == "Mine: always 1."
    assert registry.load("metrics", "mine") is registry.load("metrics", "mine")
    assert registry.directions()["mine"] is False
    resolved = resolve.load(write("elsewhere/study/a.yaml", RECIPE.format(dataset="own_reviews")))
    assert resolved.options.rate == 0.25
    assert resolved.metric_names == ("accuracy", "mine")
    places = [("datasets", "own_reviews.yaml"), ("methods", "own_method.py"), ("metrics", "mine.py")]
    assert resolved.included_notes == [
        f"{kind}/{name} is from the included folder {included}, "
        f"sha256 {hashlib.sha256((included / kind / name).read_bytes()).hexdigest()}"
        for kind, name in places
    ]


def test_a_recipe_cannot_name_a_folder(included, write):
    with pytest.raises(RecipeError, match="there is no dataset card 'own_reviews'"):
        resolve.load(write("elsewhere/study/a.yaml", RECIPE.format(dataset="own_reviews")))
    with pytest.raises(RecipeError, match="there is no method 'own_method'"):
        resolve.load(write("elsewhere/study/b.yaml", RECIPE.format(dataset="reviews")))
    with pytest.raises(RecipeError, match="include"):
        resolve.load(write("elsewhere/study/c.yaml", RECIPE.format(dataset="reviews") + f"include: {included}\n"))


def test_several_folders_by_flag_and_by_variable_reach_child_processes(included, write, tmp_path, monkeypatch):
    write("more/metrics/yours.py", METRIC.replace("mine", "yours"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(registry.INCLUDE, "more")
    registry.include(["own", "own"])
    # Absolute, since a child may work in another folder.
    assert os.environ[registry.INCLUDE] == os.pathsep.join([str(tmp_path / "more"), str(included)])
    code = "from bench.config import registry; print({'mine', 'yours'} <= set(registry.names('metrics')))"
    child = [sys.executable, "-c", code]
    assert subprocess.run(child, cwd=registry.ROOT, capture_output=True, text=True, check=True).stdout == "True\n"


def test_list_shows_where_included_files_lie(included, capsys):
    assert main(["list", "metrics", "--include", str(included)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Mine: always 1." in shown
    assert str(included / "metrics" / "mine.py") in shown.replace(" ", "")
    assert str(registry.PACKAGE) not in shown.replace(" ", "")


def test_the_own_folder_may_be_included_without_effect(included):
    before = registry.names("metrics")
    registry.include([registry.PACKAGE])
    assert registry.names("metrics") == before


def test_folders_that_cannot_be_included(included, tmp_path, capsys, monkeypatch):
    (tmp_path / "empty").mkdir()
    for folder, message in (
        (tmp_path / "none", f"there is no folder {tmp_path}/none to include (--include or BENCH_INCLUDE)"),
        (included / "metrics" / "mine.py", f"there is no folder {included}/metrics/mine.py to include"),
        (tmp_path / "empty", f"the included folder {tmp_path}/empty has none of the subfolders tasks/, methods/"),
        (f"{included}:{tmp_path}", f"--include {included}:{tmp_path}: the path of a folder can't hold ':'"),
    ):
        monkeypatch.setenv(registry.INCLUDE, "")
        assert main(["list", "metrics", "--include", str(folder)]) == 2
        assert capsys.readouterr().err.startswith(f"error: {message}")


@pytest.mark.parametrize("kind", ["metrics", "methods", "tasks", "datasets", "models"])
def test_a_name_that_is_there_twice_is_refused_with_both_places(kind, included, write):
    name, end = next(iter(registry.files(kind))), "py" if kind in registry.KINDS else "yaml"
    shipped, own = registry.files(kind)[name], write(f"own/{kind}/{name}.{end}", "x")
    card = "" if kind in registry.KINDS else " card"
    with pytest.raises(RecipeError) as error:
        registry.include([included])
    message = f"the {kind[:-1]}{card} {name!r} is there twice: {shipped} and {own}; rename one of them"
    assert str(error.value) == message


def test_a_name_in_two_included_folders_is_refused(included, write, tmp_path):
    other = write("other/metrics/mine.py", METRIC)
    with pytest.raises(RecipeError, match="the metric 'mine' is there twice") as error:
        registry.include([included, tmp_path / "other"])
    assert str(included / "metrics" / "mine.py") in str(error.value)
    assert str(other) in str(error.value)


def test_a_value_name_of_another_metric_is_refused(included, write):
    path = write("own/metrics/mine.py", METRIC.replace('{"mine": False}', '{"accuracy": True}'))
    with pytest.raises(RecipeError) as error:
        registry.include([included])
    shipped = registry.PACKAGE / "metrics" / "accuracy.py"
    assert str(error.value) == f"two metrics give the value 'accuracy': {shipped} and {path}; rename one"


def test_a_card_beside_the_recipe_and_in_an_included_folder(included, write):
    registry.include([included])
    own = included / "datasets" / "own_reviews.yaml"
    # The folder of the recipe itself may be the included one.
    resolve.load(write("own/study/a.yaml", RECIPE.format(dataset="own_reviews")))
    beside = write("elsewhere/datasets/own_reviews.yaml", own.read_bytes())
    with pytest.raises(
        RecipeError, match=r"a\.yaml:1: dataset: the dataset card 'own_reviews' is there twice"
    ) as error:
        resolve.load(write("elsewhere/study/a.yaml", RECIPE.format(dataset="own_reviews")))
    assert str(own) in str(error.value)
    assert str(beside) in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metrics/bad.py", "def broken(:\n", "bad.py can't be imported: SyntaxError: "),
        ("metrics/bad.py", "x = 1\0", "bad.py can't be imported: "),
        ("metrics/bad.py", '"""Bad."""\nreads = "predictions"\n', "bad.py: a metric must declare configs, "),
        ("methods/bad.py", '"""Bad."""\nOBJECTIVES = tuple("head")\n', "bad.py: a method must declare OBJECTIVES"),
        ("tasks/bad.py", '"""Bad."""\n', "bad.py: a task must declare OBJECTIVES, READS, METRICS, AUTO_CLASS"),
        ("methods/bad.py", "OBJECTIVES = 3\n", "bad.py: OBJECTIVES of a method must be a tuple, got 3"),
        ("metrics/bad.py", METRIC.replace('{"mine": False}', "3"), "bad.py: higher_is_better of a metric must be"),
        ("metrics/my-metric.py", METRIC, "my-metric.py: 'my-metric' is not a name of a Python module; rename"),
    ],
)  # fmt: skip
def test_included_files_that_lack_something(name, text, message, included, write):
    write(f"own/{name}", text)
    with pytest.raises(RecipeError) as error:
        registry.include([included])
    assert str(error.value).startswith(f"{included}/{name.partition('/')[0]}/{message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_name", "can't be imported: ModuleNotFoundError: No module named 'no_such_name'"),
        ("1 / 0", "can't be imported: ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "can't be imported: SystemExit: 3"),
        ("Options = dict", ": a method must define load_plan, adapt"),
        ("Options, load_plan, adapt = 3, print, print", ": a method must define Options"),
    ],
)  # fmt: skip
def test_included_files_that_fail_at_import(text, message, included, write):
    path = write("own/methods/bad.py", f'"""Bad."""\nOBJECTIVES = ("head",)\n{text}\n')
    registry.include([included])
    for _ in range(2):
        with pytest.raises(RecipeError) as error:
            registry.load("methods", "bad")
        assert str(error.value) in (f"{path} {message}", f"{path}{message}")


def test_a_user_without_a_home_is_told_so(included, monkeypatch):
    monkeypatch.setenv(registry.INCLUDE, "~nobody_of_that_name/x")
    with pytest.raises(RecipeError, match="can't be found: Could not determine home directory"):
        registry.include()


@pytest.mark.parametrize("name", ["metrics/mine.py", "methods/own_method.py"])
def test_changed_code_makes_another_recipe(name, included, write):
    """So that neither an interrupted run nor a sweep takes results of other code for its own."""
    registry.include([included])
    path = write("study/a.yaml", RECIPE.format(dataset="reviews"))
    before = resolve.load(path).hash
    assert resolve.load(path).hash == before
    write(f"own/{name}", (included / name).read_text(encoding="utf-8") + "# changed\n")
    assert resolve.load(path).hash != before


def test_the_code_of_an_included_metric_is_in_its_signature(included):
    registry.include([included])
    digest = hashlib.sha256((included / "metrics" / "mine.py").read_bytes()).hexdigest()
    signatures = MetricSet(("accuracy", "mine"), multi_label=False, num_labels=2).signatures()
    assert signatures["mine"] == f"mine|v1|code:{digest[:12]}"
    assert "code:" not in signatures["accuracy"]


def test_a_printed_command_names_the_included_folders(included, write, tmp_path):
    registry.include([included])
    (plan,) = [study.plan([write("study/a.yaml", RECIPE.format(dataset="reviews"))], study.SweepRequest())]
    (job,) = jobs.jobs_of([run for system in plan.systems for run in system.runs()], tmp_path)
    assert jobs.arguments(job)[5:7] == ["--include", str(included)]


def test_check_reads_included_cards(included, write, capsys):
    write("own/models/broken.yaml", "famly: encoder\n")
    assert main(["check", "--include", str(included)]) == 2
    assert "broken.yaml:1: famly" in capsys.readouterr().err.replace("\n", "")
