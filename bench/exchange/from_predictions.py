"""Reads predictions of any other system for the examples of a run of this harness: JSON lines or CSV.

The run gives the examples with their references, the labels and the metrics; so the other system's scores are of the
same examples by the same code, and `compare` pairs both by example.
"""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.analysis import accessors
from bench.analysis.disagreements import loaded_again
from bench.analysis.predictions import prediction_rows
from bench.config import registry
from bench.data.examples import as_array
from bench.errors import DataError, did_you_mean
from bench.evaluation.metric_set import MetricSet, Predictions
from bench.evaluation.scoring import write_predictions
from bench.exchange import foreign
from bench.records import store
from bench.records.record import Record
from bench.utils import files

KEYS = ("id", "text", "prediction", "scores")
SCORE = "score."  # before a label's name, in the columns of a table
# The sum of an example's probabilities may be this far from 1, as for metrics.
SUM_OFF = 0.01
# Suffix of a table -> what separates its cells.
SEPARATORS = {".csv": ",", ".tsv": "\t"}
LISTED = 3


@dataclass(frozen=True, kw_only=True)
class ForeignPredictions:
    """A file of predictions, and whose they are. like: a run on the same examples. split: None for its only one."""

    file: Path
    like: Path
    name: str
    method: str
    seed: int | None = None
    split: str | None = None


def write(given: ForeignPredictions, out: Path) -> Record:
    """Write a record and its predictions into the new folder `out`; return the record.

    A row has `id`, or the `text` of an example that no other has, and `prediction`: a label, a list of labels (in CSV
    as JSON), or an answer in words; where `scores` are given (label -> probability), metrics of them are computed too.
    Raises DataError where examples lack a prediction or have two, for unknown labels, and for a run without labels or
    answers of its own.
    """
    reference = store.read(given.like)
    split = _split(given, reference)
    stage = "after" if split in reference.scores.get("after", {}) else "before"
    home = given.like if given.like.is_dir() else given.like.parent
    theirs = {row["id"]: row for row in prediction_rows(home / store.FILE, stage, split)}
    rows = _by_id(given, reference, split, theirs)
    predictions = _predictions(given.file, reference, theirs, rows)
    metrics = _metrics(reference, stage, split, with_scores=bool(predictions.scores.size))
    wanted = accessors.scalars(reference, stage, split)
    theirs_signed = {name: score.signature for name, score in reference.scores[stage][split].items()}
    scores = {
        name: score for name, score in metrics.scores(predictions).items() if theirs_signed.get(name) == score.signature
    }
    for name, score in scores.items():
        score.higher_is_better = metrics.higher_is_better(name)
    record = foreign.begun(
        tool="predictions of another system",
        file=given.file,
        name=given.name,
        method=given.method,
        seed=given.seed,
        at=None,
        settings={"dataset": reference.recipe.resolved.get("dataset", {}), "method": {"name": given.method}},
    )
    record.data, record.baselines = reference.data, {split: reference.baselines.get(split, {})}
    record.comparability = reference.comparability
    record.scores = {"after": {split: scores}}
    left = sorted(set(wanted) - set(scores))
    if left:
        record.note(
            f"not computed: {', '.join(left)}: they need probabilities, a model, or the code and settings of that run"
        )
    for sentence in (_unread(rows), _not_likeliest(predictions)):
        if sentence:
            record.note(sentence)
    labels = tuple(reference.data.labels) if reference.data else ()
    write_predictions(out / "predictions" / f"after-{split}.jsonl", predictions, metrics, labels)
    store.write(record, out)
    return record


