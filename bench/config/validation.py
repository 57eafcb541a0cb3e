"""Checks settings against their types: a line for each problem, with file, line, key, and what was expected."""

import contextlib
import copy
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from bench.config import other_tools
from bench.config.layers import Layers
from bench.config.yaml_loader import KeyPath
from bench.errors import RecipeError, did_you_mean, nearest

Settings = TypeVar("Settings", bound=BaseModel)

# pydantic's kinds of problems -> what was expected, in words of YAML.
_EXPECTED = {
    "model_type": "a mapping of keys to values",
    "dict_type": "a mapping of keys to values",
    "tuple_type": "a list, as in [a, b]",
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a smaller number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_too_short": "a text that is not empty",
    "string_pattern_mismatch": "a name of letters, digits, '.', '_' and '-'",
    "too_short": "at least one item",
}
_BOUNDS = dict.fromkeys(("greater_than", "greater_than_equal", "less_than", "less_than_equal"), "a number ")


class Problems:
    """Collects the problems of a recipe, so that a person sees all of them at once.

    `with problems.collect(): ...` keeps what is raised inside; `raise_any` raises what was kept.
    """

    def __init__(self) -> None:
        self._lines: dict[str, None] = {}
        # Names of keys that were wrong and left out: a rule that asks for one of them has nothing to say.
        self.left_out: set[str] = set()

    @contextlib.contextmanager
    def collect(self) -> Iterator[None]:
        """Keep the problems of a RecipeError that is raised inside, and go on behind the block."""
        try:
            yield
        except RecipeError as error:
            self.add(str(error).splitlines())

    def add(self, lines: Iterable[str]) -> None:
        """Keep problems, each a line; one that is already known is kept once, one that follows from another is not."""
        names = self.left_out
        lines = [line for line in lines if not names & set(re.findall(r"\w+", line.partition(": ")[2]))]
        self._lines |= dict.fromkeys(lines)

    def raise_any(self) -> None:
        """Raise one RecipeError with all problems, a line each; do nothing where there is none."""
        if self._lines:
            raise RecipeError("\n".join(self._lines))


