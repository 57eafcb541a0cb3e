"""Keys without effect in the resolved recipe of a record, by the rules of `bench.config.unused`. Loads no torch."""

import copy
import json
from typing import Any

from pydantic import ValidationError

from bench.config import registry, unused
from bench.config.recipe import Recipe
from bench.errors import BenchError


def of_resolved(resolved: dict[str, Any]) -> frozenset[str]:
    """Return the dotted keys of a resolved recipe that had no effect; none where they can't be told any more.

    That is so of a method which is not installed here, and of records without a recipe, as imported ones.
    """
    try:
        recipe = _recipe(resolved)
        method = registry.load_method(recipe.method.name)
        settings = {key: value for key, value in resolved["method"].items() if key != "name"}
        options = method.Options.model_validate_json(json.dumps(settings))
        facts = unused.Facts(recipe=recipe, options=options, plan=method.load_plan(options))
    except (BenchError, ValueError, TypeError, KeyError, AttributeError):
        return frozenset()
    return unused.without_effect(facts, resolved)


def _recipe(resolved: dict[str, Any]) -> Recipe:
    """Return the recipe, without keys of older versions that this one does not know."""
    try:
        return Recipe.model_validate_json(json.dumps(resolved))
    except ValidationError as error:
        places = [problem["loc"] for problem in error.errors() if problem["type"] == "extra_forbidden"]
        if len(places) < error.error_count():
            raise
    known = copy.deepcopy(resolved)
    for *parents, key in places:
        part: Any = known
        for parent in parents:
            part = part[parent]
        del part[key]
    return Recipe.model_validate_json(json.dumps(known))
