"""The contract of a tracker, and the values that a run sends."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from bench.analysis import accessors
from bench.records.record import Record
from bench.utils import numbers

# Keys of a line of the training log that say where it belongs, and are no values of it.
PLACES = ("step", "epoch", "seconds")
Scalar = str | int | float | bool | None


class Tracker(Protocol):
    """One service. `start` raises an exception where it can't be used; the others may too, which ends no run."""

    def start(self, record: Record, folder: Path) -> None:
        """Begin a run with the project and name of the record, its recipe, and `folder` for local files."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send values of one step."""

    def finish(self, record: Record, summary: Mapping[str, float], files: list[Path]) -> None:
        """Send the final values and files, and end the run with the record's status."""


def project(record: Record) -> str:
    """Return the project: the study, which is the folder of the recipe."""
    return record.study or "finetune-bench"


def name(record: Record) -> str:
    """Return the run's name: that of its recipe, with the seed."""
    return f"{record.name}--seed{record.seed}"


def settings(record: Record) -> dict[str, Scalar]:
    """Return the resolved recipe, flat, as "training.learning_rate", with hash, data, method, seed and commit."""
    git = (record.environment.git if record.environment else None) or {}
    about: dict[str, Scalar] = {
        "recipe": record.recipe.path,
        "recipe_hash": record.recipe.hash,
        "method": record.method,
        "seed": record.seed,
        "git_commit": git.get("commit"),
        "git_dirty": git.get("dirty"),
    }
    return {**dict(flat(record.recipe.resolved)), **about}


def flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Scalar]]:
    """Yield (name, value) of nested mappings, names joined by dots; lists as texts."""
    for key, value in values.items():
        place = f"{before}{key}"
        if isinstance(value, Mapping):
            yield from flat(value, f"{place}.")
        else:
            yield place, value if isinstance(value, str | int | float | bool | None) else str(value)


def logged(row: Mapping[str, Any]) -> dict[str, float]:
    """Return a log line's values by their names on a tracker: "train/loss", "validation/accuracy"; undefined left out.

    The epoch is sent beside them, since trackers count steps only.
    """
    values = {}
    for key, value in row.items():
        if numbers.finite(value) is None or key in ("step", "seconds"):
            continue
        side, _, rest = key.partition("validation_")
        named = f"validation/{rest}" if rest and not side else "epoch" if key == "epoch" else f"train/{key}"
        values[named] = float(value)
    return values


def summary(record: Record) -> dict[str, float]:
    """Return final values: scores before and after with both ends of their intervals, throughput, memory, seconds."""
    found: dict[str, float | None] = {}
    for stage, splits in record.scores.items():
        for split in splits:
            for metric, score in accessors.scalars(record, stage, split).items():
                place = f"{stage}/{split}/{metric}"
                found[place] = numbers.finite(score.value)
                found |= {f"{place}_{end}": numbers.finite(getattr(score, end)) for end in ("low", "high")}
    for heading, parts in (("throughput", record.throughput), ("memory", record.memory)):
        for phase, figures in parts.items():
            found |= {f"{heading}/{phase}/{key}": numbers.finite(value) for key, value in figures.items()}
    found |= {f"seconds/{phase.name}": phase.seconds for phase in record.phases}
    return {key: value for key, value in found.items() if value is not None}
