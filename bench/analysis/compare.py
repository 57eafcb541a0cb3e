"""Which system is better, and is the difference real? Paired statistics of runs on the same examples. No torch.

    python -m bench compare runs/A runs/B [...] [--metric NAME] [--margin 0.01] [-o FILE.md] [--json FILE]

Runs of one recipe with several seeds are one system. Two systems of one run each are compared as these two trained
models, on other examples: McNemar's exact test and Agresti and Min's interval where each example is right or wrong,
else approximate randomisation and a bootstrap interval. Two systems of several seeds are compared as methods, on other
seeds and other examples: see `bench.analysis.stats.seed_variance`. p-values are corrected by Holm over all pairs.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench.analysis import accessors, predictions
from bench.analysis.accessors import LeftOut
from bench.analysis.predictions import Asked, Field
from bench.analysis.stats import multiple, paired, seed_variance
from bench.analysis.stats.sums import Tally
from bench.errors import DataError

ALPHA = 0.05
# Of each, so that the smallest p-value that randomisation can give passes Holm's correction.
DRAWS, DRAWS_PER_PAIR = 10_000, 100
# Any numbers would do; the same ones give the same page.
BOOTSTRAP_SEED, RANDOMISATION_SEED = 0, 1
EXAMPLES, SEEDS_AND_EXAMPLES = "examples", "seeds and examples"
RANDOMISATION, MCNEMAR, STUDENT = "approximate randomisation", "McNemar, exact", "Student's t"
# Test -> the interval that goes with it.
INTERVALS = {RANDOMISATION: "bootstrap, BCa", MCNEMAR: "Agresti and Min", STUDENT: "Student's t"}


@dataclass(frozen=True, kw_only=True)
class System:
    """One system: its score, the mean over its seeds, and their sample standard deviation, None for one seed.

    letter: A for the best score, B for the next, and so on; pairs and verdicts name systems by it. low, high: 95 % of
    the score over other seeds and other examples; None for one seed, or where nothing varies.
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
    """Two systems by their letters, the better score first. difference: first - second, in the metric's own unit.

    low, high: 95 %, of this pair alone, by the method `interval`; None where nothing varies. bca, percentile: the
    bootstrap's, None where none was drawn. p_holm: over all pairs. detectable: the smallest difference that such data
    show with a power of 80 % at 5 % divided by the number of pairs, None where there is none that the metric can have,
    or nothing varies. covers: what interval and test generalise to. equivalent: None without a margin.
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
    """All systems, the best first, and all their pairs. examples: how many all runs share; others: the rest."""

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


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A system while it is compared. place: of a single run in the columns of `drawn`."""

    name: str
    letter: str = ""
    tallies: list[Tally]
    scores: seed_variance.System
    place: int | None


def compare(paths: Sequence[Path], asked: Asked, margin: float | None = None) -> Comparison:
    """Compares all systems at or below `paths`. Raises DataError for what can't be compared, or a wrong margin."""
    if margin is not None and not (math.isfinite(margin) and margin > 0):
        raise DataError(f"a margin is a positive number in the metric's own unit, got {margin:g}")
    return of_field(predictions.gather(paths, asked), margin)


def of_field(runs: Field, margin: float | None = None) -> Comparison:
    """Compares the systems of runs that were read."""
    entries = _entries(runs)
    pairs = list(itertools.combinations(range(len(entries)), 2))
    draws = max(DRAWS, DRAWS_PER_PAIR * len(pairs))
    drawn, randomised = _resampled(entries, pairs, draws)
    family = _Family(
        drawn=drawn, randomised=randomised, common=seed_variance.common_variance([entry.scores for entry in entries]),
        pairs=len(pairs), margin=margin, widest=_widest(runs.metric),
    )  # fmt: skip
    found = [_tested(entries[first], entries[second], (first, second), family) for first, second in pairs]
    decided = _decided(found, margin)
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
        notes=[*_seed_notes(entries), *runs.notes],
    )


