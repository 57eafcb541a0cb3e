"""Finds drop-ins and cards by file name: `bench/<kind>/<name>.py`, `recipes/<kind>/<name>.yaml`, and the same names in
folders that `--include` or the environment variable BENCH_INCLUDE names.

Adding one is adding a file; nothing else is edited. This is the only place of the package that imports by a computed
name. Included folders are code that whoever starts a command names himself; no recipe or card can name one.
"""

import ast
import hashlib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from bench.config.contracts import Method, Task
from bench.errors import RecipeError, did_you_mean
from bench.utils import shipped
from bench.utils.files import ROOT

KINDS = ("tasks", "methods", "metrics")
CARDS = ("datasets", "models")
INCLUDE = "BENCH_INCLUDE"
# What a file must declare as literals, which are read without importing it; and what a method must define.
LITERALS: dict[str, dict[str, type]] = {
    "tasks": {"OBJECTIVES": tuple, "READS": str, "METRICS": dict, "AUTO_CLASS": str},
    "methods": {"OBJECTIVES": tuple},
    "metrics": {"reads": str, "configs": tuple, "higher_is_better": dict},
}
# What a metric reads -> READS of the tasks that it is for.
READ_BY = {
    "predictions": "labels", "scores": "labels", "choices": "labels", "answers": "answers", "numbers": "numbers",
    "tags": "tags", "likelihoods": "answers",
}  # fmt: skip
METHOD = ("Options", "load_plan", "adapt")
# In the name of a metric of the evaluate library, these say that lower is better.
LOSSES, RATES = ("loss", "error", "mse", "mae", "perplexity"), {"wer", "cer", "ter"}
PACKAGE, CARDS_SHIPPED = ROOT / "bench", shipped.folder("recipes")


def include(folders: Iterable[str | Path] = ()) -> None:
    """Search more folders, in this process and, by the environment variable, in all that it starts.

    Raises RecipeError for a folder that is not there or holds nothing to include, for a name that is there twice, and
    for a file that lacks a literal.
    """
    asked = [str(folder) for folder in folders]
    for text in asked:
        if os.pathsep in text:
            raise RecipeError(f"--include {text}: the path of a folder can't hold {os.pathsep!r}")
    given = [*os.environ.get(INCLUDE, "").split(os.pathsep), *asked]
    try:
        absolute = dict.fromkeys(str(Path(folder).expanduser().absolute()) for folder in given if folder)
    except RuntimeError as error:  # ~ of a user who is not there
        raise RecipeError(f"an included folder (--include or {INCLUDE}) can't be found: {error}") from error
    if absolute:
        os.environ[INCLUDE] = os.pathsep.join(absolute)
    folders_in_force = included()
    if not folders_in_force:
        return  # at each start of a command or a run: nothing of the package's own is to be checked
    for folder in folders_in_force:
        if not any((folder / kind).is_dir() for kind in (*KINDS, *CARDS)):
            expected = ", ".join(f"{kind}/" for kind in (*KINDS, *CARDS))
            raise RecipeError(f"the included folder {folder} has none of the subfolders {expected}")
        _check_names(folder)
    for kind in (*KINDS, *CARDS):
        for path in files(kind).values():
            if kind in KINDS and is_included(path):
                _check_literals(kind, path)
    _check_value_names()


def _check_names(folder: Path) -> None:
    """Raise RecipeError for a drop-in that could not be imported by its name; `_name.py` is a helper of others."""
    for kind in KINDS:
        for path in sorted((folder / kind).glob("*.py")):
            if not path.stem.isidentifier():
                raise RecipeError(f"{path}: {path.stem!r} is not a name of a Python module; rename the file")


def _check_literals(kind: str, path: Path) -> None:
    """Raise RecipeError for a literal that a drop-in lacks, or that has another type."""
    declared, what = _literals(path), kind[:-1]
    missing = [key for key in LITERALS[kind] if key not in declared]
    if missing:
        raise RecipeError(f"{path}: a {what} must declare {', '.join(missing)}, as a literal")
    for key, expected in LITERALS[kind].items():
        if not isinstance(declared[key], expected):
            found = f"{declared[key]!r:.60}"
            raise RecipeError(f"{path}: {key} of a {what} must be a {expected.__name__}, got {found}")


def _check_value_names() -> None:
    """Raise RecipeError for two metrics that give a value of the same name: one would replace the other."""
    owners: dict[str, Path] = {}
    for path in files("metrics").values():
        for value in _literals(path)["higher_is_better"]:
            if value in owners:
                raise RecipeError(f"two metrics give the value {value!r}: {owners[value]} and {path}; rename one")
            owners[value] = path


def included() -> list[Path]:
    """Return the folders that are searched beside the package. Raises RecipeError for one that is not there."""
    folders = [Path(folder) for folder in os.environ.get(INCLUDE, "").split(os.pathsep) if folder]
    for folder in folders:
        if not folder.is_dir():
            raise RecipeError(f"there is no folder {folder} to include (--include or {INCLUDE})")
    return folders


def is_included(path: Path) -> bool:
    """Return whether a file lies in an included folder other than the package's own."""
    return path.parent.parent in included() and path.parent.parent not in (PACKAGE, CARDS_SHIPPED)


def files(kind: str) -> dict[str, Path]:
    """Return name -> file of a kind, sorted: "tasks", "methods", "metrics", or cards: "datasets", "models".

    Raises RecipeError for a name that is there twice.
    """
    return {name: folder / f"{name}{_suffix(kind)}" for name, folder in _folders(kind).items()}


