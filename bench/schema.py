"""JSON Schema of recipes and cards, for editors that complete and check YAML while it is written."""

from typing import Any

from bench import dropin
from bench.recipe import find_cards
from bench.settings import DatasetCard, ModelCard, RecipeFile

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def of(kind: str) -> dict[str, Any]:
    """The schema of a "recipe", or of a "dataset" or "model" card."""
    if kind == "recipe":
        return {"$schema": DIALECT, **_recipe()}
    return {"$schema": DIALECT, **(DatasetCard if kind == "dataset" else ModelCard).model_json_schema()}


def _recipe() -> dict[str, Any]:
    schema = RecipeFile.model_json_schema()
    properties = schema["properties"]
    for kind in ("dataset", "model"):
        cards = [path.stem for path in find_cards(kind)]
        properties[kind] = {"anyOf": [{"type": "string", "examples": cards}, {"$ref": "#/$defs/CardChoice"}]}
    properties["method"] = {"anyOf": [{"enum": dropin.names("methods")}, *map(_method, dropin.names("methods"))]}
    tasks = sorted({o for name in dropin.names("tasks") for o in dropin.literals("tasks", name)["OBJECTIVES"]})
    properties["objective"]["enum"] = tasks
    return schema


def _method(name: str) -> dict[str, Any]:
    """One method as a mapping: its name and its own options."""
    options = dropin.load("methods", name).Options.model_json_schema()
    options["properties"] = {"name": {"const": name}, **options.get("properties", {})}
    options["required"] = ["name", *options.get("required", [])]
    options["title"] = f"method {name}"
    return options
