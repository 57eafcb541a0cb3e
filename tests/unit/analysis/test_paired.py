"""paired.py, seed_variance.py, multiple.py against scipy, statsmodels, sacrebleu, and studies whose truth is known."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest
from scipy import stats as scipy_stats
from sklearn.metrics import f1_score
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import normal_power
from statsmodels.stats.weightstats import ttost_paired

from bench.analysis.stats import multiple, paired, seed_variance, sums
from tests.helpers.launching import ROOT, environment

DRAWS = 4000


def mean_rows(values):
    return np.stack([values, np.ones_like(values)], axis=1)


def two_means(examples=60, seed=0):
    draw = np.random.default_rng(seed)
    first = draw.beta(2, 1, examples)
    return first, np.clip(first - 0.1 + draw.normal(scale=0.3, size=examples), 0, 1)


def label_rows(predicted, reference, labels=3):
    """Statistics of F1."""
    one_hot = np.eye(labels, dtype=np.uint8)
    return np.concatenate([one_hot[predicted] & one_hot[reference], one_hot[predicted], one_hot[reference]], axis=1)


# ---------------------------------------------------------------- McNemar


@pytest.mark.parametrize("counts", [(0, 1), (1, 1), (3, 9), (9, 3), (0, 40), (500, 430), (12_000, 11_700)])
def test_mcnemar_equals_scipy_and_statsmodels(counts):
    found = paired.mcnemar(*counts)
    assert found == pytest.approx(scipy_stats.binomtest(counts[0], sum(counts)).pvalue, rel=1e-9)
    table = [[5, counts[0]], [counts[1], 7]]
    assert found == pytest.approx(statsmodels_mcnemar(table, exact=True).pvalue, rel=1e-9)


def test_mcnemar_without_a_differing_example():
    assert paired.mcnemar(0, 0) == 1.0
    with pytest.raises(ValueError, match="got -1 and 3"):
        paired.mcnemar(-1, 3)


def test_matched_interval_is_walds_with_half_an_example_in_each_cell():
    first, second = (item > 0.55 for item in two_means(200))
    only = int((first & ~second).sum()), int((second & ~first).sum())
    # As the mean of +1, 0 and -1, of 200 examples and of four halves.
    weights = np.array([only[0] + 0.5, only[1] + 0.5, 200 - sum(only) + 1])
    values = np.array([1, -1, 0])
    middle = np.average(values, weights=weights)
    error = math.sqrt(np.average((values - middle) ** 2, weights=weights) / 202)
    expected = scipy_stats.norm(middle, error).interval(0.9)
    assert paired.matched_interval(*only, 200, 0.9) == pytest.approx(expected, abs=1e-12)
    assert paired.matched_interval(0, 0, 98) == pytest.approx((-0.0196, 0.0196), abs=1e-4)
    assert paired.matched_interval(3, 0, 3)[1] == 1.0
    with pytest.raises(ValueError, match="3 and 2 discordant examples, but only 4 in total"):
        paired.matched_interval(3, 2, 4)


# ---------------------------------------------------------------- bootstrap


def test_bca_and_percentile_equal_scipys_on_the_same_draws():
    first, second = two_means()

    def difference(one, other, axis):
        return one.mean(axis) - other.mean(axis)

    for confidence in (0.9, 0.95):
        expected = {
            method: scipy_stats.bootstrap(
                (first, second), difference, paired=True, n_resamples=999, method=method,
                confidence_level=confidence, rng=np.random.default_rng(1),
            )
            for method in ("BCa", "percentile")
        }  # fmt: skip
        drawn = expected["BCa"].bootstrap_distribution
        pulls = [difference(np.delete(first, i), np.delete(second, i), 0) for i in range(len(first))]
        low, high = paired.bca_interval(drawn, float(first.mean() - second.mean()), np.array(pulls), confidence)
        assert (low, high) == pytest.approx(tuple(expected["BCa"].confidence_interval), abs=1e-12)
        drawn = expected["percentile"].bootstrap_distribution
        found = paired.percentile_interval(drawn, confidence)
        assert found == pytest.approx(tuple(expected["percentile"].confidence_interval), abs=1e-12)


def test_own_draws_are_those_of_a_bootstrap():
    """Standard deviation of the difference in 4,000 draws, in whole rows, in repeated ones, and by scipy."""
    first, second = two_means(200)
    for one, other in ((first, second), (first > 0.5, second > 0.5)):
        runs = paired.stack([mean_rows(one.astype(float)), mean_rows(other.astype(float))])
        assert (len(runs.counts) < 200) == (one.dtype == bool)
        drawn = paired.bootstrap_values(runs, sums.mean_value, DRAWS, seed=3)
        difference = one.astype(float) - other
        assert drawn.mean(0) == pytest.approx([one.mean(), other.mean()], abs=0.003)
        assert np.std(drawn[:, 0] - drawn[:, 1]) == pytest.approx(difference.std() / math.sqrt(200), rel=0.05)


def test_the_same_seed_gives_the_same_draws_whatever_other_code_drew():
    runs = paired.stack([mean_rows(item) for item in two_means()])
    first = paired.bootstrap_values(runs, sums.mean_value, 50, seed=3)
    np.random.rand()
    assert (first == paired.bootstrap_values(runs, sums.mean_value, 50, seed=3)).all()
    assert (first != paired.bootstrap_values(runs, sums.mean_value, 50, seed=4)).any()


@pytest.mark.parametrize("labels", [3, 40])
def test_sums_of_weighted_examples(labels):
    """Wide tables are sparse; columns that runs share are added once; the sums are those of plain products."""
    draw = np.random.default_rng(0)
    reference = draw.integers(labels, size=120)
    tables = [label_rows(draw.integers(labels, size=120), reference, labels) for _ in range(3)]
    runs = paired.stack(tables)
    assert isinstance(runs.rows, np.ndarray) == (labels == 3)
    assert len(set(runs.places.tolist())) < 3 * 3 * labels
    weights = draw.integers(5, size=(7, 120)).astype(np.float32)
    expected = np.stack([weights @ table for table in tables], axis=1)
    np.testing.assert_array_equal(runs.sums(weights), expected)
    np.testing.assert_array_equal(runs.totals, np.stack([table.sum(0) for table in tables]))


def test_blocks_are_small_and_add_up():
    runs = paired.stack([mean_rows(np.random.default_rng(0).random(30_000)) for _ in range(2)])
    sizes = list(runs.blocks(1000))
    assert sum(sizes) == 1000
    assert max(sizes) * 30_000 * 8 <= paired.BLOCK_BYTES
    with pytest.raises(ValueError, match="got 0"):
        list(runs.blocks(0))


def test_runs_must_have_the_same_examples():
    with pytest.raises(ValueError, match="statistics of equal shape"):
        paired.stack([np.ones((3, 2)), np.ones((4, 2))])
    with pytest.raises(ValueError, match="statistics of equal shape"):
        paired.stack([np.ones((0, 2)), np.ones((0, 2))])


def test_jackknife_leaves_out_each_example():
    draw = np.random.default_rng(2)
    predicted, reference = draw.integers(3, size=(2, 40))
    found = paired.jackknife_values(label_rows(predicted, reference), sums.label_value("f1_macro"))
    for place in range(40):
        kept = np.arange(40) != place
        expected = f1_score(reference[kept], predicted[kept], average="macro", labels=range(3), zero_division=0)
        assert found[place] == pytest.approx(expected, abs=1e-12)


# ---------------------------------------------------------------- randomisation


def test_randomisation_equals_scipys_exact_test():
    first, second = two_means(12)

    def difference(one, other, axis):
        return one.mean(axis) - other.mean(axis)

    exact = scipy_stats.permutation_test((first, second), difference, permutation_type="samples", n_resamples=np.inf)
    runs = paired.stack([mean_rows(first), mean_rows(second)])
    (found,) = paired.randomisation_test(runs, sums.mean_value, [(0, 1)], 20_000, seed=0)
    assert found == pytest.approx(exact.pvalue, abs=0.01)


def test_randomisation_of_f1_equals_all_swaps():
    draw = np.random.default_rng(5)
    reference = draw.integers(2, size=8)
    first, second = np.where(draw.random(8) < 0.9, reference, 1 - reference), draw.integers(2, size=8)

    def f1(predicted):
        return f1_score(reference, predicted, average="macro", labels=range(2), zero_division=0)

    observed = abs(f1(first) - f1(second))
    swapped = [np.array(bits) == 1 for bits in itertools.product((0, 1), repeat=8)]
    reached = [abs(f1(np.where(s, second, first)) - f1(np.where(s, first, second))) >= observed - 1e-9 for s in swapped]
    runs = paired.stack([label_rows(first, reference, 2), label_rows(second, reference, 2)])
    (found,) = paired.randomisation_test(runs, sums.label_value("f1_macro"), [(0, 1)], 20_000, seed=0)
    assert 0.02 < found < 0.98
    assert found == pytest.approx(np.mean(reached), abs=0.012)


def test_repeated_rows_are_swapped_like_single_ones():
    """0/1 answers are drawn by the number of each kind; a hair's breadth between them makes them rows of their own."""
    first, second = (item > 0.55 for item in two_means(200))
    hair = np.linspace(0, 1e-12, 200)
    for rows in (
        [mean_rows(one.astype(float)) for one in (first, second)],
        [mean_rows(first + hair), mean_rows(second - hair)],
    ):
        (found,) = paired.randomisation_test(paired.stack(rows), sums.mean_value, [(0, 1)], 20_000, seed=0)
        only = int((first & ~second).sum()), int((second & ~first).sum())
        assert found == pytest.approx(paired.mcnemar(*only), abs=0.01)


