"""Overrides `key.path=value` of recipes, many at once: laid over one another, and all combinations of values."""

import itertools
import json
from typing import Any

from bench.errors import RecipeError

# How long training lasts is said by one of these; the command line's goes before the study's.
_RIVALS = {"training.steps": "training.epochs", "training.epochs": "training.steps"}


def as_yaml(value: Any) -> str:
    """A value as it is written behind `key=`; JSON is YAML too."""
    return json.dumps(value, ensure_ascii=False)


def merged(earlier: tuple[str, ...], later: tuple[str, ...]) -> tuple[str, ...]:
    """Overrides of which the later ones replace earlier ones of the same key, and of a key that excludes it."""
    given = {text.partition("=")[0] for text in later}
    given |= {rival for key, rival in _RIVALS.items() if key in given}
    return (*(text for text in earlier if text.partition("=")[0] not in given), *later)


def products(sets: list[str]) -> list[tuple[str, ...]]:
    """`key=v1,v2` of several keys -> one tuple of overrides for each combination of values."""
    choices = []
    for text in sets:
        key, equals, values = text.partition("=")
        if not equals or not key:
            raise RecipeError(f"--set {text!r} is not of the form key=value or key=value,value")
        choices.append([f"{key}={value}" for value in _split(values)])
        if len(choices[-1]) > 1 and f"{key}=" in choices[-1]:
            raise RecipeError(f"--set {text!r}: a value between the commas is missing")
    return list(itertools.product(*choices))


def _split(text: str) -> list[str]:
    """At commas that stand neither in brackets nor in quotes."""
    parts, depth, quote = [""], 0, ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        else:
            depth += (sign in "[{") - (sign in "]}")
        if sign == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += sign
    return parts
