"""Label curves: how scores rise with the number of training examples, where systems cross, what more labels would give.

Runs of one series differ in `data.train_examples` alone. Intervals are of a bootstrap that draws test examples and
seeds, both the same for all systems and sizes: of one seed all systems learned from the same nested examples. Laws,
sources and the way seeds are drawn: `bench.analysis.stats.power_law`. Loads no torch.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from bench.analysis import accessors, leaderboard, predictions
from bench.analysis.accessors import LeftOut, Located, SystemKey
from bench.analysis.predictions import CompareRequest, ScoredRun
from bench.analysis.stats import paired, power_law, seed_variance
from bench.analysis.stats.power_law import LEAST_SIZES, PowerLaws
from bench.errors import DataError
from bench.records.record import Record

DRAWS, BOOTSTRAP_SEED = 4000, 3
# Numbers of examples at which laws are compared, evenly in the logarithm: neighbours differ by a few percent.
GRID = 200
# Scores -> errors, of any shape.
AsError = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value with its 95 % interval, whose ends may be infinite: outside of the sizes that were measured."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """The runs with one number of training examples. score: mean over seeds. low, high: None without variance."""

    examples: int
    score: float
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Law:
    """The power law of a curve. floor, scale, exponent: see `PowerLaws`, with scale in the error at the smallest size.

    rmse: of the fitted means, in the metric's unit. missed: sizes whose own interval does not hold the fitted score.
    falls: whether the error falls at all. doubled: predicted fall of the error from twice the largest number of
    examples. grid, scores: the fitted curve.
    """

    floor: Estimate
    scale: Estimate
    exponent: Estimate
    rmse: float
    missed: list[int]
    falls: bool
    doubled: Estimate
    grid: list[float]
    scores: list[float]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One system over sizes, rising. law: None where none is fitted, for the reason `why_not`."""

    name: str
    points: list[CurvePoint]
    law: Law | None
    why_not: str | None = None


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """Two systems whose laws are compared from `least` to `most` examples; `last` is the one ahead at the end.

    at: from where on it is ahead; None where it is ahead in the whole range. agreeing: share of draws in which the same
    one is ahead at the end. ahead_throughout: share in which it is ahead in the whole range. several: they cross more
    than once.
    """

    first: str
    last: str
    at: Estimate | None
    agreeing: float
    ahead_throughout: float
    several: bool
    least: int
    most: int


@dataclass(frozen=True, kw_only=True)
class Equivalent:
    """`name` needs so many examples for the score that `other` has with `examples`; measured from `least` to `most`."""

    name: str
    other: str
    examples: int
    needed: Estimate
    least: int
    most: int


@dataclass(frozen=True, kw_only=True)
class LabelCurves:
    """The curves of one data set, by the score at their largest size. scored: examples of the test split.

    seeds: those that all points have, from which intervals are. left_out: runs that are in no curve, with the reason.
    """

    data_set: str
    key: str
    split: str
    metric: str
    higher_is_better: bool
    scored: int
    seeds: list[int]
    curves: list[Curve]
    crossings: list[Crossing] = field(default_factory=list)
    equivalents: list[Equivalent] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Unmade:
    """Runs over sizes that no curve can be made of, and why."""

    data_set: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class _Series:
    """Runs of one series by size and seed. means: [sizes]; drawn: [draws, sizes], both of scores over seeds."""

    name: str
    runs: dict[int, dict[int, ScoredRun]]
    means: np.ndarray
    drawn: np.ndarray

    @property
    def sizes(self) -> list[int]:
        """Return the numbers of training examples, rising."""
        return sorted(self.runs)


# Series -> size -> seed -> run.
_Runs = dict[SystemKey, dict[int, dict[int, ScoredRun]]]


def size_asked(record: Record) -> int | None:
    """Return the number of training examples that a recipe asks for; None for all."""
    part = record.recipe.resolved.get("data")
    value = part.get("train_examples") if isinstance(part, dict) else None
    return value if isinstance(value, int) else None


def series_key(record: Record) -> SystemKey:
    """Return what all runs of a series over sizes share."""
    return record.name, record.recipe.series_hash or record.recipe.hash or ""