def test_equal_runs_do_not_differ():
    first, _ = two_means()
    runs = paired.stack([mean_rows(first), mean_rows(first)])
    assert paired.randomisation_test(runs, sums.mean_value, [(0, 1)], 100, seed=0) == [1.0]
    drawn = paired.bootstrap_values(runs, sums.mean_value, 100, seed=0)
    assert paired.bca_interval(drawn[:, 0] - drawn[:, 1], 0.0, np.zeros(60)) == (0.0, 0.0)


# ---------------------------------------------------------------- BLEU, by sacrebleu's own tests


def texts(examples=60):
    draw = np.random.default_rng(7)
    words = np.array([f"w{number}" for number in range(30)])
    golds = [draw.choice(words, size=12) for _ in range(examples)]
    systems = []
    for share in (0.15, 0.22):
        systems.append(
            [" ".join(np.where(draw.random(12) < share, draw.choice(words, size=12), gold)) for gold in golds]
        )
    return [" ".join(gold) for gold in golds], systems


def test_bleu_is_tested_as_by_sacrebleu(monkeypatch):
    monkeypatch.setenv("SACREBLEU_SEED", "1")
    golds, systems = texts()
    rows = [
        sums.tally("bleu", [sums.Line(prediction=p, reference=[g]) for p, g in zip(answers, golds, strict=True)],
                      (), multi_label=False)
        for answers in systems
    ]  # fmt: skip
    named = [("first", systems[0]), ("second", systems[1])]
    tests = {
        kind: PairedTest(named, {"BLEU": BLEU()}, [golds], test_type=kind, n_samples=DRAWS)()[1]["BLEU"]
        for kind in ("ar", "bs")
    }
    for place, row in enumerate(rows):
        assert row.score == pytest.approx(tests["ar"][place].score, abs=1e-9)
    runs = paired.stack([row.rows for row in rows])
    (found,) = paired.randomisation_test(runs, sums.bleu_value, [(0, 1)], DRAWS, seed=0)
    assert 0.0005 < found < 0.5
    assert found == pytest.approx(tests["ar"][1].p_value, abs=0.015)
    drawn = paired.bootstrap_values(runs, sums.bleu_value, DRAWS, seed=0)
    for place in (0, 1):
        low, high = paired.percentile_interval(drawn[:, place])
        assert drawn[:, place].mean() == pytest.approx(tests["bs"][place].mean, abs=0.2)
        assert (high - low) / 2 == pytest.approx(tests["bs"][place].ci, rel=0.06)


