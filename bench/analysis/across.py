"""Compare systems across data sets: mean rank with an interval, and wins, ties and losses by paired tests.

A system is a model with a method and its settings, whatever the data. Ranks are of mean scores over seeds, ties sharing
the mean of their places (Demšar 2006, "Statistical comparisons of classifiers over multiple data sets", JMLR 7).
Intervals are of a bootstrap: in each draw, examples of every data set and runs of every system are drawn with
replacement, and systems ranked anew. They cover other examples, and other seeds where there are several: not other
data sets, of which there are too few.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from bench.analysis import accessors
from bench.analysis.leaderboard import Group, RankedSystem
from bench.analysis.stats import paired
from bench.records.record import Record

DRAWS = 2000
SEED = 2
# (model, label of the method, hash of the method's settings)
Key = tuple[str, str, str]


@dataclass(frozen=True, kw_only=True)
class DataSetResult:
    """One data set. scores: mean over seeds. drawn: [draws, systems] of mean scores, in the order of `keys`.

    beaten: pairs (better, worse) of systems that differ significantly. ambiguous: systems that are there twice.
    shown: their short names in the report of this data set.
    """

    name: str
    metric: str
    higher_is_better: bool
    keys: list[Key]
    scores: np.ndarray
    drawn: np.ndarray
    beaten: set[tuple[Key, Key]]
    ambiguous: list[Key]
    shown: dict[Key, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One system across data sets. ranks: by data set, 1 is best. low, high: 95 % interval of the mean rank."""

    name: str
    ranks: dict[str, float]
    mean_rank: float
    low: float
    high: float
    wins: int
    ties: int
    losses: int


@dataclass(frozen=True, kw_only=True)
class Across:
    """Systems that were scored on all data sets, best mean rank first. left_out: sentences on the others."""

    data_sets: dict[str, str]
    standings: list[Standing]
    left_out: list[str]


def result_of(group: Group) -> DataSetResult | None:
    """Return what is kept of one data set, whose predictions take memory; None without paired tests."""
    if group.matched is None or group.comparison is None or group.metric is None:
        return None
    compared = [system for system in group.systems if system.compared_as in group.matched.systems]
    keyed = {key_of(system.records[0]): system for system in compared}
    counts = Counter(key_of(system.records[0]) for system in compared)
    ambiguous = [key for key, count in counts.items() if count > 1]
    keyed = {key: system for key, system in keyed.items() if key not in ambiguous}
    if not keyed:
        return None
    beaten = {
        (one, other)
        for one, first in keyed.items()
        for other, second in keyed.items()
        if one != other and group.is_better(first, second)
    }
    scores = np.array([system.score for system in keyed.values()], dtype=float)
    return DataSetResult(
        name=f"{group.data_set} ({group.key})" if group.differs else group.data_set,
        metric=group.metric,
        higher_is_better=group.higher_is_better,
        keys=list(keyed),
        scores=scores,
        drawn=_drawn(group, list(keyed.values())),
        beaten=beaten,
        ambiguous=ambiguous,
        shown={key: system.short for key, system in keyed.items()},
    )


def across(results: Iterable[DataSetResult | None]) -> Across | None:
    """Return standings of the systems that all data sets have; None for fewer than two data sets or such systems."""
    kept = [result for result in results if result is not None]
    common = set.intersection(*(set(result.keys) for result in kept)) if kept else set()
    if len(kept) < 2 or len(common) < 2:
        return None
    keys = sorted(common)
    names = _names(sorted({key for result in kept for key in result.keys}), kept)
    ranks = np.stack([_ranks(result, keys, result.scores[None])[0] for result in kept])
    drawn = np.mean([_ranks(result, keys, result.drawn) for result in kept], axis=0)
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    standings = []
    for place, key in enumerate(keys):
        won = sum((key, other) in result.beaten for result in kept for other in keys)
        lost = sum((other, key) in result.beaten for result in kept for other in keys)
        standings.append(
            Standing(
                name=names[key],
                ranks={result.name: float(rank) for result, rank in zip(kept, ranks[:, place], strict=True)},
                mean_rank=float(ranks[:, place].mean()),
                low=float(low[place]),
                high=float(high[place]),
                wins=won,
                ties=len(kept) * (len(keys) - 1) - won - lost,
                losses=lost,
            )
        )
    return Across(
        data_sets={result.name: result.metric for result in kept},
        standings=sorted(standings, key=lambda one: (one.mean_rank, one.name)),
        left_out=_left_out(kept, common),
    )


def _drawn(group: Group, systems: list[RankedSystem]) -> np.ndarray:
    """Return mean scores [draws, systems] on drawn examples, the same for all systems, and over drawn runs."""
    assert group.matched is not None
    runs = [group.matched.systems[system.compared_as or ""] for system in systems]
    tallies = [run.scored.on(group.matched.ids) for each in runs for run in each]
    values = paired.bootstrap_values(paired.stack([one.rows for one in tallies]), tallies[0].value, DRAWS, SEED)
    generator = np.random.default_rng(SEED)
    means, start = [], 0
    for each in runs:
        chosen = generator.integers(len(each), size=(DRAWS, len(each)))
        means.append(np.take_along_axis(values[:, start : start + len(each)], chosen, axis=1).mean(axis=1))
        start += len(each)
    return np.stack(means, axis=1)


def _ranks(result: DataSetResult, keys: list[Key], scores: np.ndarray) -> np.ndarray:
    """Return ranks [draws, keys] of scores [draws, systems of the data set]; a score that is not defined ranks last."""
    from scipy.stats import rankdata

    places = [result.keys.index(key) for key in keys]
    signed = np.where(np.isfinite(scores), -scores if result.higher_is_better else scores, np.inf)[:, places]
    ranks: np.ndarray = rankdata(signed, axis=1)
    return ranks


def key_of(record: Record) -> Key:
    """Return what a system is, whatever its data and its training: model, method, and the method's own settings."""
    method = record.recipe.resolved.get("method") or {"name": record.method}
    text = json.dumps(method, sort_keys=True, default=str)
    parts = record.name.split("--")
    model = parts[1] if len(parts) == 3 else record.model.id if record.model else record.name
    return model, accessors.method_label(record), hashlib.sha256(text.encode()).hexdigest()[:6]


def _names(keys: list[Key], kept: list[DataSetResult]) -> dict[Key, str]:
    """Return the names of systems on their data sets where each has one and its own; else model and method."""
    alike = Counter(key[:2] for key in keys)
    names = {key: " / ".join(key[:2]) + (f" [{key[2]}]" if alike[key[:2]] > 1 else "") for key in keys}
    shown = {key: {result.shown[key] for result in kept if key in result.shown} for key in keys}
    if any(len(each) != 1 for each in shown.values()):
        return names
    same = {key: next(iter(each)) for key, each in shown.items()}
    return same if len(set(same.values())) == len(same) else names


def _left_out(kept: list[DataSetResult], common: set[Key]) -> list[str]:
    sentences = []
    every = _names(sorted({key for result in kept for key in result.keys}), kept)
    for key, name in sorted(every.items()):
        if key in common:
            continue
        lacking = [result.name for result in kept if key not in result.keys]
        if name.endswith(f"[{key[2]}]"):  # what it differs by says more
            name = next((result.shown[key] for result in kept if key in result.shown), name)
        sentences.append(f"{name}: not scored on {', '.join(lacking)}")
    for result in kept:
        sentences += [f"{' / '.join(key[:2])}: there are several of it on {result.name}" for key in result.ambiguous]
    return sentences
