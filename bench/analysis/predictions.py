"""Gather the runs of a comparison: read, verified against their records, grouped by system. Loads no torch."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import TextIOWrapper
from itertools import repeat
from operator import itemgetter
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

from bench.analysis import accessors, verify
from bench.analysis.accessors import LeftOut, Located, SystemKey, system_key
from bench.analysis.stats.sums import BY_PROBABILITY, BY_TOKENS, CHOICE_LENGTHS, Line, Tally
from bench.analysis.verify import UnsoundPredictions
from bench.errors import DataError
from bench.records import store
from bench.records.record import Record
from bench.utils import files, numbers, process

# Few enough that the objects of a block stay in the processor's cache.
BLOCK_CHARACTERS = 2**19
_NO_COLUMN: list[Any] = []
_FIELDS = itemgetter("id", "prediction", "reference", "metrics")

# Runs that a refusal names with the reason why they can't be used.
MOST_REASONS = 3


@dataclass(frozen=True, kw_only=True)
class CompareRequest:
    """Options of a comparison. split, metric: None selects the test split, and the metric that ranks runs in reports.

    common: compare runs that scored different examples on their common examples.
    """

    stage: str = "after"
    split: str | None = None
    metric: str | None = None
    common: bool = False


class MissingPredictions(DataError):
    """A run without the prediction file of a stage and split."""


@dataclass(frozen=True, kw_only=True)
class ScoredPredictions:
    """A prediction file: its lines by example id, and the metric's statistics in the order of the file."""

    lines: dict[str, Line]
    tally: Tally

    def on(self, ids: Sequence[str]) -> Tally:
        """Return the metric's statistics for these examples, in this order."""
        if list(self.lines) == ids:
            return self.tally
        places = {identity: place for place, identity in enumerate(self.lines)}
        return replace(self.tally, rows=self.tally.rows[[places[identity] for identity in ids]])

    def in_order(self, ids: Sequence[str]) -> list[Line]:
        """Return the lines of these examples, in this order."""
        return list(self.lines.values()) if list(self.lines) == ids else [self.lines[identity] for identity in ids]

    def alone(self) -> "Tallied":
        """Return the statistics without the lines, which take far more memory."""
        return Tallied(ids=tuple(self.lines), tally=self.tally)


@dataclass(frozen=True, kw_only=True)
class Tallied:
    """Verified statistics of a prediction file in the order of `ids`."""

    ids: tuple[str, ...]
    tally: Tally

    def sorted(self) -> Tally:
        """Return the statistics in the order of the ids' alphabet."""
        ordered = sorted(self.ids)
        if ordered == list(self.ids):
            return self.tally
        places = {identity: place for place, identity in enumerate(self.ids)}
        return replace(self.tally, rows=self.tally.rows[[places[identity] for identity in ordered]])


Verified = dict[tuple[Path, str, str, str], Tallied]
"""(Path of the record, stage, split, metric) -> what its predictions were verified to hold."""


@dataclass(frozen=True, kw_only=True)
class ScoredRun:
    """One run with its predictions."""

    path: Path
    record: Record
    scored: ScoredPredictions

    @property
    def lines(self) -> dict[str, Line]:
        """The prediction lines by example id."""
        return self.scored.lines


@dataclass(frozen=True, kw_only=True)
class MatchedRuns:
    """Runs by system, sorted by name, with the example ids common to all of them.

    ids: sorted. others: number of examples that only some runs scored.
    """

    systems: dict[str, list[ScoredRun]]
    stage: str
    split: str
    metric: str
    higher_is_better: bool
    ids: list[str]
    others: int
    left_out: list[LeftOut]
    notes: list[str] = field(default_factory=list)