def likeliest(only_first, only_second, examples, difference):
    """The score statistic with the nuisance share found by a general optimiser."""
    from scipy.optimize import minimize_scalar

    def loss(share):
        rest = 1 - 2 * share - difference
        return -(only_first * np.log(share + difference) + only_second * np.log(share)
                 + (examples - only_first - only_second) * np.log(rest))  # fmt: skip

    low, high = max(0.0, -difference) + 1e-9, (1 - difference) / 2 - 1e-9
    share = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    variance = examples * (2 * share + difference - difference**2)
    return (only_first - only_second - examples * difference) / math.sqrt(variance)


def test_the_score_statistic_is_that_of_the_likeliest_shares():
    for counts in ((30, 12, 200), (5, 9, 60), (3, 1, 400)):
        for difference in (-0.2, -0.05, 0.03, 0.3):
            found = paired.matched_score(*counts, difference)
            assert found == pytest.approx(likeliest(*counts, difference), rel=1e-3)


def test_equivalence_of_shares_errs_as_seldom_as_it_says():
    """Exactly, over all outcomes, where the difference is just the margin."""
    for examples, first, second in ((300, 0.05, 0.01), (200, 0.15, 0.05), (100, 0.2, 0.1)):
        wrong = wrong_by_interval = 0.0
        margin, confidence = first - second, multiple.equivalence_confidence(1)
        for one in range(examples + 1):
            chance = scipy_stats.binom.pmf(one, examples, first)
            if chance < 1e-9:
                continue
            others = scipy_stats.binom.pmf(np.arange(examples - one + 1), examples - one, second / (1 - first))
            for other in np.flatnonzero(others > 1e-9).tolist():
                given = one, other, examples
                wrong += chance * others[other] * paired.matched_equivalent(*given, margin, confidence)
                ends = paired.matched_interval(*given, confidence)
                wrong_by_interval += chance * others[other] * multiple.is_equivalent(*ends, margin)
        assert wrong <= 0.05
        assert wrong <= wrong_by_interval
    assert paired.matched_equivalent(0, 0, 400, 0.02, 0.9)
    assert not paired.matched_equivalent(0, 0, 10, 0.02, 0.9)
    assert paired.matched_equivalent(5, 0, 10, 1.0, 0.9)


