"""On which examples systems differ most, and their texts, read again from the data set's own files. Loads no torch."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from bench.analysis.predictions import Field, Run
from bench.analysis.stats.sums import Line
from bench.config.cards import DatasetCard
from bench.data import dataset
from bench.errors import BenchError
from bench.records.record import Record

# Rows of the table; whoever wants all has the files of predictions.
SHOWN = 12
EXACT = 1e-9


@dataclass(frozen=True, kw_only=True)
class Example:
    """One example: what is right, and what each system said, by its name in the comparison.

    said: what most of its seeds said; values: what that very answer is worth, 1 where it is right.
    """

    identity: str
    reference: Any
    said: dict[str, str]
    values: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Disagreements:
    """Numbers of examples that all runs of all `systems` got right, none did, or on which systems differ.

    value: what is compared of each example, the metric's own value or whether the answer is right. is_graded: answers
    can be right in part, which does not count as right. shown: those on which the named systems differ most.
    """

    systems: int
    examples: int
    all_right: int
    all_wrong: int
    differing: int
    value: str
    is_graded: bool
    shown: list[Example]


def find(field: Field, names: Sequence[str], number: int = SHOWN) -> Disagreements:
    """Counts over all systems; examples by the variance between the named ones, means over seeds, then by id."""
    own = field.higher_is_better and all(
        line.value is not None and 0 <= line.value <= 1
        for runs in field.systems.values() for run in runs for line in run.lines.values()
    )  # fmt: skip
    values = {name: _values(runs, field.ids, own=own) for name, runs in field.systems.items()}
    right = np.concatenate(list(values.values())) >= 1 - EXACT  # [runs, examples]
    means = np.stack([found.mean(axis=0) for found in values.values()])  # [systems, examples]
    shown = np.stack([values[name].mean(axis=0) for name in names])
    variance = shown.var(axis=0)
    order = sorted(range(len(field.ids)), key=lambda place: (-round(float(variance[place]), 9), field.ids[place]))
    rows = order[: min(number, _differing(shown))]
    return Disagreements(
        systems=len(values),
        examples=len(field.ids),
        all_right=int(right.all(axis=0).sum()),
        all_wrong=int((~right).all(axis=0).sum()),
        differing=_differing(means),
        value=field.metric if own else "the answer is right",
        is_graded=any(not np.isin(found, (0, 1)).all() for found in values.values()),
        shown=[_example(field, names, field.ids[row], own=own) for row in rows],
    )


def _differing(means: np.ndarray) -> int:
    """On how many examples systems differ, from [systems, examples]."""
    return int((np.ptp(means, axis=0) > EXACT).sum())


def _values(runs: list[Run], ids: list[str], *, own: bool) -> np.ndarray:
    """[runs, examples]."""
    return np.array([[_value(run.lines[identity], own=own) for identity in ids] for run in runs], dtype=float)


def _value(line: Line, *, own: bool) -> float:
    if own and line.value is not None:
        return float(line.value)
    if isinstance(line.reference, list) and isinstance(line.prediction, list):
        return float(sorted(map(str, line.prediction)) == sorted(map(str, line.reference)))
    if isinstance(line.reference, list):  # gold answers, of which one is enough
        return float(line.prediction in line.reference)
    return float(line.prediction == line.reference)


def _example(field: Field, names: Sequence[str], identity: str, *, own: bool) -> Example:
    reference = field.systems[names[0]][0].lines[identity].reference
    found = {name: _said([run.lines[identity] for run in field.systems[name]], own=own) for name in names}
    return Example(
        identity=identity,
        reference=reference,
        said={name: said for name, (said, _) in found.items()},
        values={name: value for name, (_, value) in found.items()},
    )


def _said(lines: Sequence[Line], *, own: bool) -> tuple[str, float]:
    """What most seeds said, with how many of them where they differ, and its value."""
    counts = Counter(as_text(line.prediction) for line in lines)
    most, number = min(counts.items(), key=lambda item: (-item[1], item[0]))
    value = next(_value(line, own=own) for line in lines if as_text(line.prediction) == most)
    return most if number == len(lines) else f"{most} ({number} of {len(lines)} seeds)", value


def as_text(answer: Any) -> str:
    """A prediction or a reference as text."""
    if answer is None:
        return "(no answer)"
    if isinstance(answer, list):
        return ", ".join(map(str, answer)) or "(none)"
    return str(answer) or "(empty)"


def texts(record: Record, split: str, *, from_hub: bool = False) -> tuple[Mapping[str, str], str | None]:
    """Texts by example id, as the run read them, or none and why.

    The split is read again by its card, and must have the fingerprint that the record states. The Hub is asked only
    where that is wanted.
    """
    part = record.data.splits.get(split) if record.data else None
    described = record.recipe.resolved.get("dataset")
    if part is None or not isinstance(described, dict):
        return {}, "the record does not tell where they are"
    try:
        card = DatasetCard.model_validate_json(json.dumps(described))
    except ValidationError:
        return {}, "the record describes the data set in a way that this version does not know"
    if card.source.kind == "hub" and not from_hub:
        return {}, "they are on the Hub, which is asked only with --hub-texts"
    limit = record.recipe.resolved.get("limit") or {}
    try:
        found = dataset.load(card, limit, {split}).splits[split]
    except (BenchError, OSError) as error:
        return {}, str(error)
    except Exception as error:  # a library's, that knows other kinds: no report fails by a missing text
        return {}, f"{type(error).__name__}: {error}"
    if found.fingerprint != part.fingerprint:
        return {}, "the data are not those that were scored: their fingerprint differs from the record's"
    return {row["id"]: _joined(row["text"], row["text_pair"]) for row in found.rows}, None


def _joined(text: str, pair: str | None) -> str:
    return text if pair is None else f"{pair} / {text}"
