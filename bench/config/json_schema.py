"""JSON Schema of recipes and cards, for editors that complete and check YAML while it is written."""

from typing import Any

from bench.config import descriptions, named_cards, registry, without_model
from bench.config.cards import DatasetCard, ModelCard, Presets
from bench.config.recipe import MethodChoice, RecipeFile
from bench.config.resolve import find_cards

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def of(kind: str) -> dict[str, Any]:
    """Return the schema of a "recipe", or of a "dataset" or "model" card."""
    if kind == "recipe":
        return {"$schema": DIALECT, **_recipe()}
    schema = descriptions.schema_of(DatasetCard if kind == "dataset" else ModelCard)
    schema["properties"]["license"] = {**schema["properties"]["licence"], "title": "License"}
    if kind == "model":  # read from the model's config where the card does not say it
        schema["required"] = [key for key in schema.get("required", []) if key != "family"]
    if kind == "dataset":
        _embed(schema, "defaults", descriptions.schema_of(Presets))
    return {"$schema": DIALECT, **schema}


def _embed(schema: dict[str, Any], key: str, part: dict[str, Any]) -> None:
    """Set the schema of a property; its definitions go to the root, where its references look for them."""
    schema.setdefault("$defs", {}).update(part.pop("$defs", {}))
    said = {word: schema["properties"][key][word] for word in ("description", "examples")}
    schema["properties"][key] = part | said


def _recipe() -> dict[str, Any]:
    schema = descriptions.schema_of(RecipeFile)
    properties = schema["properties"]
    # What a mapping must name.
    named = [("card",), *((key,) for keys in named_cards.WHERE.values() for key in keys), ("task", "source")]
    schema["$defs"]["CardChoice"]["anyOf"] = [{"required": [*keys]} for keys in dict.fromkeys(named)]
    for kind in ("dataset", "model"):
        cards = [path.stem for path in find_cards(kind)]
        properties[kind]["anyOf"] = [{"type": "string", "examples": cards}, {"$ref": "#/$defs/CardChoice"}]
    methods = [_method(name) for name in registry.names("methods")]
    definitions = {name: part for method in methods for name, part in method.pop("$defs", {}).items()}
    by_name = {"anyOf": [{"enum": registry.names("methods")}, *methods]}
    _embed(schema, "method", {**by_name, "$defs": definitions})
    without = [name for name in registry.names("methods") if not without_model.uses_model(name)]
    schema["required"].remove("model")
    named_alone = {"enum": without}, {"type": "object", "properties": {"name": {"enum": without}}, "required": ["name"]}
    schema["anyOf"] = [{"required": ["model"]}, {"properties": {"method": {"anyOf": [*named_alone]}}}]
    tasks = sorted({o for name in registry.names("tasks") for o in registry.literals("tasks", name)["OBJECTIVES"]})
    properties["objective"]["enum"] = tasks
    return schema


def _method(name: str) -> dict[str, Any]:
    """Return the schema of one method as a mapping: its name and its own options."""
    options: dict[str, Any] = descriptions.schema_of(registry.load("methods", name).Options)
    named = {"const": name, "description": descriptions.of(MethodChoice)["name"].description, "examples": [name]}
    options["properties"] = {"name": named, **options.get("properties", {})}
    options["required"] = ["name", *options.get("required", [])]
    options["title"] = f"method {name}"
    return options
