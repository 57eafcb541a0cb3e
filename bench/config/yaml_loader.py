"""YAML as recipes need it: words and numbers as in YAML 1.2, no aliases or tags, and every value knows its place."""

import functools
import math
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from bench.errors import RecipeError
from bench.utils import files

KeyPath = tuple[str | int, ...]
# No recipe is nested half as deep; the parser's own recursion would end the process at some ten thousand.
MAX_DEPTH = 32
# The longest recipe of this project has some 10,000.
LIMIT_BYTES = 16 * 2**20
# Where a shell's `<(...)` and `|` are found. Another FIFO may have no writer, and reading would wait for ever.
_OF_SHELL = re.compile(r"/dev/(fd/\d+|stdin)|/proc/self/fd/\d+")
# Of PyYAML only the parser is used. Its 1.1 rules for words, and ruamel.yaml's for dates and `010`, are not ours.
_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_WORDS: dict[str, Any] = dict.fromkeys(("", "~", "null", "Null", "NULL"))
_WORDS |= dict.fromkeys(("true", "True", "TRUE"), True) | dict.fromkeys(("false", "False", "FALSE"), False)
# Known here, so that they are refused as numbers that are not finite, and not as text.
_WORDS |= dict.fromkeys((sign + word for sign in ("", "+", "-") for word in (".inf", ".Inf", ".INF")), math.inf)
_WORDS |= dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan)
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)")
_FLOAT = re.compile(r"[-+]?(?:[0-9][0-9_]*\.[0-9]*|\.[0-9]+|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?")


def plain_value(text: str) -> Any:
    """Return what an unquoted scalar means: nothing, a truth value, a number, or the text itself.

    The words and numbers are those of YAML 1.2's core schema (https://yaml.org/spec/1.2.2, 10.3.2) without octal and
    hexadecimal ones: `1e-3` is a number; `no`, `1:30`, `010` and dates are text. Raises ValueError for an integer that
    is too long to convert.
    """
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text.replace("_", ""))
    if _FLOAT.fullmatch(text):
        return float(text.replace("_", ""))
    return text


