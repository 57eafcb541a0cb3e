"""The runs that are to be compared: read, checked against their records, put together by system. Loads no torch."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.analysis import accessors, verify
from bench.analysis.accessors import Key, LeftOut, Located, key_of
from bench.analysis.stats.sums import Line, Tally
from bench.analysis.verify import Unsound
from bench.config import registry
from bench.errors import DataError
from bench.records import store
from bench.records.record import Record
from bench.utils import numbers, process


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is compared. None takes the test split, and the metric that ranks runs in reports.

    common: runs that scored different examples are compared on those that all of them scored.
    """

    stage: str = "after"
    split: str | None = None
    metric: str | None = None
    common: bool = False


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A file of predictions: its lines by example id, and what the metric adds up, in the order of the file."""

    lines: dict[str, Line]
    tally: Tally

    def on(self, ids: Sequence[str]) -> Tally:
        """What the metric adds up on these examples, in their order."""
        if list(self.lines) == ids:
            return self.tally
        places = {identity: place for place, identity in enumerate(self.lines)}
        return replace(self.tally, rows=self.tally.rows[[places[identity] for identity in ids]])


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run, with its predictions."""

    path: Path
    record: Record
    scored: Scored

    @property
    def lines(self) -> dict[str, Line]:
        """Its lines by example id."""
        return self.scored.lines


@dataclass(frozen=True, kw_only=True)
class Field:
    """Runs by system, in the order of names; the ids that all have in common, sorted, and how many others there are."""

    systems: dict[str, list[Run]]
    stage: str
    split: str
    metric: str
    higher_is_better: bool
    ids: list[str]
    others: int
    left_out: list[LeftOut]
    notes: list[str] = field(default_factory=list)


def gather(paths: Sequence[Path], asked: Asked) -> Field:
    """Reads all records at or below `paths`. Raises DataError where fewer than two systems can be compared."""
    found, left_out = _records(paths)
    found, repeated = one_per_seed(found)
    left_out += repeated
    _require_two(found, left_out)
    _require_same_key(found, common=asked.common)
    split, metric = _chosen(found, asked)
    runs = []
    for path, record in found:
        if metric not in accessors.scalars(record, asked.stage, split):
            left_out.append(LeftOut(path=path, reason=f"the run has no {metric}"))
            continue
        try:
            with process.no_collection():
                scored = scored_by(path, record, asked.stage, split, metric)
        except DataError as error:
            left_out.append(LeftOut(path=path, reason=str(error), is_unsound=isinstance(error, Unsound)))
            continue
        runs.append(Run(path=path, record=record, scored=scored))
    _require_two([(run.path, run.record) for run in runs], left_out)
    ids, others = _common_ids(runs)
    return Field(
        systems=_by_system(runs),
        stage=asked.stage,
        split=split,
        metric=metric,
        higher_is_better=registry.higher_is_better(metric),
        ids=ids,
        others=others,
        left_out=sorted(left_out, key=lambda item: (str(item.path), item.reason)),
        notes=_notes([run.record for run in runs]),
    )


def parts_of(record: Record) -> list[tuple[str, str]]:
    """Every stage and split that was scored."""
    return [(stage, split) for stage, splits in record.scores.items() for split in splits]


def contradiction(path: Path, record: Record, parts: Iterable[tuple[str, str]] | None = None) -> str | None:
    """How the predictions beside a record deny its scores; None where they don't, or there are none.

    parts: stages and splits that are looked at; None for all.
    """
    for stage, split in (parts_of(record) if parts is None else parts) if record.data else ():
        metric = accessors.ranking_metric(accessors.scalars(record, stage, split))
        try:
            if metric is not None:
                scored_by(path, record, stage, split, metric)
        except Unsound as error:
            return str(error)
        except DataError:  # no predictions, or such as this metric can't be made of
            continue
    return None


def _records(paths: Sequence[Path]) -> tuple[list[Located], list[LeftOut]]:
    """Records of runs that ended well and can be compared, in the order of their paths; the others with the reason."""
    for path in paths:
        store.locate([path])  # each must hold one at least
    records, left_out = accessors.read_all(paths)
    found = []
    for path, record in records:
        if record.status != "ok":
            reason = f"the run ended as {record.status}: {record.reason or 'no reason is known'}"
            left_out.append(LeftOut(path=path, reason=reason))
        elif record.comparability is None or record.data is None:
            left_out.append(LeftOut(path=path, reason="the record doesn't say which examples were scored"))
        elif not any(record.scores.values()):
            left_out.append(LeftOut(path=path, reason="the record has no scores"))
        else:
            found.append((path, record))
    return found, left_out


