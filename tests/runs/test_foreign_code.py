"""No command runs code that is not the project's, unless a key of a card and a flag of the command line both say so.

Planted files write a mark when they are run. All commands are walked in one process after another, in a stranger's
working folder.
"""

import json
import os
import subprocess
import sys

import pytest

from bench.cli.main import COMMANDS
from bench.config import foreign_code
from bench.errors import SetupError
from bench.models.build import locate
from tests.helpers import models as tiny
from tests.helpers.launching import ROOT, RUN, environment

MARK = "import pathlib\npathlib.Path({mark!r}).write_text({name!r})\n"
# What a command or a library imports by name, runs at its start, or reads as configuration.
PLANTED = [
    *(f"{name}.py" for name in ("transformers", "torch", "yaml", "rich", "pydantic", "evaluate", "numpy")),
    *(f"{name}.py" for name in ("datasets", "pyarrow", "matplotlib", "psutil", "sklearn", "scipy")),
    *(f"{name}.py" for name in ("accelerate", "peft", "safetensors", "huggingface_hub", "lm_eval", "tokenizers")),
    *(f"{name}.py" for name in ("json", "random", "typing", "dataclasses")),
    "sitecustomize.py", "usercustomize.py", "conftest.py",
    "bench/__init__.py", "bench/cli/__init__.py", "bench/methods/evil.py", "methods/evil.py", "metrics/evil.py",
    "model_package/__init__.py", "model_package/inner/__init__.py", "setup.py", "accuracy/accuracy.py", "mine.py",
    "remote/modeling.py", "remote/configuration.py", "remote/tokenization.py",
]  # fmt: skip
CARD = """
task: text_classification
source: {kind: csv, folder: FOLDER, files: {train: a.csv, test: b.csv}}
licence: x
splits: {train: train, test: test}
columns: {text: text, label: label}
labels: [a, b]
"""
MODEL = "family: encoder\nlicence: x\n"
RECIPE = "dataset: mine\nmethod: full\ntraining: {steps: 1, global_batch: 4, learning_rate: 1e-3}\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A stranger's folder: planted code, a model with code of its own, recipes that name them."""
    folder = tmp_path_factory.mktemp("stranger")
    for name in PLANTED:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(MARK.format(mark=str(folder / "marks" / name.replace("/", "-")), name=name), encoding="utf-8")
    (folder / "marks").mkdir()
    for name in "ab":
        rows = "".join(f"text {name} {number},{'ab'[number % 2]}\n" for number in range(16))
        (folder / f"{name}.csv").write_text(f"text,label\n{rows}")
    kinds = ("AutoModel", "AutoModelForSequenceClassification")
    code = {"AutoConfig": "configuration.C", **dict.fromkeys(kinds, "modeling.M")}
    (folder / "remote" / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": code}))
    told = {"tokenizer_class": "T", "auto_map": {"AutoTokenizer": ["tokenization.T", None]}}
    (folder / "remote" / "tokenizer_config.json").write_text(json.dumps(told))
    (folder / ".env").write_text("BENCH_INCLUDE=.\nPYTHONPATH=.\n")
    (folder / "setup.cfg").write_text("[options.entry_points]\nconsole_scripts =\n  bench = mine:main\n")
    cards, recipes = folder / "study" / "datasets", folder / "study"
    cards.mkdir(parents=True)
    (folder / "study" / "models").mkdir()
    (cards / "mine.yaml").write_text(CARD.replace("FOLDER", str(folder)))
    places = {
        "remote": f"id: {folder / 'remote'}\ntrust_remote_code: true\n",
        "unasked": f"id: {folder / 'remote'}\n",
        "package": "package: model_package.inner\n",
    }
    for name, where in places.items():
        (folder / "study" / "models" / f"{name}.yaml").write_text(MODEL + where)
        (recipes / f"{name}.yaml").write_text(RECIPE + f"model: {name}\n")
    for name, metric in {"file": "./mine.py", "folder": "accuracy", "absolute": str(folder / "mine.py")}.items():
        (recipes / f"metric_{name}.yaml").write_text(
            RECIPE + f"model: tiny_bert\nevaluation: {{metrics: ['evaluate:{metric}']}}\n"
        )
    return folder


@pytest.fixture(autouse=True)
def untouched(place, monkeypatch):
    """Nothing has run yet; the cards are found as those of an included folder, which holds nothing else."""
    for name in os.listdir(place / "marks"):
        (place / "marks" / name).unlink()
    monkeypatch.setenv("BENCH_INCLUDE", str(place / "study"))
    yield
    foreign_code.confirm(False)


def started(place, *words):
    """A command in the stranger's folder, as an installed package is started there."""
    inherited = {**environment(), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=place, env=inherited, capture_output=True, text=True, check=False,
        timeout=300, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    marks = sorted(os.listdir(place / "marks"))
    assert marks == [], (words, marks)
    assert "Traceback" not in done.stderr, done.stderr[-2000:]
    return done


def test_no_command_runs_what_lies_in_the_working_folder(place):
    """All commands, in one process that the folder is first on the path of, as `python -m` puts it there."""
    study = sorted(map(str, (place / "study").glob("*.yaml")))
    words = {
        "check": [study], "list": [[]], "schema": [[], ["model"]], "plan": [[path] for path in study],
        "sweep": [[*study, "--dry-run", "--out", str(place / "sw"), "--config", "cpu"]],
        "report": [["remote", "-o", "r"]], "compare": [["remote", "remote"]], "push": [["remote", "--to", "a/b"]],
        "predict": [["remote", "--text", "x"], [".", "--text", "x"]],
        "gate": [[study[0], "--baseline", "b", "--config", "cpu"]],
        "run": [[study[0], "--config", "no-such-config"]], "export": [["remote"], ["."], ["remote", "--format", "csv"]],
        "import": [["remote"], ["mine.py"], ["remote", "--like", "remote"]],
        "card": [["./remote"], ["remote", "trust_remote_code=true"], ["."], ["mine.py", "--as", "dataset"]],
        "ship": [["remote"], ["."]],
        "cloud": [[path, "--gpu", "24GiB", "-o", str(place / "cloud")] for path in study],
        "try": [["./remote", "--on", "reviews", "--dry-run", "--gpu", "1GiB", "--out", str(place / "try")]],
    }  # fmt: skip
    names = {command.__name__.rpartition(".")[2] for command in COMMANDS}
    assert {"list" if name == "listing" else name.rstrip("_") for name in names} - {"lm_eval"} == set(words)
    code = (
        "from bench.utils import import_path\nimport_path.leave_out_working_folder()\n"
        "import contextlib, io, json\n"
        "from bench.cli.main import main\n"
        "for command, calls in json.loads(sys.argv[1]).items():\n"
        "    for call in calls:\n"
        "        with contextlib.redirect_stdout(io.StringIO()):\n"
        "            sys.stderr.write(f'{command}: {main([command, *call])}\\n')\n"
    )
    # As `python -m` has it: the working folder is first, before anything is imported.
    begin = f"import sys; sys.path.insert(0, {str(place)!r}); sys.path.insert(0, {str(ROOT)!r})\n"
    done = started(place, "-P", "-c", begin + code, json.dumps(words))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("trust_remote_code: true: the card runs code from the repository of") >= 1
    assert "confirm it with --trust-remote-code on the command line" in done.stderr
    # Before anything is loaded, too: by the recipe alone.
    assert "check: 2\n" in done.stderr
    assert "sweep: 2\n" in done.stderr
    assert done.stderr.count("evaluation.metrics: 'evaluate:") >= 3


def test_python_m_bench_leaves_out_the_working_folder(place):
    """With a `bench` of its own there, that one is the stranger's program; from beside it, ours runs."""
    inner = place / "inner"
    inner.mkdir()
    for name in ("yaml.py", "rich.py", "pydantic.py", "transformers.py"):
        (inner / name).write_text((place / name).read_text(encoding="utf-8"), encoding="utf-8")
    inherited = {**environment(), "PYTHONPATH": str(ROOT)}
    for words in (["list", "metrics"], ["lm-eval", "--help"]):
        command = [sys.executable, "-m", "bench", *words]
        subprocess.run(command, cwd=inner, env=inherited, capture_output=True, check=False, timeout=300)
    assert os.listdir(place / "marks") == []


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("remote", ["model.trust_remote_code: true", "--trust-remote-code"]),
        ("unasked", ["can't be loaded"]),
        ("package", ["the model package 'model_package.inner' is not installed"]),
        ("metric_file", ["evaluation.metrics: 'evaluate:./mine.py'", "--trust-remote-code"]),
        ("metric_folder", ["evaluation.metrics: 'evaluate:accuracy'", "--trust-remote-code"]),
        ("metric_absolute", ["evaluation.metrics: 'evaluate:/", "--trust-remote-code"]),
    ],
)
def test_a_run_is_refused_with_the_key_and_the_flag(recipe, words, place, tmp_path, monkeypatch, capsys):
    from bench.runner import lifecycle

    monkeypatch.chdir(place)
    assert lifecycle.main([str(place / "study" / f"{recipe}.yaml"), "--out", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr().err
    assert os.listdir(place / "marks") == []
    for word in words:
        assert word in shown


def test_both_together_run_it(place, tmp_path, monkeypatch, capsys):
    """The trap is one: with key and flag it springs; with the flag alone, where the card has no key, it does not."""
    from bench.runner import lifecycle

    monkeypatch.chdir(place)
    arguments = ["--trust-remote-code", "--out", str(tmp_path / "out"), "--overwrite"]
    lifecycle.main([str(place / "study" / "unasked.yaml"), *arguments])
    assert os.listdir(place / "marks") == []
    lifecycle.main([str(place / "study" / "remote.yaml"), *arguments])
    sprung = os.listdir(place / "marks")
    for name in sprung:
        (place / "marks" / name).unlink()
    assert "remote-configuration.py" in sprung or "remote-tokenization.py" in sprung


def test_a_launched_run_does_not_search_the_working_folder(place, tmp_path):
    """`accelerate launch` is started without it, and the run has none on its path."""
    from bench.sweeps import jobs

    machine = jobs.Machine(config=ROOT / "accelerate_configs" / "cpu.yaml")
    words = machine.launch_command(RUN, ["--help"])
    assert words[1] == "-P"
    done = started(place, *words[1:])
    assert "Runs one recipe once" in done.stdout


def test_the_flag_is_handed_to_the_runs_of_a_sweep():
    from bench.sweeps import jobs, study

    plan = study.plan([ROOT / "recipes" / "tiny" / "bert-full.yaml"], study.SweepRequest())
    job = jobs.jobs_of(plan.systems[0].runs(), ROOT / "runs")[0]
    assert "--trust-remote-code" not in jobs.arguments(job)
    foreign_code.confirm(True)
    assert "--trust-remote-code" in jobs.arguments(job)


def test_a_package_is_found_without_running_it(tmp_path, monkeypatch):
    (tmp_path / "some_model" / "inner" / "files").mkdir(parents=True)
    for path in ("some_model", "some_model/inner"):
        (tmp_path / path / "__init__.py").write_text("raise SystemExit('it ran')")
    card = tiny.card("bert", package="some_model.inner", subfolder="files", weights="pretrained")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert locate(card) == str(tmp_path / "some_model" / "inner" / "files")
    monkeypatch.chdir(tmp_path)  # what lies in the working folder is not installed
    with pytest.raises(SetupError, match=r"the model package 'some_model\.inner' is not installed"):
        locate(card)
