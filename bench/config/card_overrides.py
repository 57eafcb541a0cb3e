"""Overrides of the keys of a named card, by a recipe or the command line, and another model in place of its own."""

import re
from collections.abc import Iterator, Set
from typing import Any

from bench.config import named_cards
from bench.config.layers import Layers
from bench.config.recipe import Recipe
from bench.config.yaml_loader import Document, KeyPath, items
from bench.errors import RecipeError

KINDS = ("dataset", "model")
# What a model card says of its own model alone, and what says which model that is.
_OF_ONE_MODEL = ("revision", "subfolder", "architecture", "max_length", "trust_remote_code")
_WHICH_MODEL = ("id", "package")


def lay(document: Document, given: list[Document], layers: Layers, made: Set[str]) -> dict[str, Any]:
    """Lay what the recipe and the command line override of the cards. Returns it by dotted key.

    made: kinds whose card was made, or could not be. What an inline mapping says of them is their definition.
    """
    changed: dict[str, Any] = {}
    for source, inside, target, value in _each(document, given):
        kind, key = target[0], str(target[1])
        if kind in made and not named_cards.replaces(str(kind), key):
            continue
        if target[1] == "defaults":
            raise RecipeError(f"{source.where(inside)}: these are the card's own; write the value into the recipe")
        layers.lay(value, target, source, inside)
        if kind not in made or len(source.inside) > 1:
            changed[".".join(str(part) for part in target)] = value
    return changed


def drop_facts_of_other(document: Document, given: list[Document], layers: Layers) -> bool:
    """Drop what a model card says of its own model, where an override names another one; return whether one does."""
    named = {target[1]: value for _, _, target, value in _each(document, given) if target[0] == "model"}
    card = layers.get(("model",))
    if not isinstance(card, dict) or all(named.get(key, card.get(key)) == card.get(key) for key in _WHICH_MODEL):
        return False
    had_weights = any(card.get(key) is not None for key in _WHICH_MODEL)
    dropped = [*_OF_ONE_MODEL, *([] if had_weights else ["weights"]), *(_WHICH_MODEL if "id" in named else ())]
    tokenizer = card.get("tokenizer")
    if isinstance(tokenizer, dict) and "train" not in tokenizer:
        dropped.append("tokenizer")
    for key in dropped:
        card.pop(key, None)
    card["licence"] = "not known: the recipe names another model than the card's"
    return True


def last_part(recipe: Recipe) -> str:
    """Return the last part of a Hub id, folder or package, as a name of files."""
    last = str(recipe.model.id or recipe.model.package).rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", last).strip("-.") or "model"


def _each(document: Document, given: list[Document]) -> Iterator[tuple[Document, KeyPath, KeyPath, Any]]:
    """Yield (source, key path in it, key path in the recipe, value) of each override of a card."""
    whole = {override.inside: override for override in given if len(override.inside) == 1}
    for kind in KINDS:
        # So does one in place of a mapping that names none.
        if "card" not in dict(items(document.data.get(kind))):
            whole |= {override.inside[:1]: override for override in given if override.inside == (kind, "card")}
        # Another card named on the command line takes back what the recipe replaced of its own.
        source, inside = (whole[(kind,)], ()) if (kind,) in whole else (document, (kind,))
        for key, value in items(source.data if (kind,) in whole else source.data.get(kind)):
            if key != "card":
                yield source, (*inside, key), (kind, key), value
    for override in given:
        if override.inside[0] in KINDS and len(override.inside) > 1 and override.inside[1:] != ("card",):
            yield override, (), override.inside, override.data
