"""The built-in passages: short articles on invented buildings, with questions that are answered by a span of them.

`passages` asks only what the paragraph says, as SQuAD v1.1 does; in `passages_v2` a third of the questions wants a
fact of the same article that this paragraph leaves out, as in SQuAD v2.0. The language is small, so that a tiny
model learns it from a few hundred questions. bench/data/builtin/corpora.py chooses sizes, ids and splits.
"""

import random
import re
from collections.abc import Mapping
from typing import Any

NAMES: tuple[str, ...] = ("passages", "passages_v2")
# Two paragraphs, each with half of the facts.
_STATED = 4
# Not all that is stated is asked: many paragraphs with few questions are harder to learn by heart.
_ASKED = 2
# In `passages_v2` one more is asked that the paragraph does not answer: a third.
_UNANSWERED = 1

# Few words for each field, so that a model meets each of them often.
_WORDS: Mapping[str, str] = {
    "kind": "mill|bridge|tower|castle|chapel|school|inn|market|library|theatre|lighthouse|museum",
    "town": """Orsa|Velm|Tarn|Kelby|Ruda|Mora|Lund|Pesk|Sorn|Hale|Brin|Dova|Fell|Gorm|Ister|Jarl|Kolm|Luma|Narv|Oster
        Pold|Quill|Rask|Sund|Tova|Ulm|Vik|Wend|Yarm|Zell|Arden|Bolm|Cray|Drava|Elm|Fosse|Garda|Holm|Ilm|Kava
        Alt|Bex|Corv|Dunn|Esk|Frome|Glan|Hest|Ivel|Jura|Kerr|Lorn|Mold|Nesh|Orle|Prag|Rhin|Stav|Tern|Unst
        Varde|Wick|Yell|Zurn|Ashby|Bray|Cull|Derg|Ennis|Flint|Gare|Hythe|Innis|Kells|Leek|Muir|Nairn|Ouse|Perth|Rye""",
    "first": "Anna|Bruno|Clara|David|Elsa|Felix|Greta|Hugo",
    "last": "Berg|Lind|Falk|Stern|Vogel|Moreau|Novak|Silva",
    "river": "Tava|Irna|Ossel|Leth|Mirn|Ganda|Sava|Orbe",
    "day": "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday",
    "material": "stone|brick|oak|iron|marble|clay|timber|slate",
    "colour": "red|green|blue|black|white|grey|yellow|brown",
    "animal": "owl|cat|fox|hare|bat|goose|raven|otter",
    "size": "large|young|small|tame|wild",
    "metres": "15|18|21|24|27|30|33|36|39|42",
    "century": "17|18",
    "decade": "10|20|30|40|50|60|70|80",
}

# Statement and its questions. Inner brackets mark the answer, outer ones one that is just as right.
_FACTS: tuple[tuple[str, ...], ...] = (
    ("It was built in [{year}]", "When was {name} built?", "In which year was {name} built?"),
    ("It was planned by [{first0} {last0}]", "Who planned {name}?", "Which person planned {name}?"),
    ("It belongs to [{first1} {last1}]", "Who owns {name}?", "Which person owns {name}?"),
    ("It is [[{metres}] metres] high", "How high is {name}?"),
    ("The walls are made of [{colour} {material}]", "What are the walls of {name} made of?"),
    ("It stands on [the river [{river}]]", "On which river does {name} stand?"),
    ("It is closed on [{day}]", "On which day is {name} closed?"),
    ("In the cellar lives [a [{size} {animal}]]", "What lives in the cellar of {name}?"),
)
_OPENERS = (
    "{Name} is known to every child of the town.",
    "Many people come to see {name}.",
    "There is a book about {name}.",
    "This page is about {name}.",
)


def draw(rng: random.Random, *, answerable: bool, is_train: bool) -> tuple[str, list[dict[str, Any]]]:
    """Return (title, rows) of one article: {"title", "context", "question", "answers": {"text", "answer_start"}}.

    answerable: only questions that the paragraph answers. is_train: one gold answer per question, the longest; else
    all of them, as in SQuAD, which gives several only where they are scored.
    """
    words = _words(rng)
    title = f"{words['kind'].capitalize()} of {words['town']}"
    words |= {"name": f"the {words['kind']} of {words['town']}", "Name": f"The {words['kind']} of {words['town']}"}
    facts = rng.sample(_FACTS, len(_FACTS))
    rows: list[dict[str, Any]] = []
    for stated, unstated in ((facts[:_STATED], facts[_STATED:]), (facts[_STATED:], facts[:_STATED])):
        context, asked = rng.choice(_OPENERS).format(**words), []
        for statement, *questions in stated:
            context, spans = _with_statement(context, statement.format(**words))
            golds = dict([max(spans.items(), key=lambda item: len(item[0]))]) if is_train else spans
            answers = {"text": [*golds], "answer_start": [*golds.values()]}
            asked.append({"question": rng.choice(questions).format(**words), "answers": answers})
        asked = rng.sample(asked, _ASKED)
        if not answerable:
            for _, *questions in rng.sample(unstated, _UNANSWERED):
                empty: dict[str, Any] = {"text": [], "answer_start": []}
                asked.append({"question": rng.choice(questions).format(**words), "answers": empty})
        rng.shuffle(asked)
        rows += [{"title": title, "context": context, **row} for row in asked]
    return title, rows


def _words(rng: random.Random) -> dict[str, str]:
    """Choose a word for every field of the facts; the owner is not the planner."""
    words = {field: rng.choice(re.split(r"\|\s*|\n\s*", choices)) for field, choices in _WORDS.items()}
    people = {}
    for part in ("first", "last"):
        people[f"{part}0"], people[f"{part}1"] = rng.sample(_WORDS[part].split("|"), 2)
    return {**words, **people, "year": words["century"] + words["decade"]}


def _with_statement(context: str, statement: str) -> tuple[str, dict[str, int]]:
    """Return the context with the statement, without brackets, and {text in brackets: its start}, innermost first."""
    context += " "
    opened: list[int] = []
    spans: dict[str, int] = {}
    for character in statement + ".":
        if character == "[":
            opened.append(len(context))
        elif character == "]":
            start = opened.pop()
            spans[context[start:]] = start
        else:
            context += character
    return context, spans