def _unread(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a sentence on columns or keys that are not read; empty without any."""
    others = sorted({str(key) for row in rows.values() for key in row} - {*KEYS, "place"})
    more = f" and {len(others) - LISTED:,} more" if len(others) > LISTED else ""
    read = f"read are id or text, prediction, and scores or {SCORE}<label>"
    return f"not read: {', '.join(map(repr, others[:LISTED]))}{more}; {read}" if others else ""


def _not_likeliest(predictions: Predictions) -> str:
    """Return a sentence on predictions of one label that are not the most probable one; empty without any."""
    scores, answers = np.asarray(predictions.scores), np.asarray(predictions.predictions)
    if scores.size == 0 or answers.ndim != 1:
        return ""
    number = int((scores[np.arange(len(answers)), answers] < scores.max(axis=1)).sum())
    sentence = f"{number:,} of {len(answers):,} predictions are not the label with the largest probability"
    return sentence if number else ""


def _split(given: ForeignPredictions, reference: Record) -> str:
    splits = sorted({name for stage in reference.scores.values() for name in stage})
    if given.split is None and len(splits) == 1:
        return splits[0]
    if given.split not in splits:
        raise DataError(f"{given.like}: name one of its splits with --split: {', '.join(splits) or 'it has none'}")
    return given.split


def _by_id(
    given: ForeignPredictions, reference: Record, split: str, theirs: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return example id -> the row of its prediction. Raises DataError unless there is exactly one for each."""
    found: dict[str, dict[str, Any]] = {}
    ids: dict[str, str] | None = None
    for place, row in _rows(given.file):
        if "prediction" not in row:
            raise DataError(f"{place}: the key `prediction` is missing.{did_you_mean('prediction', row)}")
        identity = row.get("id")
        if identity is None:
            ids = _ids_by_text(reference, split) if ids is None else ids
            identity = ids.get(str(row.get("text")))
        if str(identity) not in theirs:
            shown = row.get("id", row.get("text"))
            raise DataError(f"{place}: {str(shown)[:60]!r} is no example of {split} in {given.like}")
        if str(identity) in found:
            raise DataError(f"{place}: example {str(identity)!r} has a prediction already")
        found[str(identity)] = {**row, "place": place}
    missing = [identity for identity in theirs if identity not in found]
    if missing:
        named = ", ".join(map(repr, missing[:LISTED]))
        raise DataError(
            f"{given.file}: {len(missing):,} of {len(theirs):,} examples of {split} have no prediction, as {named}"
        )
    return found


def _ids_by_text(reference: Record, split: str) -> dict[str, str]:
    """Return text -> id of the run's examples, from its data; texts that several examples share are left out."""
    try:
        rows, _ = loaded_again(reference, split, from_hub=True)
    except DataError as error:
        raise DataError(
            f"these predictions name no ids, and the texts of the run can't be read again: {error}"
        ) from error
    counts = Counter(str(row["text"]) for row in rows)
    return {text: str(row["id"]) for row in rows if counts[text := str(row["text"])] == 1}


def _rows(path: Path) -> Iterable[tuple[str, dict[str, Any]]]:
    """Yield (place, row) of a CSV (.csv, .tsv) with a header, or of JSON lines. Raises DataError for another file."""
    if path.is_dir():
        raise DataError(f"{path} is a folder; give a file of predictions")
    try:
        text = files.read_text(path, foreign.LIMIT_BYTES).removeprefix("\ufeff")
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: can't be read: {error}") from error
    if path.suffix.lower() in SEPARATORS:
        yield from _rows_of_table(path, text, SEPARATORS[path.suffix.lower()])
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            place = f"{path}:{number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{place}: this is no line of JSON: {error}; a table is named .csv or .tsv") from error
            if not isinstance(row, dict):
                raise DataError(f"{place}: expected an object with `id` and `prediction`, one on each line")
            yield place, row


