"""Says what a relative data folder is relative to: the project of the file that names it, never where a run starts."""

from pathlib import Path
from typing import Any

from bench.config.layers import Layers
from bench.config.yaml_loader import KeyPath

FOLDER: KeyPath = ("dataset", "source", "folder")


def settle(layers: Layers, command_line: str) -> None:
    """Make the data folder absolute where it is not below the working folder anyway.

    In a card or a recipe it is relative to the file's own folder where the data are there, else to the project: what
    `datasets/`, or the folder of the study, lies in; of a project's folder `recipes` also what that lies in. On the
    command line it is relative to the working folder. command_line: the place of keys that are given there.
    """
    folder = layers.get(FOLDER)
    head, _ = layers.places.get(FOLDER, (command_line, ()))
    if not isinstance(folder, str) or not folder or head == command_line:
        return
    given = Path(folder).expanduser()
    if given.is_absolute():
        return
    file = Path(head.rpartition(":")[0])
    if not file.suffix:  # of a recipe that is in no file
        return
    own = file.absolute().parent
    project = own.parent
    named = layers.get(("dataset", "source", "files"))
    bases = [
        *([own] if _has_data(own / given, named) else []),
        project,
        *([project.parent] if project.name == "recipes" else []),
    ]
    places = [base / given for base in bases]
    chosen = next((place for place in places if place.is_dir()), places[-1])
    if chosen.resolve() != given.resolve():
        layers.data["dataset"]["source"]["folder"] = str(chosen)


def _has_data(folder: Path, named: Any) -> bool:
    """Return whether a folder holds files that a source names, or a data set that `save_to_disk` wrote."""
    names = list(named.values()) if isinstance(named, dict) else ["dataset_dict.json", "state.json"]
    patterns = [name for each in names for name in (each if isinstance(each, tuple) else (each,))]
    return folder.is_dir() and any(
        isinstance(name, str) and ((folder / name).is_file() or any(folder.glob(name.lstrip("/")))) for name in patterns
    )
