"""Draws few-shot examples from the training rows: seeded, and balanced over the labels."""

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from bench.errors import SetupError

Rows = Sequence[dict[str, Any]]


class ShotSampler:
    """Draws shots from training rows; the same rows in any order give the same draws.

    rows: {"id", "label", ...}. labels: names of the labels. A draw for one example is keyed by (seed, its id), so it
    does not depend on the other examples, on their order, or on the process.
    """

    def __init__(self, rows: Rows, labels: Sequence[str], num_shots: int, seed: int, *, balanced: bool = True) -> None:
        """Raise SetupError when a label has too few rows. balanced: not for rows with several labels."""
        self.num_shots, self.seed, self.balanced = num_shots, seed, balanced
        ordered = sorted(rows, key=lambda row: str(row["id"]))
        self.groups: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for row in ordered:
            self.groups[row["label"] if balanced else 0].append(row)
        groups = len(labels) if balanced else 1
        most = -(-num_shots // groups)
        for label in range(groups):
            if len(self.groups[label]) < most:
                what = f"with the label {labels[label]!r}" if balanced else "in all"
                raise SetupError(
                    f"shots: {num_shots} asks for up to {most} training examples {what}; there are "
                    f"{len(self.groups[label])}"
                )
        self._fixed: list[dict[str, Any]] | None = None

    def fixed(self) -> list[dict[str, Any]]:
        """Return the same shots for every example."""
        if self._fixed is None:
            self._fixed = self._draw("fixed")
        return self._fixed

    def of(self, identity: str) -> list[dict[str, Any]]:
        """Return the shots for the example with this id."""
        return self._draw(f"example/{identity}")

    def _draw(self, key: str) -> list[dict[str, Any]]:
        chooser = random.Random(f"shots/{self.seed}/{key}")
        each, rest = divmod(self.num_shots, len(self.groups))
        # What can't be divided evenly goes to labels chosen at random: the first ones would be favoured otherwise.
        quotas = Counter(dict.fromkeys(self.groups, each))
        quotas.update(chooser.sample(sorted(self.groups), rest))
        shots = [row for label in sorted(self.groups) for row in chooser.sample(self.groups[label], quotas[label])]
        chooser.shuffle(shots)
        return shots
