"""Says what a relative data folder is relative to: the project of the file that names it, never where a run starts."""

from pathlib import Path

from bench.config.layers import Layers
from bench.config.yaml_loader import KeyPath

FOLDER: KeyPath = ("dataset", "source", "folder")


def settle(layers: Layers, command_line: str) -> None:
    """Make the data folder absolute where it is not below the working folder anyway.

    In a card or a recipe it is relative to the project: what `datasets/`, or the folder of the study, lies in; of a
    project's folder `recipes` also what that lies in, where the data are there. On the command line it is relative to
    the working folder. command_line: the place of keys that are given there.
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
    project = file.absolute().parent.parent
    bases = [project, *([project.parent] if project.name == "recipes" else [])]
    places = [base / given for base in bases]
    chosen = next((place for place in places if place.is_dir()), places[-1])
    if chosen.resolve() != given.resolve():
        layers.data["dataset"]["source"]["folder"] = str(chosen)
