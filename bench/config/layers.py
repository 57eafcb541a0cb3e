"""Nested settings laid over one another (default < card < recipe < command line), each value with its place."""

import copy
from dataclasses import dataclass, field
from typing import Any

from bench.config.overrides import REPLACED_BY
from bench.config.yaml_loader import Document, KeyPath, items, joined
from bench.errors import RecipeError

# Another spelling of a key -> the key.
SPELLINGS: dict[KeyPath, KeyPath] = {(kind, "license"): (kind, "licence") for kind in ("model", "dataset")}


@dataclass
class Layers:
    """Nested settings laid over one another, with the place that each value came from.

    places: key path -> ("file:line" or "command line", the key path as it is there). also: key path -> keys of this
    mapping that are no settings, and may be meant by a misspelt one: those that its model or data are found by.
    """

    data: dict[str, Any] = field(default_factory=dict)
    places: dict[KeyPath, tuple[str, KeyPath]] = field(default_factory=dict)
    also: dict[KeyPath, tuple[str, ...]] = field(default_factory=dict)

    def lay(self, value: Any, prefix: KeyPath, document: Document, inside: KeyPath = ()) -> None:
        """Put `value`, which stands at `inside` of the document, at `prefix`; mappings merge, all else replaces.

        Raises RecipeError for a mapping with a key in two spellings.
        """
        prefix = SPELLINGS.get(prefix, prefix)
        if not isinstance(value, dict):
            self._put(prefix, value, document)
            self._mark(value, prefix, document, inside)
            return
        if not isinstance(self.get(prefix), dict):
            self._put(prefix, {}, document)
            self.places[prefix] = (document.head(inside), (*document.inside, *inside))
        for key, child in value.items():
            other = SPELLINGS.get((*prefix, key))
            if other is not None and other[-1] in value:
                where = document.where((*inside, key))
                raise RecipeError(f"{where}: this is {other[-1]!r} in another spelling, which is given too; remove one")
            self.lay(child, (*prefix, key), document, (*inside, key))

    def repeat(self, source: KeyPath, target: str) -> None:
        """Put what stands at a key path at a top-level key too, with its places."""
        self.data[target] = copy.deepcopy(self.get(source))
        for path, place in list(self.places.items()):
            if path[: len(source)] == source:
                self.places[(target, *path[len(source) :])] = place

    def drop_replaced(self, training: Any) -> None:
        """Drop the `epochs` that `steps` of a later layer's `training` replace, and the reverse."""
        earlier = self.get(("training",))
        if isinstance(earlier, dict) and isinstance(training, dict):
            for new, old in REPLACED_BY.items():
                if training.get(new) is not None and old not in training:
                    earlier.pop(old, None)

    def get(self, path: KeyPath) -> Any:
        """Return the value at a key path, or None."""
        here: Any = self.data
        for key in path:
            here = here.get(key) if isinstance(here, dict) else None
        return here

    def place(self, path: KeyPath) -> str:
        """Return 'file:line: a.b' of a key path, by its nearest parent whose place is known."""
        known = path
        while known and known not in self.places:
            known = known[:-1]
        head, own = self.places.get(known, ("", ()))
        return joined(head, (*own, *path[len(known) :]))

    def _put(self, path: KeyPath, value: Any, document: Document) -> None:
        here: Any = self.data
        for depth, key in enumerate(path[:-1], start=1):
            if not isinstance(here.get(key), dict):
                here[key] = {}
                self.places[path[:depth]] = (document.head(()), path[:depth])
            here = here[key]
        here[path[-1]] = value

    def _mark(self, value: Any, prefix: KeyPath, document: Document, inside: KeyPath) -> None:
        self.places[prefix] = (document.head(inside), (*document.inside, *inside))
        for number, child in enumerate(value) if isinstance(value, tuple) else items(value):
            self._mark(child, (*prefix, number), document, (*inside, number))