class Document:
    """Parsed YAML: `data` (mappings are dicts, sequences tuples, None if empty), and the line of each key path.

    inside: the key path at which its content stands. numbered: whether line numbers mean anything to a reader.
    """

    def __init__(self, text: str, name: str, *, inside: KeyPath = (), numbered: bool = True) -> None:
        self.name, self.inside, self.numbered = name, inside, numbered
        self.lines: dict[KeyPath, int] = {(): 1}
        self.data = self._parse(text)

    def head(self, path: KeyPath) -> str:
        """Return 'file:line' of a key path; a path without a value of its own takes its parent's line."""
        while path not in self.lines:
            path = path[:-1]
        return self._head(self.lines[path])

    def where(self, path: KeyPath) -> str:
        """Return 'file:line: a.b.0' of a key path."""
        return joined(self.head(path), (*self.inside, *path))

    def _head(self, line: int | None) -> str:
        return f"{self.name}:{line}" if self.numbered and line is not None else self.name

    def _parse(self, text: str) -> Any:
        events: Any = yaml.parse(text, Loader=_Parser)
        try:
            next(events)  # start of the stream
            if isinstance(next(events), yaml.StreamEndEvent):
                return None
            value = self._value(events, next(events), ())
            next(events)  # end of the document
            rest = next(events)
            if not isinstance(rest, yaml.StreamEndEvent):
                raise yaml.MarkedYAMLError(
                    "expected a single document in the stream", None, "but found another document", rest.start_mark
                )
            return value
        except (yaml.YAMLError, UnicodeError) as error:
            mark = getattr(error, "problem_mark", None)
            parts = [getattr(error, "context", None), getattr(error, "problem", None)]
            problem = ", ".join(filter(None, parts)) or str(error).split("\n")[0]
            head = joined(self._head(mark.line + 1 if mark else None), self.inside)
            raise RecipeError(f"{head}: not valid YAML: {problem}") from error
        finally:
            events.close()

    def _value(self, events: Iterator[Any], event: Any, path: KeyPath) -> Any:
        """Return the value that begins with an event, and take the rest of its events."""
        self._refuse_tricks(event, path)
        self.lines.setdefault(path, event.start_mark.line + 1)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(events, path)
        if isinstance(event, yaml.SequenceStartEvent):
            children: list[Any] = []
            while not isinstance(child := next(events), yaml.SequenceEndEvent):
                children.append(self._value(events, child, (*path, len(children))))
            return tuple(children)
        try:
            value = plain_value(event.value) if event.implicit[0] else event.value
        except ValueError as error:
            raise RecipeError(f"{self.where(path)}: {error}") from error
        if isinstance(value, float) and not math.isfinite(value):
            raise RecipeError(f"{self.where(path)}: expected a finite number, got {event.value}")
        return value

    def _refuse_tricks(self, event: Any, path: KeyPath) -> None:
        """Refuse what hides a recipe's meaning (aliases, tags) or would overrun the interpreter (deep nesting)."""
        if isinstance(event, yaml.AliasEvent) or event.anchor:
            problem = "anchors and aliases are not supported; write the value out"
        elif event.tag is not None:
            problem = f"tags like {event.tag!r} are not supported; write a plain value"
        elif isinstance(event, yaml.CollectionStartEvent) and len(path) >= MAX_DEPTH:
            problem = f"nested more than {MAX_DEPTH} levels deep"
        else:
            return
        raise RecipeError(f"{joined(self._head(event.start_mark.line + 1), self.inside)}: {problem}")

    def _mapping(self, events: Iterator[Any], path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            self._refuse_tricks(event, path)
            line = event.start_mark.line + 1
            head = joined(self._head(line), (*self.inside, *path))
            if not isinstance(event, yaml.ScalarEvent):
                raise RecipeError(f"{head}: a list or a mapping can't be a key")
            key = event.value
            if event.implicit[0] and (key in _WORDS or _INT.fullmatch(key) or _FLOAT.fullmatch(key)):
                raise RecipeError(f"{head}: the key {key!r:.60} is not text; quote it")
            if key in result:
                first = f" (first on line {self.lines[(*path, key)]})" if self.numbered else ""
                place = joined(self._head(line), (*self.inside, *path, key))
                raise RecipeError(f"{place}: duplicate key{first}")
            self.lines[(*path, key)] = line
            result[key] = self._value(events, next(events), (*path, key))
        return result


def items(value: Any) -> Iterable[tuple[Any, Any]]:
    """Return the keys and values of a mapping; none for any other value."""
    return value.items() if isinstance(value, dict) else ()


def joined(head: str, path: KeyPath) -> str:
    """Return 'head: a.b.0'; unprintable characters of a key are escaped, so that it can't control the terminal."""
    parts = [str(part) if str(part).isprintable() else repr(part) for part in path]
    return f"{head}: {'.'.join(parts)}" if parts else head


def read(path: Path, name: str | None = None) -> Document:
    """Parse a file that must hold a mapping; an empty one is an empty mapping. Raises RecipeError with the place."""
    shown = name or str(path)
    return _document(_text(path, shown), shown)


def read_shared(path: Path, name: str | None = None) -> Document:
    """Parse a file as `read` does, but the same text once in a process: for callers that change nothing in it.

    `check` resolves all recipes, and some twenty of them name the same card.
    """
    shown = name or str(path)
    return _shared_document(_text(path, shown), shown)


def _text(path: Path, shown: str) -> str:
    try:
        if _OF_SHELL.fullmatch(str(path)) and stat.S_ISFIFO(path.stat().st_mode):
            return path.read_text(encoding="utf-8-sig")
        if path.is_dir():
            raise IsADirectoryError
        # As reading in text mode does: each kind of line end is one newline.
        text = files.read_bytes(path, LIMIT_BYTES).decode("utf-8-sig")
        return text.replace("\r\n", "\n").replace("\r", "\n")
    except FileNotFoundError as error:
        raise RecipeError(f"{shown}: there is no such file") from error
    except IsADirectoryError as error:
        raise RecipeError(f"{shown}: this is a folder, not a file") from error
    except OSError as error:
        raise RecipeError(f"{shown}: can't be read: {error.strerror or error}") from error
    except ValueError as error:
        raise RecipeError(f"{shown}: can't be read as UTF-8 text: {error}") from error


def _document(text: str, shown: str) -> Document:
    document = Document(text, shown)
    if document.data is None:
        document.data = {}
    if not isinstance(document.data, dict):
        kind = "a list" if isinstance(document.data, tuple) else f"{document.data!r:.60}"
        raise RecipeError(f"{shown}:1: expected a mapping of keys to values, got {kind}")
    return document


_shared_document = functools.lru_cache(maxsize=256)(_document)


def override(key: KeyPath, text: str, name: str) -> Document:
    """Parse one value as written behind `key=` on a command line, by the same rules as in a file."""
    return Document(text, name, inside=key, numbered=False)
