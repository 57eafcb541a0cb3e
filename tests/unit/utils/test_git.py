"""The state of the checkout: code that nobody has committed changes a run, tracked or not."""

import hashlib
import subprocess

import pytest

from bench.config import foreign_code, registry, resolve
from bench.records import environment
from bench.utils import git
from tests.helpers.launching import ROOT

TRACKED = ["bench/metrics/own.py", "recipes/models/own.yaml", "README.md"]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A small checkout with everything committed."""
    for name in TRACKED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x", encoding="utf-8")
    (tmp_path / ".gitignore").write_text("recipes/mine/\n", encoding="utf-8")
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "x"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True, capture_output=True)
    monkeypatch.setattr(git, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "is_code"),
    [
        ("bench/metrics/new.py", True),
        ("bench/tasks/deep/new.py", True),
        ("recipes/datasets/żółć.yaml", True),
        ("recipes/mine/ignored.yaml", True),
        ("accelerate_configs/own.yaml", True),
        ("accelerate_configs/zero.json", True),
        ("bench/metrics/__pycache__/own.pyc", False),
        ("bench/metrics/own.py.orig", False),
        ("notes.py", False),
        ("runs/x/record.json", False),
    ],
)
def test_untracked_drop_ins_make_a_checkout_dirty(name, is_code, checkout):
    assert environment._git()["dirty"] is False
    assert "untracked" not in environment._git()
    (checkout / name).parent.mkdir(parents=True, exist_ok=True)
    (checkout / name).write_text("x", encoding="utf-8")
    assert git.untracked_code() == [name] * is_code
    assert environment._git()["dirty"] is is_code
    assert environment._git().get("untracked", []) == [name] * is_code


def test_a_tracked_file_that_was_changed_makes_it_dirty(checkout):
    (checkout / TRACKED[0]).write_text("y", encoding="utf-8")
    assert environment._git()["dirty"] is True
    assert "untracked" not in environment._git()


def test_a_record_has_the_hashes_of_the_files_in_use(tmp_path, monkeypatch):
    recipe = ROOT / "recipes" / "tiny" / "bert-full.yaml"
    found = resolve.first_record(resolve.load(recipe)).files
    assert {name.partition("/")[0] for name in found} == {
        "recipe", "datasets", "models", "tasks", "methods", "metrics",
    }  # fmt: skip
    assert found["recipe/bert-full.yaml"] == hashlib.sha256(recipe.read_bytes()).hexdigest()
    for name, digest in found.items():
        kind, _, file = name.partition("/")
        if kind != "recipe":
            path = registry.path_of(kind, file.rpartition(".")[0])
            assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert "methods/lora.py" in resolve.first_record(resolve.load(recipe, ("method=lora",))).files
    # What is no file of the checkout's is left out.
    foreign_code.confirm(True)
    try:
        foreign = resolve.load(recipe, ("evaluation.metrics=[accuracy, evaluate:mae]",))
    finally:
        foreign_code.confirm(False)
    assert "metrics/evaluate:mae.py" not in resolve.first_record(foreign).files
