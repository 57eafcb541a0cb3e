"""The built-in texts to write: `sums`, small word problems with worked answers in GSM8K's form, and `chats`.

A chat is a conversation of a system prompt and two questions in OpenAI's form, of which the second one's answer needs
the first. The language is small, so that a tiny model learns it, and in small letters, as tokenizers that are trained
for tests know no others. bench/data/builtin/corpora.py chooses sizes, ids and splits.
"""

import random
from typing import Any

NAMES: tuple[str, ...] = ("sums", "chats")
_PEOPLE = ["anna", "bruno", "clara", "david", "elsa", "felix", "greta", "hugo"]
_THINGS = ["apples", "books", "coins", "eggs", "keys", "maps", "nuts", "pens", "plums", "shells", "stamps", "stones"]
_PLACES = ["box", "bag", "shop", "garden", "kitchen", "school"]
_DAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
_COLOURS = ["red", "green", "blue", "black", "white", "grey", "yellow", "brown"]
_MOST = 9
_PROBLEMS: tuple[str, ...] = (
    "{person} has {first} {things} and gets {second} more. how many {things} does {person} have now?",
    "there are {first} {things} in the {place}. {person} brings {second} {things}. how many {things} are there?",
    "{person} buys {first} {things} on {day} and {second} on the next day. how many {things} is that?",
)
_SYSTEM = ("you are short and exact.", "answer in one sentence.")


def draw_sum(rng: random.Random) -> tuple[str, list[dict[str, Any]]]:
    """Return (question, rows) of one word problem: {"question", "answer"}, the answer as GSM8K has it."""
    first, second = rng.randint(1, _MOST), rng.randint(1, _MOST)
    words = {
        "person": rng.choice(_PEOPLE),
        "things": rng.choice(_THINGS),
        "place": rng.choice(_PLACES),
        "day": rng.choice(_DAYS),
    }
    question = rng.choice(_PROBLEMS).format(first=first, second=second, **words)
    answer = f"there are {first} + {second} = {first + second} {words['things']}.\n#### {first + second}"
    return question, [{"question": question, "answer": answer}]


def draw_chat(rng: random.Random) -> tuple[str, list[dict[str, Any]]]:
    """Return (both questions, rows) of one conversation: {"messages"}, with the answers."""
    colour, things, place, day = (rng.choice(words) for words in (_COLOURS, _THINGS, _PLACES, _DAYS))
    following = _DAYS[(_DAYS.index(day) + 1) % len(_DAYS)]
    told = f"the {things} in the {place} are {colour}. i go there on {day}. what will i see?"
    asked = rng.choice((f"and on which day do you go after {day}?", f"which day comes after {day}?"))
    turns = [
        {"role": "system", "content": rng.choice(_SYSTEM)},
        {"role": "user", "content": told},
        {"role": "assistant", "content": f"you will see {colour} {things} in the {place}."},
        {"role": "user", "content": asked},
        {"role": "assistant", "content": f"{following} comes after {day}, and the {things} are still {colour}."},
    ]
    return f"{told} {asked}", [{"messages": turns}]
