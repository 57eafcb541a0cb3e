"""The JSON Schema accepts what is shipped and refuses what the loader refuses."""

import functools
import itertools
import json
import re

import pydantic
import pytest

from bench.config import descriptions, json_schema, recipe, training, yaml_loader
from bench.config.resolve import find_cards, find_recipes
from bench.sweeps import study

BASE = {"dataset": "reviews", "model": "tiny_bert", "method": "full"}
CARD = {
    "task": "text_classification",
    "licence": "none",
    "source": {"kind": "builtin", "id": "reviews"},
    "splits": {"train": "train", "test": "test"},
}
TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
# Words that describe and do not restrict; any other word that is not checked below fails the test.
SILENT = {"$schema", "$defs", "title", "description", "default", "examples"}


def has_type(value, name):
    if name in ("number", "integer"):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and (name == "number" or float(value).is_integer())
    return isinstance(value, TYPES[name])


def valid(value, part, root):
    """A validator of the words that pydantic uses; tells a word that it does not know."""
    return all(check(word, value, part, root) for word in part if word not in SILENT)


def check(word, value, part, root):
    limit = part[word]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    match word:
        case "$ref":
            return valid(value, root["$defs"][limit.removeprefix("#/$defs/")], root)
        case "type":
            return has_type(value, limit)
        case "enum":
            return value in limit
        case "const":
            return value == limit
        case "anyOf":
            return any(valid(value, choice, root) for choice in limit)
        case "pattern":
            return not isinstance(value, str) or re.search(limit, value) is not None
        case "minimum" | "exclusiveMinimum":
            return not number or (value > limit or (word == "minimum" and value == limit))
        case "maximum" | "exclusiveMaximum":
            return not number or (value < limit or (word == "maximum" and value == limit))
        case "minLength" | "maxLength":
            return not isinstance(value, str) or (len(value) >= limit if word == "minLength" else len(value) <= limit)
        case "minItems" | "maxItems":
            return not isinstance(value, list) or (len(value) >= limit if word == "minItems" else len(value) <= limit)
        case "items":
            return not isinstance(value, list) or all(valid(item, limit, root) for item in value)
        case "prefixItems":
            return not isinstance(value, list) or all(map(valid, value, limit, itertools.repeat(root)))
        case "required":
            return not isinstance(value, dict) or set(limit) <= set(value)
        case "properties":
            return not isinstance(value, dict) or all(valid(value[k], limit[k], root) for k in limit if k in value)
        case "minProperties":
            return not isinstance(value, dict) or len(value) >= limit
        case "propertyNames":
            return not isinstance(value, dict) or all(valid(key, limit, root) for key in value)
        case "patternProperties":
            named = ((p, k) for p in limit for k in value if re.search(p, k)) if isinstance(value, dict) else ()
            return all(valid(value[key], limit[pattern], root) for pattern, key in named)
        case "additionalProperties" if not isinstance(value, dict):
            return True
        case "additionalProperties":
            known = set(part.get("properties", {}))
            patterns = part.get("patternProperties", {})
            more = [k for k in value if k not in known and not any(re.search(p, k) for p in patterns)]
            return limit is True or (not more if limit is False else all(valid(value[k], limit, root) for k in more))
    raise AssertionError(f"the schema uses {word!r}, which this test does not know")


def accepted(kind, value):
    root = json_schema.of(kind)
    return valid(json.loads(json.dumps(value)), root, root)


def test_shipped_recipes_and_cards_are_accepted():
    files = [("recipe", path) for path in find_recipes()]
    files += [(kind, path) for kind in ("dataset", "model") for path in find_cards(kind)]
    assert len(files) > 20
    for kind, path in files:
        assert accepted(kind, yaml_loader.read(path).data), path


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"method": {"name": "lora", "config": {"r": 8}}},
        {"method": {"name": "last_layers", "blocks": 2}},
        {"dataset": {"card": "reviews", "source": {"seed": 3}}},
        {"model": "Qwen/Qwen3-0.6B", "dataset": "./tickets.csv"},
        {"model": {"id": "Qwen/Qwen3-0.6B", "dtype": "bfloat16"}, "dataset": {"path": "tickets.csv", "delimiter": ";"}},
        {"training": {"learning_rate": 1e-3, "evaluate_every": "epoch", "best": "f1_macro"}},
        {"limit": {"train": 5}},
        {"trackers": ["wandb"]},
    ],
)
def test_good_recipes(change):
    assert accepted("recipe", {**BASE, **change})


