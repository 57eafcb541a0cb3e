"""Folders of models in cards and recipes: found from the file that names them, whatever the working folder is."""

import os
from pathlib import Path

from bench.config.layers import Layers
from bench.config.yaml_loader import KeyPath

_KEYS: tuple[KeyPath, ...] = (("model", "id"), ("model", "tokenizer", "id"))


def resolve_paths(layers: Layers) -> None:
    """Make the paths of models absolute, in place; a Hub id stays as it is.

    A relative path starts at the folder of the file that names it, at the folder above (a project, where the file is a
    card), or at the working folder; the first one that is there is taken. A name that is written as a path, with `./`,
    `../` or `~`, is never asked for on the Hub.
    """
    for path in _KEYS:
        value = layers.get(path)
        if isinstance(value, str) and value and "\0" not in value:
            parent = layers.get(path[:-1])
            parent[path[-1]] = resolved(value, _starts(layers, path))


def resolved(place: str, starts: list[Path]) -> str:
    """Return the absolute path of a model's folder, or a name on the Hub as it is. starts: where a path may start."""
    written = place.startswith((".", "~"))
    path = Path(place).expanduser() if place.startswith("~/") or place == "~" else Path(place)
    if path.is_absolute():
        return str(path) if written else place
    found = next((start / path for start in starts if (start / path).is_dir()), None)
    if found is None:
        return absolute(starts[0] / path) if written else place
    return absolute(found)


def absolute(path: Path) -> str:
    """Return an absolute path without `..`; links stay."""
    return os.path.abspath(path)


def starts_of(file: Path) -> list[Path]:
    """Return the folders where a relative path in a file may start: its own, the one above, and the working folder."""
    return [file.absolute().parent, file.absolute().parent.parent, Path.cwd()]


def _starts(layers: Layers, path: KeyPath) -> list[Path]:
    file = Path(layers.places.get(path, ("", ()))[0].rpartition(":")[0])
    return starts_of(file) if file.suffix in (".yaml", ".yml") else [Path.cwd()]