def take(records: Sequence[Located]) -> tuple[list[Located], list[Located]]:
    """Return the runs of series over several sizes, and the runs for all other tables.

    The largest size of each series is in both: there systems are compared as on any other data.
    """
    by_series: dict[SystemKey, list[Located]] = {}
    for pair in records:
        if accessors.fold_asked(pair[1]) is None:
            by_series.setdefault(series_key(pair[1]), []).append(pair)
    curves, smaller = [], set()
    for runs in by_series.values():
        sizes = {size_asked(record) or math.inf for _, record in runs}
        if len(sizes) > 1:
            curves += runs
            smaller |= {path for path, record in runs if (size_asked(record) or math.inf) < max(sizes)}
    return curves, [pair for pair in records if pair[0] not in smaller]


def label_curves(records: Sequence[Located], metric: str | None = None) -> list[LabelCurves | Unmade]:
    """Return the curves of each data set, of the runs that `take` found. metric: None for the one that ranks runs."""
    found: list[LabelCurves | Unmade] = []
    for data_set, tables in sorted(accessors.by_data_set(records).items()):
        for key, runs in sorted(tables.items()):
            try:
                found.append(_of_group(data_set, key, runs, metric))
            except DataError as error:
                found.append(Unmade(data_set=data_set, reason=str(error)))
    return found


def _of_group(data_set: str, key: str, runs: list[Located], metric: str | None) -> LabelCurves:
    failed = [
        LeftOut(path=path, reason=f"the run ended with status {record.status}: {record.reason or 'unknown reason'}")
        for path, record in runs
        if record.status != "ok"
    ]
    done = [path for path, record in runs if record.status == "ok"]
    if not done:
        raise DataError("no run completed")
    matched = predictions.gather(done, CompareRequest(metric=metric))
    by_series, notes = _by_series([run for group in matched.systems.values() for run in group])
    names = _names(by_series)
    seeds, missing = _common_seeds(by_series, names)
    series = _drawn(by_series, names, seeds, matched)
    sign = 1 if matched.higher_is_better else -1
    series.sort(key=lambda one: (-sign * float(one.means[-1]), one.name))
    bounds = accessors.metric_bounds(matched.metric)
    as_error = power_law.error_of(bounds, higher_is_better=matched.higher_is_better)
    laws = [_laws(one, as_error) for one in series]
    fitted = [(one, law) for one, law in zip(series, laws, strict=True) if isinstance(law, PowerLaws)]
    pairs = [_Pair.of(first, last, len(seeds)) for first, last in itertools.combinations(fitted, 2)]
    return LabelCurves(
        data_set=data_set,
        key=key,
        split=matched.split,
        metric=matched.metric,
        higher_is_better=matched.higher_is_better,
        scored=len(matched.ids),
        seeds=seeds,
        curves=[
            _curve(one, law, _points(one, seeds, matched.ids, bounds), len(seeds), as_error)
            for one, law in zip(series, laws, strict=True)
        ],
        crossings=[pair.crossing() for pair in pairs if pair.overlaps],
        equivalents=[found for pair in pairs if pair.overlaps and (found := pair.equivalent()) is not None],
        notes=[*notes, *missing, *matched.notes],
        left_out=[*failed, *matched.left_out],
    )


def _by_series(runs: Iterable[ScoredRun]) -> tuple[_Runs, list[str]]:
    """Return runs by series, size and seed; of two with the same the later one, with a sentence."""
    found: _Runs = {}
    sentences = []
    for run in sorted(runs, key=lambda run: (run.record.started_at, str(run.path))):
        seed, size = run.record.seed or 0, _size(run)
        mine = found.setdefault(series_key(run.record), {}).setdefault(size, {})
        if seed in mine:
            sentences.append(f"{mine[seed].path} is not counted: {run.path} has the same {size:,} examples and seed.")
        mine[seed] = run
    return found, sentences


def _size(run: ScoredRun) -> int:
    """Return the number of training examples that a run learned from."""
    data = run.record.data
    if data is not None and data.train_subset is not None:
        return data.train_subset.examples
    part = data.splits.get("train") if data is not None else None
    return part.examples if part is not None else 0