@pytest.mark.parametrize(
    "change",
    [
        {"trainin": {}},
        {"training": {"learning_rat": 1}},
        {"training": {"learning_rate": "1e-3x"}},
        {"training": {"learning_rate": 0}},
        {"training": {"steps": 1.5}},
        {"training": {"steps": 2**31}},
        {"training": {"schedule": "liner"}},
        {"training": {"evaluate_every": "epochs"}},
        {"method": "ful"},
        {"method": {"name": "last_layers", "block": 2}},
        {"method": {"name": "full", "x": 2}},
        {"method": {"blocks": 2}},
        {"dataset": 3},
        {"dataset": {"source": {"seed": 3}}},
        {"limit": {"train": 0}},
        {"save": "yes"},
        {"evaluation": {"splits": []}},
    ],
)
def test_wrong_recipes(change):
    assert not accepted("recipe", {**BASE, **change})


@pytest.mark.parametrize("method", ["tfidf", {"name": "tfidf", "config": {"classifier": "naive_bayes"}}])
def test_a_method_without_a_model_needs_no_such_key(method):
    assert accepted("recipe", {"dataset": "reviews", "method": method})
    assert not accepted("recipe", {"method": method})


@pytest.mark.parametrize("key", BASE)
def test_missing_keys(key):
    assert not accepted("recipe", {name: value for name, value in BASE.items() if name != key})


def test_dataset_cards():
    assert accepted("dataset", CARD)
    assert accepted("dataset", {**CARD, "defaults": {"training": {"epochs": 2}, "max_length": 64}})
    assert accepted("dataset", {**CARD, "divide": [{"of": ["train"], "into": {"dev": 0.1, "more": 300}}]})
    assert not accepted("dataset", {**CARD, "defaults": {"training": {"epoch": 2}}})
    assert not accepted("dataset", {**CARD, "defaults": {"head": {}}})
    assert not accepted("dataset", {**CARD, "source": {"kind": "jsn"}})
    assert not accepted("dataset", {**CARD, "labels": ["a", 1]})
    assert accepted("dataset", {key: value for key, value in CARD.items() if key != "licence"})
    assert not accepted("dataset", {key: value for key, value in CARD.items() if key != "task"})


def test_model_cards():
    assert accepted("model", {"family": "encoder", "licence": "x", "id": "a/b"})
    assert accepted("model", {"id": "a/b", "license": "x"})
    assert accepted("dataset", {**CARD, "license": "MIT"})
    assert not accepted("model", {"id": "a/b", "license": 3})
    assert not accepted("model", {"family": "encodr", "licence": "x", "id": "a/b"})
    assert not accepted("model", {"family": "encoder", "licence": "x", "max_length": 0})


KINDS = {kind: functools.partial(json_schema.of, kind) for kind in ("recipe", "dataset", "model")}
KINDS["study"] = study.schema


@pytest.mark.parametrize("kind", KINDS)
def test_every_reference_leads_somewhere(kind):
    found = KINDS[kind]()
    references = re.findall(r'"\$ref": "([^"]*)"', json.dumps(found))
    assert found["$schema"] == json_schema.DIALECT
    assert all(reference.removeprefix("#/$defs/") in found["$defs"] for reference in references)
    for part in (found, *found.get("$defs", {}).values()):
        assert part.get("description"), part.get("title")


def test_editors_are_offered_the_shipped_names():
    properties = json_schema.of("recipe")["properties"]
    assert "reviews" in properties["dataset"]["anyOf"][0]["examples"]
    assert "tiny_bert" in properties["model"]["anyOf"][0]["examples"]
    assert {"full", "lora"} <= set(properties["method"]["anyOf"][0]["enum"])
    assert set(properties) == set(recipe.Recipe.model_fields)


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_has_a_sentence_and_an_example_that_it_takes(kind):
    """Texts stand below the attributes of bench/config and of the methods' options."""
    root = KINDS[kind]()
    methods = [part for part in root["properties"].get("method", {}).get("anyOf", ()) if "properties" in part]
    seen = 0
    for part in (root, *methods, *root.get("$defs", {}).values()):
        for key, value in part.get("properties", {}).items():
            place = f"{part.get('title')}.{key}"
            assert len(value.get("description", "").split()) > 2, place
            assert value["description"].endswith("."), place
            (example,) = value["examples"]
            assert valid(json.loads(json.dumps(example)), {k: v for k, v in value.items() if k != "default"}, root), (
                place
            )
            assert "default" not in value or example != value["default"], f"{place}: the example is the default"
            seen += 1
    assert seen > 10


def test_texts_are_read_from_the_class_and_its_bases():
    class More(training.EarlyStopping):
        """With a key more."""

        patience: int = 2
        """Another meaning. Example: 4"""
        other: int = 2

    texts = descriptions.of(More)
    assert texts["patience"] == ("Another meaning.", "4")
    assert texts["threshold"] == descriptions.of(training.EarlyStopping)["threshold"]
    assert "other" not in texts
    assert descriptions.of(pydantic.create_model("Made", key=(int, 3))) == {}
