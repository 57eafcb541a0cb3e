"""`bench list`: shows studies, models, datasets, methods, tasks and metrics."""

import argparse
from pathlib import Path
from typing import Any

from bench import console
from bench.cli.options import add_command
from bench.config import registry, resolve


def add(commands: Any) -> None:
    """Add the command and its options."""
    listing = add_command(commands, "list", list_command, "show studies, models, datasets, methods, tasks and metrics")
    listing.add_argument("kind", nargs="?", choices=[*KINDS], help="only this kind")


def _studies() -> list[tuple[str, str]]:
    recipes: dict[str, list[str]] = {}
    for path in resolve.find_recipes():
        recipes.setdefault(path.parent.name, []).append(path.stem)
    from bench.sweeps import study

    known = [(f"studies/{path.parent.name}", _first_comment(path)) for path in study.find_studies()]
    return [(name, ", ".join(stems)) for name, stems in recipes.items()] + known


def _cards(kind: str) -> list[tuple[str, str]]:
    return [(path.stem, _with_place(_first_comment(path), path)) for path in resolve.find_cards(kind)]


def _first_comment(path: Path) -> str:
    # A card that can't be read is listed too; `check` says what is wrong with it.
    first = path.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def _dropins(kind: str) -> list[tuple[str, str]]:
    paths = registry.files(kind)
    return [(name, _with_place(registry.literals(kind, name)["doc"], path)) for name, path in paths.items()]


def _with_place(description: str, path: Path) -> str:
    """Return a row's text, with the file where it is from an included folder."""
    return f"{description} ({path})".lstrip() if registry.is_included(path) else description


KINDS: dict[str, Any] = {
    "studies": _studies,
    "datasets": lambda: _cards("dataset"),
    "models": lambda: _cards("model"),
    "methods": lambda: _dropins("methods"),
    "tasks": lambda: _dropins("tasks"),
    "metrics": lambda: _dropins("metrics"),
}


def list_command(options: argparse.Namespace) -> int:
    """Print what there is, from the folders themselves."""
    from rich.table import Table

    for kind in [options.kind] if options.kind else KINDS:
        table = Table(title=kind, title_justify="left", show_header=False, box=None, pad_edge=False)
        table.add_column()
        table.add_column(overflow="fold")  # a path stays whole
        for name, description in KINDS[kind]():
            table.add_row(name, description)
        console.show(table)
        console.show()
    return 0