def one_per_seed(found: Iterable[Located]) -> tuple[list[Located], list[LeftOut]]:
    """Of several runs of one system with one seed the last counts: they are no independent samples. Also the others."""
    kept: dict[tuple[Key, int | None], Located] = {}
    repeated = []
    for path, record in sorted(found, key=lambda pair: (pair[1].started_at, str(pair[0]))):
        place = (key_of(record), record.seed)
        if place in kept:
            reason = f"the same system and seed as {path}, which started later or is a copy"
            repeated.append(LeftOut(path=kept[place][0], reason=reason))
        kept[place] = (path, record)
    return sorted(kept.values(), key=lambda pair: str(pair[0])), repeated


def _require_two(found: Iterable[tuple[Path, Record]], left_out: list[LeftOut]) -> None:
    systems = {key_of(record) for _, record in found}
    if len(systems) < 2:
        only = f" ({next(iter(systems))[0]!r} is the only one)" if systems else ""
        why = "".join(f"; {item.path}: {item.reason}" for item in left_out)
        raise DataError(f"a comparison needs runs of two systems that ended well{only}{why}")


def _require_same_key(found: list[Located], *, common: bool) -> None:
    """Raises DataError where two were not scored on the same examples, in the same way."""
    first_path, first = found[0]
    for path, record in found[1:]:
        one, other = first.comparability, record.comparability
        if one is None or other is None or one.key == other.key:
            continue
        differ = [name for name in ("data", "metrics") if one.parts.get(name) != other.parts.get(name)]
        ids = [item.data.id if item.data else "" for item in (first, record)]
        labels = [item.data.labels if item.data else [] for item in (first, record)]
        if common and differ == ["data"] and ids[0] == ids[1] and labels[0] == labels[1]:
            continue
        sets = f" (data sets {ids[0]!r} and {ids[1]!r})" if ids[0] != ids[1] else ""
        parts = [f"{name} {one.parts.get(name)} against {other.parts.get(name)}" for name in differ] or ["the key"]
        hint = "" if differ != ["data"] or sets or labels[0] != labels[1] else (
            "; --common compares them on the examples that both have scored"
        )  # fmt: skip
        raise DataError(
            f"{first_path} and {path} were not scored on the same examples in the same way, so they can't be "
            f"compared: their comparability differs in {' and '.join(parts)}{sets}{hint}"
        )


def _chosen(found: list[Located], asked: Asked) -> tuple[str, str]:
    """Split and metric, as asked or by default. Raises DataError for a split that not every run has, or a metric that
    none has; one that only some have stays the metric, and the others are left out."""
    scored = [record.scores.get(asked.stage, {}) for _, record in found]
    splits = [name for name in accessors.splits(found[0][1]) if all(name in stage for stage in scored)]
    if not splits or asked.split not in (None, *splits):
        what = f"the split {asked.split!r}" if asked.split else "a split"
        lacking = next((path for (path, _), stage in zip(found, scored, strict=True) if asked.split not in stage), None)
        others = f": {', '.join(splits)}" if splits else f": {lacking} has none" if lacking else ""
        raise DataError(f"not all of these runs have scores of {what} at the stage {asked.stage!r}{others}")
    split = asked.split or splits[0]
    names = [{name for name, item in stage[split].items() if isinstance(item.value, int | float)} for stage in scored]
    known = set.union(*names)
    metric = asked.metric or accessors.ranking_metric(known)
    if metric is None or metric not in known:
        what = f"the metric {asked.metric!r}" if asked.metric else "a metric"
        raise DataError(f"none of these runs has {what} on {split}; known: {', '.join(sorted(known)) or 'none'}")
    return split, metric