def gather(paths: Sequence[Path], request: CompareRequest) -> MatchedRuns:
    """Read and verify all runs at or below `paths`. Raises DataError where fewer than two systems can be compared."""
    located, left_out = _records(paths)
    _refuse_folds(located)
    located, repeated = latest_per_seed(located)
    left_out += repeated
    _require_two(located, left_out)
    _require_same_key(located, common=request.common)
    split, metric = _split_and_metric(located, request)
    runs = []
    for path, record in located:
        if metric not in accessors.scalars(record, request.stage, split):
            left_out.append(LeftOut(path=path, reason=f"the run has no {metric}"))
            continue
        try:
            scored = read_predictions(path, record, request.stage, split, metric)
        except DataError as error:
            left_out.append(LeftOut(path=path, reason=str(error), is_unsound=isinstance(error, UnsoundPredictions)))
            continue
        runs.append(ScoredRun(path=path, record=record, scored=scored))
    _require_two([(run.path, run.record) for run in runs], left_out)
    ids, others = _common_ids(runs)
    if metric in BY_TOKENS:
        _require_same_tokens(runs, ids, metric)
    return MatchedRuns(
        systems=_by_system(runs),
        stage=request.stage,
        split=split,
        metric=metric,
        higher_is_better=accessors.higher_is_better([run.record for run in runs], metric),
        ids=ids,
        others=others,
        left_out=sorted(left_out, key=lambda item: (str(item.path), item.reason)),
        notes=_notes([run.record for run in runs]),
    )


def _refuse_folds(runs: Iterable[Located]) -> None:
    """Raise DataError for runs on folds, which are not independent: no test of this module's users holds for them."""
    for path, record in runs:
        if accessors.fold_asked(record) is not None:
            raise DataError(
                f"{path} is of one fold of a cross-validation: folds share most of their training examples, so that "
                "paired tests do not hold for them; `compare` and `report` test all folds by the corrected t-test"
            )


def scored_parts(record: Record) -> list[tuple[str, str]]:
    """Return every (stage, split) that was scored."""
    return [(stage, split) for stage, splits in record.scores.items() for split in splits]


def find_contradiction(
    path: Path, record: Record, parts: Iterable[tuple[str, str]] | None = None, verified: Verified | None = None
) -> str | None:
    """Return how the predictions contradict the record's scores; None if they agree, or there are no predictions.

    parts: stages and splits to verify; None for all. verified: is given what agrees, so that it is read once.
    """
    for stage, split in (scored_parts(record) if parts is None else parts) if record.data else ():
        metric = accessors.ranking_metric(accessors.scalars(record, stage, split))
        try:
            if metric is not None:
                scored = read_predictions(path, record, stage, split, metric)
                if verified is not None:
                    verified[path, stage, split, metric] = scored.alone()
        except UnsoundPredictions as error:
            return str(error)
        except DataError:  # no predictions, or this metric can't be computed from them
            continue
    return None


def _records(paths: Sequence[Path]) -> tuple[list[Located], list[LeftOut]]:
    """Return completed runs that can be compared, ordered by path, and the others with the reason."""
    for path in paths:
        store.locate([path])  # raises for a path without any record
    records, left_out = accessors.read_all(paths)
    comparable = []
    for path, record in records:
        if record.status != "ok":
            reason = f"the run ended with status {record.status}: {record.reason or 'unknown reason'}"
            left_out.append(LeftOut(path=path, reason=reason))
        elif record.comparability is None or record.data is None:
            left_out.append(LeftOut(path=path, reason="the record does not say which examples were scored"))
        elif not any(record.scores.values()):
            left_out.append(LeftOut(path=path, reason="the record has no scores"))
        else:
            comparable.append((path, record))
    return comparable, left_out


def latest_per_seed(runs: Iterable[Located]) -> tuple[list[Located], list[LeftOut]]:
    """Keep the latest of several runs with the same system and seed; return these, and the others with the reason.

    Such repetitions are not independent samples.
    """
    kept: dict[tuple[SystemKey, int | None], Located] = {}
    repeated = []
    for path, record in sorted(runs, key=lambda pair: (pair[1].started_at, str(pair[0]))):
        place = (system_key(record), record.seed)
        if place in kept:
            reason = f"same system and seed as {path}, which started later or is a copy"
            repeated.append(LeftOut(path=kept[place][0], reason=reason))
        kept[place] = (path, record)
    return sorted(kept.values(), key=lambda pair: str(pair[0])), repeated


def _require_two(runs: Iterable[Located], left_out: list[LeftOut]) -> None:
    systems = {system_key(record) for _, record in runs}
    if len(systems) < 2:
        only = f" (found only {next(iter(systems))[0]!r})" if systems else ""
        reasons = "".join(f"; {item.path}: {item.reason}" for item in left_out[:MOST_REASONS])
        more = len(left_out) - MOST_REASONS
        others = f"; {more} more run{'s' if more > 1 else ''} can't be used either" if more > 0 else ""
        raise DataError(f"a comparison needs completed runs of at least two systems{only}{reasons}{others}")


