"""Tags of words that mark entities, as seqeval reads them: schemes, types, and the entities of a sentence."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

OUTSIDE = "O"
# Scheme -> what its tags may begin with. seqeval's IOBES is also called BIOES, its BILOU BIOUL.
PREFIXES = {"IOB1": "IB", "IOB2": "IB", "IOE1": "IE", "IOE2": "IE", "IOBES": "IBES", "BILOU": "IBLU"}
# Without a scheme, as in the CoNLL evaluation: an entity may begin with any of these.
LENIENT = "IBES"
# seqeval's name for the entities of a tag without a type, as `B`.
NO_TYPE = "_"


@dataclass(frozen=True, order=True, kw_only=True)
class Entity:
    """An entity of a sentence: words [start, end)."""

    start: int
    end: int
    kind: str


def fault(tag: str, scheme: str | None) -> str | None:
    """Return why a tag is none of a scheme (None: of the lenient reading), as part of a sentence; None if it is one."""
    known = PREFIXES[scheme] if scheme else LENIENT
    if tag == OUTSIDE or tag in known or (tag[:1] in known and tag[1:2] == "-" and len(tag) > 2):
        return None
    shown = ", ".join(f"{letter}-TYPE" for letter in known)
    of = f"scheme {scheme}" if scheme else "BIO, IOB1 or IOBES"
    fitting = [name for name, letters in PREFIXES.items() if tag[:1] in letters and tag[1:2] == "-"]
    hint = f"; set dataset.scheme to {' or '.join(fitting)}" if fitting else ""
    return f"is no tag of {of}, which has O, {shown}{hint}"


def kind_of(tag: str) -> str | None:
    """Return the type of the entity that a tag marks a word of; None for O."""
    return None if tag == OUTSIDE else tag[2:] or NO_TYPE


def kinds_of(tags: Iterable[str]) -> tuple[str, ...]:
    """Return the types of entities that tags can mark, sorted as seqeval sorts them."""
    return tuple(sorted({kind for tag in tags if (kind := kind_of(tag)) is not None}))


def entities(tags: Sequence[str], scheme: str | None = None) -> list[Entity]:
    """Return the entities of a sentence by seqeval: in its default mode, or strictly by a scheme.

    Default: as in the CoNLL evaluation, an entity begins where a type begins, whatever the prefix says, so that I-PER
    after O begins one. Strict: only what the scheme allows is an entity.
    """
    if not tags:
        return []
    if scheme is None:
        return [Entity(start=first, end=last + 1, kind=kind) for kind, first, last in _get_entities()(list(tags))]
    found = _strict()[0](list(tags), scheme=_strict()[1][scheme]).entities
    return [Entity(start=item.start, end=item.end, kind=item.tag) for item in found]


@cache
def _get_entities() -> Any:
    from seqeval.metrics.sequence_labeling import get_entities

    return get_entities


@cache
def _strict() -> tuple[Any, dict[str, Any]]:
    from seqeval import scheme

    return scheme.Tokens, {name: getattr(scheme, name) for name in PREFIXES}


def loose(tags: Sequence[str]) -> int:
    """Count the words whose I- (or E-) follows no word of the same type: seqeval begins an entity there by default."""
    previous: str | None = None
    count = 0
    for tag in tags:
        kind = kind_of(tag)
        count += tag[:1] in ("I", "E") and tag != OUTSIDE and kind != previous
        previous = kind
    return count


def shown(tags: Sequence[str], words: Sequence[str] | None = None, scheme: str | None = None) -> str:
    """Return the entities of a sentence for people: `PER John Smith; LOC Paris`, or by the numbers of their words."""
    parts = [
        f"{item.kind} {' '.join(words[item.start : item.end]) if words else _places(item)}"
        for item in entities(tags, scheme)
    ]
    return "; ".join(parts) or "(no entity)"


def _places(item: Entity) -> str:
    return f"{item.start + 1}" if item.end == item.start + 1 else f"{item.start + 1}-{item.end}"