# ---------------------------------------------------------------- several seeds


def system(answers):
    """[examples, seeds] of values whose mean is the score."""
    total = answers.sum(0)
    return seed_variance.SeedScores(scores=total / len(answers), jackknife=(total - answers) / (len(answers) - 1))


def test_examples_alone_are_the_paired_t_test():
    first, second = two_means(30)
    expected = scipy_stats.ttest_rel(first, second)
    found = seed_variance.over_examples(system(first[:, None]), system(second[:, None]))
    assert found.standard_errors[0].degrees_of_freedom == expected.df
    assert found.p_value() == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.interval() == pytest.approx(tuple(expected.confidence_interval()), abs=1e-12)


def test_without_a_spread_of_examples_it_is_welchs_t_test():
    draw = np.random.default_rng(0)
    scores = draw.normal(size=4), draw.normal(loc=0.5, size=3)
    groups = [system(np.tile(part, (50, 1))) for part in scores]
    found, expected = seed_variance.over_seeds_and_examples(*groups), scipy_stats.ttest_ind(*scores, equal_var=False)
    assert found.standard_errors[0].degrees_of_freedom == pytest.approx(expected.df, rel=1e-6)
    assert found.p_value() == pytest.approx(expected.pvalue, rel=1e-6)
    assert found.interval(0.9) == pytest.approx(tuple(expected.confidence_interval(0.9)), rel=1e-6)


def test_seeds_that_are_all_alike_leave_the_examples():
    first, second = two_means(80)
    groups = [system(np.tile(part[:, None], (1, 3))) for part in (first, second)]
    found, expected = seed_variance.over_seeds_and_examples(*groups), scipy_stats.ttest_rel(first, second)
    assert found.p_value() == pytest.approx(expected.pvalue, rel=1e-6)
    assert found.standard_errors[0].degrees_of_freedom == pytest.approx(79, rel=1e-6)


