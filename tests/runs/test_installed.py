"""A wheel in an environment of its own, used from another folder: all that a person does after `pip install`."""

import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import bench
from bench.config import resolve
from bench.records import store
from bench.sweeps import jobs
from tests.helpers.launching import ROOT, environment

SCRIPTS = ["scripts/slurm", "scripts/cloud"]
SOURCES = ["bench", "recipes", "accelerate_configs", *SCRIPTS, "setup.py", "setup.cfg", "pyproject.toml"]
SOURCES += ["MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md"]
# Each command of these in one process, since most of its time is imports.
REST = """
import json, sys
from pathlib import Path
import bench
from bench.cli.main import main
from bench.records import environment
assert Path(bench.__file__).is_relative_to(sys.prefix), bench.__file__
codes = [main(words) for words in json.loads(sys.argv[1])]
frame = bench.load_records("first")
from transformers import pipeline
print(json.dumps({
    "codes": codes,
    "git": environment.environment().git,
    "rows": frame[(frame["metric"] == "accuracy") & (frame["stage"] == "after")][["method", "value"]].values.tolist(),
    "labels": [one["label"] for one in pipeline("text-classification", model="exported/first")(["good", "bad"])],
}))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Folder with the environment `venv`, which has the wheel, and the libraries of this one without the checkout."""
    folder = tmp_path_factory.mktemp("installed")
    for name in SOURCES:
        target = folder / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(
            ROOT / name,
            target,
            **({"ignore": shutil.ignore_patterns("__pycache__")} if copy is shutil.copytree else {}),
        )
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder / "wheels", folder / "source"]
    _done(*pip, *build)
    _done(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
    (wheel,) = (folder / "wheels").glob("*.whl")
    _done(*pip, "--python", folder / "venv" / "bin" / "python", "install", "--no-deps", "--no-index", wheel)
    own = next((folder / "venv" / "lib").glob("python3*")) / "site-packages"
    # A line of a .pth file, unlike the environment it names, brings no editable package along.
    (own / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    shutil.rmtree(folder / "source")
    return folder


def _done(*words, cwd=None, code=0):
    """Run a program to its end, which must be with this exit code; return its output."""
    kept = {key: value for key, value in environment().items() if key != "PYTHONPATH"}
    done = subprocess.run(list(map(str, words)), cwd=cwd, env=kept, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-4000:]
    return done


def _listing(folder):
    return {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*") if "__pycache__" not in path.parts}


def test_everything_works_from_another_folder(place, tmp_path):
    program, package = place / "venv" / "bin" / "finetune-bench", next((place / "venv").rglob("bench/_shipped")).parent
    before = _listing(package)
    assert _done(program, "--version", cwd=tmp_path).stdout == f"finetune-bench {bench.__version__}\n"
    checked = _done(program, "check", cwd=tmp_path).stdout
    studies = set((resolve.SHIPPED / "studies").glob("*/*.yaml"))
    assert checked.endswith(" cards checked, 0 problems\n")
    assert int(checked.split()[0]) >= len(resolve.find_recipes())
    assert len(studies) > 0
    small = ["training.epochs=null", "training.steps=3", "limit={train: 32, test: 16}", "--out", "first"]
    ran = _done(program, "run", "tiny/bert-full", *small, cwd=tmp_path)
    assert "record: first/record.json" in ran.stdout
    record = store.read(tmp_path / "first")
    assert (record.status, record.training.steps, record.launch.device) == ("ok", 3, "cpu")
    assert record.environment.git is None
    assert record.environment.packages["finetune-bench"] == bench.__version__
    assert record.recipe.path == str(package / "_shipped" / "recipes" / "tiny" / "bert-full.yaml")
    words = [["list", "studies"], ["report", "first", "-o", "page"], ["export", "first"]]
    words += [["predict", "first", "--text", "good", "--out", "answers.csv"]]
    words += [["sweep", "studies/imdb", "--mini", "--dry-run"]]
    done = _done(place / "venv" / "bin" / "python", "-c", REST, json.dumps(words), cwd=tmp_path)
    said = json.loads(done.stdout.splitlines()[-1])
    assert (said["codes"], said["git"]) == ([0] * len(words), None)
    assert said["rows"] == [["full", record.scores["after"]["test"]["accuracy"].value]]
    assert set(said["labels"]) <= {"positive", "negative"}
    assert f"{package}/run.py" in done.stdout
    assert (tmp_path / "answers.csv").read_text(encoding="utf-8").startswith("text,label,cut,score.negative")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.csv", "exported", "first", "page"]
    assert _listing(package) == before  # nothing is written into the package


def test_exit_codes_of_a_run_reach_the_shell(place, tmp_path):
    program = place / "venv" / "bin" / "finetune-bench"
    refused = _done(program, "run", "tiny/bert-full", "training.stesp=3", cwd=tmp_path, code=2)
    assert "command line: training.stesp: unknown key. Did you mean 'steps'" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert "CalledProcessError" not in refused.stderr


def test_slurm_scripts_know_where_an_installed_package_lies(monkeypatch, tmp_path):
    from bench.utils import shipped

    monkeypatch.setattr(shipped, "is_checkout", lambda: False)
    given = jobs._slurm_environment(jobs.CONFIGS / "gpu1.yaml")
    assert given["CONFIG"] == str(jobs.CONFIGS / "gpu1.yaml")
    assert Path(given["BENCH_RUN"]).is_file()
    assert Path(given["BENCH_SLURM"], "on_node").is_file()
    for name in ("run.sbatch", "study.sbatch", "on_node"):
        text = Path(given["BENCH_SLURM"], name).read_text(encoding="utf-8")
        assert any(f"${{{key}:-" in text for key in given if key != "CONFIG"), name