def _require_same_key(runs: list[Located], *, common: bool) -> None:
    """Raise DataError where two runs were not scored on the same examples with the same metrics."""
    first_path, first = runs[0]
    for path, record in runs[1:]:
        one, other = first.comparability, record.comparability
        if one is None or other is None or one.key == other.key:
            continue
        differ = [name for name in ("data", "metrics") if one.parts.get(name) != other.parts.get(name)]
        ids = [item.data.id if item.data else "" for item in (first, record)]
        labels = [item.data.labels if item.data else [] for item in (first, record)]
        if common and differ == ["data"] and ids[0] == ids[1] and labels[0] == labels[1]:
            continue
        sets = f" (data sets {ids[0]!r} and {ids[1]!r})" if ids[0] != ids[1] else ""
        parts = [f"{name} {one.parts.get(name)} and {other.parts.get(name)}" for name in differ] or ["the key"]
        hint = "" if differ != ["data"] or sets or labels[0] != labels[1] else (
            "; pass --common to compare them on their common examples"
        )  # fmt: skip
        raise DataError(
            f"{first_path} and {path} can't be compared: they were not scored on the same examples with the same "
            f"metrics. Their comparability differs in {'; '.join(parts)}{sets}{hint}"
        )


def _require_same_tokens(runs: list[ScoredRun], ids: list[str], metric: str) -> None:
    """Raise DataError where a reference is of other tokens in one run than in another: losses per token then differ."""
    counts = [[run.lines[identity].tokens for identity in ids] for run in runs]
    for run, other in zip(runs, counts, strict=True):
        if other != counts[0]:
            raise DataError(
                f"{runs[0].path} and {run.path} can't be compared by {metric}, which is per token: their tokenizers "
                "make other tokens of the same references; name another metric, e.g. --metric chrf"
            )


def _split_and_metric(runs: list[Located], request: CompareRequest) -> tuple[str, str]:
    """Return split and metric, as requested or by default. A run without the metric is excluded later.

    Raises DataError for a split that not every run has, and for a metric that no run has.
    """
    scored = [record.scores.get(request.stage, {}) for _, record in runs]
    splits = [name for name in accessors.splits(runs[0][1]) if all(name in stage for stage in scored)]
    if not splits or request.split not in (None, *splits):
        what = f"the split {request.split!r}" if request.split else "any common split"
        lacking = next(
            (path for (path, _), stage in zip(runs, scored, strict=True) if request.split not in stage), None
        )
        others = f"; common to all: {', '.join(splits)}" if splits else f"; {lacking} has none" if lacking else ""
        raise DataError(f"not all of these runs have scores of {what} at stage {request.stage!r}{others}")
    split = request.split or splits[0]
    names = [{name for name, item in stage[split].items() if isinstance(item.value, int | float)} for stage in scored]
    known = set.union(*names)
    metric = request.metric or accessors.ranking_metric(known)
    if metric is None or metric not in known:
        what = f"the metric {request.metric!r}" if request.metric else "a metric"
        raise DataError(f"none of these runs has {what} on {split}; available: {', '.join(sorted(known)) or 'none'}")
    return split, metric


@process.no_collection()
def read_predictions(path: Path, record: Record, stage: str, split: str, metric: str) -> ScoredPredictions:
    """Read a run's predictions and verify them against its record.

    Raises UnsoundPredictions for a contradiction, MissingPredictions without a file.
    """
    file = path.parent / "predictions" / f"{stage}-{split}.jsonl"
    stated = verify.StatedScores(file=file, record=record, stage=stage, split=split, metric=metric)
    verify.check_seed(path, record)
    lines: dict[str, Line] = {}
    hashes: dict[str, str] = {}
    values: list[dict[str, Any]] = []
    choices = [name for name in CHOICE_LENGTHS if name in stated.scores]
    for block in _row_blocks(stated.file):
        checked = None if choices else _checked_lines(stated, block, lines)
        if checked is None:  # row by row: the sentence names the first line that is not sound
            checked = _lines_one_by_one(stated, block, lines, choices)
        lines.update(checked)
        values.extend(block.metrics)
        if record.prompts is not None:
            found = ((row["id"], row.get("prompt_hash")) for row in block.rows)
            hashes.update((identity, text) for identity, text in found if isinstance(text, str))
    tally = verify.check_metric(stated, lines)
    verify.check_other_metrics(stated, lines, values)
    verify.check_prompts(stated, hashes, len(lines))
    return ScoredPredictions(lines=lines, tally=tally)


