"""Compare systems by paired tests on the same examples. Loads no torch.

    python -m bench compare runs/A runs/B [...] [--metric NAME] [--margin 0.01] [-o FILE.md] [--json FILE]

Runs of one recipe with several seeds are one system. Two systems of one run each are compared as trained models; the
result generalises to other examples: McNemar's exact test with Agresti and Min's interval where each example is right
or wrong, else approximate randomisation with a bootstrap interval. Two systems of several seeds are compared as
methods; the result generalises to other seeds and examples: see `bench.analysis.stats.seed_variance`. p-values are
corrected by Holm's procedure over all pairs.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from bench.analysis import accessors, predictions
from bench.analysis.accessors import LeftOut
from bench.analysis.predictions import CompareRequest, MatchedRuns
from bench.analysis.stats import multiple, paired, seed_variance
from bench.analysis.stats.sums import Tally
from bench.errors import DataError
from bench.records.record import Record

ALPHA = 0.05
# Enough draws per pair that the smallest p-value of randomisation passes Holm's correction.
DRAWS, DRAWS_PER_PAIR = 10_000, 100
# Arbitrary, but fixed: the same runs give the same page.
BOOTSTRAP_SEED, RANDOMISATION_SEED = 0, 1
EXAMPLES, SEEDS_AND_EXAMPLES = "examples", "seeds and examples"
RANDOMISATION, MCNEMAR, STUDENT = "approximate randomisation", "McNemar, exact", "Student's t"
# Test -> the interval that goes with it.
INTERVALS = {RANDOMISATION: "bootstrap, BCa", MCNEMAR: "Agresti and Min", STUDENT: "Student's t"}


@dataclass(frozen=True, kw_only=True)
class System:
    """One system. score: mean over seeds. seed_deviation: sample standard deviation over seeds, None for one seed.

    letter: A for the best score, B for the next, and so on; pairs and verdicts name systems by it. low, high: 95 %
    interval of the score over other seeds and other examples; None for one seed, or without variance.
    """

    letter: str
    name: str
    recipe_hash: str | None
    seeds: list[int | None]
    scores: list[float]
    score: float
    low: float | None
    high: float | None
    seed_deviation: float | None
    tier: int


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two systems by letter, the better score first. difference: first - second, in the metric's unit.

    low, high: 95 % interval of this pair alone, by the method `interval`; None without variance. bca, percentile:
    bootstrap intervals, None where no bootstrap was drawn. p_holm: corrected over all pairs. detectable: minimum
    detectable difference at 80 % power and 5 % divided by the number of pairs; None where it exceeds the metric's
    range, or without variance. covers: what interval and test generalise to. equivalent: None without a margin.
    """

    first: str
    second: str
    difference: float
    low: float | None
    high: float | None
    bca: tuple[float, float] | None
    percentile: tuple[float, float] | None
    p: float
    p_holm: float
    test: str
    interval: str
    covers: str
    detectable: float | None
    equivalent: bool | None
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All systems, best first, and all pairs. examples: number common to all runs. others: number of other examples.

    compared: the records of all runs that were compared. scored: which examples these are, in words.
    """

    metric: str
    higher_is_better: bool
    stage: str
    split: str
    examples: int
    others: int
    draws: int
    margin: float | None
    systems: list[System]
    pairs: list[Pair]
    left_out: list[LeftOut]
    notes: list[str]
    compared: list[Record] = field(default_factory=list)
    scored: str = "common to all runs"


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A system during the comparison. place: column of a single run in `_TestFamily.drawn`, None for several seeds."""

    name: str
    letter: str = ""
    tallies: list[Tally]
    scores: seed_variance.SeedScores
    place: int | None


def compare(paths: Sequence[Path], request: CompareRequest, margin: float | None = None) -> Comparison:
    """Compare all systems at or below `paths`. Raises DataError where that is impossible, or for an invalid margin."""
    check_margin(margin)
    return compare_runs(predictions.gather(paths, request), margin)


def check_margin(margin: float | None) -> None:
    """Raise DataError for an equivalence margin that is not a positive number."""
    if margin is not None and not (math.isfinite(margin) and margin > 0):
        raise DataError(f"the equivalence margin must be a positive number in the metric's unit, got {margin:g}")