def scored_by(path: Path, record: Record, stage: str, split: str, metric: str) -> Scored:
    """A run's predictions, checked against its record. Raises Unsound, or DataError where there are none."""
    stated = verify.Stated(file=path.parent / "predictions" / f"{stage}-{split}.jsonl", record=record, stage=stage,
                              split=split, metric=metric)  # fmt: skip
    verify.check_seed(path, record)
    lines: dict[str, Line] = {}
    hashes: dict[str, str] = {}
    values: list[dict[str, Any]] = []
    for number, row in _rows(stated.file):
        identity = row["id"]
        if identity in lines:
            raise Unsound(f"{stated.file}:{number}: the example {identity!r} comes twice")
        value = row["metrics"].get(metric)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise Unsound(f"{stated.file}:{number}: {metric} is no number: {value!r}")
        lines[identity] = Line(prediction=row["prediction"], reference=row["reference"], value=value)
        values.append(row["metrics"])
        if isinstance(row.get("prompt_hash"), str):
            hashes[identity] = row["prompt_hash"]
    counted = verify.checked(stated, lines)
    verify.check_others(stated, list(lines.values()), values)
    verify.check_prompts(stated, hashes, len(lines))
    return Scored(lines=lines, tally=counted)


def _rows(file: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError(f"there is no {file}; without its predictions a run can't be compared") from error
    except (OSError, ValueError) as error:
        raise Unsound(f"{file}: can't be read: {error}") from error
    # Not splitlines, which also divides at separators that JSON leaves as they are.
    for number, row in enumerate(_parsed(file, text.removesuffix("\n").split("\n")), 1):
        sound = isinstance(row, dict) and isinstance(row.get("id"), str) and isinstance(row.get("metrics"), dict)
        if not sound or not {"prediction", "reference"} <= set(row):
            raise Unsound(f"{file}:{number}: expected an object with id, prediction, reference and metrics")
        yield number, row


def _parsed(file: Path, lines: list[str]) -> Iterable[Any]:
    """The value of each line. Raises Unsound for a line that is no JSON."""
    try:
        # As one list they are read in half of the time.
        rows = json.loads(f"[{','.join(lines)}]", parse_int=numbers.whole_number)
    except (ValueError, RecursionError):
        rows = []
    if len(rows) == len(lines):
        return list(rows)
    return (_value(file, number, line) for number, line in enumerate(lines, 1))


def _value(file: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line, parse_int=numbers.whole_number)
    except (ValueError, RecursionError) as error:
        raise Unsound(f"{file}:{number}: no JSON (half-written or edited?): {error}") from error


def _common_ids(runs: list[Run]) -> tuple[list[str], int]:
    """Ids that all runs scored, sorted, and how many others there are. Raises DataError for fewer than two."""
    sets = [set(run.lines) for run in runs]
    common = sorted(set.intersection(*sets))
    if not common:
        raise DataError(f"these {len(runs)} runs have no example in common, so they can't be compared")
    if len(common) == 1:
        raise DataError(f"these {len(runs)} runs have one example in common, which tells nothing of others")
    first = runs[0]
    for run in runs[1:]:
        for identity in common:
            if run.lines[identity].reference != first.lines[identity].reference:
                raise DataError(
                    f"{first.path} and {run.path} have different references for the example {identity!r}, so they "
                    "can't be compared"
                )
    return common, len(set.union(*sets)) - len(common)


def _by_system(runs: list[Run]) -> dict[str, list[Run]]:
    """Systems by a name that tells them apart, see `readings.told_apart`; the runs of each in the order of seeds."""
    groups: dict[Key, list[Run]] = {}
    for run in runs:
        groups.setdefault(key_of(run.record), []).append(run)
    named: dict[str, list[Run]] = {}
    for (name, recipe_hash), group in sorted(groups.items()):
        alike = {key: other[0].record for key, other in groups.items() if key[0] == name}
        shown = name + accessors.told_apart(alike)[name, recipe_hash]
        named[shown] = sorted(group, key=lambda run: run.record.seed or 0)
    return named


def _notes(records: list[Record]) -> list[str]:
    """What differs between the runs and is no reason to refuse, but to know."""
    notes = []
    for part, what in (("template", "prompts"), ("generation", "ways to answer")):
        if len({record.comparability.parts.get(part) for record in records if record.comparability}) > 1:
            notes.append(f"The runs were asked with different {what}, which is a part of what is compared.")
    if len({accessors.machine(record) for record in records}) > 1:
        notes.append("The runs differ in processes, devices or precision, see their records.")
    return notes