def _checked_lines(stated: verify.StatedScores, block: "Block", known: Mapping[str, Line]) -> dict[str, Line] | None:
    """Return the lines of a block by id; None where an id was seen before, or a value is not a number.

    Columns are read one after the other, which takes a third of the time of reading row by row.
    """
    values = [each.get(stated.metric) for each in block.metrics]
    losses, tokens = _NO_COLUMN, _NO_COLUMN
    if not BY_TOKENS.keys().isdisjoint(stated.scores):
        losses = [row.get("reference_nll") for row in block.rows]
        tokens = [row.get("reference_tokens") for row in block.rows]
    scores = [_scores(row) for row in block.rows] if _keeps_scores(stated) else _NO_COLUMN
    kinds = (set(map(type, values)), set(map(type, losses or ())), set(map(type, tokens or ())))
    if not (kinds[0] | kinds[1] <= {int, float, NoneType} and kinds[2] <= {int, NoneType}):
        return None
    columns = (block.predictions, block.references, values, losses or repeat(None), tokens or repeat(None),
               scores or repeat(None))  # fmt: skip
    # As Line(*fields), without a call of Python for each.
    lines = map(tuple.__new__, repeat(Line), zip(*columns, strict=False))
    found: dict[str, Line] = dict(zip(block.ids, lines, strict=True))
    return found if len(found) == len(block.ids) and found.keys().isdisjoint(known) else None


def _keeps_scores(stated: verify.StatedScores) -> bool:
    """Return whether probabilities are read; of thousands of labels they are far more than all else of a line."""
    return not stated.scores.keys().isdisjoint(BY_PROBABILITY)


def _scores(row: dict[str, Any]) -> dict[str, float] | None:
    found = row.get("scores")
    return found if isinstance(found, dict) else None


def _lines_one_by_one(
    stated: verify.StatedScores, block: "Block", known: Mapping[str, Line], choices: list[str]
) -> dict[str, Line]:
    """Return the lines of a block by id. Raises UnsoundPredictions for the first that is not sound."""
    lines: dict[str, Line] = {}
    keeps_scores = _keeps_scores(stated)
    for place, row in enumerate(block.rows, block.number):
        identity = row["id"]
        if identity in lines or identity in known:
            raise UnsoundPredictions(f"{stated.file}:{place}: duplicate example id {identity!r}")
        value = row["metrics"].get(stated.metric)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise UnsoundPredictions(f"{stated.file}:{place}: {stated.metric} is not a number: {value!r}")
        loss, tokens = (row.get(f"reference_{name}") for name in ("nll", "tokens"))
        if choices:
            verify.check_choices(stated, identity, row, choices)
        lines[identity] = Line(
            prediction=row["prediction"],
            reference=row["reference"],
            value=value,
            loss=loss if isinstance(loss, int | float) else None,
            tokens=tokens if isinstance(tokens, int) else None,
            scores=_scores(row) if keeps_scores else None,
        )
    return lines


def prediction_rows(path: Path, stage: str, split: str) -> Iterable[dict[str, Any]]:
    """Yield the lines of a run's file of predictions, as they are. path: of the record.

    Raises MissingPredictions without a file, UnsoundPredictions for a line that is none of a prediction.
    """
    blocks = _row_blocks(path.parent / "predictions" / f"{stage}-{split}.jsonl")
    return (row for block in blocks for row in block.rows)


class Block(NamedTuple):
    """Some lines of a file: their objects, and the columns that every line has. number: of the first line."""

    number: int
    rows: list[dict[str, Any]]
    ids: Sequence[str]
    predictions: Sequence[Any]
    references: Sequence[Any]
    metrics: Sequence[dict[str, Any]]


def _row_blocks(file: Path) -> Iterable[Block]:
    """Yield the lines of a file in blocks. Raises UnsoundPredictions for a line that is none of a prediction."""
    number = 1
    for lines in _blocks(file):
        rows = _parsed(file, lines, number)
        columns = _columns(rows) or _columns(list(_sound_rows(file, rows, number)))
        assert columns is not None
        yield Block(number, rows, *columns)
        number += len(rows)


