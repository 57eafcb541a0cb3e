"""Records put in order for a leaderboard: by what was scored, by system, with seeds, scores and paired tests. No torch.

A system is what runs of one recipe with several seeds have in common; `analysis.compare` says which of them differ.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench.analysis import accessors, compare, predictions
from bench.analysis.accessors import Key, LeftOut, Located
from bench.analysis.compare import Comparison
from bench.analysis.predictions import Asked, Field
from bench.config import registry
from bench.errors import DataError
from bench.records.record import Record
from bench.utils import numbers


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One system, its runs in the order of their seeds, and its mean score over them.

    short: the name without what all systems of the group share. low, high: 95 %, of one seed over other examples, of
    several over other seeds and examples; None where that is not known. tier, letter, compared_as: its place, sign and
    name in the comparison, None without paired tests.
    """

    name: str
    short: str
    runs: list[Located]
    score: float | None
    low: float | None
    high: float | None
    deviation: float | None
    tier: int | None
    letter: str | None
    compared_as: str | None

    @property
    def records(self) -> list[Record]:
        """The runs' records."""
        return [record for _, record in self.runs]

    @property
    def label(self) -> str:
        """The short name with the letter, by which notes and verdicts name it."""
        return f"{self.letter}: {self.short}" if self.letter else self.short


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that were scored on the same examples in the same way; standings: the best first.

    differs: in what the other groups of the data set were scored differently. comparison, field: None without paired
    tests, and `untested` says why. asked: the metric that was asked for; no run has it where `metric` is None.
    uncounted: older runs of a system and seed that was run again, and those whose predictions are not there or deny
    their record, so that score, interval and tests are of the same runs.
    """

    data_set: str
    key: str
    differs: str
    split: str | None
    metric: str | None
    higher_is_better: bool
    standings: list[Standing]
    failed: list[Located]
    uncounted: list[LeftOut]
    comparison: Comparison | None
    field: Field | None
    untested: str | None
    asked: str | None = None

    def is_better(self, first: Standing, second: Standing) -> bool:
        """Whether the first is shown to be better, by a paired test corrected over all pairs."""
        pairs = self.comparison.pairs if self.comparison else []
        letters = (first.letter, second.letter)
        return any((pair.first, pair.second) == letters and pair.p_holm <= compare.ALPHA for pair in pairs)


def groups(records: Sequence[Located], metric: str | None = None) -> Iterator[Group]:
    """Groups by data set and comparability key, one by one, since each holds the predictions of all its runs.

    metric: what ranks and compares systems; None takes the one that ranks runs in reports. The order of the records
    does not matter.
    """
    for data_set, tables in sorted(accessors.by_key(records).items()):
        differs = "" if len(tables) < 2 else ", ".join(accessors.differing_parts(tables)) or "not known"
        for key, runs in sorted(tables.items(), key=lambda item: (not item[0], item[0])):
            yield _group(data_set, key, runs, differs, metric)


def _group(data_set: str, key: str, runs: list[Located], differs: str, asked: str | None) -> Group:
    failed = [pair for pair in runs if pair[1].status != "ok"]
    sound, denied = _otherwise_sound(pair for pair in runs if pair[1].status == "ok")
    systems, repeated = _systems(sound)
    uncounted = [*denied, *repeated]
    field, comparison, untested = _tested([pair for group in systems.values() for pair in group], asked)
    systems = _borne_out(systems, field, uncounted)
    valid = [record for group in systems.values() for _, record in group]
    split = comparison.split if comparison else next((name for one in valid for name in accessors.splits(one)), None)
    names = {name for one in valid for stage in accessors.STAGES for name in accessors.scalars(one, stage, split)}
    metric = comparison.metric if comparison else accessors.ranking_metric(names & {asked} if asked else names)
    higher = metric is None or registry.higher_is_better(metric)
    shown = _names({one: group[0][1] for one, group in systems.items()})
    compared = {accessors.key_of(group[0].record): name for name, group in field.systems.items()} if field else {}
    standings = []
    for one, group in systems.items():
        compared_as = compared.get(one)
        name, short = shown[one]
        place = next((item for item in comparison.systems if item.name == compared_as), None) if comparison else None
        standings.append(
            Standing(
                name=name, short=short, runs=group, compared_as=compared_as, tier=place.tier if place else None,
                letter=place.letter if place else None,
                **_score(group, split, metric, place),
            )
        )  # fmt: skip
    return Group(
        data_set=data_set, key=key, differs=differs, split=split, metric=metric, higher_is_better=higher,
        standings=sorted(standings, key=lambda standing: _rank(standing, higher)),
        failed=failed, uncounted=uncounted, comparison=comparison, field=field, untested=untested,
        asked=asked,
    )  # fmt: skip


def _rank(standing: Standing, higher: bool) -> tuple[bool, float, str]:
    score = standing.score or 0.0
    return standing.score is None, -score if higher else score, standing.name


def _systems(runs: Iterable[Located]) -> tuple[dict[Key, list[Located]], list[LeftOut]]:
    """Runs by system, in the order of their seeds; and older runs of a system and seed that was run again."""
    kept, repeated = predictions.one_per_seed(runs)
    systems: dict[Key, list[Located]] = {}
    for pair in sorted(kept, key=lambda pair: (accessors.key_of(pair[1]), pair[1].seed or 0)):
        systems.setdefault(accessors.key_of(pair[1]), []).append(pair)
    return systems, repeated


def _otherwise_sound(runs: Iterable[Located]) -> tuple[list[Located], list[LeftOut]]:
    """Without runs of which scores are denied that no test looks at, like those before training; and these."""
    kept, denied = [], []
    for path, record in runs:
        others = [part for part in predictions.parts_of(record) if part != _tested_part(record)]
        if why := predictions.contradiction(path, record, others):
            denied.append(LeftOut(path=path, reason=why, is_unsound=True))
        else:
            kept.append((path, record))
    return kept, denied


def _tested_part(record: Record) -> tuple[str, str]:
    """The stage and split of whose predictions paired tests are made."""
    return "after", next(iter(accessors.splits(record)), "")


def _borne_out(
    systems: dict[Key, list[Located]], field: Field | None, uncounted: list[LeftOut]
) -> dict[Key, list[Located]]:
    """Without runs that their predictions deny, and those of a tested system that have none; these join `uncounted`.

    Of a system of which no run was tested, what its records say stands, without a tier.
    """
    if field is None:
        reasons = {
            path: predictions.contradiction(path, record, [_tested_part(record)])
            for group in systems.values() for path, record in group
        }  # fmt: skip
        uncounted += [LeftOut(path=path, reason=why, is_unsound=True) for path, why in reasons.items() if why]
        denied, missing = {path for path, why in reasons.items() if why}, set[Path]()
    else:
        tested = {accessors.key_of(group[0].record) for group in field.systems.values()}
        missing = {path for key in tested & set(systems) for path, _ in systems[key]}
        missing -= {run.path for group in field.systems.values() for run in group}
        denied = {item.path for item in field.left_out if item.is_unsound}
        uncounted += [item for item in field.left_out if item.path in missing | denied]
    kept = {key: [pair for pair in group if pair[0] not in missing | denied] for key, group in systems.items()}
    return {key: group for key, group in kept.items() if group}


def _tested(runs: list[Located], metric: str | None) -> tuple[Field | None, Comparison | None, str | None]:
    """The runs' predictions and the paired tests on them, or why there are none."""
    if not runs:
        return None, None, "no run ended well"
    paths = [path for path, record in runs if _has(record, metric)]
    lacking = [LeftOut(path=path, reason=f"the run has no {metric}") for path, _ in runs if path not in paths]
    if not paths:
        return None, None, f"no run has the metric {metric}"
    try:
        field = predictions.gather(paths, Asked(metric=metric))
        field = replace(field, left_out=[*field.left_out, *lacking])
        return field, compare.of_field(field), None
    except DataError as error:
        return None, None, str(error)