def _rows_of_table(path: Path, text: str, separator: str) -> Iterable[tuple[str, dict[str, Any]]]:
    """Yield (place, row). Raises DataError for columns that are missing or twice, and rows of another length."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    header = next(reader, [])
    twice = [name for name, number in Counter(header).items() if number > 1]
    if twice:
        raise DataError(f"{path}: the column {twice[0]!r:.60} is there twice")
    if "prediction" not in header:
        columns = ", ".join(map(repr, header))[:200] or "none"
        raise DataError(f"{path}: there is no column `prediction`; its columns, separated by {separator!r}: {columns}")
    for number, cells in enumerate((cells for cells in reader if cells), start=1):
        place = f"{path}: row {number}"
        if len(cells) != len(header):
            raise DataError(f"{place}: it has {len(cells)} cells, and the header {len(header)}")
        row: dict[str, Any] = dict(zip(header, cells, strict=True))
        scores = {key.removeprefix(SCORE): row.pop(key) for key in header if key.startswith(SCORE)}
        # Empty cells in each of its columns: no scores of this example.
        yield place, row | ({"scores": scores} if any(scores.values()) else {})


def _predictions(
    file: Path, reference: Record, theirs: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]
) -> Predictions:
    card = reference.recipe.resolved.get("dataset", {})
    labels = list(reference.data.labels) if reference.data else []
    order = sorted(theirs)
    first = theirs[order[0]]["reference"]
    if isinstance(first, int | float):
        return _numbers(order, theirs, rows)
    in_words = isinstance(first, list) and not card.get("multi_label")
    if not in_words and not labels:
        raise DataError(f"{file}: predictions can be read for runs with labels, or with answers in words")
    if in_words:
        golds = as_array([theirs[identity]["reference"] for identity in order], texts=True)
        answers = as_array([rows[identity]["prediction"] for identity in order], texts=True)
        empty = np.zeros((len(order), 0))
        return Predictions(ids=tuple(order), predictions=answers, references=golds, scores=empty)
    known = {name: number for number, name in enumerate(labels)}
    several = bool(card.get("multi_label"))
    predicted = [_labels(rows[identity]["prediction"], known, rows[identity]["place"], several) for identity in order]
    gold = [_labels(theirs[identity]["reference"], known, str(file), several) for identity in order]
    scores = _all_scores(order, rows, labels, several=several)
    return Predictions(
        ids=tuple(order), predictions=np.array(predicted), references=np.array(gold), scores=np.array(scores, float)
    )


def _numbers(order: list[str], theirs: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> Predictions:
    found = []
    for identity in order:
        try:
            found.append(float(rows[identity]["prediction"]))
        except (TypeError, ValueError) as error:
            raise DataError(f"{rows[identity]['place']}: expected a number: {error}") from error
        if not math.isfinite(found[-1]):
            raise DataError(f"{rows[identity]['place']}: expected a finite number, got {found[-1]}")
    golds = np.array([theirs[identity]["reference"] for identity in order], dtype=float)
    return Predictions(
        ids=tuple(order), predictions=np.array(found), references=golds, scores=np.zeros((len(order), 0))
    )


def _labels(value: Any, known: Mapping[str, int], place: str, several: bool) -> Any:
    """Return a label's number, or 0 and 1 for each of several. Raises DataError for one that the data do not have."""
    if several and isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise DataError(f'{place}: expected a list of labels, as ["joy", "love"], got {value!r:.60}') from error
    if several and not isinstance(value, list):
        raise DataError(f"{place}: expected a list of labels, got {value!r:.60}")
    for name in value if several else [value]:
        if not isinstance(name, str) or name not in known:
            raise DataError(f"{place}: the data have no label {name!r:.60}.{did_you_mean(str(name), known)}")
    return [int(name in value) for name in known] if several else known[value]


def _all_scores(
    order: list[str], rows: Mapping[str, Mapping[str, Any]], labels: list[str], *, several: bool
) -> list[list[float]]:
    """Return the probabilities of each example, or empty lists where there are none at all.

    Raises DataError where only some rows have scores, and for scores that are no probabilities of the labels.
    """
    given = [identity for identity in order if rows[identity].get("scores") is not None]
    if given and len(given) < len(order):
        lacking = next(identity for identity in order if identity not in set(given))
        raise DataError(
            f"{rows[lacking]['place']}: it has no scores, and {len(given):,} of {len(order):,} examples have some; "
            "give them for all examples, or for none"
        )
    if not given:
        return [[] for _ in order]
    return [_scores(rows[one]["scores"], labels, rows[one]["place"], several=several) for one in order]


def _scores(value: Any, labels: list[str], place: str, *, several: bool) -> list[float]:
    expected = f"expected a probability for each label ({', '.join(labels)[:60]})"
    if not isinstance(value, dict):
        raise DataError(f"{place}: {expected}, got {value!r:.60}")
    if other := sorted(set(map(str, value)) - set(labels)):
        raise DataError(f"{place}: the data have no label {other[0]!r:.60}.{did_you_mean(other[0], labels)}")
    if missing := [name for name in labels if name not in value]:
        raise DataError(f"{place}: {expected}; there is none for {missing[0]!r:.60}")
    try:
        found = [float(value[name]) for name in labels]
    except (TypeError, ValueError) as error:
        raise DataError(f"{place}: {expected}: {error}") from error
    if not all(0 <= one <= 1 for one in found):
        raise DataError(f"{place}: probabilities lie between 0 and 1, got {found}")
    if not several and abs(sum(found) - 1) > SUM_OFF:
        raise DataError(f"{place}: probabilities of the labels sum to 1, got {sum(found):.6g}: {found}")
    return found


def _metrics(reference: Record, stage: str, split: str, *, with_scores: bool) -> MetricSet:
    """Return the run's metrics, as far as they can be computed without a model."""
    wanted = set(accessors.scalars(reference, stage, split))
    card = reference.recipe.resolved.get("dataset", {})
    reads = ("predictions", "answers", "numbers", *(("scores",) if with_scores else ()))
    names = [
        name
        for name in registry.names("metrics")
        if wanted.intersection(found := registry.literals("metrics", name).get("higher_is_better", {}))
        and found
        and registry.literals("metrics", name).get("reads", "predictions") in reads
    ]
    return MetricSet(
        tuple(names),
        multi_label=bool(card.get("multi_label")),
        num_labels=len(reference.data.labels) if reference.data else 0,
    )
