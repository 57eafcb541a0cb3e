"""On which examples systems differ most, and their texts, read again from the data set's own files. Loads no torch."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from bench import data
from bench.contenders import Field, Run
from bench.errors import BenchError
from bench.record import Record
from bench.settings import DatasetCard
from bench.tallies import Line

# Rows of the table; whoever wants all has the files of predictions.
SHOWN = 12
EXACT = 1e-9


@dataclass(frozen=True, kw_only=True)
class Example:
    """One example: what is right, and what each system said, by its name in the comparison."""

    identity: str
    reference: Any
    said: dict[str, str]
    values: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Disagreements:
    """Numbers of examples of which all systems got all, none, or not the same; those that differ most come first.

    value: what is compared of each example, the metric's own value or whether the answer is right.
    """

    examples: int
    all_right: int
    all_wrong: int
    differing: int
    value: str
    shown: list[Example]


def find(field: Field, names: Sequence[str], number: int = SHOWN) -> Disagreements:
    """Of the systems with these names, the mean over seeds of each; by variance between systems, then by id."""
    own = all(line.value is not None for name in names for run in field.systems[name] for line in run.lines.values())
    table = np.stack(
        [_values(field.systems[name], field.ids, own=own) for name in names], axis=1
    )  # [examples, systems]
    variance = table.var(axis=1)
    order = sorted(range(len(field.ids)), key=lambda row: (-round(float(variance[row]), 9), field.ids[row]))
    differing = int((np.ptp(table, axis=1) > EXACT).sum())
    return Disagreements(
        examples=len(field.ids),
        all_right=int((table >= 1 - EXACT).all(axis=1).sum()),
        all_wrong=int((np.abs(table) <= EXACT).all(axis=1).sum()),
        differing=differing,
        value=field.metric if own else "the answer is right",
        shown=[_example(field, names, table[row], field.ids[row]) for row in order[: min(number, differing)]],
    )


def _values(runs: list[Run], ids: list[str], *, own: bool) -> np.ndarray:
    """[examples], the mean over a system's runs."""
    found = [[_value(run.lines[identity], own=own) for identity in ids] for run in runs]
    return np.mean(np.array(found, dtype=float), axis=0)


def _value(line: Line, *, own: bool) -> float:
    if own and line.value is not None:
        return float(line.value)
    if isinstance(line.reference, list) and isinstance(line.prediction, list):
        return float(sorted(map(str, line.prediction)) == sorted(map(str, line.reference)))
    if isinstance(line.reference, list):  # gold answers, of which one is enough
        return float(line.prediction in line.reference)
    return float(line.prediction == line.reference)


def _example(field: Field, names: Sequence[str], values: np.ndarray, identity: str) -> Example:
    reference = field.systems[names[0]][0].lines[identity].reference
    return Example(
        identity=identity,
        reference=reference,
        said={name: _said([run.lines[identity].prediction for run in field.systems[name]]) for name in names},
        values=dict(zip(names, values.tolist(), strict=True)),
    )


def _said(predictions: Sequence[Any]) -> str:
    """What most seeds said, and how many of them where they differ."""
    counts = Counter(as_text(prediction) for prediction in predictions)
    most, number = min(counts.items(), key=lambda item: (-item[1], item[0]))
    return most if number == len(predictions) else f"{most} ({number} of {len(predictions)} seeds)"


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
        found = data.load(card, limit, {split}).splits[split]
    except (BenchError, OSError) as error:
        return {}, str(error)
    except Exception as error:  # a library's, that knows other kinds: no report fails by a missing text
        return {}, f"{type(error).__name__}: {error}"
    if found.fingerprint != part.fingerprint:
        return {}, "the data are not those that were scored: their fingerprint differs from the record's"
    return {row["id"]: _joined(row["text"], row["text_pair"]) for row in found.rows}, None


def _joined(text: str, pair: str | None) -> str:
    return text if pair is None else f"{pair} / {text}"
