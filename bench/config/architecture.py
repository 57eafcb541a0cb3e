"""Fields of a model's architecture, checked against its config class in the installed transformers.

The class is read as text: to import it loads torch, and `check` answers at once.
"""

import ast
import functools
import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.config.cards import ModelCard
from bench.config.layers import Layers
from bench.config.validation import shortened
from bench.config.yaml_loader import KeyPath
from bench.errors import did_you_mean, nearest

# What a run decides itself.
NOT_GIVEN = {"num_labels"}
# Fields of a type that the harness adds, true or false, see bench/models/attention_bias.py.
OWN = {"gpt2": {"attention_bias"}}
# What the base class adds to many a config without declaring it.
ADDED = {"rope_parameters", "output_attentions", "vocab_size", "bos_token_id", "eos_token_id", "pad_token_id"}
_BASE = "PreTrainedConfig"
# A field that a model asks of its config without knowing that it is there.
_ASKED_FOR = re.compile(r"""getattr\(\s*(?:self\.)?config,\s*["'](\w+)["']""")
_CLASS_OR_TYPE = re.compile(
    r"""^class (?P<name>\w+)|^    model_type(?:: [^=]+)? = ["'](?P<kind>[^"']+)["']""", re.MULTILINE
)


def problems(card: ModelCard, layers: Layers) -> Iterator[str]:
    """Yield a line for each field of a card's `architecture` that its model type does not have."""
    kind = card.architecture.get("model_type")
    if not isinstance(kind, str) or not _types():
        return  # random weights in another model's architecture; or no library to ask
    name = _types().get(kind)
    if name is None:
        place = layers.place(("model", "architecture", "model_type"))
        near = nearest(kind, _types())
        yield f"{place}: there is no model type {kind!r}.{f' Did you mean {near!r}?' if near else ''}"
        return
    own = {"model_type", *OWN.get(kind, ())}
    for key in OWN.get(kind, ()):
        if not isinstance(value := card.architecture.get(key, True), bool):
            place = layers.place(("model", "architecture", key))
            yield f"{place}: expected true or false, got {shortened(value)}"
    given = {key: value for key, value in card.architecture.items() if key not in own}
    yield from _unknown(name, kind, given, ("model", "architecture"), layers)


def fields(kind: str) -> frozenset[str] | None:
    """Return the fields that a config of this model type has; None where the library has no such type."""
    name = _types().get(kind)
    return None if name is None else _fields(name)


def _unknown(name: str, kind: str, given: Mapping[str, Any], inside: KeyPath, layers: Layers) -> Iterator[str]:
    known = _fields(name)
    for key, value in given.items():
        if key not in known:
            near = nearest(key, known)
            hint = did_you_mean(key, known) if near else ""
            yield f"{layers.place((*inside, key))}: a {kind!r} config has no such field.{hint}"
        elif isinstance(value, Mapping) and key in (parts := _parts(name)):
            part = _types().get(str(value.get("model_type")), parts[key])
            inner = {field: item for field, item in value.items() if field != "model_type"}
            if _class(part) is not None:
                yield from _unknown(part, f"{kind}.{key}", inner, (*inside, key), layers)


@functools.cache
def _sources() -> dict[Path, str]:
    """Return the text of every file of the installed transformers that holds config classes; {} without it."""
    found = importlib.util.find_spec("transformers")
    if found is None or not found.submodule_search_locations:
        return {}
    folder = Path(found.submodule_search_locations[0])
    paths = [folder / "configuration_utils.py", *sorted(folder.glob("models/*/configuration_*.py"))]
    return {path: path.read_text(encoding="utf-8") for path in paths}


@functools.cache
def _types() -> dict[str, str]:
    """Return model type -> name of its config class."""
    types: dict[str, str] = {}
    for text in _sources().values():
        name = ""
        for match in _CLASS_OR_TYPE.finditer(text):
            name = match["name"] or name
            if match["kind"]:
                types.setdefault(match["kind"], name)
    return types


@functools.cache
def _class(name: str) -> ast.ClassDef | None:
    """Return a config class by its name, parsed; None for one that is not the library's."""
    head = re.compile(rf"^class {re.escape(name)}\b", re.MULTILINE)
    for text in _sources().values() if name else ():
        if head.search(text):
            for node in ast.parse(text).body:
                if isinstance(node, ast.ClassDef) and node.name == name:
                    return node
    return None


@functools.cache
def _fields(name: str) -> frozenset[str]:
    """Return the fields of a class and its bases: declared, renamed, set when it is made, or asked for by its model."""
    node = _class(name)
    if node is None:
        return frozenset()
    names = ADDED | (set() if name == _BASE else _asked(name))
    for statement in node.body:
        declared = isinstance(statement, ast.AnnAssign) and "ClassVar" not in ast.unparse(statement.annotation)
        if declared or (name != _BASE and isinstance(statement, ast.Assign)):
            names.update(_targets(statement))
        if "attribute_map" in _targets(statement):
            value = getattr(statement, "value", None)
            both = [*value.keys, *value.values] if isinstance(value, ast.Dict) else []
            names.update(str(each.value) for each in both if isinstance(each, ast.Constant))
        if name != _BASE:
            names.update(_set_in(statement))
    for base in node.bases:
        names |= _fields(base.id if isinstance(base, ast.Name) else "")
    return frozenset(item for item in names if not item.startswith("_") and item not in NOT_GIVEN)


@functools.cache
def _asked(name: str) -> frozenset[str]:
    """Return the fields that the model of a config class asks of it, declared or not: DeBERTa v3's are not."""
    head = re.compile(rf"^class {re.escape(name)}\b", re.MULTILINE)
    places = (path.parent for path, text in _sources().items() if head.search(text))
    models = (path for place in places for path in sorted(place.glob("modeling_*.py")))
    return frozenset(field for path in models for field in _ASKED_FOR.findall(path.read_text(encoding="utf-8")))


@functools.cache
def _parts(name: str) -> dict[str, str]:
    """Return the configs inside of a config: the field and the name of its class."""
    node = _class(name)
    parts: dict[str, str] = {}
    for statement in node.body if node is not None else []:
        value = getattr(statement, "value", None)
        if {"sub_configs", "sub_configs_defaults"}.intersection(_targets(statement)) and isinstance(value, ast.Dict):
            for key, inner in zip(value.keys, value.values, strict=True):
                if isinstance(key, ast.Constant):
                    parts[str(key.value)] = _class_named_in(inner)
    return parts


def _class_named_in(node: ast.expr) -> str:
    """Return the class of `SomeConfig` or `SubConfigSpec(config_class=SomeConfig, model_type="some")`; "" for none."""
    if isinstance(node, ast.Name):
        return node.id
    given = {keyword.arg: keyword.value for keyword in node.keywords} if isinstance(node, ast.Call) else {}
    kind, made = given.get("model_type"), given.get("config_class")
    if isinstance(kind, ast.Constant):
        return _types().get(str(kind.value), "")
    return made.id if isinstance(made, ast.Name) else ""


def _targets(statement: ast.stmt) -> list[str]:
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _set_in(statement: ast.stmt) -> set[str]:
    """Return the attributes that a method sets, and the arguments that it takes by their names."""
    names = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
        elif isinstance(node, ast.Call):
            names.update(str(given.value) for given in node.args if isinstance(given, ast.Constant))
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            names.add(str(node.slice.value))
    return names
