"""Brings along what a run needs beside the package: a recipe of one's own with its cards, and its data's folder."""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from bench.config import registry
from bench.config.resolve import CARD_FOLDERS, SHIPPED, Resolved
from bench.errors import RecipeError, SetupError
from bench.utils import files, secret_formats

# Where they lie on the machine of the run.
JOB = "/job"
# A ConfigMap holds 1 MiB (kubernetes.io/docs/concepts/configuration/configmap).
MOST_BYTES = 900 * 1024


@dataclass(frozen=True, kw_only=True)
class Carried:
    """recipe: its path on the machine. files: place below /job -> file here. data: a folder here, or None."""

    recipe: str
    files: dict[str, Path]
    data: Path | None = None

    @property
    def data_bytes(self) -> int:
        """Return the bytes of the folder of the data, where it is copied."""
        places = [] if self.data is None else os.walk(self.data)
        paths = (os.path.join(place, name) for place, _, names in places for name in names)
        return sum(os.path.getsize(path) for path in paths if os.path.isfile(path))

    def texts(self) -> dict[str, str]:
        """Return place -> text of each file. Raises SetupError for what is too much, or holds a secret."""
        texts = {place: files.read_text(path, MOST_BYTES) for place, path in self.files.items()}
        if sum(len(text.encode()) for text in texts.values()) > MOST_BYTES:
            raise SetupError(f"{', '.join(map(str, self.files.values()))}: more than {MOST_BYTES:,} bytes in all")
        for place, text in texts.items():
            refuse_secrets(text, str(self.files[place]))
        return texts


def refuse_secrets(text: str, what: str) -> None:
    """Raise SetupError for a text with something like a token or a password, which is to be in no file."""
    if secret_formats.is_in(text):
        raise SetupError(f"{what} has what looks like a token or a password; give it as a secret of the platform")


def of(resolved: Resolved) -> Carried:
    """Return what a run needs beside the package. Raises RecipeError with all that can't be brought along."""
    problems = _problems(resolved)
    if problems:
        raise RecipeError("\n".join(f"{resolved.path}: {one}" for one in problems))
    path, source = Path(resolved.path).resolve(), resolved.recipe.dataset.source
    data = None if source.folder is None else Path(source.folder).absolute()
    if path.is_relative_to(SHIPPED.resolve()):
        inside = path.relative_to(SHIPPED.resolve()).as_posix()
        return Carried(recipe=f"recipes/{inside}", files={}, data=data)
    place = f"{path.parent.name or 'own'}/{path.name}"
    own = {place: path}
    for kind, name in (("dataset", resolved.dataset_name), ("model", resolved.model_card)):
        beside = path.parent.parent / CARD_FOLDERS[kind] / f"{name}.yaml"
        if kind not in resolved.made and beside.is_file():
            own[f"{CARD_FOLDERS[kind]}/{name}.yaml"] = beside
    return Carried(recipe=f"{JOB}/{place}", files=own, data=data)


def _problems(resolved: Resolved) -> list[str]:
    recipe, said = resolved.recipe, []
    if registry.included():
        said.append("drop-ins of --include or BENCH_INCLUDE are on this machine alone; add them to the image's package")
    if not Path(resolved.path).is_file():
        said.append("the recipe is in no file that could be brought along")
    if "dataset" in resolved.made and recipe.dataset.source.kind not in ("hub", "builtin", "lm_eval"):
        cards = Path(resolved.path).absolute().parent.parent / CARD_FOLDERS["dataset"]
        said.append(
            "the data set is named by a path on this machine; write a card of it (finetune-bench card DATA > "
            f"{shlex.quote(str(cards / 'NAME.yaml'))}), whose folder of data is brought along, and name that"
        )
    elif recipe.dataset.source.folder is not None and not Path(recipe.dataset.source.folder).is_dir():
        said.append(f"the folder of its data, {recipe.dataset.source.folder}, is not there")
    for what, place in (("model", recipe.model.id), ("tokenizer", recipe.model.tokenizer.id)):
        if place is not None and os.path.isdir(place):
            said.append(f"the {what} is a folder of this machine, {place}; push it to the Hub, and name it from there")
    own_cards = Path(resolved.path).resolve().parent.parent / CARD_FOLDERS["dataset"]
    for one in recipe.evaluation.also:
        name = one if isinstance(one, str) else one.name
        place = name if isinstance(one, str) else one.perplexity or one.dataset or ""
        if os.path.exists(place) or (own_cards / f"{place}.yaml").is_file():
            said.append(f"evaluation.also: {name} is on this machine, and only the recipe's own data are brought along")
    return said
