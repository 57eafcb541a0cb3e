"""Compare systems over the folds of a cross-validation, by the corrected resampled t-test. Loads no torch.

Runs of one series differ in `data.fold` alone; each seed deals the folds anew. Fold i of one seed is scored on the same
examples by all systems, and no other test of this package holds for such runs: see `bench.analysis.stats.resampled`.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.analysis import accessors, compare, label_curves, leaderboard, predictions
from bench.analysis.accessors import LeftOut, Located, SystemKey
from bench.analysis.compare import ALPHA, Comparison, Pair, System
from bench.analysis.predictions import CompareRequest
from bench.analysis.stats import multiple, resampled, seed_variance
from bench.config.data_part import FOLD
from bench.errors import DataError
from bench.records.record import Fold, Record

TEST, INTERVAL = "corrected resampled t", "corrected Student's t"
COVERS = "training sets and examples"
NOTE = (
    "Folds share most of their training examples, so that their scores are not independent: intervals and tests are of "
    "Nadeau and Bengio (2003), with (1/J + n_test/n_train) in the place of 1/J for the variance of a mean over J runs."
)
# (seed, fold) -> run
_Runs = dict[tuple[int, int], Located]


@dataclass(frozen=True, kw_only=True)
class FoldResult:
    """The comparison of one data set's folds. folds: per seed. counted: (seed, fold) of every system.

    comparison: its `scores` are of each fold in the order of `counted`; without pairs where there is one system.
    """

    data_set: str
    folds: int
    of: list[str]
    counted: list[tuple[int, int]]
    comparison: Comparison


@dataclass(frozen=True, kw_only=True)
class _Folds:
    """Runs of all systems on the same folds, and what is left out."""

    runs: dict[SystemKey, _Runs]
    counted: list[tuple[int, int]]
    part: Fold
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def take(records: Sequence[Located]) -> tuple[list[Located], list[Located]]:
    """Return the runs on folds, and all others."""
    on_folds = [pair for pair in records if accessors.fold_asked(pair[1]) is not None]
    paths = {path for path, _ in on_folds}
    return on_folds, [pair for pair in records if pair[0] not in paths]


def are_folds(paths: Sequence[Path]) -> bool:
    """Return whether there are runs on folds at or below `paths`. Raises DataError where others are there too."""
    on_folds, others = take(accessors.read_all(paths)[0])
    if on_folds and others:
        raise DataError(
            f"{on_folds[0][0]} is of one fold, and {others[0][0]} of a fixed split: they were scored on other "
            "examples; compare the runs on folds by themselves"
        )
    return bool(on_folds)


def compare_folds(paths: Sequence[Path], request: CompareRequest, margin: float | None = None) -> Comparison:
    """Compare all systems at or below `paths` over their folds. Raises DataError where that is impossible."""
    compare.check_margin(margin)
    records, unreadable = accessors.read_all(paths)
    by_folds = by_data_set(records)
    if len(by_folds) > 1:
        raise DataError(f"the runs are on folds of several data sets: {', '.join(name for name, _ in by_folds)}")
    found = result(*by_folds[0], request, margin)
    if not found.comparison.pairs:
        raise DataError(f"a comparison needs two systems, and these runs are all of {found.comparison.systems[0].name}")
    return replace(found.comparison, left_out=[*found.comparison.left_out, *unreadable])


def by_data_set(records: Sequence[Located]) -> list[tuple[str, list[Located]]]:
    """Return runs on folds by data set, number of folds and the splits that were dealt."""
    groups: dict[tuple[str, str], list[Located]] = {}
    for path, record in sorted(take(records)[0], key=accessors.sort_key):
        part = record.recipe.resolved.get("data", {})
        name = record.data.id if record.data else accessors.dataset_card(record) or "not known"
        groups.setdefault((name, f"{part.get('folds')} of {part.get('fold_of')}"), []).append((path, record))
    return [(name, runs) for (name, _), runs in groups.items()]


def result(data_set: str, runs: Sequence[Located], request: CompareRequest, margin: float | None = None) -> FoldResult:
    """Return the comparison of runs on folds of one data set. Raises DataError where it is impossible."""
    found = _matched(runs, request)
    records = [located[1] for each in found.runs.values() for located in each.values()]
    metric = request.metric or _common_metric(records, request.stage)
    higher = accessors.higher_is_better(records, metric)
    ratio = _test_to_train(records)
    names = {key: full for key, (full, _) in leaderboard.system_names(_firsts(found.runs)).items()}
    scores = {
        key: [_score(located[1], request.stage, metric) for _, located in sorted(each.items())]
        for key, each in found.runs.items()
    }
    order = sorted(scores, key=lambda key: ((-1 if higher else 1) * sum(scores[key]), names[key]))
    letters = {key: compare.letter(number) for number, key in enumerate(order)}
    pairs = list(itertools.combinations(order, 2))
    tested = [
        _pair((letters[one], letters[other]), [a - b for a, b in zip(scores[one], scores[other], strict=True)],
              ratio, metric, len(pairs), margin)
        for one, other in pairs
    ]  # fmt: skip
    decided = compare.with_verdicts(tested, margin) if tested else []
    differ = {frozenset((pair.first, pair.second)) for pair in decided if pair.p_holm <= ALPHA}
    tiers = multiple.tiers(list(letters.values()), lambda one, other: frozenset((one, other)) in differ)
    tier = {letter: number for number, group in enumerate(tiers, 1) for letter in group}
    seeds = list(dict.fromkeys(seed for seed, _ in found.counted))
    part = found.part
    return FoldResult(
        data_set=data_set,
        folds=part.folds,
        of=part.of,
        counted=found.counted,
        comparison=Comparison(
            metric=metric,
            higher_is_better=higher,
            stage=request.stage,
            split=FOLD,
            examples=part.examples + part.train_examples,
            others=0,
            draws=0,
            margin=margin,
            systems=[
                _system(names[key], key, letters[key], tier[letters[key]], scores[key], seeds, ratio, metric)
                for key in order
            ],
            pairs=decided,
            left_out=found.left_out,
            notes=[NOTE, *found.notes, *accessors.selection_notes(records)],
            compared=records,
            scored=f"each in one of {part.folds} folds",
        ),
    )


def _matched(runs: Sequence[Located], request: CompareRequest) -> _Folds:
    """Return sound runs of the folds that every system has. Raises DataError for none, and for other folds."""
    if request.split not in (None, FOLD):
        raise DataError(f"the split {request.split!r} is not compared: runs on folds are compared on {FOLD!r}")
    left_out: list[LeftOut] = []
    by_system: dict[SystemKey, _Runs] = {}
    for path, record in sorted(runs, key=lambda pair: (pair[1].started_at, str(pair[0]))):
        part = record.data.fold if record.data else None
        mine = by_system.setdefault(label_curves.series_key(record), {})
        if record.status != "ok" or part is None:
            reason = f"the run ended with status {record.status}: {record.reason or 'unknown reason'}"
            left_out.append(LeftOut(path=path, reason=reason))
        elif why := predictions.find_contradiction(path, record, [(request.stage, FOLD)]):
            left_out.append(LeftOut(path=path, reason=why, is_unsound=True))
        else:
            place = (record.seed or 0, part.fold)
            if place in mine:
                left_out.append(LeftOut(path=mine[place][0], reason=f"same system, seed and fold as {path}"))
            mine[place] = (path, record)
    counted, notes = _complete(by_system, runs)
    kept = {key: {place: each[place] for place in counted} for key, each in by_system.items()}
    _require_same_folds(kept, counted)
    part = next(iter(kept.values()))[counted[0]][1].data.fold  # type: ignore[union-attr]
    assert part is not None
    return _Folds(runs=kept, counted=counted, part=part, left_out=left_out, notes=notes)


def _complete(by_system: dict[SystemKey, _Runs], runs: Sequence[Located]) -> tuple[list[tuple[int, int]], list[str]]:
    """Return (seed, fold) of the seeds of which every system has all folds, and sentences on the other seeds."""
    number = max(int(record.recipe.resolved["data"]["folds"]) for _, record in runs)
    counted, notes = [], []
    for seed in sorted({seed for each in by_system.values() for seed, _ in each}):
        wanted = [(seed, fold) for fold in range(1, number + 1)]
        lacking = [
            f"fold {fold} of {' / '.join(key[0].split('--'))}"
            for key, each in by_system.items()
            for place in wanted
            if place not in each and (fold := place[1])
        ]
        if not lacking:
            counted += wanted
            continue
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        notes.append(f"Seed {seed} is not counted: no sound run of {', '.join(lacking[:3])}{more}.")
    if not counted:
        raise DataError(
            f"the corrected test needs a sound run of every fold of every system, for at least one seed. "
            f"{' '.join(notes) or 'No run completed.'}"
        )
    return counted, notes


def _require_same_folds(runs: dict[SystemKey, _Runs], counted: list[tuple[int, int]]) -> None:
    """Raise DataError where two systems were not scored on the same examples of a fold with the same metrics."""
    first, *others = runs.values()
    for place, other in itertools.product(counted, others):
        one, two = first[place], other[place]
        keys = [record.comparability.key if record.comparability else None for _, record in (one, two)]
        parts = [record.data.fold.fingerprint if record.data and record.data.fold else None for _, record in (one, two)]
        if keys[0] is None or keys[0] != keys[1] or parts[0] != parts[1]:
            raise DataError(
                f"{one[0]} and {two[0]} can't be compared: fold {place[1]} of seed {place[0]} is not of the same "
                "examples, or was not scored with the same metrics"
            )


def _common_metric(records: Sequence[Record], stage: str) -> str:
    names = set.intersection(*(set(accessors.scalars(record, stage, FOLD)) for record in records))
    metric = accessors.ranking_metric(names)
    if metric is None:
        raise DataError(f"the runs have no metric in common on {FOLD!r} at stage {stage!r}")
    return metric


def _score(record: Record, stage: str, metric: str) -> float:
    values = accessors.finite_values([record], stage, FOLD, metric)
    if not values:
        raise DataError(f"seed {record.seed} of {record.name} has no finite {metric} on one of its folds")
    return values[0]


def _test_to_train(records: Sequence[Record]) -> float:
    """Return the mean ratio of test to training examples, of those that were really learned from."""
    ratios = []
    for record in records:
        assert record.data is not None
        assert record.data.fold is not None
        subset = record.data.train_subset
        ratios.append(record.data.fold.examples / (subset.examples if subset else record.data.fold.train_examples))
    return sum(ratios) / len(ratios)


def _firsts(runs: dict[SystemKey, _Runs]) -> dict[SystemKey, Record]:
    return {key: next(iter(each.values()))[1] for key, each in runs.items()}


def _system(
    name: str, key: SystemKey, letter: str, tier: int, scores: list[float], seeds: list[int], ratio: float, metric: str
) -> System:
    low, high = resampled.corrected(scores, ratio).interval()
    least, most = accessors.metric_bounds(metric)
    return System(
        letter=letter,
        name=name,
        recipe_hash=key[1],
        seeds=[*seeds],
        scores=scores,
        score=sum(scores) / len(scores),
        low=max(low, least) if low < high else None,
        high=min(high, most) if low < high else None,
        seed_deviation=None,
        tier=tier,
    )


def _pair(
    names: tuple[str, str], differences: list[float], ratio: float, metric: str, pairs: int, margin: float | None
) -> Pair:
    """Return a pair with p-value and interval, but without Holm's correction and verdict, which need all pairs."""
    found = resampled.corrected(differences, ratio)
    low, high = found.interval()
    least, most = accessors.metric_bounds(metric)
    strict = found.interval(multiple.equivalence_confidence(pairs, ALPHA))
    detectable = seed_variance.minimal_detectable(found.standard_error, found.degrees_of_freedom, alpha=ALPHA / pairs)
    return Pair(
        first=names[0],
        second=names[1],
        difference=found.mean,
        low=max(low, least - most) if low < high else None,
        high=min(high, most - least) if low < high else None,
        bca=None,
        percentile=None,
        p=found.p_value(),
        p_holm=float("nan"),
        test=TEST,
        interval=INTERVAL,
        covers=COVERS,
        detectable=detectable if detectable <= most - least else None,
        equivalent=None if margin is None else multiple.is_equivalent(*strict, margin),
        verdict="",
    )