def compare_runs(runs: MatchedRuns, margin: float | None = None) -> Comparison:
    """Compare the systems of runs that were gathered."""
    entries = _entries(runs)
    pairs = list(itertools.combinations(range(len(entries)), 2))
    draws = max(DRAWS, DRAWS_PER_PAIR * len(pairs))
    drawn, randomised = _resampled(entries, pairs, draws)
    family = _TestFamily(
        drawn=drawn, randomised=randomised, common=seed_variance.common_variance([entry.scores for entry in entries]),
        pairs=len(pairs), margin=margin, widest=_widest_difference(runs.metric),
    )  # fmt: skip
    tested = [_test_pair(entries[first], entries[second], (first, second), family) for first, second in pairs]
    decided = with_verdicts(tested, margin)
    return Comparison(
        metric=runs.metric,
        higher_is_better=runs.higher_is_better,
        stage=runs.stage,
        split=runs.split,
        examples=len(runs.ids),
        others=runs.others,
        draws=draws,
        margin=margin,
        systems=_systems(runs, entries, decided),
        pairs=decided,
        left_out=runs.left_out,
        notes=[*_seed_notes(entries), *accessors.selection_notes(_records(runs)), *runs.notes],
        compared=[run.record for group in runs.systems.values() for run in group],
    )


def _entries(runs: MatchedRuns) -> list[_Entry]:
    """Return the systems, best first, ties by name."""
    entries, place = [], itertools.count()
    for name, group in runs.systems.items():
        tallies = [run.scored.on(runs.ids) for run in group]
        jackknife = np.stack([paired.jackknife_values(item.rows, item.value) for item in tallies], axis=1)
        scores = seed_variance.SeedScores(scores=np.array([item.score for item in tallies]), jackknife=jackknife)
        entries.append(
            _Entry(name=name, tallies=tallies, scores=scores, place=next(place) if len(group) == 1 else None)
        )
    sign = -1 if runs.higher_is_better else 1
    entries.sort(key=lambda entry: (sign * float(entry.scores.scores.mean()), entry.name))
    return [replace(entry, letter=letter(number)) for number, entry in enumerate(entries)]


def letter(number: int) -> str:
    """Return A to Z, then AA, AB and so on."""
    more, last = divmod(number, 26)
    return (letter(more - 1) if more else "") + chr(ord("A") + last)


def _resampled(
    entries: list[_Entry], pairs: list[tuple[int, int]], draws: int
) -> tuple[np.ndarray, dict[tuple[int, int], float]]:
    """Return bootstrap scores [draws, systems of one run], and randomisation p-values of the pairs that need them."""
    single = sorted((entry for entry in entries if entry.place is not None), key=lambda entry: entry.place or 0)
    if len(single) < 2:
        return np.empty((draws, 0)), {}
    rows, value = [entry.tallies[0].rows for entry in single], single[0].tallies[0].value
    stack = paired.stack(rows)
    drawn = paired.bootstrap_values(stack, value, draws, BOOTSTRAP_SEED)
    swapped = [pair for pair in pairs if _test(entries[pair[0]], entries[pair[1]]) == RANDOMISATION]
    places = [(entries[first].place or 0, entries[second].place or 0) for first, second in swapped]
    if not swapped:
        return drawn, {}
    p_values = paired.randomisation_test(stack, value, places, draws, RANDOMISATION_SEED)
    return drawn, dict(zip(swapped, p_values.tolist(), strict=True))


def _test(first: _Entry, second: _Entry) -> str:
    if first.place is None or second.place is None:
        return STUDENT
    binary = first.tallies[0].is_binary and second.tallies[0].is_binary
    return MCNEMAR if binary else RANDOMISATION


@dataclass(frozen=True, kw_only=True)
class _TestFamily:
    """Data shared by the tests of all pairs. drawn, randomised: see `_resampled`. widest: largest possible difference.

    common: pooled seed variance and its degrees of freedom, see `seed_variance.common_variance`.
    """

    drawn: np.ndarray
    randomised: dict[tuple[int, int], float]
    common: tuple[float, float]
    pairs: int
    margin: float | None
    widest: float


def _widest_difference(metric: str) -> float:
    least, most = accessors.metric_bounds(metric)
    return most - least


