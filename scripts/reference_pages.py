"""Write docs/reference/*.md: keys, methods, tasks, metrics and commands, from the code and the JSON Schema.

    .venv/bin/python scripts/reference_pages.py

Texts stand once: below the attributes of bench/config, in docstrings of drop-ins, in the help of the commands. A test
holds the pages to what this prints. Loads no torch.
"""

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from bench.cli import main as commands  # noqa: E402
from bench.config import json_schema, registry  # noqa: E402
from bench.config.overrides import as_yaml  # noqa: E402
from bench.records import causes  # noqa: E402
from bench.sweeps import study  # noqa: E402

FOLDER = ROOT / "docs" / "reference"
Schema = dict[str, Any]
# Bounds of numbers that only say that they fit into 32 bits.
WIDE = (2**31, 2**32)
READS = {
    "predictions": "predicted labels",
    "scores": "probabilities of labels",
    "answers": "written answers",
    "choices": "log-likelihoods of choices",
    "numbers": "numbers",
    "tags": "tags of words",
    "likelihoods": "log-likelihoods of references",
}


def pages() -> dict[str, str]:
    """Return file name -> text of each page."""
    made = {
        "recipe.md": _keys_page(
            "Recipe keys",
            "Every key of a recipe. A key is written in YAML, or as `key=value` on the command line of `run`, `plan`, "
            "`sweep` and `try`: `training.learning_rate=2e-5`. Options of methods: [methods](methods.md).",
            "recipe",
        ),
        "dataset_card.md": _keys_page(
            "Keys of dataset cards",
            "A dataset card is a YAML file in `recipes/datasets`. A recipe changes a key by `dataset.key=value`.",
            "dataset",
        ),
        "model_card.md": _keys_page(
            "Keys of model cards",
            "A model card is a YAML file in `recipes/models`. A recipe changes a key by `model.key=value`.",
            "model",
        ),
        "study.md": _keys_page(
            "Keys of studies",
            "A study is a YAML file that names recipes: `recipes/studies/NAME/study.yaml`, or any file with a `title`. "
            "`sweep STUDY` runs it.",
            "study",
        ),
        "methods.md": _methods(),
        "tasks.md": _tasks(),
        "metrics.md": _metrics(),
        "commands.md": _commands(),
        "warnings.md": _warnings(),
    }
    return {name: f"{text.rstrip()}\n" for name, text in made.items()}


def _keys_page(title: str, intro: str, kind: str) -> str:
    schema = study.schema() if kind == "study" else json_schema.of(kind)
    command = "finetune-bench schema" + ("" if kind == "recipe" else f" {kind}")
    lines = [f"# {title}", "", intro, "", f"The same as JSON Schema, for editors: `{command}`.", ""]
    # The schema asks for a model only with methods that have one.
    required = {*schema.get("required", ()), *(["model"] if kind == "recipe" else [])}
    return "\n".join([*lines, *_keys(schema, schema.get("$defs", {}), "", required, set())])


def _keys(
    part: Schema, definitions: Schema, prefix: str, required: set[str], seen: set[str], example: str = "{}"
) -> Iterator[str]:
    """Yield the lines of all keys of a mapping: those with values first, then each mapping below its own heading.

    seen: titles of mappings that are on the page, which are not repeated. example: what stands around an example, with
    {} in its place.
    """
    properties = {key: value for key, value in part["properties"].items() if key != "license"}
    # A card's defaults are recipe keys, which have a page.
    nested = {
        key: below
        for key, value in properties.items()
        if prefix != "defaults." and (below := _below(value, definitions)) is not None
    }
    for key, value in sorted(properties.items(), key=lambda item: item[0] in nested):
        shown = f"{key}: {_yaml(value['examples'][0])}"
        level = "##" if not prefix else "###"
        yield from (f"{level} {prefix}{key}", "", _prose(value["description"]), "")
        yield from (
            f"* {_facts(value, definitions, is_required=key in required)}",
            f"* Example: `{example.replace('{}', shown)}`",
            "",
        )
        if key in nested and nested[key]["title"] not in seen:
            seen.add(nested[key]["title"])
            inner = example.replace("{}", _around(key, value))
            yield from _keys(
                nested[key], definitions, f"{prefix}{key}.", set(nested[key].get("required", ())), seen, inner
            )


def _around(key: str, value: Schema) -> str:
    """Return a key with {} where the keys of its mapping go, also in a list or below a name."""
    if value.get("type") == "array":
        return f"{key}: [{{{{}}}}]"
    return f"{key}: {{NAME: {{{{}}}}}}" if "patternProperties" in value else f"{key}: {{{{}}}}"