def _names(by_series: _Runs) -> dict[SystemKey, str]:
    """Return a short name for each series, made unique by what a run at its largest size has of its own."""
    largest = {key: next(iter(sizes[max(sizes)].values())).record for key, sizes in by_series.items()}
    return {key: short for key, (_, short) in leaderboard.system_names(largest).items()}


def _common_seeds(by_series: _Runs, names: dict[SystemKey, str]) -> tuple[list[int], list[str]]:
    """Return the seeds that all points have, and sentences on the others. Raises DataError without any."""
    points = [(names[key], size, set(runs)) for key, sizes in by_series.items() for size, runs in sorted(sizes.items())]
    common = set.intersection(*(seeds for _, _, seeds in points))
    sentences = []
    for seed in sorted(set.union(*(seeds for _, _, seeds in points)) - common):
        lacking = [f"{name} with {size:,} examples" for name, size, seeds in points if seed not in seeds]
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        sentences.append(f"Seed {seed} is not counted, since it has no run of {', '.join(lacking[:3])}{more}.")
    if not common:
        raise DataError(f"no seed has a run at every size of every system. {' '.join(sentences)}")
    return sorted(common), sentences


def _drawn(
    by_series: _Runs, names: dict[SystemKey, str], seeds: list[int], matched: predictions.MatchedRuns
) -> list[_Series]:
    """Return the series of more than one size, with bootstrap means over drawn examples and seeds."""
    several = {key: sizes for key, sizes in by_series.items() if len(sizes) > 1}
    if not several:
        raise DataError("no system has runs at more than one size")
    runs = [sizes[size][seed] for sizes in several.values() for size in sorted(sizes) for seed in seeds]
    tallies = [run.scored.on(matched.ids) for run in runs]
    values = paired.bootstrap_values(
        paired.stack([one.rows for one in tallies]), tallies[0].value, DRAWS, BOOTSTRAP_SEED
    )
    chosen = power_law.draw_seeds(len(seeds), DRAWS, np.random.default_rng(BOOTSTRAP_SEED))
    series, start = [], 0
    for key, sizes in several.items():
        drawn, means = [], []
        for _ in sizes:
            mine = slice(start, start + len(seeds))
            drawn.append(np.take_along_axis(values[:, mine], chosen, axis=1).mean(axis=1))
            means.append(np.mean([one.score for one in tallies[mine]]))
            start += len(seeds)
        series.append(_Series(name=names[key], runs=sizes, means=np.array(means), drawn=np.stack(drawn, axis=1)))
    return series


def _points(series: _Series, seeds: list[int], ids: list[str], bounds: tuple[float, float]) -> list[CurvePoint]:
    """Return the points of a curve; the interval of several seeds is that of leaderboards."""
    points = []
    for place, size in enumerate(series.sizes):
        tallies = [series.runs[size][seed].scored.on(ids) for seed in seeds]
        if len(seeds) > 1:
            jackknife = np.stack([paired.jackknife_values(one.rows, one.value) for one in tallies], axis=1)
            scores = seed_variance.SeedScores(scores=np.array([one.score for one in tallies]), jackknife=jackknife)
            zero = seed_variance.SeedScores(scores=np.zeros(2), jackknife=np.zeros((len(jackknife), 2)))
            low, high = seed_variance.over_seeds_and_examples(scores, zero).interval()
        else:
            low, high = power_law.interval(series.drawn[:, place], 1)
        known = low < high
        points.append(
            CurvePoint(
                examples=size,
                score=float(series.means[place]),
                low=max(low, bounds[0]) if known else None,
                high=min(high, bounds[1]) if known else None,
            )
        )
    return points


def _laws(series: _Series, as_error: AsError | None) -> PowerLaws | str:
    """Return the fitted law, first of the means as they are and then of each draw; else why none is fitted."""
    if len(series.sizes) < LEAST_SIZES:
        return f"{len(series.sizes)} sizes; a law of three parameters needs {LEAST_SIZES}"
    if as_error is None:
        return "the metric has no best value, so that there is no error which could fall towards a floor"
    errors = np.vstack([as_error(series.means), as_error(series.drawn)])
    if not np.isfinite(errors).all():
        return "the score is not defined in some draws of examples"
    return power_law.fit(np.array(series.sizes, dtype=float), errors, errors[1:].var(axis=0))


