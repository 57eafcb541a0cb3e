"""Do the intervals of `python -m bench compare` hold the truth as often as they say, and do its tests err as rarely?

    python scripts/benchmarks/coverage.py [--small] [--studies N]

Studies are simulated of which the truth is known: two systems, test examples drawn from a population, and for the
cases of several seeds also seeds from theirs. Each example has a difficulty that all systems share; a system has its
ability, each of its seeds a shift, and seed and example together one more. An example is right where the sum is above
zero, so that the true accuracy follows from the normal distribution. The answers of the F1 case are drawn from a table
of probabilities, of which F1 is the formula's; those of the means are skewed, between 0 and 1.

For each case a row: the share of 95 % intervals that hold the true difference, or of tests that find one where there
is none; of families, the share in which any pair was called better; of equivalence, how often it was shown where the
difference is just the margin. Cases with limits must lie within them, else the exit code is 1: 94 to 96 % of intervals,
4 to 6 % of tests. Some may err on the safe side, and are only held to the other: exact tests; tests and intervals over
seeds, which allow for seeds that are alike by luck; and intervals of 20 examples of which two differ, since their few
possible values let none come near 95 %. Cases without limits show what is not used, and why: the bootstrap where each
example is right or wrong, percentiles of seeds and examples resampled together, the bootstrap of few examples, and
variances of seeds by themselves.
"""

import argparse
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import NormalDist

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.analysis.stats import multiple, paired, seed_variance, sums
from bench.analysis.stats.paired import Value