def _entries(runs: Field) -> list[_Entry]:
    """Systems, the best first; of equal ones by name."""
    entries, place = [], itertools.count()
    for name, group in runs.systems.items():
        tallies = [run.scored.on(runs.ids) for run in group]
        jackknife = np.stack([paired.jackknife_values(item.rows, item.value) for item in tallies], axis=1)
        scores = seed_variance.System(scores=np.array([item.score for item in tallies]), jackknife=jackknife)
        entries.append(
            _Entry(name=name, tallies=tallies, scores=scores, place=next(place) if len(group) == 1 else None)
        )
    sign = -1 if runs.higher_is_better else 1
    entries.sort(key=lambda entry: (sign * float(entry.scores.scores.mean()), entry.name))
    return [replace(entry, letter=_letter(number)) for number, entry in enumerate(entries)]


def _letter(number: int) -> str:
    """A to Z, then AA, AB and so on."""
    more, last = divmod(number, 26)
    return (_letter(more - 1) if more else "") + chr(ord("A") + last)


def _resampled(
    entries: list[_Entry], pairs: list[tuple[int, int]], draws: int
) -> tuple[np.ndarray, dict[tuple[int, int], float]]:
    """Bootstrap scores [draws, systems of one run], and p-values of those pairs that need randomisation."""
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
class _Family:
    """What the tests of all pairs share. drawn, randomised: see `_resampled`. widest: the largest difference."""

    drawn: np.ndarray
    randomised: dict[tuple[int, int], float]
    common: tuple[float, float]
    pairs: int
    margin: float | None
    widest: float


def _widest(metric: str) -> float:
    least, most = accessors.bounds(metric)
    return most - least


def _tested(first: _Entry, second: _Entry, pair: tuple[int, int], family: _Family) -> Pair:
    """One pair, with p-value and interval; Holm's correction and the verdict need all of them."""
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
    """How many examples only the first has right, and only the second."""
    right, other = first.rows[:, 0] == 1, second.rows[:, 0] == 1
    return int((right & ~other).sum()), int((other & ~right).sum())


def _decided(found: list[Pair], margin: float | None) -> list[Pair]:
    """The pairs with corrected p-values and verdicts."""
    corrected = multiple.holm([pair.p for pair in found]).tolist()
    return [
        replace(pair, p_holm=p_holm, verdict=_verdict(pair, p_holm, margin))
        for pair, p_holm in zip(found, corrected, strict=True)
    ]


def _verdict(pair: Pair, p_holm: float, margin: float | None) -> str:
    said = [f"{pair.first} better"] if p_holm <= ALPHA else []
    said += [f"equivalent within ±{margin:g}"] if pair.equivalent else []
    return ", ".join(said) or "no difference shown"


def _systems(runs: Field, entries: list[_Entry], pairs: list[Pair]) -> list[System]:
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
                name=entry.name,
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


def _score_interval(entry: _Entry, metric: str) -> tuple[float | None, float | None]:
    """Of the mean over several seeds: its difference from 0, which has no spread, over other seeds and examples."""
    if entry.place is not None:
        return None, None
    zero = seed_variance.System(scores=np.zeros(2), jackknife=np.zeros((len(entry.scores.jackknife), 2)))
    low, high = seed_variance.over_seeds_and_examples(entry.scores, zero).interval()
    least, most = accessors.bounds(metric)
    return (max(low, least), min(high, most)) if low < high else (None, None)


def _seed_notes(entries: list[_Entry]) -> list[str]:
    single = [entry.letter for entry in entries if entry.place is not None]
    if not single:
        return []
    which = "every system" if len(single) == len(entries) else ", ".join(single)
    return [
        f"One seed only of {which}: nothing is known of how far other seeds would move the score. What is said of a "
        "pair with such a system holds for these trained models on other examples, not for the methods."
    ]
