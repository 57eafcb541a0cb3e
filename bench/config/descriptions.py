"""Reads the meaning of each key of a recipe or card: the string literal below the attribute of its settings class.

Read from the source only where a schema or a page is made, so that a run does not pay for it.
"""

import ast
import inspect
import json
import textwrap
from functools import cache
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from bench.config import yaml_loader

_EXAMPLE = "Example:"


class KeyText(NamedTuple):
    """description: sentences. example: a value, as it is written in YAML; "" where there is none."""

    description: str
    example: str

    @property
    def value(self) -> Any:
        """Return the example's value, of JSON's own types."""
        return json.loads(json.dumps(yaml_loader.override((), self.example, "example").data))


@cache
def of(settings: type[BaseModel]) -> dict[str, KeyText]:
    """Return key -> text, for the documented keys of a settings class and of the classes it is derived from."""
    texts: dict[str, KeyText] = {}
    for base in settings.__bases__:
        if issubclass(base, BaseModel) and base is not BaseModel:
            texts |= of(base)
    return texts | _own(settings)


def _own(settings: type[BaseModel]) -> dict[str, KeyText]:
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(settings))).body[0]
    except (OSError, TypeError):  # made by a program: there is no source
        return {}
    assert isinstance(body, ast.ClassDef)
    texts = {}
    for attribute, below in zip(body.body, body.body[1:], strict=False):
        if not isinstance(attribute, ast.AnnAssign) or not isinstance(attribute.target, ast.Name):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str):
            description, _, example = " ".join(below.value.value.split()).partition(_EXAMPLE)
            texts[attribute.target.id] = KeyText(description.strip(), example.strip())
    return texts


class WithDescriptions(GenerateJsonSchema):
    """Puts descriptions and examples of keys into a JSON Schema."""

    def model_schema(self, schema: Any) -> dict[str, Any]:
        """Return the schema of one settings class."""
        made = super().model_schema(schema)
        for key, text in of(schema["cls"]).items():
            made["properties"][key] |= {"description": text.description}
            if text.example:
                made["properties"][key] |= {"examples": [text.value]}
        return made

    def sort(self, value: Any, parent_key: str | None = None) -> Any:
        """Leave keys in the order in which they are written."""
        return value


def schema_of(settings: type[BaseModel]) -> dict[str, Any]:
    """Return a settings class's JSON Schema, with descriptions and examples."""
    return settings.model_json_schema(schema_generator=WithDescriptions)
