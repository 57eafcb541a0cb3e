"""Finds drop-ins by file name: `bench/<kind>/<name>.py`. Adding one is adding a file; nothing else is edited.

This is the only place of the package that imports by a computed name.
"""

import ast
import importlib
import re
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from bench.config.contracts import Method, Task
from bench.errors import RecipeError, did_you_mean

KINDS = ("tasks", "methods", "metrics")
# What a foreign metric is called of which less is better.
LOSSES, RATES = ("loss", "error", "mse", "mae", "perplexity"), {"wer", "cer", "ter"}
PACKAGE = Path(__file__).resolve().parent.parent


def names(kind: str) -> list[str]:
    """Sorted names of all drop-ins of a kind ("tasks", "methods", "metrics")."""
    assert kind in KINDS, kind
    # What can't be imported by its name is no drop-in: an editor's backup, a file that begins with an underscore.
    stems = (path.stem for path in (PACKAGE / kind).glob("*.py"))
    return sorted(stem for stem in stems if stem.isidentifier() and not stem.startswith("_"))


def path_of(kind: str, name: str) -> Path:
    """The file of one drop-in. Raises RecipeError for a name without a file."""
    if name not in names(kind):
        raise RecipeError(f"there is no {kind[:-1]} {name!r}.{did_you_mean(name, names(kind))}")
    return PACKAGE / kind / f"{name}.py"


def load(kind: str, name: str) -> ModuleType:
    """Imports one drop-in. Raises RecipeError for a name without a file."""
    path_of(kind, name)
    return importlib.import_module(f"bench.{kind}.{name}")


def load_task(name: str) -> Task:
    """Import a task. Raises RecipeError for a name without a file."""
    return cast(Task, load("tasks", name))  # held by the test of drop-ins, with mypy


def load_method(name: str) -> Method:
    """Import a method. Raises RecipeError for a name without a file."""
    return cast(Method, load("methods", name))  # held by the test of drop-ins, with mypy


@cache
def literals(kind: str, name: str) -> dict[str, Any]:
    """Literal assignments at the top of a drop-in and of its classes, read without importing it.

    A metric imports `evaluate`, which costs seconds; `check` and `list` only want to know its value names.
    """
    tree = ast.parse(path_of(kind, name).read_text(encoding="utf-8"))
    bodies = [tree.body, *(node.body for node in tree.body if isinstance(node, ast.ClassDef))]
    found: dict[str, Any] = {"doc": (ast.get_docstring(tree) or "").split("\n")[0]}
    for statement in (statement for body in bodies for statement in body):
        target = _assigned_name(statement)
        if target is not None:
            try:
                found[target] = ast.literal_eval(statement.value)  # type: ignore[attr-defined]
            except (ValueError, TypeError):
                continue
    return found


def directions() -> dict[str, bool]:
    """Metric value -> whether more of it is better, read from the metrics' files without importing them."""
    found = (literals("metrics", name).get("higher_is_better", {}) for name in names("metrics"))
    return {key: bool(up) for ways in found for key, up in ways.items()}


def higher_is_better(value: str) -> bool:
    """Whether more of a metric's value is better; of a foreign one that is not known, and taken so but for an error."""
    words = re.split("[^a-z]+", value.lower())
    return directions().get(value, not any(part in value for part in LOSSES) and not RATES.intersection(words))


def _assigned_name(statement: ast.stmt) -> str | None:
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
        return statement.target.id
    return None