def _folders(kind: str) -> dict[str, Path]:
    """Return name -> the folder of its file; asked several times for each recipe, so it makes no path of every file."""
    assert kind in (*KINDS, *CARDS), kind
    own = PACKAGE if kind in KINDS else CARDS_SHIPPED
    known: dict[str, Path] = {}
    for folder in (root / kind for root in (own, *included())):
        for file in os.listdir(folder) if folder.is_dir() else ():
            name, suffix = os.path.splitext(file)
            # What can't be imported by its name is not a drop-in: an editor's backup, a file that begins with _.
            if suffix != _suffix(kind) or (kind in KINDS and (not name.isidentifier() or name.startswith("_"))):
                continue
            other = known.setdefault(name, folder)
            if other != folder and not (folder / file).samefile(other / file):
                what = kind[:-1] if kind in KINDS else f"{kind[:-1]} card"
                places = f"{other / file} and {folder / file}"
                raise RecipeError(f"the {what} {name!r} is there twice: {places}; rename one of them")
    return dict(sorted(known.items()))


def _suffix(kind: str) -> str:
    return ".py" if kind in KINDS else ".yaml"


def names(kind: str) -> list[str]:
    """Return the sorted names of all drop-ins of a kind ("tasks", "methods", "metrics")."""
    return list(_folders(kind))


def path_of(kind: str, name: str) -> Path:
    """Return the file of one drop-in. Raises RecipeError for a name without a file."""
    known = _folders(kind)
    if name not in known:
        raise RecipeError(f"there is no {kind[:-1]} {name!r}.{did_you_mean(name, known)}")
    return known[name] / f"{name}{_suffix(kind)}"


def load(kind: str, name: str) -> ModuleType:
    """Import one drop-in. Raises RecipeError for a name without a file, or an included file that can't be imported."""
    path = path_of(kind, name)
    return _load_included(kind, path) if is_included(path) else importlib.import_module(f"bench.{kind}.{name}")


def load_task(name: str) -> Task:
    """Import a task. Raises RecipeError for a name without a file."""
    return cast(Task, load("tasks", name))  # held by the test of drop-ins, with mypy


def load_method(name: str) -> Method:
    """Import a method. Raises RecipeError for a name without a file."""
    return cast(Method, load("methods", name))  # held by the test of drop-ins, with mypy


@cache
def _load_included(kind: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"bench_included_{kind}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[spec.name]
        raise RecipeError(f"{path} can't be imported: {type(error).__name__}: {error}") from error
    missing = [
        attribute for attribute in METHOD if kind == "methods" and not callable(getattr(module, attribute, None))
    ]
    if missing:
        raise RecipeError(f"{path}: a method must define {', '.join(missing)}")
    return module


def literals(kind: str, name: str) -> dict[str, Any]:
    """Return literal assignments at the top of a drop-in and of its classes, read without importing it.

    A metric imports `evaluate`, which costs seconds; `check` and `list` only want to know its value names.
    """
    return _literals(_known_path(kind, name, os.environ.get(INCLUDE, "")))


@cache
def _known_path(kind: str, name: str, folders: str) -> Path:
    """Return the file of one drop-in. folders: those included, so that others have an entry of their own."""
    return path_of(kind, name)


@cache
def _literals(path: Path) -> dict[str, Any]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        raise RecipeError(f"{path} can't be imported: {type(error).__name__}: {error}") from error
    bodies = [tree.body, *(node.body for node in tree.body if isinstance(node, ast.ClassDef))]
    assigned: dict[str, Any] = {"doc": (ast.get_docstring(tree) or "").split("\n")[0]}
    for statement in (statement for body in bodies for statement in body):
        target = _assigned_name(statement)
        if target is not None:
            try:
                assigned[target] = ast.literal_eval(statement.value)  # type: ignore[attr-defined]
            except (ValueError, TypeError):
                continue
    return assigned


def directions() -> dict[str, bool]:
    """Return metric value -> whether higher is better, read from the metrics' files without importing them."""
    declared = (_literals(path).get("higher_is_better", {}) for path in files("metrics").values())
    return {key: bool(up) for values in declared for key, up in values.items()}


def higher_is_better(value: str) -> bool:
    """Return whether higher is better.

    Unknown `evaluate:` metrics count as higher-is-better unless the name says loss, error, perplexity or an error rate.
    """
    words = re.split("[^a-z]+", value.lower())
    return directions().get(value, not any(part in value for part in LOSSES) and not RATES.intersection(words))


def included_notes(used: Mapping[str, Iterable[str]]) -> list[str]:
    """Return a sentence for each file of an included folder among those used, with its SHA-256.

    used: kind -> names of drop-ins and cards.
    """
    return [
        f"{path.parent.name}/{path.name} is from the included folder {path.parent.parent}, sha256 {digest}"
        for path, digest in included_code(used).items()
    ]


def included_code(used: Mapping[str, Iterable[str]]) -> dict[Path, str]:
    """Return file -> SHA-256 of those drop-ins and cards that are from an included folder. used: kind -> names."""
    paths = [files(kind).get(name) for kind, given in used.items() for name in given] if included() else []
    kept = (path for path in paths if path is not None and is_included(path))
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


def _assigned_name(statement: ast.stmt) -> str | None:
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
        return statement.target.id
    return None
