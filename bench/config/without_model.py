"""Recipes of methods that use no model: they name none; what the command line or a study says of one is left out."""

import copy
from dataclasses import dataclass
from typing import Any

from bench.config import registry
from bench.config.cards import NO_MODEL, NO_MODEL_CARD
from bench.config.layers import Layers
from bench.config.yaml_loader import Document, items

KIND = "model"


@dataclass(frozen=True, kw_only=True)
class Stripped:
    """A recipe and its overrides, without what is said of a model where the method uses none (`applies`).

    notes: what was left out, for the record. problems: what the recipe's own file must not say.
    """

    document: Document
    given: list[Document]
    applies: bool
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return the kinds of cards that the recipe has to name."""
        return ("dataset",) if self.applies else ("dataset", KIND)


def stripped(document: Document, given: list[Document]) -> Stripped:
    """Return both as they are, or without the keys of a model."""
    name = _method(document.data.get("method"))
    own = name
    for override in given:
        if override.inside in (("method",), ("method", "name")):
            name = _method(override.data) or name
    if not _uses_none(name):
        return Stripped(document=document, given=given, applies=False)
    why = f"method {name!r} uses no model"
    notes = [f"{'.'.join(map(str, one.inside))} has no effect: {why}" for one in given if one.inside[0] == KIND]
    problems = []
    if KIND in document.data:
        if _uses_none(own):
            problems.append(f"{document.where((KIND,))}: {why}; remove this key")
        else:
            notes.append(f"{KIND} of the recipe's file has no effect: {why}")
    rest = copy.copy(document)
    rest.data = {key: value for key, value in document.data.items() if key != KIND}
    return Stripped(
        document=rest,
        given=[one for one in given if one.inside[0] != KIND],
        applies=True,
        notes=tuple(dict.fromkeys(notes)),
        problems=tuple(problems),
    )


def lay(layers: Layers, names: dict[str, str]) -> None:
    """Put what stands for a card where a model's would be, and its name among those of the cards."""
    layers.data[KIND], names[KIND] = dict(NO_MODEL_CARD), NO_MODEL


def uses_model(method: str) -> bool:
    """Return whether recipes of a method name a model; true for one that does not exist, as others say."""
    return not _uses_none(method)


def _method(value: Any) -> str | None:
    name = dict(items(value)).get("name") if isinstance(value, dict) else value
    return name if isinstance(name, str) else None


def _uses_none(name: str | None) -> bool:
    if name is None or name not in registry.names("methods"):
        return False
    return registry.literals("methods", name).get("USES_MODEL") is False
