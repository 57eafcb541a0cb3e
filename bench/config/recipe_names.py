"""Finds recipes and studies by name, wherever a command takes a path: `tiny/bert-full`, `sst2`, `studies/imdb`."""

import difflib
import os
from collections.abc import Iterator
from pathlib import Path

from bench.config import resolve
from bench.errors import RecipeError

SUFFIXES = (".yaml", ".yml")
# Of a folder of studies: the file that makes it one.
STUDY = "study.yaml"


def find(given: Path) -> Path:
    """Return the file or folder of a recipe or a study that is given by its path, or by its name without suffix.

    A path that is there comes first; then `recipes/` of the working folder, then what comes with the package. Another
    path is returned as it is, for its reader to say that it is not there. Raises RecipeError for a name that nothing
    has, with the nearest ones.
    """
    written = str(given)
    if os.path.lexists(given) or given.is_absolute() or written.startswith(("..", "~")) or given.suffix == ".json":
        return given
    name = "/".join(given.parts[1:] if given.parts[:1] == ("recipes",) else given.parts)
    if given.suffix in SUFFIXES:
        stem = name.removesuffix(given.suffix)
        if stem in _known(resolve.SHIPPED):
            raise RecipeError(f"{given}: there is no such file. Did you mean {stem!r}, which comes with the package?")
        return given
    for folder in _folders():
        for place in (folder / f"{name}.yaml", folder / name):
            if name in _known(folder) and place.exists():
                return place
    raise RecipeError(f"{given}: there is no such file, and no recipe of this name.{_nearest(name)}")


def _folders() -> list[Path]:
    """Return the folders in which names are looked up: `recipes/` of the working folder, and the package's."""
    own = Path("recipes")
    same = own.is_dir() and resolve.SHIPPED.is_dir() and own.samefile(resolve.SHIPPED)
    return [*([own] if own.is_dir() else []), *([] if same else [resolve.SHIPPED])]


def _known(folder: Path) -> set[str]:
    """Return the names below a folder of recipes: `<folder>/<recipe>`, `<folder>`, and of studies, with `studies/`."""
    return set(_names(folder))


def _names(folder: Path) -> Iterator[str]:
    for path in resolve.find_recipes(folder):
        if path.parent.name != "studies":
            yield from (f"{path.parent.name}/{path.stem}", path.parent.name)
    for path in folder.glob(f"studies/*/{STUDY}"):
        yield f"studies/{path.parent.name}"
        yield from (f"studies/{path.parent.name}/{one.stem}" for one in path.parent.glob("*.yaml") if one.name != STUDY)


def _nearest(name: str) -> str:
    """Return ' Did you mean ...?' with up to three names: the same recipe in other studies, else the nearest ones."""
    known = sorted({known for folder in _folders() for known in _known(folder)})
    last = name.rpartition("/")[2]
    same = [one for one in known if one.rpartition("/")[2] == last]
    near = (same or difflib.get_close_matches(name, known, n=3, cutoff=0.6))[:3]
    if not near:
        near = [one for one in known if difflib.get_close_matches(last, [one.rpartition("/")[2]], cutoff=0.8)][:3]
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else " `list studies` shows the names."
