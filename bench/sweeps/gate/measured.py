"""Measurements of a run that the gate compares: scores, scored data, and training step by step. Loads no torch."""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from bench.records import store
from bench.records.record import Part
from bench.utils import files

# Of every seed but the first, the first step, the last one and every tenth stand in a baseline: damage to one seed's
# training goes on, and is met a few steps later.
EVERY = 10
# Digits kept of what is written into a baseline: more than float32 has.
DIGITS = 9


class Trajectory(Part):
    """A training's logged steps. grad_norms: before clipping, None where not logged. tokens: so far, trained on."""

    steps: list[int] = Field(default_factory=list)
    losses: list[float] = Field(default_factory=list)
    grad_norms: list[float | None] = Field(default_factory=list)
    learning_rates: list[float | None] = Field(default_factory=list)
    tokens: list[float | None] = Field(default_factory=list)

    def at(self, steps: Collection[int]) -> "Trajectory":
        """Return these steps only; those that were not logged are left out."""
        places = [place for place, step in enumerate(self.steps) if step in steps]
        lists: dict[str, list[Any]] = {name: getattr(self, name) for name in Trajectory.model_fields}
        return Trajectory(**{name: [values[place] for place in places if values] for name, values in lists.items()})

    @property
    def sample(self) -> "Trajectory":
        """Return the steps that a baseline keeps of a seed that is not the first."""
        chosen = {step for step in self.steps if step % EVERY == 0}
        return self.at({*self.steps[:1], *chosen, *self.steps[-1:]})


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One run. scores: every finite scalar on the first split, by metric; "before, accuracy" is one before training.

    "accuracy, low" and "accuracy, high" are the ends of intervals. examples, data: count and digest of what was scored.

    arithmetic: versions and processor, which determine rounding.
    """

    seed: int
    scores: Mapping[str, float]
    arithmetic: Mapping[str, str]
    trajectory: Trajectory = field(default_factory=Trajectory)
    examples: int | None = None
    data: str | None = None


def measure(content: Mapping[str, Any], folder: Path, seed: int, arithmetic: Mapping[str, str]) -> Measured:
    """Return what is compared of a run's record, given as plain JSON: another commit may use another schema."""
    stages = content.get("scores") or {}
    split, scores = next(iter(stages.get("after", {}).items()), ("", {}))
    before = {f"before, {name}": score for name, score in stages.get("before", {}).get(split, {}).items()}
    values = {
        name if end == "value" else f"{name}, {end}": score.get(end)
        for name, score in (scores | before).items()
        for end in ("value", "low", "high")
    }
    described = ((content.get("data") or {}).get("splits") or {}).get(split) or {}
    return Measured(
        seed=seed,
        scores={name: float(value) for name, value in values.items() if value is not None and _is_finite(value)},
        arithmetic=arithmetic,
        trajectory=read_trajectory(folder),
        examples=described.get("examples"),
        data=((content.get("comparability") or {}).get("parts") or {}).get("data"),
    )


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_trajectory(folder: Path) -> Trajectory:
    """Return every step that a run logged with a loss; none without gradient training."""
    path = folder / "train_log.jsonl"
    lines = files.read_text(path, store.LIMIT_BYTES).splitlines() if path.exists() else []
    rows = [row for row in map(json.loads, lines) if row.get("loss") is not None]
    return Trajectory(
        steps=[row["step"] for row in rows],
        losses=[row["loss"] for row in rows],
        grad_norms=_column(rows, "grad_norm"),
        learning_rates=_column(rows, "learning_rate"),
        tokens=_column(rows, "tokens"),
    )


def rounded(value: float) -> float:
    """Return a value with the digits that a baseline keeps."""
    return float(f"{value:.{DIGITS}g}")


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> list[float | None]:
    """Return a column of the log; nothing where no row has it, as in a log of an older commit."""
    values = [row.get(name) for row in rows]
    if all(value is None for value in values):
        return []
    return [None if value is None else rounded(value) for value in values]


def first_difference(
    old: Sequence[float | None], new: Sequence[float | None], tolerance: float, least: float = 0.0
) -> int | None:
    """Return the place of the first value that is further from the old one than this share of it; None if none is.

    A value that is missing on one side only differs, and so does one that is not a number. least: a smaller old value
    counts as this, since a share of nearly nothing says nothing.
    """
    for place, (one, other) in enumerate(zip(old, new, strict=True)):
        if one is None or other is None:
            if one is not other:
                return place
        elif not abs(other - one) <= tolerance * max(abs(one), least):
            return place
    return None
