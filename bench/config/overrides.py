"""Overrides `key.path=value` of recipes, many at once: laid over one another, and all combinations of values."""

import itertools
import json
from typing import Any

from bench.errors import RecipeError

# Keys of `training` of which only one can be set: a later layer's takes the place of an earlier layer's other one.
REPLACED_BY = {"steps": "epochs", "epochs": "steps"}


def as_yaml(value: Any) -> str:
    """Return a value as it is written behind `key=`; JSON is YAML too."""
    return json.dumps(value, ensure_ascii=False)


def dropped_options(before: Any, now: Any, options: Any) -> tuple[str, ...]:
    """Return a note on the options of a method that another whole method leaves out; () where there are none.

    before, now: a recipe's `method` without and with its overrides. options: of the new method, with all their names.
    """
    if not isinstance(before, dict) or not isinstance(now, dict):
        return ()
    left_out = {key: value for key, value in before.items() if key != "name" and key not in now}
    if not left_out:
        return ()
    name, known = now.get("name"), set(type(options).model_fields)
    kept = f"; method.name={name} in its place keeps them" if left_out.keys() <= known else ""
    return (f"method={name} replaces the recipe's whole method, so that these do not hold: {as_yaml(left_out)}{kept}",)


def merged(earlier: tuple[str, ...], later: tuple[str, ...]) -> tuple[str, ...]:
    """Return all overrides, without the earlier ones that a later one of the same or an excluded key replaces."""
    given = {text.partition("=")[0] for text in later}
    given |= {f"training.{old}" for new, old in REPLACED_BY.items() if f"training.{new}" in given}
    return (*(text for text in earlier if text.partition("=")[0] not in given), *later)


def products(sets: list[str]) -> list[tuple[str, ...]]:
    """Return a tuple of overrides for each combination of values, from `key=v1,v2` of several keys."""
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
    """Split at commas outside of brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        else:
            depth += (char in "[{") - (char in "]}")
        if char == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += char
    return parts