def _curve(
    series: _Series, laws: PowerLaws | str, points: list[CurvePoint], seeds: int, as_error: AsError | None
) -> Curve:
    if isinstance(laws, str) or as_error is None:
        return Curve(name=series.name, points=points, law=None, why_not=str(laws))
    sizes = np.array(series.sizes, dtype=float)
    fitted, ends = laws.at(sizes)[0], np.array([sizes[-1], 2 * sizes[-1]])
    gain = laws.at(ends) @ np.array([1.0, -1.0])
    bounds = [as_error(np.array([point.low, point.high], dtype=float)) for point in points]
    grid = np.geomspace(sizes[0], sizes[-1], GRID)
    # Distance and score are each other's distance from the best value; an error that is a score stays one.
    law = Law(
        floor=_estimate(laws.floor, seeds),
        scale=_estimate(laws.scale, seeds),
        exponent=_estimate(laws.exponent, seeds),
        rmse=float(np.sqrt(np.mean((fitted - as_error(series.means)) ** 2))),
        missed=[
            size
            for size, value, ends in zip(series.sizes, fitted, bounds, strict=True)
            if np.isfinite(ends).all() and not ends.min() <= value <= ends.max()
        ],
        falls=bool(laws.scale[0] > 0),
        doubled=_estimate(gain, seeds),
        grid=grid.tolist(),
        scores=as_error(laws.at(grid)[0]).tolist(),
    )
    return Curve(name=series.name, points=points, law=law)


def _estimate(values: np.ndarray, seeds: int) -> Estimate:
    """Return an estimate. values: [1 + draws], that of the data as they are first."""
    low, high = power_law.interval(values[1:], seeds)
    return Estimate(value=float(values[0]), low=low, high=high)


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """Two systems over the sizes that both have. last: ahead at the end. ahead: [1 + draws, grid], of `last`."""

    first: _Series
    last: _Series
    laws: tuple[PowerLaws, PowerLaws]
    grid: np.ndarray
    ahead: np.ndarray
    seeds: int

    @classmethod
    def of(cls, one: tuple[_Series, PowerLaws], other: tuple[_Series, PowerLaws], seeds: int) -> "_Pair":
        """Return two fitted systems in order, compared at the sizes that both have."""
        least = max(one[0].sizes[0], other[0].sizes[0])
        most = min(one[0].sizes[-1], other[0].sizes[-1])
        grid = np.geomspace(least, most, GRID) if least < most else np.array([float(least)])
        difference = one[1].at(grid) - other[1].at(grid)  # of errors
        (first, last), sign = ((one, other), 1.0) if difference[0, -1] > 0 else ((other, one), -1.0)
        return cls(
            first=first[0],
            last=last[0],
            laws=(first[1], last[1]),
            grid=grid,
            ahead=sign * difference,
            seeds=seeds,
        )

    @property
    def overlaps(self) -> bool:
        """Return whether there is a range of sizes that both have."""
        return len(self.grid) > 1

    def crossing(self) -> Crossing:
        """Return where the one that is ahead at the end got there."""
        places = power_law.last_crossing(self.grid, self.ahead)
        signs = np.sign(self.ahead[0])
        changes = int((signs[1:] != signs[:-1]).sum())
        return Crossing(
            first=self.first.name,
            last=self.last.name,
            at=_estimate(places, self.seeds) if math.isfinite(places[0]) else None,
            agreeing=float((self.ahead[1:, -1] > 0).mean()),
            ahead_throughout=float((self.ahead[1:] > 0).all(axis=1).mean()),
            several=changes > 1,
            least=round(float(self.grid[0])),
            most=round(float(self.grid[-1])),
        )

    def equivalent(self) -> Equivalent | None:
        """Return how many examples the better system needs for what the other has with the most; None where equal."""
        if self.ahead[0, -1] <= 0:
            return None
        first, last = self.laws
        needed = last.examples_for(first.at(self.grid[-1:])[:, 0])
        return Equivalent(
            name=self.last.name,
            other=self.first.name,
            examples=round(float(self.grid[-1])),
            needed=_estimate(needed, self.seeds),
            least=self.last.sizes[0],
            most=self.last.sizes[-1],
        )
