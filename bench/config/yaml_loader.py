"""YAML as recipes need it: words and numbers as in YAML 1.2, no aliases or tags, and every value knows its place."""

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from bench.errors import RecipeError

Path_ = tuple[str | int, ...]
# No recipe is nested half as deep; the parser's own recursion would end the process at some ten thousand.
MAX_DEPTH = 32
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):
    """SafeLoader with YAML 1.2's words and numbers: `1e-3` is a number; `no`, `1:30`, `010` and dates are text."""

    yaml_implicit_resolvers: dict[str, Any] = {}


for _kind, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9_]*)", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:[0-9][0-9_]*\.[0-9]*|\.[0-9]+|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?",
        list("-+.0123456789"),
    ),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+.")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern})$"), _first)


class Document:
    """Parsed YAML: `data` (mappings are dicts, sequences tuples, None if empty), and the line of each key path.

    inside: the key path at which its content stands. numbered: whether line numbers mean anything to a reader.
    """

    def __init__(self, text: str, name: str, *, inside: Path_ = (), numbered: bool = True) -> None:
        self.name, self.inside, self.numbered = name, inside, numbered
        self.lines: dict[Path_, int] = {(): 1}
        self.data = self._parse(text)

    def head(self, path: Path_) -> str:
        """'file:line' for a key path; a path without a value of its own takes its parent's line."""
        while path not in self.lines:
            path = path[:-1]
        return self._head(self.lines[path])

    def where(self, path: Path_) -> str:
        """'file:line: a.b.0' for a key path."""
        return joined(self.head(path), (*self.inside, *path))

    def _head(self, line: int | None) -> str:
        return f"{self.name}:{line}" if self.numbered and line is not None else self.name

    def _parse(self, text: str) -> Any:
        loader = None
        try:
            self._refuse_tricks(text)
            loader = _Loader(text)
            node = loader.get_single_node()
            return None if node is None else self._value(loader, node, ())
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            parts = [getattr(error, "context", None), getattr(error, "problem", None)]
            problem = ", ".join(filter(None, parts)) or str(error).split("\n")[0]
            head = joined(self._head(mark.line + 1 if mark else None), self.inside)
            raise RecipeError(f"{head}: not valid YAML: {problem}") from error
        finally:
            if loader is not None:
                loader.dispose()

    def _refuse_tricks(self, text: str) -> None:
        """Refuses what hides a recipe's meaning (aliases, tags) or would overrun the parser (deep nesting)."""
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            line = event.start_mark.line + 1 if event.start_mark else None
            head = joined(self._head(line), self.inside)
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise RecipeError(f"{head}: anchors and aliases are not supported; write the value out")
            tag = getattr(event, "tag", None)
            if tag is not None:
                raise RecipeError(f"{head}: tags like {tag!r} are not supported; write a plain value")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise RecipeError(f"{head}: nested more than {MAX_DEPTH} levels deep")

    def _value(self, loader: Any, node: Any, path: Path_) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(loader, node, path)
        if isinstance(node, yaml.SequenceNode):
            return tuple(self._value(loader, child, (*path, i)) for i, child in enumerate(node.value))
        try:
            value = loader.construct_object(node)
        except ValueError as error:
            raise RecipeError(f"{self.where(path)}: {error}") from error
        if isinstance(value, float) and not math.isfinite(value):
            raise RecipeError(f"{self.where(path)}: expected a finite number, got {node.value}")
        return value

    def _mapping(self, loader: Any, node: Any, path: Path_) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            head = joined(self._head(line), (*self.inside, *path))
            if not isinstance(key_node, yaml.ScalarNode):
                raise RecipeError(f"{head}: a list or a mapping can't be a key")
            key = loader.construct_object(key_node)
            if not isinstance(key, str):
                raise RecipeError(f"{head}: the key {key_node.value!r:.60} is not text; quote it")
            if key in result:
                first = f" (first on line {self.lines[(*path, key)]})" if self.numbered else ""
                place = joined(self._head(line), (*self.inside, *path, key))
                raise RecipeError(f"{place}: this key stands twice{first}")
            self.lines[(*path, key)] = line
            result[key] = self._value(loader, value_node, (*path, key))
        return result


def items(value: Any) -> Iterable[tuple[Any, Any]]:
    """Keys and values of a mapping; nothing for any other value."""
    return value.items() if isinstance(value, dict) else ()


def joined(head: str, path: Path_) -> str:
    """'head: a.b.0'; a key with unprintable characters is shown escaped, so that it can't write to the terminal."""
    parts = [str(part) if str(part).isprintable() else repr(part) for part in path]
    return f"{head}: {'.'.join(parts)}" if parts else head


def read(path: Path, name: str | None = None) -> Document:
    """Parses a file that must hold a mapping; an empty one is an empty mapping. Raises RecipeError with the place."""
    shown = name or str(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise RecipeError(f"{shown}: there is no such file") from error
    except IsADirectoryError as error:
        raise RecipeError(f"{shown}: this is a folder, not a file") from error
    except (OSError, ValueError) as error:
        raise RecipeError(f"{shown}: can't be read as UTF-8 text: {error}") from error
    document = Document(text, shown)
    if document.data is None:
        document.data = {}
    if not isinstance(document.data, dict):
        found = "a list" if isinstance(document.data, tuple) else f"{document.data!r:.60}"
        raise RecipeError(f"{shown}:1: expected a mapping of keys to values, got {found}")
    return document


def override(key: Path_, text: str, name: str) -> Document:
    """One value as written behind `key=` on a command line, by the same rules as in a file."""
    return Document(text, name, inside=key, numbered=False)
