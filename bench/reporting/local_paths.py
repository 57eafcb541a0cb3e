"""Show paths of one machine in pages by what readers elsewhere need: a model's name, and no home folder. No NumPy."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from bench.records.record import Record
from bench.reporting import markdown as md

# A bare one may strike text through.
TILDE = "&#126;"
# Folders of people, by which a page would tell a user's name.
_HOME = re.compile(r"(?:file://|(?<![\w.~/-]))(/home/[\w.@+-]+|/Users/[\w.@+-]+|/root)(?=[/\"'\s:,;)]|$)", re.MULTILINE)
RECIPES = "recipes"


def is_local(place: str) -> bool:
    """Return whether a model or a file is named by an absolute path, or one from the home folder: not a Hub id."""
    return place.startswith(("/", "~/"))


def name_of(place: str) -> str:
    """Return the last part of a local path; of a Hub id, a card or a relative path all of it."""
    return PurePosixPath(place).name or place if is_local(place) else place


def names_of(places: Iterable[str]) -> dict[str, str]:
    """Return place -> its name, different for different places: as many last parts as that takes, none of a home."""
    every = dict.fromkeys(places)
    inside = {place: _without_home(place) for place in every}
    names = {place: name_of(place) for place in every}
    for number in range(2, max((len(parts) for parts in inside.values()), default=0) + 1):
        alike = [place for place in every if is_local(place) and list(names.values()).count(names[place]) > 1]
        names |= {place: "/".join(inside[place][-number:]) for place in alike}
    return {place: name if list(names.values()).index(name) == rank else f"{name} ({rank + 1})"
            for rank, (place, name) in enumerate(names.items())}  # fmt: skip


def recipe(path: str) -> str:
    """Return the path of a recipe from its folder `recipes` on; another absolute one's last part."""
    parts = PurePosixPath(path).parts
    if is_local(path) and RECIPES in parts[:-1]:
        last = len(parts) - 1 - parts[::-1].index(RECIPES)
        return "/".join(parts[last:])
    return name_of(path)


def hide(page: str, records: Sequence[Record]) -> str:
    """Return a page in which no path of its records begins with a home folder, nor with the working folder."""
    known = {home for record in records for home in _HOME.findall(record.model_dump_json(exclude={"scores"}))}
    homes = sorted({*known, *(str(home) for home in [_own_home()] if home)}, key=len, reverse=True)
    page = _replace(page, os.getcwd(), "")
    for home in homes:
        page = _replace(page, home, f"{TILDE}/")
    return page


def _replace(page: str, folder: str, shown: str) -> str:
    """Replace the beginning of each path in a folder, and the folder alone."""
    if folder == "/" or (folder not in page and md.escape(folder, len(folder)) not in page):
        return page
    forms = {re.escape(folder), re.escape(md.escape(folder, len(folder)))}
    start = rf"(?:file://|(?<![\w.~/-]))(?:{'|'.join(sorted(forms))})"
    page = re.sub(rf"{start}/(?=[^\s<])", shown, page)
    return re.sub(rf"{start}(?![\w-]|\.\w)", shown.rstrip("/") or ".", page)


def _own_home() -> str | None:
    home = os.path.expanduser("~")
    return home if home not in ("/", "~") and Path(home).is_absolute() else None


def _without_home(place: str) -> list[str]:
    own = _own_home()
    inner = place.removeprefix(f"{own}/") if own else place
    return [part for part in PurePosixPath(_HOME.sub("", inner, count=1)).parts if part not in ("/", "~")]