SEED = 13
DRAWS = 1000
SHARED, OWN = 1.0, 0.5  # standard deviations of an example's difficulty, and of seed and example together
INTERVAL, TEST, CAREFUL_INTERVAL, CAREFUL_TEST = (0.94, 0.96), (0.04, 0.06), (0.94, 1.0), (0.0, 0.06)
# P(prediction of the first, prediction of the second | reference), rows: references 0, 1, 2; weights of references.
REFERENCES = np.array([0.5, 0.3, 0.2])
CONFUSION = np.array(
    [
        [[0.70, 0.06, 0.02], [0.08, 0.08, 0.00], [0.02, 0.02, 0.02]],
        [[0.10, 0.06, 0.02], [0.04, 0.60, 0.04], [0.02, 0.06, 0.06]],
        [[0.10, 0.02, 0.06], [0.02, 0.10, 0.06], [0.04, 0.05, 0.55]],
    ]
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a row tells. limits: None where it is only shown. rate: of intervals that hold, or tests that find."""

    name: str
    rate: float
    studies: int
    limits: tuple[float, float] | None

    @property
    def is_within(self) -> bool:
        """Whether it is as it must be."""
        return self.limits is None or self.limits[0] <= self.rate <= self.limits[1]


def accuracy(ability: float, seed_deviation: float) -> float:
    """The true accuracy: the share of a normal distribution above zero."""
    return NormalDist().cdf(ability / math.sqrt(SHARED**2 + OWN**2 + seed_deviation**2))


def right(
    draw: np.random.Generator, examples: int, systems: list[tuple[float, int]], seed_deviation: float
) -> list[np.ndarray]:
    """[examples, seeds] of 0 and 1 for each system, given by its ability and its number of seeds."""
    difficulty = draw.normal(scale=SHARED, size=(examples, 1))
    return [
        (ability + difficulty + draw.normal(scale=seed_deviation, size=count)
         + draw.normal(scale=OWN, size=(examples, count)) > 0).astype(np.uint8)
        for ability, count in systems
    ]  # fmt: skip


def as_mean(values: np.ndarray) -> np.ndarray:
    """Statistics of a mean, as the harness has them."""
    return np.stack([values, np.ones_like(values)], axis=1)


def intervals(runs: list[np.ndarray], value: Value, seed: int) -> Iterator[tuple[float, float]]:
    """BCa and percentile of the difference of two runs, as in `bench.analysis.compare`."""
    drawn = paired.bootstrap_values(paired.stack(runs), value, DRAWS, seed)
    observed = float(value(runs[0].sum(0, dtype=float)) - value(runs[1].sum(0, dtype=float)))
    left_out = paired.jackknife_values(runs[0], value) - paired.jackknife_values(runs[1], value)
    yield paired.bca_interval(drawn[:, 0] - drawn[:, 1], observed, left_out)
    yield paired.percentile_interval(drawn[:, 0] - drawn[:, 1])


def of_accuracy(draw: np.random.Generator, examples: int) -> list[np.ndarray]:
    """Two runs of unlike ability."""
    return [as_mean(answers[:, 0]) for answers in right(draw, examples, [(1.5, 1), (1.2, 1)], 0.0)]


def of_means(draw: np.random.Generator, examples: int) -> list[np.ndarray]:
    """Two runs whose scores by example lie at 0, at 1, or between, like F1 of answers; true means 0.55 and 0.5."""
    shared = draw.random(examples)
    runs = []
    for mean in (0.55, 0.5):
        same = draw.random(examples) < 0.6
        place = np.where(same, shared, draw.random(examples))
        # A fifth of the examples are partly right, with a mean of 0.5; the rest is all or nothing.
        partly = draw.random(examples) < 0.2
        whole = place < (mean - 0.1) / 0.8
        runs.append(as_mean(np.where(partly, draw.random(examples), whole)))
    return runs


def of_labels(draw: np.random.Generator, examples: int) -> list[np.ndarray]:
    """Two runs drawn from the table of probabilities, as statistics of F1."""
    cells = draw.choice(27, size=examples, p=_cells().ravel())
    reference, first, second = (np.eye(3, dtype=np.uint8)[part] for part in np.unravel_index(cells, (3, 3, 3)))
    return [np.concatenate([guess & reference, guess, reference], axis=1) for guess in (first, second)]


def _cells() -> np.ndarray:
    joint = REFERENCES[:, None, None] * CONFUSION / CONFUSION.sum((1, 2), keepdims=True)
    return joint / joint.sum()


def f1_of_labels() -> tuple[Value, float]:
    """Macro F1, and its true difference."""
    value = sums.label_value("f1_macro")
    joint = _cells()
    found = []
    for table in (joint.sum(2), joint.sum(1)):  # [reference, prediction] of the first, of the second
        found.append(float(value(np.concatenate([np.diag(table), table.sum(0), table.sum(1)]))))
    return value, found[0] - found[1]


def interval_cases(studies: int) -> Iterator[Case]:
    """Two runs of one seed each."""
    f1, f1_difference = f1_of_labels()
    mean = sums.mean_value
    known: list[tuple[str, Callable[[np.random.Generator, int], list[np.ndarray]], Value, float, int]] = [
        ("accuracy, 500 examples", of_accuracy, mean, accuracy(1.5, 0) - accuracy(1.2, 0), 500),
        ("macro F1, 3 labels, 500 examples", of_labels, f1, f1_difference, 500),
        ("mean of F1 by example, 500 examples", of_means, mean, 0.05, 500),
        ("mean of F1 by example, 20 examples", of_means, mean, 0.05, 20),
    ]
    for name, make, value, truth, examples in known:
        draw = np.random.default_rng(SEED)
        held = np.zeros(2)
        for study in range(studies):
            ends = intervals(make(draw, examples), value, study)
            held += [low <= truth <= high for low, high in ends]
        limits = INTERVAL if examples >= 500 and make is not of_accuracy else None
        for kind, rate in zip(("BCa", "percentile"), held / studies, strict=True):
            yield Case(name=f"interval, {kind}: {name}", rate=float(rate), studies=studies, limits=limits)


def matched_cases(studies: int) -> Iterator[Case]:
    """Two runs of one seed each, whose examples are right or wrong."""
    truth = accuracy(1.5, 0) - accuracy(1.2, 0)
    for examples in (20, 100, 500):
        draw, held, equal = np.random.default_rng(SEED), 0, 0
        for _ in range(studies):
            first, second = (rows[:, 0] == 1 for rows in of_accuracy(draw, examples))
            only = int((first & ~second).sum()), int((second & ~first).sum())
            held += _holds(paired.matched_interval(*only, examples), truth)
            equal += paired.matched_equivalent(*only, examples, truth, multiple.equivalence_confidence(1))
        limits = CAREFUL_INTERVAL if examples == 20 else INTERVAL
        name = f"Agresti and Min: accuracy, {examples} examples, a tenth differs"
        yield Case(name=f"interval, {name}", rate=float(held / studies), studies=studies, limits=limits)
        name = f"accuracy, {examples} examples, a tenth differs"
        yield Case(
            name=f"equivalence, score test: {name}", rate=float(equal / studies), studies=studies, limits=CAREFUL_TEST
        )
    draw = np.random.default_rng(SEED)
    for examples in (20, 100):
        drawn = draw.multinomial(examples, [0.2, 0.1, 0.7], size=studies)
        held = sum(_holds(paired.matched_interval(int(b), int(c), examples), 0.1) for b, c, _ in drawn)
        name = f"interval, Agresti and Min: accuracy, {examples} examples, three tenths differ"
        yield Case(name=name, rate=float(held / studies), studies=studies, limits=INTERVAL)


def _holds(ends: tuple[float, float], truth: float) -> bool:
    return ends[0] <= truth <= ends[1]


def test_cases(studies: int) -> Iterator[Case]:
    """Two runs of one seed each that are equally good."""
    draw = np.random.default_rng(SEED)
    found = np.zeros(2)
    for study in range(studies):
        first, second = (answers[:, 0] for answers in right(draw, 500, [(1.2, 1), (1.2, 1)], 0.0))
        only = int((first > second).sum()), int((second > first).sum())
        stack = paired.stack([as_mean(first + draw.random(500)), as_mean(second + draw.random(500))])
        p_values = paired.randomisation_test(stack, sums.mean_value, [(0, 1)], DRAWS, study)
        found += [paired.mcnemar(*only) <= 0.05, p_values[0] <= 0.05]
    for name, rate, limits in zip(
        ("McNemar, exact: accuracy", "approximate randomisation: mean"), found / studies, (CAREFUL_TEST, TEST),
        strict=True,
    ):  # fmt: skip
        yield Case(name=f"test, {name}, 500 examples", rate=float(rate), studies=studies, limits=limits)


def system(answers: np.ndarray) -> seed_variance.SeedScores:
    """Of [examples, seeds] of 0 and 1."""
    total = answers.sum(0, dtype=float)
    return seed_variance.SeedScores(scores=total / len(answers), jackknife=(total - answers) / (len(answers) - 1))


def resampled(draw: np.random.Generator, groups: list[np.ndarray]) -> tuple[float, float]:
    """The percentile interval of seeds and examples drawn with replacement: what is not used."""
    examples = len(groups[0])
    weights = np.stack([np.bincount(draw.integers(examples, size=examples), minlength=examples) for _ in range(200)])
    means = [weights @ answers / examples for answers in groups]  # [draws, seeds]
    picked = [np.take_along_axis(part, draw.integers(part.shape[1], size=part.shape), axis=1).mean(1) for part in means]
    return paired.percentile_interval(picked[0] - picked[1])


def seed_cases(studies: int) -> Iterator[Case]:
    """Two systems of several seeds: other seeds and other examples."""
    for counts in ((2, 2), (3, 3), (5, 5), (3, 5)):
        for deviation in (0.0, 0.05, 0.2):
            draw = np.random.default_rng(SEED)
            truth = accuracy(1.5, deviation) - accuracy(1.2, deviation)
            held, found, equal, plain, alone = 0, 0, 0, 0, 0
            compared = counts == (3, 3)
            for _ in range(studies):
                groups = right(draw, 500, [(1.5, counts[0]), (1.2, counts[1])], deviation)
                estimate = over_seeds(groups)
                held += _holds(estimate.interval(), truth)
                alone += _holds(replace(estimate, standard_errors=estimate.standard_errors[:1]).interval(), truth)
                equal += multiple.is_equivalent(*estimate.interval(multiple.equivalence_confidence(1)), truth)
                if compared:
                    plain += _holds(resampled(draw, groups), truth)
                groups = right(draw, 500, [(1.2, counts[0]), (1.2, counts[1])], deviation)
                found += over_seeds(groups).p_value() <= 0.05
            what = f"{counts[0]} and {counts[1]} seeds of deviation {deviation:g}, 500 examples"
            for name, count, limits in (
                ("interval, Student's t", held, CAREFUL_INTERVAL),
                ("test, Student's t", found, CAREFUL_TEST),
                ("equivalence, Student's t", equal, CAREFUL_TEST),
                ("interval, variance of these seeds by itself (not used)", alone, None),
                *((("interval, percentile (not used)", plain, None),) if compared else ()),
            ):
                yield Case(name=f"{name}: {what}", rate=float(count / studies), studies=studies, limits=limits)


def over_seeds(groups: list[np.ndarray]) -> seed_variance.DifferenceEstimate:
    """Of two systems, as a family of their own."""
    first, second = map(system, groups)
    return seed_variance.over_seeds_and_examples(first, second, seed_variance.common_variance([first, second]))


def family_cases(studies: int) -> Iterator[Case]:
    """Many systems that are equally good: how often is any pair called better, after Holm's correction?"""
    for systems, count in ((6, 2), (10, 2), (10, 3), (10, 5)):
        for deviations in ((0.0,), (0.05,), (0.2,), (0.2, 0.0)):
            draw, found, alone = np.random.default_rng(SEED), 0, 0
            scales = np.resize(deviations, systems)[:, None]
            # All have one true accuracy, also those whose seeds vary more.
            ability = 1.2 * np.sqrt(1 + scales**2 / (SHARED**2 + OWN**2))
            for _ in range(studies):
                own = draw.normal(scale=OWN, size=(400, systems, count)) + draw.normal(size=(systems, count)) * scales
                answers = ability + draw.normal(scale=SHARED, size=(400, 1, 1)) + own > 0
                group = [system(answers[:, place].astype(np.uint8)) for place in range(systems)]
                common = seed_variance.common_variance(group)
                pairs = [
                    seed_variance.over_seeds_and_examples(a, b, common) for a, b in itertools.combinations(group, 2)
                ]
                found += multiple.holm([pair.p_value() for pair in pairs]).min() <= 0.05
                own_p = [replace(pair, standard_errors=pair.standard_errors[:1]).p_value() for pair in pairs]
                alone += multiple.holm(own_p).min() <= 0.05
            told = " and ".join(f"{deviation:g}" for deviation in deviations)
            what = f"{systems} systems of {count} seeds of deviation {told}, 400 examples"
            yield Case(name=f"family, Holm: {what}", rate=float(found / studies), studies=studies, limits=CAREFUL_TEST)
            name = f"family, Holm, variance of each system's seeds by itself (not used): {what}"
            yield Case(name=name, rate=float(alone / studies), studies=studies, limits=None)


def _row(case: Case) -> str:
    limits = "–" if case.limits is None else f"{100 * case.limits[0]:g} to {100 * case.limits[1]:g}"
    within = "–" if case.limits is None else "yes" if case.is_within else "**no**"
    return f"| {case.name} | {100 * case.rate:.1f} | {limits} | {within} |"


KINDS = (matched_cases, interval_cases, test_cases, seed_cases, family_cases)


def main(arguments: list[str]) -> int:
    """Prints the table and a line of JSON; 1 where a rate lies outside its limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="10 studies, limits not held: does it run?")
    parser.add_argument("--studies", type=int, default=2000)
    options = parser.parse_args(arguments)
    studies = 10 if options.small else options.studies
    print(f"{studies:,} studies for each row, {DRAWS:,} draws, seed {SEED}, numpy {np.__version__}\n")
    print("| case | rate, % | limits, % | within |\n| --- | --: | --: | --- |")
    cases = []
    for case in itertools.chain(*(kind(studies) for kind in KINDS)):
        cases.append(case)
        print(_row(case), flush=True)
    failed = [case.name for case in cases if not case.is_within]
    line = {"benchmark": "coverage", "small": options.small, "device": "cpu", "studies": studies, "seed": SEED}
    print(json.dumps({**line, "cases": [{**asdict(case), "within": case.is_within} for case in cases]}))
    if failed and not options.small:
        print(f"outside the limits: {'; '.join(failed)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
