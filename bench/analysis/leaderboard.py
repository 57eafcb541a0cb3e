"""Rank systems: group records by data set, aggregate over seeds, attach paired tests. Loads no torch.

Runs of one recipe with several seeds are one system; `analysis.compare` tests which systems differ.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from bench.analysis import accessors, compare, predictions, verify_beside
from bench.analysis.accessors import LeftOut, Located, SystemKey
from bench.analysis.compare import Comparison
from bench.analysis.predictions import CompareRequest, MatchedRuns, Verified
from bench.errors import DataError
from bench.records.record import Record
from bench.utils import numbers


@dataclass(frozen=True, kw_only=True)
class RankedSystem:
    """One system with its runs, ordered by seed. score: mean over seeds.

    short: the name without the parts that all runs of all data sets share. low, high: 95 % interval; of one seed over
    other examples, of several over other seeds and examples; None if unknown. seed_std: sample standard deviation over
    seeds. tier, letter, compared_as: rank, letter and name in the comparison, None without paired tests.
    """

    name: str
    short: str
    runs: list[Located]
    score: float | None
    low: float | None
    high: float | None
    seed_std: float | None
    tier: int | None
    letter: str | None
    compared_as: str | None

    @property
    def records(self) -> list[Record]:
        """The records of the runs."""
        return [record for _, record in self.runs]

    @property
    def label(self) -> str:
        """The short name with the letter that notes and verdicts use."""
        return f"{self.letter}: {self.short}" if self.letter else self.short


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs with the same comparability key. systems: best first.

    differs: parts of comparability in which the groups of this data set differ. comparison, matched: None without
    paired tests; `why_untested` gives the reason. requested_metric: no run has it where `metric` is None. not_counted:
    earlier repetitions of a system and seed, and runs whose predictions are missing or contradict the record, so that
    score, interval and tests are of the same runs. verified: statistics of the predictions that were read. shared:
    places of the parts of names that short names leave out.
    """

    data_set: str
    key: str
    differs: str
    split: str | None
    metric: str | None
    higher_is_better: bool
    systems: list[RankedSystem]
    failed: list[Located]
    not_counted: list[LeftOut]
    comparison: Comparison | None
    matched: MatchedRuns | None
    why_untested: str | None
    requested_metric: str | None = None
    verified: Verified = field(default_factory=dict)
    shared: frozenset[int] = frozenset()

    def is_better(self, first: RankedSystem, second: RankedSystem) -> bool:
        """Return whether the first is significantly better by a paired test corrected over all pairs."""
        pairs = self.comparison.pairs if self.comparison else []
        letters = (first.letter, second.letter)
        return any((pair.first, pair.second) == letters and pair.p_holm <= compare.ALPHA for pair in pairs)


def groups(records: Sequence[Located], metric: str | None = None) -> Iterator[Group]:
    """Yield groups by data set and comparability key, one at a time, since each holds the predictions of all its runs.

    metric: ranks and compares systems; None selects the one that ranks runs in reports. The order of the records does
    not matter.
    """
    shared = accessors.shared_parts(record for _, record in records)
    for data_set, tables in sorted(accessors.by_data_set(records).items()):
        differs = "" if len(tables) < 2 else ", ".join(accessors.differing_parts(tables)) or "unknown"
        for key, runs in sorted(tables.items(), key=lambda item: (not item[0], item[0])):
            yield _group(data_set, key, runs, differs, metric, shared)


def _group(
    data_set: str, key: str, runs: list[Located], differs: str, requested: str | None, shared: frozenset[int]
) -> Group:
    failed = [pair for pair in runs if pair[1].status != "ok"]
    verified: Verified = {}
    sound, contradicted = _verified_elsewhere((pair for pair in runs if pair[1].status == "ok"), verified)
    by_system, repeated = _by_system(sound)
    not_counted = [*contradicted, *repeated]
    matched, comparison, why_untested = _tested([pair for group in by_system.values() for pair in group], requested)
    by_system = _verified(by_system, matched, not_counted)
    if matched is not None:
        for run in (run for group in matched.systems.values() for run in group):
            verified[run.path, matched.stage, matched.split, matched.metric] = run.scored.alone()
    valid = [record for group in by_system.values() for _, record in group]
    split = comparison.split if comparison else next((name for one in valid for name in accessors.splits(one)), None)
    names = {name for one in valid for stage in accessors.STAGES for name in accessors.scalars(one, stage, split)}
    metric = comparison.metric if comparison else accessors.ranking_metric(names & {requested} if requested else names)
    higher = accessors.higher_is_better(valid, metric)
    shown = system_names({one: group[0][1] for one, group in by_system.items()}, shared)
    compared = (
        {accessors.system_key(group[0].record): name for name, group in matched.systems.items()} if matched else {}
    )
    systems = []
    for one, group in by_system.items():
        compared_as = compared.get(one)
        name, short = shown[one]
        place = next((item for item in comparison.systems if item.name == compared_as), None) if comparison else None
        systems.append(
            RankedSystem(
                name=name, short=short, runs=group, compared_as=compared_as, tier=place.tier if place else None,
                letter=place.letter if place else None,
                **_score(group, split, metric, place),
            )
        )  # fmt: skip
    return Group(
        data_set=data_set, key=key, differs=differs, split=split, metric=metric, higher_is_better=higher,
        systems=sorted(systems, key=lambda system: _rank(system, higher)),
        failed=failed, not_counted=not_counted, comparison=comparison, matched=matched, why_untested=why_untested,
        requested_metric=requested, verified=verified, shared=shared,
    )  # fmt: skip


