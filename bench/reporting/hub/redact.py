"""Find secrets, with which a push is refused, and shorten absolute paths, which a push must not reveal."""

import functools
import html
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bench.reporting import markdown as md
from bench.utils import secret_formats
from bench.utils.secret_formats import REMOVED

# At least two parts, not inside a word, a relative path or a URL; or a Windows path.
_PATH = re.compile(r"(?:file://|(?<![\w./~]))((?:/[\w.@+%-]+){2,}/?)|(?<!\w)([A-Za-z]:\\[^\s\"']+)")


def find_secret(content: bytes, token: str | None = None) -> str | None:
    """Return what kind of secret a file contains, without quoting it; None if none is found. token: the Hub token.

    Detects common formats of access tokens, and values of environment variables with names of secrets, also escaped for
    JSON, HTML, Markdown or a URL.
    """
    if token and _holds(content, token):
        return "the Hugging Face Hub token"
    for name, value in secret_formats.named_values():
        if _holds(content, value):
            return f"the value of the environment variable {name}"
    return secret_formats.find(content)


def _holds(content: bytes, secret: str) -> bool:
    # Bytes of the environment that are not UTF-8 appear in str as lone surrogates.
    return any(form.encode(errors="surrogateescape") in content for form in _forms(secret))


@functools.cache
def _forms(secret: str) -> frozenset[str]:
    """Return a secret unescaped, and escaped once or twice, since a page may quote JSON."""
    forms = {secret}
    for _ in range(2):
        forms |= {escaped for form in forms for escaped in _escaped(form)}
    return frozenset(forms)


def _escaped(text: str) -> Iterator[str]:
    for ascii_only in (True, False):
        yield json.dumps(text, ensure_ascii=ascii_only)[1:-1]
    yield html.escape(text)
    yield html.escape(text, quote=False)
    # Underscores at the ends are escaped depending on their neighbours.
    for before, after in itertools.product("x.", repeat=2):
        yield md.escape(f"{before}{text}{after}", len(text) + 2)[1:-1]
    yield md.escape(text, len(text))
    yield md.verbatim(text, len(text)).removeprefix("<pre>\n").removesuffix("\n</pre>")
    for safe in ("", "/"):
        yield quote(text, safe, errors="surrogateescape")


def remove_secrets(text: str, token: str | None) -> str:
    """Return a message of a library or a server without secrets."""
    secrets = [value for _, value in secret_formats.named_values()] + ([token] if token else [])
    for form in sorted({form for secret in secrets for form in _forms(secret)}, key=len, reverse=True):
        text = text.replace(form, REMOVED)
    return secret_formats.remove(text)


class PathShortener:
    """Shortens absolute paths and collects them in `shortened`.

    The working folder becomes `.`, the home folder `~`; any other path becomes `<removed>/` and its last part.
    """

    def __init__(self) -> None:
        roots = {str(Path.cwd()): ".", str(Path.home()): "~", os.path.realpath(Path.home()): "~"}
        known = sorted((root for root in roots if root != "/"), key=len, reverse=True)
        self._roots = [(re.compile(rf"(?:file://|(?<!\w)){re.escape(root)}(?![\w-])"), roots[root]) for root in known]
        self.shortened: set[str] = set()

    def shorten(self, text: str) -> str:
        """Return a text with shortened paths."""
        for pattern, short in self._roots:
            self.shortened.update(pattern.findall(text))
            text = pattern.sub(short, text)
        return _PATH.sub(self._last_part, text)

    def _last_part(self, match: re.Match[str]) -> str:
        path = match[1] or match[2]
        self.shortened.add(path)
        return f"{REMOVED}/{path.replace(chr(92), '/').rstrip('/').rpartition('/')[2]}"

    def shorten_all(self, value: Any) -> Any:
        """Shorten paths in all text of a tree of lists and mappings, including keys."""
        if isinstance(value, str):
            return self.shorten(value)
        if isinstance(value, Mapping):
            return {self.shorten(key): self.shorten_all(item) for key, item in value.items()}
        return [self.shorten_all(item) for item in value] if isinstance(value, list) else value
