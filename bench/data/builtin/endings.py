"""The built-in endings: the beginning of a small story, and two to five endings, of which one follows from it.

The wrong endings follow from other beginnings, so that no ending is right or wrong by itself. Names, days and places
have no bearing on it. The language is small, so that a tiny model learns it. bench/data/builtin/corpora.py chooses
sizes, ids and splits.
"""

import random
from collections.abc import Mapping
from typing import Any

NAMES: tuple[str, ...] = ("endings",)
MOST_CHOICES = 5

_WORDS: Mapping[str, str] = {
    "who": """Anna|Bruno|Clara|David|Elsa|Felix|Greta|Hugo|Ines|Jonas|Karla|Luis|Marta|Nils|Olga|Pavel|Rosa|Simon
        Tilda|Viktor""",
    "day": "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday",
    "where": "at the mill|by the river|in Orsa|near the bridge|on the hill|at the old inn|in the market|by the sea",
}

# What happened, and endings of different lengths that follow from it and from nothing else here.
_STORIES: Mapping[str, str] = {
    "it rained all day": "opened an umbrella|put on a long yellow raincoat",
    "the soup was cold": "warmed it up|put the pot on the stove again",
    "the lamp went out": "lit a candle|looked for a new light bulb in the drawer",
    "the dog was hungry": "filled its bowl|gave it some meat and a bone",
    "the key was lost": "called a locksmith|climbed in through the kitchen window",
    "the bread was stale": "fed the ducks|went to the baker for a fresh loaf",
    "the tyre was flat": "pumped it up|pushed the bicycle all the way home",
    "the roses were dry": "watered them|carried two full cans into the garden",
    "the train was late": "sat down to wait|read a whole newspaper on the platform",
    "a tooth hurt badly": "saw a dentist|made an appointment for the afternoon",
    "the floor was dirty": "swept it|fetched a bucket, a mop and some soap",
    "the letter was finished": "bought a stamp|took it to the post office",
    "the baby was tired": "sang a lullaby|laid the child into its cradle",
    "the river was frozen": "took out the skates|slid across the ice with a sledge",
    "the coat had a hole": "sewed it up|asked the tailor for a patch",
    "the exam was near": "studied hard|learned all the dates by heart",
}


def draw(rng: random.Random) -> tuple[str, list[dict[str, Any]]]:
    """Return (text, rows) of one story: {"text", "choices", "label"}, the label being the right choice's number."""
    words = {field: rng.choice(_options(choices)) for field, choices in _WORDS.items()}
    happened = rng.choice(list(_STORIES))
    text = rng.choice(
        (
            "On {day} {what} {where}, so {who}",
            "{who} was {where} on {day} when {what}. So {who}",
            "This {day} {who} saw that {what} {where}, and then {who}",
        )
    ).format(what=happened, **words)
    others = rng.sample([other for other in _STORIES if other != happened], rng.randint(1, MOST_CHOICES - 1))
    choices = [rng.choice(_options(_STORIES[other])) for other in others]
    label = rng.randrange(len(choices) + 1)
    choices.insert(label, rng.choice(_options(_STORIES[happened])))
    return text, [{"text": text, "choices": choices, "label": label}]


def _options(alternatives: str) -> list[str]:
    return [option.strip() for line in alternatives.splitlines() for option in line.split("|") if option.strip()]