def _has(record: Record, metric: str | None) -> bool:
    splits = record.scores.get("after", {})
    return metric is None or any(metric in accessors.scalars(record, "after", split) for split in splits)


def _score(
    group: list[Located], split: str | None, metric: str | None, compared: compare.System | None
) -> dict[str, float | None]:
    """Mean over seeds, their sample standard deviation, and the interval. compared: the system in the paired tests."""
    found = [accessors.scalars(record, "after", split).get(metric or "") for _, record in group]
    values = [value for item in found if item and (value := numbers.finite(item.value)) is not None]
    if not values or len(values) < len(group):
        return dict.fromkeys(("score", "low", "high", "deviation"))
    score = float(np.mean(values))
    if len(values) == 1:
        low, high = (numbers.finite(getattr(found[0], side)) for side in ("low", "high"))
        return {"score": score, "low": low, "high": high, "deviation": None}
    low, high = (compared.low, compared.high) if compared else (None, None)
    return {"score": score, "low": low, "high": high, "deviation": float(np.std(values, ddof=1))}


def _names(firsts: dict[Key, Record]) -> dict[Key, tuple[str, str]]:
    """Full and short names that tell systems apart, where needed as `readings.told_apart` says."""
    parts = {key: key[0].split("--") for key in firsts}
    number = max(map(len, parts.values()), default=0)
    alike = {
        place for place in range(number) if len({tuple(found[place : place + 1]) for found in parts.values()}) == 1
    }
    endings: dict[Key, str] = {}
    for name in {name for name, _ in firsts}:
        endings |= accessors.told_apart({key: found for key, found in firsts.items() if key[0] == name})
    named: dict[Key, tuple[str, str]] = {}
    for key, found in parts.items():
        short = [part for place, part in enumerate(found) if place not in alike] or found
        named[key] = " / ".join(found) + endings[key], " / ".join(short) + endings[key]
    return named