def test_what_never_varies_divides_by_nothing():
    same = system(np.tile([1.0], (6, 3)))
    worse = system(np.tile([0.0], (6, 3)))
    assert seed_variance.over_seeds_and_examples(same, same).p_value() == 1.0
    assert seed_variance.over_seeds_and_examples(same, same).interval() == (0.0, 0.0)
    # Six examples of six: the sign test's 2 / 2^6.
    assert seed_variance.over_seeds_and_examples(same, worse).p_value() == 2 / 64
    one = system(np.array([[1.0], [0.0]]))
    with pytest.raises(ValueError, match="at least two seeds of each system"):
        seed_variance.over_seeds_and_examples(one, one)


def seeded(draw, examples=100, systems=2, count=2):
    """Answers [examples, seeds] of systems that are equally good."""
    difficulty = draw.normal(size=(examples, 1))
    noise = draw.normal(scale=0.5, size=(systems, examples, count))
    return [system((1.0 + difficulty + own > 0).astype(float)) for own in noise]


def test_nothing_is_surer_over_seeds_than_for_these_very_runs():
    draw, narrower = np.random.default_rng(0), 0
    for _ in range(200):
        first, second = seeded(draw)
        found, plain = seed_variance.over_seeds_and_examples(first, second), seed_variance.over_examples(first, second)
        assert found.p_value() >= plain.p_value()
        (low, high), (inner_low, inner_high) = found.interval(), plain.interval()
        assert low <= inner_low <= inner_high <= high
        narrower += found.standard_errors[0].value < 0.8 * plain.standard_errors[0].value
    assert narrower > 5  # what one estimate alone would have made of seeds that are alike by luck


def test_seeds_that_are_alike_by_luck_borrow_the_spread_of_the_others():
    draw = np.random.default_rng(0)
    steady, other = (system(np.tile([[level, level]], (50, 1))) for level in (0.5, 0.6))
    wild = system(np.tile(draw.normal(size=4), (50, 1)))
    variance, freedom = seed_variance.common_variance([steady, other, wild, system(np.ones((50, 1)))])
    expected = 3 * wild.scores.var(ddof=1) / 5
    assert (variance, freedom) == (pytest.approx(expected), 5)
    found = seed_variance.over_seeds_and_examples(steady, other, (variance, freedom))
    assert found.standard_errors[1].value == pytest.approx(math.sqrt(expected))
    assert found.standard_errors[1].degrees_of_freedom == pytest.approx(5)
    assert found.interval() == pytest.approx(tuple(
        scipy_stats.t.interval(0.95, 5, loc=-0.1, scale=math.sqrt(expected))))  # fmt: skip
    assert seed_variance.common_variance([system(np.ones((50, 1)))]) == (0.0, 1.0)


def test_seeds_that_contradict_one_another_leave_a_width():
    """Classifiers that answer all examples alike, each seed with another of two labels, of which each is half right."""
    right = np.tile([1.0, 0.0], 20)
    collapsed = system(np.stack([right, 1 - right], axis=1))
    zero = seed_variance.SeedScores(scores=np.zeros(2), jackknife=np.zeros((40, 2)))
    low, high = seed_variance.over_seeds_and_examples(collapsed, zero).interval()
    assert low < 0.4 < 0.6 < high


def test_a_family_of_seeded_systems_errs_as_seldom_as_it_says():
    draw, wrong, alone = np.random.default_rng(1), 0, 0
    for _ in range(150):
        group = seeded(draw, systems=6)
        common = seed_variance.common_variance(group)
        found = [seed_variance.over_seeds_and_examples(*pair, common) for pair in itertools.combinations(group, 2)]
        wrong += multiple.holm([one.p_value() for one in found]).min() <= 0.05
        single = [
            seed_variance.DifferenceEstimate(
                difference=one.difference, standard_errors=one.standard_errors[:1], examples=100
            )
            for one in found
        ]
        alone += multiple.holm([one.p_value() for one in single]).min() <= 0.05
    assert wrong <= 7  # of 150: 5 %
    assert alone > wrong


