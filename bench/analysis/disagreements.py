"""Find the examples on which systems differ most, with their texts from the data set's files. Loads no torch."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from bench.analysis import accessors
from bench.analysis.predictions import MatchedRuns, ScoredRun
from bench.analysis.stats.sums import Line
from bench.config.cards import (
    ANSWERS_TASK,
    GENERATION_TASK,
    LM_EVAL_TASK,
    NUMBERS_TASK,
    TAGS_TASK,
    DatasetCard,
)
from bench.config.data_part import DataPart
from bench.data import dataset, tagging
from bench.data.sources import Rows
from bench.errors import BenchError, DataError
from bench.records.record import Record

# Where texts of examples may be read for a report.
TextSource = Literal["files", "hub", "nowhere"]
# Rows of the table; the prediction files hold all examples.
SHOWN = 12
EXACT = 1e-9
# Tasks whose references are texts of the data, which answers repeat.
TEXT_ANSWERS = (ANSWERS_TASK, GENERATION_TASK, LM_EVAL_TASK)
HIDDEN = "(not shown)"
# In place of the error of an answer without a number: larger than any.
MISSING = -1e100


@dataclass(frozen=True, kw_only=True)
class Example:
    """One example with its reference and each system's answer, by the system's name in the comparison.

    answers: the most frequent answer over seeds. values: the score of that answer, 1 where it is correct.
    """

    identity: str
    reference: Any
    answers: dict[str, str]
    values: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Disagreements:
    """Numbers of examples that all runs, or no run, of all `systems` answered correctly, or on which systems differ.

    value: the compared per-example value: the metric, or exact match. is_graded: answers can be partly correct, which
    does not count as correct. shown: examples on which the named systems differ most. tied: examples not shown on which
    they differ as much as on the last that is. of_numbers: values are absolute errors with a minus.
    """

    systems: int
    examples: int
    all_right: int
    all_wrong: int
    differing: int
    value: str
    is_graded: bool
    shown: list[Example]
    tied: int = 0
    of_numbers: bool = False


def find(
    runs: MatchedRuns, names: Sequence[str], number: int = SHOWN, *, texts_from: TextSource = "files"
) -> Disagreements:
    """Count agreements over all systems; select examples by the variance between the named ones.

    Of ties, which ids in order would take from one label, those with the lowest digest of their id come first.

    Answers that are texts of the data are replaced by HIDDEN where the page may not show any, see `why_hidden`.
    """
    hides = any(
        task_of(run.record) in TEXT_ANSWERS and why_hidden(run.record, texts_from)
        for group in runs.systems.values()
        for run in group
    )
    runs = _in_words(runs)
    of_numbers = _task(runs) == NUMBERS_TASK
    own = not of_numbers and runs.higher_is_better and all(
        _are_shares(run.lines.values()) for group in runs.systems.values() for run in group
    )  # fmt: skip
    values = {name: _values(group, runs.ids, own=own) for name, group in runs.systems.items()}
    right = np.concatenate(list(values.values())) >= 1 - EXACT  # [runs, examples]
    means = np.stack([array.mean(axis=0) for array in values.values()])  # [systems, examples]
    shown = np.stack([values[name].mean(axis=0) for name in names])
    variance = shown.var(axis=0).round(9)
    order = sorted(range(len(runs.ids)), key=lambda place: (-float(variance[place]), _digest(runs.ids[place])))
    rows = order[: min(number, _differing(shown))]
    tied = int((variance == variance[rows[-1]]).sum() - (variance[rows] == variance[rows[-1]]).sum()) if rows else 0
    return Disagreements(
        systems=len(values),
        examples=len(runs.ids),
        all_right=int(right.all(axis=0).sum()),
        all_wrong=int((~right).all(axis=0).sum()),
        differing=_differing(means),
        value="absolute error" if of_numbers else runs.metric if own else _EXACT_MATCH.get(_task(runs), "exact match"),
        is_graded=any(not np.isin(array, (0, 1)).all() for array in values.values()),
        shown=[_example(runs, names, runs.ids[row], own=own, hides=hides) for row in rows],
        tied=tied,
        of_numbers=of_numbers,
    )


def _digest(identity: str) -> bytes:
    return hashlib.sha256(identity.encode()).digest()


def _are_shares(lines: Iterable[Line]) -> bool:
    """Return whether each line has a value between 0 and 1."""
    values = {line.value for line in lines}
    return None not in values and all(0 <= value <= 1 for value in values if value is not None)


_EXACT_MATCH = {TAGS_TASK: "exact match of all entities"}


def _task(runs: MatchedRuns) -> str:
    """Return the task of the compared runs; "" where a record does not tell."""
    return task_of(next(run.record for group in runs.systems.values() for run in group))


def task_of(record: Record) -> str:
    """Return the task of a run; "" where its record does not tell."""
    return str(accessors.card_of(record).get("task", ""))


def why_hidden(record: Record, texts_from: TextSource = "files") -> str | None:
    """Return why a page may show no texts of a run's data; None where it may."""
    if accessors.card_of(record).get("quote") is False:
        return "the card of the data set says quote: false"
    return "this page was asked for without texts of examples (option --no-texts)" if texts_from == "nowhere" else None


def _in_words(runs: MatchedRuns) -> MatchedRuns:
    """Return runs whose tags of words are the entities that they mark, by the numbers of their words."""
    if _task(runs) != TAGS_TASK:
        return runs

    def entities(run: ScoredRun) -> ScoredRun:
        """Return a run with entities in place of tags."""
        scheme = run.record.recipe.resolved["dataset"].get("scheme")
        lines = {
            identity: Line(tagging.shown(line.prediction, scheme=scheme), tagging.shown(line.reference, scheme=scheme))
            for identity, line in run.lines.items()
        }
        return replace(run, scored=replace(run.scored, lines=lines))

    return replace(runs, systems={name: [entities(run) for run in group] for name, group in runs.systems.items()})


