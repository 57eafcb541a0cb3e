"""Cards that were made from a name, as YAML to be kept: each value with where it is from."""

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from bench.config import named_cards, resolve, yaml_loader
from bench.config.cards import DatasetCard, ModelCard
from bench.config.layers import Layers
from bench.config.named_cards import MadeCard, Meant
from bench.config.validation import validate
from bench.config.yaml_loader import Document, KeyPath
from bench.errors import RecipeError

# Text that YAML reads as itself, without quotes.
_PLAIN = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./ ()+-]*")
WIDTH = 120


def text_of(kind: str, name: str, overrides: Iterable[str], day: str) -> str:
    """Return the text of a card: of one that is there its file's, else of one made of what the name means.

    overrides: `key.path=value`, which may say what can't be told from the data. Raises RecipeError with what is wrong.
    """
    known = {path.stem: path for path in resolve.find_cards(kind)}
    given = list(overrides)
    chosen: Any = yaml_loader.override((kind,), name, "card").data if name.startswith("{") else name
    if name in known and not given:
        return known[name].read_text(encoding="utf-8")
    if name in known:
        raise RecipeError(f"card {name}: there is a card of this name; copy its file, and change it there")
    starts = named_cards.starts_of(None)
    if isinstance(chosen, dict) and "card" in chosen:
        raise RecipeError(f"card {name}: these are changes to a card; name the card alone, and change a copy of it")
    place = "card" if chosen is not name else f"card {name}"
    meant = named_cards.meant(kind, chosen, place, starts=starts, cards=known, is_card=False)
    found, layers = made(meant, given, known)
    checked(kind, layers)
    again = " ".join(["python -m bench card", *map(shlex.quote, [name, "--as", kind, *given])])
    head = [f"{meant.shown}, by `{again}` on {day}.", *found.notes]
    lines = [f"# {line}" for note in head for line in _wrapped(note)]
    kept = named_cards.as_read(found.card)
    sources = {key: one for key, one in found.sources.items() if layers.data[kind].get(key) == kept.get(key)}
    return "\n".join([*lines, *_mapping(layers.data[kind], 0, sources)]) + "\n"


def made(meant: Meant, overrides: Iterable[str], cards: Iterable[str]) -> tuple[MadeCard, Layers]:
    """Return the card that is made for a name, and the layers of it and of `key.path=value` overrides."""
    kind = meant.kind
    documents = [_override(kind, text) for text in overrides]
    for document in documents:
        meant = named_cards.with_override(meant, document, cards=cards)
    found = named_cards.make(meant)
    layers = Layers(also={(kind,): named_cards.found_by(kind)})
    layers.lay(named_cards.as_read(found.card), (kind,), named_cards.document(meant))
    layers.places[kind,] = (meant.place, ())
    given = [(key, value) for key, value in meant.spec.items() if named_cards.replaces(kind, key)]
    for key, value in [] if named_cards.is_whole(kind, meant.spec) else given:
        layers.lay(value, (kind, key), Document("", meant.place, numbered=False), (key,))
    return found, layers


def checked(kind: str, layers: Layers) -> DatasetCard | ModelCard:
    """Return the card of these layers. Raises RecipeError with a line for each problem."""
    if kind == "model":
        return validate(ModelCard, layers.data[kind], layers, (kind,))
    return validate(DatasetCard, layers.data[kind], layers, (kind,))


def _override(kind: str, text: str) -> Document:
    dotted, equals, value = text.partition("=")
    key: KeyPath = (kind, *dotted.split("."))
    if not equals or not all(key):
        raise RecipeError(f"command line: {text!r} is not of the form key.path=value")
    return yaml_loader.override(key, value, "command line")


def _wrapped(text: str) -> list[str]:
    """Return a text in lines that fit behind `# `."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) + 3 > WIDTH:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _mapping(data: Mapping[str, Any], depth: int, sources: Mapping[str, str]) -> Iterator[str]:
    for key, value in data.items():
        comment = f"  # {sources[key]}" if sources.get(key) else ""
        head = f"{'  ' * depth}{scalar(key)}:"
        if isinstance(value, Mapping) and value:
            yield f"{head}{comment}"
            yield from _mapping(value, depth + 1, {})
        else:
            yield f"{head} {flow(value)}{comment}"


def flow(value: Any) -> str:
    """Return a value as YAML in one line, which this project's reader gives back as it is."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(key)}: {flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(flow, value))}]"
    return scalar(value)


def scalar(value: Any) -> str:
    """Return one value as YAML. Text that would be read as something else is quoted."""
    is_plain = isinstance(value, str) and _PLAIN.fullmatch(value) and value == value.strip()
    if is_plain and yaml_loader.plain_value(value) == value:
        return str(value)
    return json.dumps(value, ensure_ascii=False)
