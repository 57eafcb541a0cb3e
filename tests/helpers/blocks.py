"""Code blocks of Markdown documents."""

import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path


def of(language: str, documents: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """Yield (document, text) of each block of one language, in order."""
    for document in documents:
        for block in re.findall(rf"```{language}\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL):
            yield document, block


def commands(documents: Iterable[Path]) -> Iterator[tuple[Path, list[str]]]:
    """Yield (document, words) of each command line of the shell blocks, in order."""
    for document, block in of("sh", documents):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield document, words