def test_student_quantile_equals_scipy():
    for share, freedom in itertools.product((0.8, 0.95, 0.975), (1.7, 4, 200)):
        assert seed_variance.student_quantile(share, freedom) == pytest.approx(
            scipy_stats.t.ppf(share, freedom), rel=1e-9
        )
    assert seed_variance.student_quantile(0.975, math.inf) == pytest.approx(1.959964, abs=1e-6)


def test_the_detectable_difference_has_that_power():
    found = seed_variance.minimal_detectable(0.01)
    assert found == pytest.approx(0.0280, abs=1e-4)
    assert normal_power(found, nobs=1, alpha=0.05, sigma=0.01) == pytest.approx(0.8, abs=1e-4)
    for freedom, alpha in ((1.0, 0.05), (4.0, 0.05), (4.0, 0.005), (500.0, 0.05)):
        shift = seed_variance.minimal_detectable(1.0, freedom, alpha=alpha)
        least = scipy_stats.t.ppf(1 - alpha / 2, freedom)
        assert scipy_stats.nct.sf(least, freedom, shift) == pytest.approx(0.8, abs=1e-6)
    assert math.isnan(seed_variance.minimal_detectable(0.0))


# ---------------------------------------------------------------- families


def test_holm_equals_statsmodels():
    draw = np.random.default_rng(0)
    for size in (1, 2, 7, 45):
        p_values = draw.random(size) ** 3
        expected = multipletests(p_values, method="holm")[1]
        np.testing.assert_allclose(multiple.holm(p_values), expected, rtol=1e-12)
    assert multiple.holm([0.04, 0.04, 0.01]).tolist() == pytest.approx([0.08, 0.08, 0.03])
    assert multiple.holm([]).tolist() == []
    with pytest.raises(ValueError, match="between 0 and 1"):
        multiple.holm([0.5, math.nan])


def test_equivalence_equals_statsmodels_two_one_sided_tests():
    first, second = two_means(40)
    estimate = seed_variance.over_examples(system(first[:, None]), system(second[:, None]))
    verdicts = set()
    for margin in np.linspace(0.02, 0.3, 40):
        expected = ttost_paired(first, second, -margin, margin)[0] < 0.05
        assert multiple.is_equivalent(*estimate.interval(multiple.equivalence_confidence(1)), margin) == expected
        verdicts.add(bool(expected))
    assert verdicts == {True, False}
    assert multiple.equivalence_confidence(10) == pytest.approx(0.99)


def test_tiers():
    differ = {frozenset(pair) for pair in ("AD", "AC", "CE", "BE")}
    groups = multiple.tiers("ABCDE", lambda one, other: frozenset((one, other)) in differ)
    # E ties with A, the best, though it differs from B; C begins the next tier.
    assert groups == [["A", "B", "E"], ["C", "D"]]
    assert multiple.tiers("AB", lambda one, other: True) == [["A"], ["B"]]
    assert multiple.tiers("", lambda one, other: True) == []


# ---------------------------------------------------------------- does it hold what it promises?


def test_coverage_and_size_in_small():
    """Limits of three standard deviations of 100 studies; scripts/benchmarks/coverage.py has 2,000 and more cases."""
    sys.path.insert(0, str(ROOT / "scripts" / "benchmarks"))
    import coverage

    kinds = (coverage.matched_cases, coverage.interval_cases, coverage.test_cases)
    cases = {case.name: case.rate for kind in kinds for case in kind(100)}
    for name, rate in cases.items():
        if "500 examples" in name:
            low, high = (0.88, 1.0) if name.startswith("interval") else (0.0, 0.12)
            assert low <= rate <= high, name
    # Twelve kinds of seeds, 25 studies of each, taken together.
    seeded = [case for case in coverage.seed_cases(25) if case.limits is not None]
    for start, low, high in (("interval", 0.91, 0.99), ("test", 0.0, 0.09)):
        rates = [case.rate for case in seeded if case.name.startswith(start)]
        assert len(rates) == 12
        assert low <= np.mean(rates) <= high


@pytest.mark.parametrize("name", ["coverage", "comparing", "reporting"])
def test_the_committed_measurements_run(name):
    command = [sys.executable, str(ROOT / "scripts" / "benchmarks" / f"{name}.py"), "--small"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f'"benchmark": "{name}"' in done.stdout.splitlines()[-1]
