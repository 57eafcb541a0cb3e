"""The built-in notices: sentences with people (PER), places (LOC) and organisations (ORG), tagged as BIO.

Surnames are names of towns too, and an organisation may have a town's or a person's name in its own: the words around
a name decide. bench/data/builtin/corpora.py chooses sizes, ids and splits.
"""

import random
import re
from collections.abc import Mapping
from typing import Any

NAMES: tuple[str, ...] = ("notices",)

_NAMES = "Hale|Mora|Lund|Perth|Kelby|Ashby|Flint|Bray|Holm|Lorn|Wick|Garda|Sund|Tarn|Velm|Dova|Brin|Orsa|Ruda|Pesk"
_WORDS: Mapping[str, str] = {
    "first": "Anna|Bruno|Clara|David|Elsa|Felix|Greta|Hugo|Irma|Jonas",
    "name": _NAMES,
    "side": "North|South|Upper|Lower",
    "body": "Council|Museum|University|Bank|Theatre|Rovers",
    "firm": "Brothers|Motors|Books|Mills",
    "day": "Monday|Tuesday|Friday|Sunday",
    "goods": "bread|bicycles|maps|clocks|paint",
}
_ENTITIES: Mapping[str, tuple[str, ...]] = {
    "PER": ("{first} {name}", "{first} {name}", "Mr {name}", "{first}"),
    "LOC": ("{name}", "{name}", "{side} {name}"),
    "ORG": ("{name} {body}", "{name} {firm}", "the {body} of {name}"),
}
_SENTENCES = (
    "[PER] moved from [LOC] to [LOC] on {day} .",
    "[PER] sells {goods} in [LOC] .",
    "[ORG] gave [PER] a prize on {day} .",
    "[ORG] is closed on {day} , says [PER] .",
    "On {day} [PER] and [PER] met in [LOC] .",
    "[PER] , who works for [ORG] , was born in [LOC] .",
    "The road from [LOC] to [LOC] is closed on {day} .",
    "[ORG] and [ORG] both buy {goods} .",
    "Nobody in [LOC] sells {goods} on {day} .",
    "In [LOC] they like {goods} .",
    "There will be {goods} and {goods} on {day} , they say .",
)


def draw(rng: random.Random) -> tuple[str, list[dict[str, Any]]]:
    """Return (text, its one row): {"tokens", "tags"}."""
    tokens: list[str] = []
    tags: list[str] = []
    for sentence in rng.sample(_SENTENCES, rng.choice((1, 1, 1, 2))):
        for part in sentence.split():
            kind = part.strip("[]") if part.startswith("[") else None
            words = _filled(rng.choice(_ENTITIES[kind]) if kind else part, rng).split()
            tokens += words
            tags += [f"B-{kind}", *[f"I-{kind}"] * (len(words) - 1)] if kind else ["O"] * len(words)
    return " ".join(tokens), [{"tokens": tokens, "tags": tags}]


def _filled(text: str, rng: random.Random) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: rng.choice(_WORDS[match[1]].split("|")), text)
