"""The rules of the tests: what lies in which folder, and that a test file needs no other test file."""

import ast
import functools

import pytest

from tests.helpers import libraries
from tests.helpers.launching import ROOT

TESTS = ROOT / "tests"
FOLDERS = {"unit", "models", "runs", "structure", "helpers"}
FILES = sorted(TESTS.rglob("test_*.py"))
# What starts runs. Tests of one module do without: they are what a developer runs while working.
LAUNCHERS = {"launch", "launch_all", "command", "hosts"}
TRAINS = {"lifecycle.main", "hosts.Launched"}


@functools.cache
def trees():
    """Test file -> its syntax tree."""
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def imported(tree):
    """(module, name or None) of every import anywhere in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)


def test_every_test_file_lies_in_a_folder_that_says_what_it_takes():
    assert len(FILES) > 80
    assert {path.relative_to(TESTS).parts[0] for path in FILES} == FOLDERS - {"helpers"}
    packages = {path.name for path in (ROOT / "bench").iterdir() if path.is_dir()}
    for path in FILES:
        folder, *below = path.relative_to(TESTS).parts[:-1]
        assert below == [] or (folder == "unit" and len(below) == 1 and below[0] in packages), path


def test_no_test_file_imports_from_another():
    """What several need lies in tests/helpers, which holds no tests."""
    for path, tree in trees().items():
        for module, name in imported(tree):
            words = f"{module}.{name or ''}".split(".")
            assert not any(word.startswith("test_") for word in words), f"{path.relative_to(ROOT)} imports {module}"
    for path in (TESTS / "helpers").glob("*.py"):
        names = [node.name for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if hasattr(node, "name")]
        assert not any((name or "").startswith("test_") for name in names), f"{path.name} holds tests"


@pytest.mark.parametrize("folder", ["unit", "structure"])
def test_tests_of_one_module_launch_nothing_and_train_nothing(folder):
    for path, tree in trees().items():
        if TESTS / folder not in path.parents:
            continue
        for module, name in imported(tree):
            launching = module.startswith("tests.helpers") and name in LAUNCHERS
            assert not launching, f"{path.relative_to(ROOT)} imports {name}; what launches runs lies in tests/runs"
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert not calls & TRAINS, f"{path.relative_to(ROOT)} calls {calls & TRAINS}; that belongs to tests/runs"


def test_helpers_are_used():
    """By a test file, by another helper, or as a script that is named by one of them."""
    sources = {path: path.read_text(encoding="utf-8") for path in TESTS.rglob("*.py")}
    for path in (TESTS / "helpers").glob("*.py"):
        assert any(path.stem in text for other, text in sources.items() if other != path), f"nothing uses {path.name}"


def test_no_test_of_a_library_is_skipped_where_all_are_installed(monkeypatch):
    """`pytest.importorskip` would hide that one is missing in `scripts/test`; tests/helpers/libraries does not."""
    for path in [*FILES, *(TESTS / "helpers").glob("*.py")]:
        assert "importorskip" + "(" not in path.read_text(encoding="utf-8"), path.relative_to(ROOT)
    assert f"export {libraries.VARIABLE}=required\n" in (ROOT / "scripts" / "test").read_text(encoding="utf-8")
    monkeypatch.setenv(libraries.VARIABLE, "required")
    assert not libraries.absent("no_such_library")
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        libraries.needed("no_such_library")
    monkeypatch.delenv(libraries.VARIABLE)
    assert libraries.absent("no_such_library.part")
    assert not libraries.absent("yaml")
    with pytest.raises(pytest.skip.Exception, match="no_such_library is not installed"):
        libraries.needed("no_such_library.part")