def _rank(system: RankedSystem, higher: bool) -> tuple[bool, float, str]:
    score = system.score or 0.0
    return system.score is None, -score if higher else score, system.name


def _by_system(runs: Iterable[Located]) -> tuple[dict[SystemKey, list[Located]], list[LeftOut]]:
    """Return runs by system, ordered by seed, and earlier repetitions of a system and seed."""
    kept, repeated = predictions.latest_per_seed(runs)
    systems: dict[SystemKey, list[Located]] = {}
    for pair in sorted(kept, key=lambda pair: (accessors.system_key(pair[1]), pair[1].seed or 0)):
        systems.setdefault(accessors.system_key(pair[1]), []).append(pair)
    return systems, repeated


def _verified_elsewhere(runs: Iterable[Located], verified: Verified) -> tuple[list[Located], list[LeftOut]]:
    """Verify the scores that no paired test reads, e.g. those before training; return sound and contradicted runs."""
    kept, contradicted = [], []
    for path, record in runs:
        others = [part for part in predictions.scored_parts(record) if part != _tested_part(record)]
        why = predictions.find_contradiction(path, record, others, verified)
        if why := why or verify_beside.find_contradiction(path, record):
            contradicted.append(LeftOut(path=path, reason=why, is_unsound=True))
        else:
            kept.append((path, record))
    return kept, contradicted


def _tested_part(record: Record) -> tuple[str, str]:
    """Return the stage and split that paired tests read."""
    return "after", next(iter(accessors.splits(record)), "")


def _verified(
    systems: dict[SystemKey, list[Located]], matched: MatchedRuns | None, not_counted: list[LeftOut]
) -> dict[SystemKey, list[Located]]:
    """Remove runs with contradicting predictions, and runs of a tested system without any; add them to `not_counted`.

    A system of which no run was tested keeps the scores of its records, without a tier.
    """
    if matched is None:
        reasons = {
            path: predictions.find_contradiction(path, record, [_tested_part(record)])
            for group in systems.values() for path, record in group
        }  # fmt: skip
        not_counted += [LeftOut(path=path, reason=why, is_unsound=True) for path, why in reasons.items() if why]
        contradicted, missing = {path for path, why in reasons.items() if why}, set[Path]()
    else:
        tested = {accessors.system_key(group[0].record) for group in matched.systems.values()}
        missing = {path for key in tested & set(systems) for path, _ in systems[key]}
        missing -= {run.path for group in matched.systems.values() for run in group}
        contradicted = {item.path for item in matched.left_out if item.is_unsound}
        not_counted += [item for item in matched.left_out if item.path in missing | contradicted]
    kept = {key: [pair for pair in group if pair[0] not in missing | contradicted] for key, group in systems.items()}
    return {key: group for key, group in kept.items() if group}


def _tested(runs: list[Located], metric: str | None) -> tuple[MatchedRuns | None, Comparison | None, str | None]:
    """Return the matched runs and their paired tests, or the reason why there are none."""
    if not runs:
        return None, None, "no run completed"
    paths = [path for path, record in runs if _has(record, metric)]
    lacking = [LeftOut(path=path, reason=f"the run has no {metric}") for path, _ in runs if path not in paths]
    if not paths:
        return None, None, f"no run has the metric {metric}"
    try:
        matched = predictions.gather(paths, CompareRequest(metric=metric))
        matched = replace(matched, left_out=[*matched.left_out, *lacking])
        return matched, compare.compare_runs(matched), None
    except DataError as error:
        return None, None, str(error)


def _has(record: Record, metric: str | None) -> bool:
    splits = record.scores.get("after", {})
    return metric is None or any(metric in accessors.scalars(record, "after", split) for split in splits)


def _score(
    group: list[Located], split: str | None, metric: str | None, compared: compare.System | None
) -> dict[str, float | None]:
    """Return mean and standard deviation over seeds, and the interval. compared: the system in the paired tests."""
    records = [record for _, record in group]
    values = accessors.finite_values(records, "after", split, metric or "")
    if not values or len(values) < len(group):
        return dict.fromkeys(("score", "low", "high", "seed_std"))
    score = float(np.mean(values))
    if len(values) == 1:
        only = accessors.scalars(records[0], "after", split)[metric or ""]
        low, high = numbers.finite(only.low), numbers.finite(only.high)
        return {"score": score, "low": low, "high": high, "seed_std": None}
    low, high = (compared.low, compared.high) if compared else (None, None)
    return {"score": score, "low": low, "high": high, "seed_std": float(np.std(values, ddof=1))}


def system_names(
    firsts: dict[SystemKey, Record], shared: frozenset[int] | None = None
) -> dict[SystemKey, tuple[str, str]]:
    """Return unique full and short names of systems, with `accessors.endings` where needed.

    shared: places of the parts that the short names leave out; None for those that all these systems share.
    """
    shared = accessors.shared_parts(firsts.values()) if shared is None else shared
    named: dict[SystemKey, tuple[str, str]] = {}
    for key, ending in accessors.endings(firsts).items():
        marked = ending + accessors.selection_mark(firsts[key])
        full = accessors.short_name(firsts[key], frozenset())
        named[key] = full + marked, accessors.short_name(firsts[key], shared) + marked
    return named