def _differing(means: np.ndarray) -> int:
    """Return the number of examples on which systems differ, from means [systems, examples]."""
    return int((np.ptp(means, axis=0) > EXACT).sum())


def _values(runs: list[ScoredRun], ids: list[str], *, own: bool) -> np.ndarray:
    """Return per-example values [runs, examples]. own: the metric's own value, else exact match."""
    lines = [run.scored.in_order(ids) for run in runs]
    if own:  # then each line has a value
        return np.array([[line.value for line in of_run] for of_run in lines], dtype=float)
    return np.array([[value_of(line, own=False) for line in of_run] for of_run in lines], dtype=float)


def value_of(line: Line, *, own: bool) -> float:
    """Return an example's value: the metric's own one, else exact match; of numbers the absolute error with a minus."""
    if own and line.value is not None:
        return float(line.value)
    if isinstance(line.reference, float) and isinstance(line.prediction, int | float):
        return -abs(line.prediction - line.reference)
    if isinstance(line.reference, float):
        return MISSING
    if isinstance(line.reference, list) and isinstance(line.prediction, list):
        return float(sorted(map(str, line.prediction)) == sorted(map(str, line.reference)))
    if isinstance(line.reference, list):  # several gold answers, any of which is correct
        return float(line.prediction in line.reference)
    return float(line.prediction == line.reference)


def _example(runs: MatchedRuns, names: Sequence[str], identity: str, *, own: bool, hides: bool) -> Example:
    reference = runs.systems[names[0]][0].lines[identity].reference
    majority = {name: _majority([run.lines[identity] for run in runs.systems[name]], own=own) for name in names}
    return Example(
        identity=identity,
        reference=HIDDEN if hides else reference,
        answers={name: HIDDEN if hides else answer for name, (answer, _) in majority.items()},
        values={name: value for name, (_, value) in majority.items()},
    )


def _majority(lines: Sequence[Line], *, own: bool) -> tuple[str, float]:
    """Return the most frequent answer over seeds, with its count where seeds differ, and its value; numbers' mean."""
    known = [line.prediction for line in lines if isinstance(line.prediction, float)]
    if known:
        mean = Line(sum(known) / len(known), lines[0].reference)
        return as_text(mean.prediction), value_of(mean, own=False)
    counts = Counter(as_text(line.prediction) for line in lines)
    most, number = min(counts.items(), key=lambda item: (-item[1], item[0]))
    value = next(value_of(line, own=own) for line in lines if as_text(line.prediction) == most)
    return most if number == len(lines) else f"{most} ({number} of {len(lines)} seeds)", value


def as_text(answer: Any) -> str:
    """Return a prediction or a reference as text."""
    if answer is None:
        return "(no answer)"
    if isinstance(answer, float):
        return f"{answer:.4g}"
    if isinstance(answer, list):
        return ", ".join(map(str, answer)) or "(none)"
    return str(answer) or "(empty)"


def texts(record: Record, split: str, *, texts_from: TextSource = "files") -> tuple[Mapping[str, str], str | None]:
    """Return the texts by example id and None, or {} and the reason why they are unavailable.

    The split is loaded again by its card and must have the fingerprint in the record. texts_from: "files" of this
    machine, also the "hub", or "nowhere".
    """
    if (hidden := why_hidden(record, texts_from)) is not None:
        return {}, hidden
    try:
        rows, labels = loaded_again(record, split, from_hub=texts_from == "hub")
    except DataError as error:
        return {}, str(error)
    return {row["id"]: _joined(row, labels) for row in rows}, None


def loaded_again(record: Record, split: str, *, from_hub: bool = False) -> tuple[Rows, Sequence[str]]:
    """Return the rows of a run's split and the data's labels, read again by the card in the record.

    from_hub: whether they may be downloaded. Raises DataError where that is impossible, or gives other data than the
    run's.
    """
    part, described = record.data.splits.get(split) if record.data else None, accessors.card_of(record)
    if part is None or not described:
        raise DataError("the record does not describe the data set")
    try:
        card = DatasetCard.model_validate_json(json.dumps(described))
    except ValidationError as error:
        raise DataError("the record's description of the data set is not valid in this version") from error
    if card.source.kind == "hub" and not from_hub:
        raise DataError("they are on the Hub; pass --hub-texts to load them")
    limit = record.recipe.resolved.get("limit") or {}
    try:
        of = DataPart.model_validate_json(json.dumps(record.recipe.resolved.get("data") or {}))
        corpus = dataset.load(card, limit, {split}, of, record.seed or 0)
    except (BenchError, OSError) as error:
        raise DataError(str(error)) from error
    except Exception as error:  # of any kind, from a library: a missing text must not fail the report
        raise DataError(f"{type(error).__name__}: {error}") from error
    if corpus.splits[split].fingerprint != part.fingerprint:
        raise DataError("the data have changed since the run: their fingerprint differs from the record's")
    return corpus.splits[split].rows, corpus.labels


def _joined(row: Mapping[str, Any], labels: Sequence[str]) -> str:
    """Return a row's texts; its own choices behind them, by the names that answers have."""
    text = row["text"] if row["text_pair"] is None else f"{row['text_pair']} / {row['text']}"
    choices = "; ".join(f"{name}: {choice}" for name, choice in zip(labels, row.get("choices", ()), strict=False))
    return f"{text} ({choices})" if choices else text