def validate(model: type[Settings], data: Any, layers: Layers, prefix: KeyPath) -> Settings:
    """Return data as a settings type. prefix: the key path at which the data stand.

    Raises RecipeError with a line for each key that is wrong: its place, what was expected, and what to write.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise RecipeError(
            "\n".join(_sentences(_furthest(error.errors(), data), model, data, layers, prefix))
        ) from error


def validate_rest(
    model: type[Settings], data: Any, layers: Layers, prefix: KeyPath, problems: Problems
) -> Settings | None:
    """Return data as a settings type without the keys that are wrong, each of which is a problem to add.

    So the rules between the other keys are checked in the same round; None where something required is missing.
    """
    data, gone = copy.deepcopy(data), list[KeyPath]()
    for again in (False, True, True):
        try:
            return model.model_validate(data)
        except ValidationError as error:
            # What is missing in a later round was wrong, and left out; so may be what a rule over a section misses.
            errors = [
                problem
                for problem in _furthest(error.errors(), data)
                if not (again and problem["type"] == "missing")
                and not any(
                    place and path[: len(place)] == place for place in [_location(problem, data)] for path in gone
                )
            ]
            wrong = {_location(problem, data): problem["type"] for problem in errors if problem["type"] != "missing"}
            problems.add(_sentences(errors, model, data, layers, prefix))
            for path, kind in wrong.items():
                misspelt = kind == "extra_forbidden"
                meant = nearest(str(path[-1]), _fields_at(model, path[:-1])) if misspelt else None
                problems.left_out |= {str(path[-1] if path else ""), meant or ""} - {""}
            gone += wrong
            removed = [_leave_out(data, path) for path in wrong]
            if not removed or not all(removed):
                return None
    return None


def unknown_keys(model: type[BaseModel], data: Any, layers: Layers, prefix: KeyPath) -> Iterator[str]:
    """Yield a line for each key that a settings type does not have, of settings that are not whole."""
    try:
        model.model_validate(data)
    except ValidationError as error:
        unknown = [problem for problem in error.errors() if problem["type"] == "extra_forbidden"]
        yield from _sentences(unknown, model, data, layers, prefix)


def _leave_out(data: Any, path: KeyPath) -> bool:
    """Remove a key, or the list that it is in; return whether there was one."""
    here, depth = data, 0
    while depth < len(path) - 1 and isinstance(here.get(path[depth]), dict):
        here, depth = here[path[depth]], depth + 1
    return here.pop(path[depth], None) is not None if path else False


def _sentences(
    errors: Sequence[Any], model: type[BaseModel], data: Any, layers: Layers, prefix: KeyPath
) -> Iterator[str]:
    """Yield a line for each place, unknown keys first. A union gives a problem for each of its members."""
    by_path: dict[KeyPath, list[Any]] = {}
    for problem in sorted(errors, key=lambda problem: problem["type"] != "extra_forbidden"):
        by_path.setdefault(_location(problem, data), []).append(problem)
    # A misspelt key is a missing one too; that is said once.
    misspelt = {
        (*path[:-1], nearest(str(path[-1]), _fields_at(model, path[:-1])))
        for path, problems in by_path.items()
        if problems[0]["type"] == "extra_forbidden"
    }
    for path, problems in by_path.items():
        # Items that are wrong leave a list too short.
        if problems[0]["type"] == "too_short" and any(path == other[:-1] for other in by_path if other):
            continue
        if problems[0]["type"] != "missing" or path not in misspelt:
            yield f"{layers.place((*prefix, *path))}: {_sentence(problems, model, data, layers, prefix)}"


def _furthest(errors: Sequence[Any], data: Any) -> list[Any]:
    """Return the problems without those of union members whose type is another, where one member looked inside."""
    places = [_location(problem, data) for problem in errors]
    return [
        problem
        for problem, place in zip(errors, places, strict=True)
        if not problem["type"].endswith("_type") or not any(place == other[: len(place)] != other for other in places)
    ]


def _location(problem: Any, data: Any) -> KeyPath:
    """Return the key path of a problem, without the names of union members, which pydantic adds."""
    path: list[str | int] = []
    for part in problem["loc"]:
        if (isinstance(data, dict) and part in data) or (isinstance(data, tuple) and isinstance(part, int)):
            path.append(part)
            data = data[part]
    if problem["type"] == "missing":
        path.append(problem["loc"][-1])
    if problem["type"] == "value_error":
        path += getattr(problem["ctx"]["error"], "key", ())
    return tuple(path)


def _sentence(problems: list[Any], model: type[BaseModel], data: Any, layers: Layers, prefix: KeyPath) -> str:
    first, value = problems[0], problems[0]["input"]
    kinds = {problem["type"] for problem in problems}
    if first["type"] == "extra_forbidden":
        location = _location(first, data)
        place = (*prefix, *location[:-1])
        fields = list(dict.fromkeys([*_fields_at(model, location[:-1]), *layers.also.get(place, ())]))
        hint = other_tools.hint(str(location[-1]), ".".join(map(str, place)), fields)
        return f"unknown key.{hint or ' None is known here.'}"
    if first["type"] == "missing":
        return "this key is required"
    # Of a value that may be of several types, the one that came as far as to be looked at by its content.
    if checked := [problem for problem in problems if problem["type"] == "value_error"]:
        return str(checked[0]["ctx"]["error"])
    phrases = (
        _EXPECTED.get(item["type"], item["msg"].replace("Input should be ", _BOUNDS.get(item["type"], "")))
        for item in problems
    )
    hint = " Quote it to make it text." if kinds == {"string_type"} and isinstance(value, int | float) else ""
    literals = [item["ctx"]["expected"] for item in problems if item["type"] == "literal_error"]
    if literals and isinstance(value, str):
        near = did_you_mean(value, ", ".join(literals).replace("'", "").replace(" or ", ", ").split(", "))
        hint = near if "mean" in near else ""
    return f"expected {' or '.join(dict.fromkeys(phrases))}, got {shortened(value)}.{hint}"


def shortened(value: Any) -> str:
    """Return a value as YAML would show it, cut after 60 characters."""
    shown = repr(list(value) if isinstance(value, tuple) else value)
    shown = {"None": "nothing", "True": "true", "False": "false"}.get(shown, shown)
    return shown if len(shown) <= 60 else f"{shown[:60]}..."


def _fields_at(model: Any, path: KeyPath) -> list[str]:
    by_name = False
    for part in path:
        if isinstance(part, int) or by_name:
            by_name = False
            continue  # of a list, or a mapping of names to it, whose items have the same type
        annotation = getattr(model, "model_fields", {}).get(part)
        model = annotation.annotation if annotation is not None else None
        by_name = getattr(model, "__origin__", None) is dict
        model = _model_in(model) or model
    return list(getattr(model, "model_fields", {}))


def _model_in(annotation: Any) -> Any:
    """Return the first model in a type like `tuple[str | Model, ...]`; None without one."""
    if hasattr(annotation, "model_fields"):
        return annotation
    return next((found for arg in getattr(annotation, "__args__", ()) if (found := _model_in(arg))), None)
