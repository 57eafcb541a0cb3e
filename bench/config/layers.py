"""Nested settings laid over one another (default < card < recipe < command line), each value with its place."""

import copy
from dataclasses import dataclass, field
from typing import Any

from bench.config.yaml_loader import Document, KeyPath, items, joined


@dataclass
class Layers:
    """Nested settings laid over one another, with the place that each value came from.

    places: key path -> ("file:line" or "command line", the key path as it is there).
    """

    data: dict[str, Any] = field(default_factory=dict)
    places: dict[KeyPath, tuple[str, KeyPath]] = field(default_factory=dict)

    def lay(self, value: Any, prefix: KeyPath, document: Document, inside: KeyPath = ()) -> None:
        """Puts `value`, which stands at `inside` of the document, at `prefix`; mappings merge, the rest replaces."""
        if not isinstance(value, dict):
            self._put(prefix, value, document)
            self._mark(value, prefix, document, inside)
            return
        if not isinstance(self.get(prefix), dict):
            self._put(prefix, {}, document)
            self.places[prefix] = (document.head(inside), (*document.inside, *inside))
        for key, child in value.items():
            self.lay(child, (*prefix, key), document, (*inside, key))

    def repeat(self, source: KeyPath, target: str) -> None:
        """Puts what stands at a key path at a top-level key too, place by place."""
        self.data[target] = copy.deepcopy(self.get(source))
        for path, place in list(self.places.items()):
            if path[: len(source)] == source:
                self.places[(target, *path[len(source) :])] = place

    def make_room(self, training: Any) -> None:
        """Lets `steps` of a later layer replace `epochs` of an earlier one, and the reverse."""
        here = self.get(("training",))
        if isinstance(here, dict) and isinstance(training, dict):
            for key, rival in (("steps", "epochs"), ("epochs", "steps")):
                if training.get(key) is not None and rival not in training:
                    here.pop(rival, None)

    def get(self, path: KeyPath) -> Any:
        """The value at a key path, or None."""
        here: Any = self.data
        for key in path:
            here = here.get(key) if isinstance(here, dict) else None
        return here

    def place(self, path: KeyPath) -> str:
        """'file:line: a.b', from the nearest known parent of a key path."""
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