def _columns(rows: list[Any]) -> list[tuple[Any, ...]] | None:
    """Return ids, predictions, references and metrics; None where a row lacks one, or has one of another type."""
    try:
        columns = list(zip(*map(_FIELDS, rows), strict=True)) or [()] * 4
    except (TypeError, KeyError, IndexError):
        return None
    return columns if set(map(type, columns[0])) <= {str} and set(map(type, columns[-1])) <= {dict} else None


def _sound_rows(file: Path, rows: Iterable[Any], number: int) -> Iterable[dict[str, Any]]:
    for place, row in enumerate(rows, number):
        sound = isinstance(row, dict) and isinstance(row.get("id"), str) and isinstance(row.get("metrics"), dict)
        if not sound or not {"prediction", "reference"} <= set(row):
            raise UnsoundPredictions(f"{file}:{place}: expected an object with id, prediction, reference and metrics")
        yield row


def _blocks(file: Path) -> Iterable[list[str]]:
    """Read lines in blocks: with the probabilities of thousands of labels they hold far more than what is kept."""
    try:
        # Ends at line feeds only: JSON does not escape other separators of Unicode.
        with TextIOWrapper(files.open_regular(file, files.LIMIT_BYTES), encoding="utf-8", newline="\n") as stream:
            lines = stream.readlines(BLOCK_CHARACTERS) or [""]
            while lines:
                yield lines
                lines = stream.readlines(BLOCK_CHARACTERS)
    except FileNotFoundError as error:
        raise MissingPredictions(f"{file} not found; a run can't be compared without its predictions") from error
    except (OSError, ValueError) as error:
        raise UnsoundPredictions(f"{file}: can't be read: {error}") from error


def _parsed(file: Path, lines: list[str], number: int) -> list[Any]:
    """Parse each line. number: of the first one. Raises UnsoundPredictions for one that is not valid JSON."""
    try:
        # Parsing all lines as one list takes half the time.
        rows = json.loads(f"[{','.join(lines)}]", parse_int=numbers.whole_number)
    except (ValueError, RecursionError):
        rows = []
    if len(rows) == len(lines):
        return list(rows)
    return [_value(file, place, line.removesuffix("\n")) for place, line in enumerate(lines, number)]


def _value(file: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line, parse_int=numbers.whole_number)
    except (ValueError, RecursionError) as error:
        raise UnsoundPredictions(f"{file}:{number}: not valid JSON (truncated or edited?): {error}") from error


def _common_ids(runs: list[ScoredRun]) -> tuple[list[str], int]:
    """Return the ids that all runs scored, sorted, and the number of others. Raises DataError for fewer than two."""
    sets = [set(run.lines) for run in runs]
    common = sorted(set.intersection(*sets))
    if not common:
        raise DataError(f"these {len(runs)} runs can't be compared: they have no example in common")
    if len(common) == 1:
        raise DataError(f"these {len(runs)} runs can't be compared: they have only one example in common")
    first = runs[0]
    references = [line.reference for line in first.scored.in_order(common)]
    for run in runs[1:]:
        if [line.reference for line in run.scored.in_order(common)] == references:
            continue
        for identity in common:
            if run.lines[identity].reference != first.lines[identity].reference:
                raise DataError(
                    f"{first.path} and {run.path} can't be compared: they have different references for the example "
                    f"{identity!r}"
                )
    return common, len(set.union(*sets)) - len(common)


def _by_system(runs: list[ScoredRun]) -> dict[str, list[ScoredRun]]:
    """Return the runs of each system, ordered by seed, by a name made unique by `accessors.endings`."""
    groups: dict[SystemKey, list[ScoredRun]] = {}
    for run in runs:
        groups.setdefault(system_key(run.record), []).append(run)
    endings = accessors.endings({key: group[0].record for key, group in groups.items()})
    named: dict[str, list[ScoredRun]] = {}
    for key, group in sorted(groups.items()):
        named[accessors.shown_name(group[0].record) + endings[key]] = sorted(
            group, key=lambda run: run.record.seed or 0
        )
    return named


def _notes(records: list[Record]) -> list[str]:
    """Return notes on differences between the runs that do not prevent a comparison."""
    notes = []
    for part, what in (("template", "prompts"), ("generation", "generation settings")):
        if len({record.comparability.parts.get(part) for record in records if record.comparability}) > 1:
            notes.append(f"The runs used different {what}, so these are part of the comparison.")
    if len({accessors.machine(record) for record in records}) > 1:
        notes.append("The runs differ in processes, devices or precision (see their records).")
    return notes
