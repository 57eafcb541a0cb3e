"""The built-in ratings: short reviews with a number from 1 to 5, the mean of the grades of what they mention.

What is said "above all" counts twice. bench/data/builtin/corpora.py chooses sizes, ids and splits.
"""

import random
from collections.abc import Mapping
from typing import Any

NAMES: tuple[str, ...] = ("ratings",)

# Grade -> words that give it.
_GRADES: Mapping[int, tuple[str, ...]] = {
    1: ("awful", "dreadful", "terrible", "useless"),
    2: ("weak", "dull", "poor", "clumsy"),
    3: ("average", "ordinary", "passable", "usual"),
    4: ("good", "pleasant", "solid", "nice"),
    5: ("superb", "brilliant", "outstanding", "perfect"),
}
_SUBJECTS: tuple[tuple[str, ...], ...] = (
    ("plot", "acting", "script", "ending", "music", "humour", "cast", "camera work"),
    ("battery", "screen", "handle", "sound", "manual", "motor", "colour", "lid"),
    ("room", "breakfast", "service", "pool", "bed", "view", "bar", "garden"),
)
_CLAUSES = ("the {aspect} was {word}", "I found the {aspect} {word}", "a {word} {aspect}")
_FIRST = "above all, "
_MOST = 4


def draw(rng: random.Random) -> tuple[str, list[dict[str, Any]]]:
    """Return (text, its one row): {"text", "score"}."""
    subject = rng.choice(_SUBJECTS)
    clauses, grades = [], []
    # Near to one another, else the mean of several would seldom be near 1 or 5.
    middle = rng.randint(1, 5)
    for number, aspect in enumerate(rng.sample(subject, rng.randint(1, _MOST))):
        grade = min(5, max(1, middle + rng.choice((-1, 0, 0, 1))))
        clause = rng.choice(_CLAUSES).format(aspect=aspect, word=rng.choice(_GRADES[grade]))
        twice = number == 0 and rng.random() < 0.25
        clauses.append(f"{_FIRST if twice else ''}{clause}")
        grades += [grade] * (1 + twice)
    text = ". ".join(clause[0].upper() + clause[1:] for clause in clauses) + "."
    return text, [{"text": text, "score": round(sum(grades) / len(grades), 2)}]
