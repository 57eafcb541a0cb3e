"""The file beside a study's recipes, as far as a run knows of it: its title. See `bench.sweeps.study`."""

import contextlib
from pathlib import Path

from bench.config import yaml_loader
from bench.errors import RecipeError

NAME = "study.yaml"


def title_beside(recipe: Path) -> str | None:
    """Return the title of the study in a recipe's folder; None where there is no such file, or it is not whole."""
    with contextlib.suppress(OSError, RecipeError):
        title = yaml_loader.read(recipe.with_name(NAME)).data.get("title")
        return title.strip() or None if isinstance(title, str) else None
    return None
