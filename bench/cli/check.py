"""`bench check`: validates recipes, cards and studies without torch."""

import argparse
from pathlib import Path
from typing import Any

from bench import console
from bench.cli.options import add_command
from bench.config import prices, recipe_names, registry, resolve
from bench.errors import RecipeError


def add(commands: Any) -> None:
    """Add the command and its options."""
    check = add_command(commands, "check", check_command, "validate recipes, cards and studies, without loading torch")
    check.add_argument(
        "recipes",
        nargs="*",
        type=Path,
        help="recipes, cards, or folders of them, by path or name (default: all that come with the package)",
    )
    check.add_argument("--set", action="append", default=[], metavar="key=value", help="override a key of every recipe")


def check_command(options: argparse.Namespace) -> int:
    """Validate recipes, cards and studies; print each problem, and how many files were checked."""
    from bench.sweeps import study

    kinds = {folder: kind for kind, folder in resolve.CARD_FOLDERS.items()}
    # What is wrong with a card is told once, though every recipe that names it meets it.
    problems: dict[str, None] = {}
    num_cards = num_studies = num_prices = 0
    chosen = [recipe_names.find(path) for path in options.recipes] or _everything()
    paths = [path for given in chosen for path in _expand(given)]
    for path in paths:
        kind = kinds.get(path.absolute().parent.name)
        is_study = kind is None and study.is_study(path)
        has_prices = path.name == prices.FILE
        num_cards, num_studies = num_cards + (kind is not None), num_studies + is_study
        num_prices += has_prices
        try:
            if has_prices:
                prices.read(path)
            elif kind is not None:
                resolve.load_card(kind, path)
            elif is_study:
                study.check(path, tuple(options.set))
            else:
                resolve.load(path, tuple(options.set))
        except RecipeError as error:
            problems |= dict.fromkeys(str(error).split("\n"))
    for problem in problems:
        console.complain(problem)
    studies = f", {num_studies} studies" if num_studies else ""
    prices_ = f", {num_prices} file of prices" if num_prices else ""
    num_recipes = len(paths) - num_cards - num_studies - num_prices
    console.say(f"{num_recipes} recipes{studies}{prices_} and {num_cards} cards checked, {len(problems)} problems")
    return 2 if problems else 0


def _everything() -> list[Path]:
    """Return the shipped recipes and cards, and the cards of included folders."""
    cards = [path for folder in resolve.CARD_FOLDERS.values() for path in registry.files(folder).values()]
    return [resolve.SHIPPED, *(path for path in cards if registry.is_included(path))]


def _expand(given: Path) -> list[Path]:
    files = sorted(given.rglob("*.yaml")) if given.is_dir() else [given]
    if not files:
        raise RecipeError(f"{given}: there are no recipes in this folder")
    return files