def _below(value: Schema, definitions: Schema) -> Schema | None:
    """Return the schema of a mapping with keys of its own: the value, one of its choices, or an item of its list."""
    if "properties" in value:
        return value
    if "$ref" in value:
        return definitions[value["$ref"].removeprefix("#/$defs/")]
    named = value.get("patternProperties", {}).values()
    for choice in (*value.get("anyOf", ()), value.get("items", {}), *named):
        # A method's options are on a page of their own, and a card's keys on its own.
        if isinstance(choice, dict) and "$ref" in choice and not choice["$ref"].endswith("CardChoice"):
            return _below(choice, definitions)
    return None


def _facts(value: Schema, definitions: Schema, *, is_required: bool) -> str:
    default = value.get("default")
    if is_required:
        said = "required"
    elif "default" not in value:
        said = "optional"
    elif "$ref" in value and default is not None:
        said = "default: those of its keys"
    else:
        said = f"default: `{_yaml(default)}`"
    return f"Type: {_type(value)} · {said}"


def _yaml(value: Any) -> str:
    """Return a value in YAML's flow style, with quotes only where they are needed."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    if isinstance(value, str) and value.replace("_", "").replace("-", "").replace("/", "").isalnum():
        return value if not value.isdecimal() else f'"{value}"'
    return as_yaml(value).replace("e-0", "e-")


def _type(value: Schema) -> str:
    if "enum" in value or "const" in value:
        return ", ".join(
            f"`{as_yaml(choice) if not isinstance(choice, str) else choice}`" for choice in _choices(value)
        )
    if "$ref" in value:
        return "mapping"
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(_type(choice) for choice in value["anyOf"]))
    match value.get("type"):
        case "array" if "prefixItems" in value:
            return f"list of {len(value['prefixItems'])} {_type(value['prefixItems'][0])}s"
        case "array":
            return f"list of {_type(value.get('items', {}))}"
        case "object" if "name" in value.get("properties", {}):
            return "mapping"
        case "object":
            inner = next(iter(value.get("patternProperties", {}).values()), value.get("additionalProperties"))
            of = f" of names to {_type(inner)}" if isinstance(inner, dict) and inner else ""
            return f"mapping{of}"
        case "string":
            return "text"
        case "boolean":
            return "`true`, `false`"
        case "null":
            return "`null`"
        case "integer" | "number" as name:
            return (("whole number" if name == "integer" else "number") + _bounds(value)).rstrip()
    return "any value"


def _choices(value: Schema) -> list[Any]:
    return value["enum"] if "enum" in value else [value["const"]]


def _bounds(value: Schema) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    given = [f"{sign} {value[key]:g}" for key, sign in signs.items() if key in value and value[key] not in WIDE]
    return f" {' and '.join(given)}" if given else ""


def _methods() -> str:
    lines = ["# Methods", "", "A method says which parameters are trained. `method: NAME`, or a mapping of `name` and"]
    lines += ["its options: `method: {name: lora, config: {r: 16}}`. Adding one: [extending](../extending.md).", ""]
    schema = json_schema.of("recipe")
    options = {part["title"].removeprefix("method "): part for part in schema["properties"]["method"]["anyOf"][1:]}
    for name in registry.names("methods"):
        known = registry.literals("methods", name)
        objectives = " and ".join(f"`objective: {objective}`" for objective in known["OBJECTIVES"])
        lines += [f"## {name}", "", _docstring(registry.path_of("methods", name)), "", f"With {objectives}.", ""]
        part = options[name]
        own = {**part, "properties": {key: value for key, value in part["properties"].items() if key != "name"}}
        lines += _keys(own, schema["$defs"], "method.", set(part["required"]), set(), f"method: {{name: {name}, {{}}}}")
    return "\n".join(lines)


def _tasks() -> str:
    lines = ["# Tasks", "", "A dataset card names its task. Columns of each: [your data](../your_data.md).", ""]
    for name in registry.names("tasks"):
        known = registry.literals("tasks", name)
        path = registry.path_of("tasks", name)
        lines += [f"## {name}", "", _docstring(path), ""]
        lines += [f"* With {' and '.join(f'`objective: {objective}`' for objective in known['OBJECTIVES'])}."]
        for kind, metrics in known["METRICS"].items():
            of = " of several labels" if kind == "multi_label" else ""
            lines += [f"* Metrics{of}, where neither card nor recipe names others: {_codes(metrics)}."]
        if "head" in known["OBJECTIVES"]:
            loss = next(node for node in _tree(path).body if isinstance(node, ast.FunctionDef) and node.name == "loss")
            said = (
                (ast.get_docstring(loss) or "").partition("\n\n")[0].removeprefix("Return the ").removeprefix("loss ")
            )
            lines += [f"* Loss: {_prose(said)} Model: transformers' `{known['AUTO_CLASS']}`."]
        lines += [""]
    return "\n".join(lines)


def _metrics() -> str:
    lines = [
        "# Metrics",
        "",
        "Named in `evaluation.metrics` of a recipe or `metrics` of a dataset card. Each gives one",
    ]
    lines += [
        "or more values, which reports, `--metric` and `training.best` name. Any metric of the evaluate library is"
    ]
    lines += ["usable as `evaluate:NAME`. Intervals: [statistics](../statistics.md).", ""]
    bases = {node.name: node for node in _tree(ROOT / "bench" / "metrics" / "_base.py").body if _is_class(node)}
    for name in registry.names("metrics"):
        metric = next(node for node in _tree(registry.path_of("metrics", name)).body if _is_class(node))
        base = bases[ast.unparse(metric.bases[0]).removeprefix("_base.")]
        known = {**_assigned(base), **_assigned(metric)}
        values = [
            f"`{value}` ({'higher' if up else 'lower'} is better)" for value, up in known["higher_is_better"].items()
        ]
        lines += [f"## {name}", "", _prose(ast.get_docstring(metric) or ""), ""]
        lines += [f"* Values: {', '.join(values)}."] if values else []
        configs = [config for config in known["configs"] if config != "default"]
        lines += [f"* Reads {READS[known['reads']]}." + (f" Further forms: {_codes(configs)}." if configs else "")]
        lines += [f"* Source: {_prose(known['source'])}", ""]
    return "\n".join(lines)


def _warnings() -> str:
    lines = ["# Warnings", "", "A warning stands before the scores, on the console and in every report: code, what was"]
    lines += [
        "found, and usual causes. Codes and sentences are in the record, as `warnings`. The codes that have the same"
    ]
    lines += ["causes in every run:", ""]
    return "\n".join(lines + [f"* `{code}`: {_prose(text)}." for code, text in sorted(causes.BY_CODE.items())])


def _commands() -> str:
    lines = [
        "# Commands",
        "",
        "`finetune-bench COMMAND`, or in a checkout `.venv/bin/python -m bench COMMAND`. Every one",
    ]
    lines += ["has `--help`, `--traceback` (the traceback of an error), `--include DIR` (find drop-ins and cards there"]
    lines += [
        "too) and `--trust-remote-code` (confirm code of others). Exit code 0: done; 2: an error, in one sentence.",
        "",
    ]
    parsers = next(each for each in commands.parser()._actions if isinstance(each, argparse._SubParsersAction))
    for name, parser in parsers.choices.items():
        said = parser.description
        lines += [
            f"## {name}",
            "",
            f"{said[0].upper()}{said[1:]}.",
            "",
            f"`finetune-bench {' '.join(_usage(parser))}`",
            "",
        ]
        common = {"-h", "--include", "--trust-remote-code", "--traceback"}
        for option in parser._actions:
            if option.help and option.help != argparse.SUPPRESS and not common & set(option.option_strings):
                lines += [f"* `{_shown(option)}`: {_prose(option.help)}"]
        lines += [""]
    return "\n".join(lines)


def _usage(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield parser.prog.rpartition(" ")[2]
    for option in parser._actions:
        if not option.option_strings:
            many = {"+": " ...", "*": " ..."}.get(str(option.nargs), "")
            shown = f"{_shown(option)}{many}"
            yield f"[{shown}]" if option.nargs in ("?", "*") else shown
        elif option.required:
            yield _shown(option)
    yield "[options]"


def _shown(option: argparse.Action) -> str:
    names = ", ".join(option.option_strings)
    metavar = option.metavar or ("|".join(map(str, option.choices)) if option.choices else option.dest)
    if not option.option_strings:
        return str(metavar)
    return names if option.nargs == 0 else f"{names} {metavar if option.metavar or option.choices else metavar.upper()}"


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _is_class(node: ast.stmt) -> bool:
    return isinstance(node, ast.ClassDef)


def _assigned(node: ast.ClassDef) -> dict[str, Any]:
    """Return the literals that a class assigns."""
    found = {}
    for each in node.body:
        target = (
            each.targets[0]
            if isinstance(each, ast.Assign)
            else each.target
            if isinstance(each, ast.AnnAssign)
            else None
        )
        if isinstance(target, ast.Name) and getattr(each, "value", None) is not None:
            try:
                found[target.id] = ast.literal_eval(each.value)
            except ValueError:
                continue
    return found


def _docstring(path: Path) -> str:
    return _prose(ast.get_docstring(_tree(path)) or "")


def _prose(text: str) -> str:
    """Return a docstring as Markdown: signs that Markdown reads otherwise are escaped, code stays."""
    pieces = text.split("`")
    for index in range(0, len(pieces), 2):
        pieces[index] = re.sub(r"([*\[\]])", r"\\\1", pieces[index]).replace("<", "&lt;")
    return "`".join(pieces)


def _codes(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)


def main() -> None:
    """Write the pages."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(FOLDER / name)


if __name__ == "__main__":
    main()
