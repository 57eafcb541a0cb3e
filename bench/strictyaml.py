"""YAML as recipes need it: safe, no duplicate keys, no aliases, `1e-3` is a number, every value knows its line."""

import re
from pathlib import Path
from typing import Any

import yaml

from bench.errors import RecipeError

Path_ = tuple[str | int, ...]
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):
    """SafeLoader plus numbers like `1e-3`, which YAML 1.1 reads as text for want of a dot."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


class Document:
    """A parsed file: `data` (mappings are dicts, sequences tuples), and the line of each key path."""

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self.lines: dict[Path_, int] = {(): 1}
        self.data = self._parse(text)

    def where(self, path: Path_) -> str:
        """'file:line: a.b.0' for a key path; a path without a value of its own takes its parent's line."""
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        dotted = ".".join(str(part) for part in path)
        return f"{self.name}:{self.lines[known]}: {dotted}".rstrip(": ")

    def _parse(self, text: str) -> Any:
        loader = None
        try:
            loader = _Loader(text)
            self._refuse_aliases(text)
            node = loader.get_single_node()
            return {} if node is None else self._value(loader, node, ())
        except (yaml.YAMLError, ValueError) as error:
            mark = getattr(error, "problem_mark", None)
            line = f":{mark.line + 1}" if mark else ""
            problem = getattr(error, "problem", None) or str(error).split("\n")[0]
            raise RecipeError(f"{self.name}{line}: not valid YAML: {problem}") from error
        finally:
            if loader is not None:
                loader.dispose()

    def _refuse_aliases(self, text: str) -> None:
        # An alias hides what a recipe says, and nested ones can grow without bound.
        if "&" not in text and "*" not in text:
            return
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise RecipeError(f"{self.name}:{line}: anchors and aliases are not supported; write the value out")

    def _value(self, loader: Any, node: Any, path: Path_) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(loader, node, path)
        if isinstance(node, yaml.SequenceNode):
            return tuple(self._value(loader, child, (*path, i)) for i, child in enumerate(node.value))
        return loader.construct_object(node)

    def _mapping(self, loader: Any, node: Any, path: Path_) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = loader.construct_object(key_node)
            if not isinstance(key, str):
                raise RecipeError(f"{self.name}:{line}: the key {key!r} is not text; quote it")
            if key in result:
                dotted = ".".join(str(part) for part in (*path, key))
                first = self.lines[(*path, key)]
                raise RecipeError(f"{self.name}:{line}: {dotted}: this key stands twice (first on line {first})")
            self.lines[(*path, key)] = line
            result[key] = self._value(loader, value_node, (*path, key))
        return result


def read(path: Path, name: str | None = None) -> Document:
    """Parses a file that must hold a mapping. Raises RecipeError with file and line."""
    shown = name or str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise RecipeError(f"{shown}: there is no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{shown}: can't be read as UTF-8 text: {error}") from error
    document = Document(text, shown)
    if not isinstance(document.data, dict):
        raise RecipeError(f"{shown}:1: expected a mapping of keys to values, got {type(document.data).__name__}")
    return document


def scalar(text: str, name: str) -> Any:
    """One value as written behind `key=` on a command line, by the same rules as in a file."""
    return Document(text, name).data if text.strip() else None