def _test_pair(first: _Entry, second: _Entry, pair: tuple[int, int], family: _TestFamily) -> Pair:
    """Return a pair with p-value and interval, but without Holm's correction and verdict, which need all pairs."""
    test = _test(first, second)
    both_seeded = first.place is None and second.place is None
    estimate = seed_variance.over_examples(first.scores, second.scores)
    if both_seeded:
        estimate = seed_variance.over_seeds_and_examples(first.scores, second.scores, family.common)
    strict = multiple.equivalence_confidence(family.pairs, ALPHA)
    bca = percentile = equivalent = None
    if test == STUDENT:
        p, plain, inner = estimate.p_value(), estimate.interval(), estimate.interval(strict)
    else:
        differences = family.drawn[:, first.place] - family.drawn[:, second.place]
        # A correlation is not defined in a draw of equal numbers.
        differences = differences[np.isfinite(differences)]
        left_out = (first.scores.jackknife - second.scores.jackknife)[:, 0]
        bca = paired.bca_interval(differences, estimate.difference, left_out)
        percentile = paired.percentile_interval(differences)
        if test == RANDOMISATION:
            p, plain = family.randomised[pair], bca
            inner = paired.bca_interval(differences, estimate.difference, left_out, strict)
        else:
            only = discordant(first.tallies[0], second.tallies[0])
            p, plain = paired.mcnemar(*only), paired.matched_interval(*only, len(left_out))
            if family.margin is not None:
                equivalent = paired.matched_equivalent(*only, len(left_out), family.margin, strict)
    if family.margin is not None and test != MCNEMAR:
        equivalent = multiple.is_equivalent(*inner, family.margin)
    detectable = estimate.detectable(alpha=ALPHA / family.pairs)
    varies = plain[0] < plain[1]
    return Pair(
        first=first.letter,
        second=second.letter,
        difference=estimate.difference,
        low=max(plain[0], -family.widest) if varies else None,
        high=min(plain[1], family.widest) if varies else None,
        bca=bca,
        percentile=percentile,
        p=p,
        p_holm=math.nan,
        test=test,
        interval=INTERVALS[test],
        covers=SEEDS_AND_EXAMPLES if both_seeded else EXAMPLES,
        detectable=detectable if detectable <= family.widest else None,
        equivalent=equivalent,
        verdict="",
    )


def discordant(first: Tally, second: Tally) -> tuple[int, int]:
    """Return the numbers of examples that only the first, and only the second, answers correctly."""
    right, other = first.rows[:, 0] == 1, second.rows[:, 0] == 1
    return int((right & ~other).sum()), int((other & ~right).sum())


def with_verdicts(pairs: list[Pair], margin: float | None) -> list[Pair]:
    """Return the pairs with corrected p-values and verdicts."""
    corrected = multiple.holm([pair.p for pair in pairs]).tolist()
    return [
        replace(pair, p_holm=p_holm, verdict=_verdict(pair, p_holm, margin))
        for pair, p_holm in zip(pairs, corrected, strict=True)
    ]


def _verdict(pair: Pair, p_holm: float, margin: float | None) -> str:
    verdicts = [f"{pair.first} better"] if p_holm <= ALPHA else []
    verdicts += [f"equivalent within ±{margin:g}"] if pair.equivalent else []
    return ", ".join(verdicts) or "no significant difference"


def _systems(runs: MatchedRuns, entries: list[_Entry], pairs: list[Pair]) -> list[System]:
    differ = {frozenset((pair.first, pair.second)) for pair in pairs if pair.p_holm <= ALPHA}
    ranked = [entry.letter for entry in entries]
    groups = multiple.tiers(ranked, lambda one, other: frozenset((one, other)) in differ)
    tier = {letter: number for number, group in enumerate(groups, 1) for letter in group}
    systems = []
    for entry in entries:
        group, scores = runs.systems[entry.name], entry.scores.scores
        low, high = _score_interval(entry, runs.metric)
        systems.append(
            System(
                letter=entry.letter,
                name=entry.name + accessors.selection_mark(group[0].record),
                recipe_hash=group[0].record.recipe.hash,
                seeds=[run.record.seed for run in group],
                scores=scores.tolist(),
                score=float(scores.mean()),
                low=low,
                high=high,
                seed_deviation=float(scores.std(ddof=1)) if len(scores) > 1 else None,
                tier=tier[entry.letter],
            )
        )
    return systems


def _records(runs: MatchedRuns) -> list[Record]:
    return [run.record for group in runs.systems.values() for run in group]


def _score_interval(entry: _Entry, metric: str) -> tuple[float | None, float | None]:
    """Return the interval of the mean over seeds, as that of its difference from a constant 0."""
    if entry.place is not None:
        return None, None
    zero = seed_variance.SeedScores(scores=np.zeros(2), jackknife=np.zeros((len(entry.scores.jackknife), 2)))
    low, high = seed_variance.over_seeds_and_examples(entry.scores, zero).interval()
    least, most = accessors.metric_bounds(metric)
    return (max(low, least), min(high, most)) if low < high else (None, None)


def _seed_notes(entries: list[_Entry]) -> list[str]:
    single = [entry.letter for entry in entries if entry.place is not None]
    if not single:
        return []
    which = "every system" if len(single) == len(entries) else ", ".join(single)
    return [
        f"Only one seed of {which}: variance over seeds is unknown. Results for a pair with such a system generalise "
        "to other examples for these trained models, not to the methods."
    ]
