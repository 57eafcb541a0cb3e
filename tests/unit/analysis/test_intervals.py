"""analysis/stats/intervals.py against scipy, a plain resampling loop, and the coverage that an interval promises."""

import math

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from bench.analysis.stats import intervals


def accuracy(sums):
    return {"accuracy": sums[..., 0] / sums[..., 1]}


def correct_and_one(correct):
    return np.stack([correct, np.ones(len(correct))], axis=1)


# ---------------------------------------------------------------- Wilson


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
def test_wilson_equals_scipy(confidence):
    for trials in (1, 2, 7, 30, 872, 10_000):
        for successes in sorted({0, 1, trials // 3, trials - 1, trials}):
            expected = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
            assert intervals.wilson(successes, trials, confidence) == pytest.approx(tuple(expected), abs=1e-12)


def test_wilson_known_value():
    # 8 of 10: (0.8 + 1.92 / 10 +- 1.96 sqrt(0.016 + 0.0096)) / 1.384
    assert intervals.wilson(8, 10) == pytest.approx((0.490162, 0.943318), abs=1e-6)


def test_wilson_ends_are_exact_at_none_and_all():
    assert intervals.wilson(0, 7)[0] == 0.0
    assert intervals.wilson(7, 7)[1] == 1.0
    assert 0 < intervals.wilson(7, 7)[0] < 1


def test_wilson_arrays_equal_scalars_and_no_trials_is_nan():
    successes, trials = np.array([[0, 3, 5], [2, 0, 1]]), np.array([[4, 9, 5], [2, 0, 3]])
    low, high = intervals.wilson(successes, trials)
    assert low.shape == high.shape == (2, 3)
    for position in np.ndindex(2, 3):
        one = intervals.wilson(int(successes[position]), int(trials[position]))
        np.testing.assert_equal((low[position], high[position]), one)
    assert math.isnan(low[1, 1])
    assert math.isnan(high[1, 1])
    assert all(type(end) is float for end in intervals.wilson(0, 0))


@pytest.mark.parametrize(("successes", "trials"), [(-1, 5), (6, 5), (1, 0)])
def test_wilson_refuses_impossible_counts(successes, trials):
    with pytest.raises(ValueError, match=f"got {successes} of {trials}"):
        intervals.wilson(successes, trials)


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_confidence_is_a_share(confidence):
    with pytest.raises(ValueError, match=f"got {confidence}"):
        intervals.wilson(1, 2, confidence)
    with pytest.raises(ValueError, match=f"got {confidence}"):
        intervals.bootstrap(correct_and_one([0, 1]), accuracy, draws=3, confidence=confidence)


def test_wilson_covers_as_often_as_it_says():
    # Exact: all outcomes of 30 trials, weighted by their probability. Wilson's mean coverage is near nominal.
    outcomes = np.arange(31)
    low, high = intervals.wilson(outcomes, 30)
    shares = np.linspace(0.05, 0.95, 19)
    covered = [binom.pmf(outcomes, 30, share)[(low <= share) & (share <= high)].sum() for share in shares]
    assert 0.94 < np.mean(covered) < 0.97


# ---------------------------------------------------------------- bootstrap over sums


def label_f1(sums):
    """[..., 3 x labels] to F1 per label and its mean."""
    both, predicted, reference = np.split(sums, 3, axis=-1)
    per_label = 2 * both / np.maximum(predicted + reference, 1)
    return {"mean": per_label.mean(-1), "per_label": per_label}


def label_counts(num_examples=300, num_labels=4, seed=0):
    generator = np.random.default_rng(seed)
    reference = generator.integers(num_labels, size=num_examples)
    predicted = np.where(generator.random(num_examples) < 0.7, reference, 0)
    has = [ids[:, None] == np.arange(num_labels) for ids in (predicted, reference)]
    return np.concatenate([has[0] & has[1], *has], axis=1, dtype=float)


def naive_bootstrap(statistics, values, draws, seed):
    generator = np.random.default_rng(seed)
    indices = generator.integers(len(statistics), size=(draws, len(statistics)))
    drawn = [values(statistics[row].sum(axis=0)) for row in indices]
    ends = {name: np.percentile([value[name] for value in drawn], [2.5, 97.5], axis=0) for name in drawn[0]}
    return {name: tuple(value) for name, value in ends.items()}


@pytest.mark.parametrize(
    "statistics",
    [label_counts(), np.random.default_rng(3).gamma(1.0, size=(200, 12))],
    ids=["few distinct rows", "all rows distinct"],
)
def test_bootstrap_equals_naive_resampling(statistics):
    fast = intervals.bootstrap(statistics, label_f1, draws=4000, seed=1)
    naive = naive_bootstrap(statistics, label_f1, draws=4000, seed=2)
    assert fast.keys() == naive.keys()
    for name, (low, high) in naive.items():
        # The 2.5 % point of 4,000 normal draws has a standard error of 0.04 deviations = 0.011 widths;
        # 0.07 is over four standard errors of a difference of two.
        tolerance = 0.07 * (high - low)
        assert (np.abs(fast[name][0] - low) < tolerance).all()
        assert (np.abs(fast[name][1] - high) < tolerance).all()


def test_every_draw_has_as_many_examples_as_the_data():
    seen = []

    def values(sums):
        seen.append(sums)
        return accuracy(sums)

    intervals.bootstrap(correct_and_one(np.arange(50) % 3 == 0), values, draws=500)
    sums = np.concatenate(seen)
    assert sums.shape == (500, 2)
    assert (sums[:, 1] == 50).all()
    # Binomial(50, 17 / 50): variance 11.2; 500 draws give it to about 6 %.
    assert sums[:, 0].var() == pytest.approx(50 * 0.34 * 0.66, rel=0.25)


def test_bootstrap_is_the_same_in_small_chunks_and_any_order(monkeypatch):
    statistics = label_counts()
    whole = intervals.bootstrap(statistics, label_f1, draws=101, seed=5)
    shuffled = intervals.bootstrap(statistics[::-1], label_f1, draws=101, seed=5)
    monkeypatch.setattr(intervals, "CHUNK_BYTES", 4000)
    assert len(intervals._chunks(101, 8 * 40)) > 5
    chunked = intervals.bootstrap(statistics, label_f1, draws=101, seed=5)
    np.testing.assert_equal(chunked, whole)
    np.testing.assert_equal(shuffled, whole)
    np.testing.assert_equal(intervals.bootstrap(statistics, label_f1, draws=101, seed=5), whole)
    assert intervals.bootstrap(statistics, label_f1, draws=101, seed=6)["mean"] != whole["mean"]


@pytest.mark.parametrize("draws", [1, 2, 99, 100, 101, 2000])
def test_chunks_add_up_and_stay_small(draws, monkeypatch):
    monkeypatch.setattr(intervals, "CHUNK_BYTES", 1000)
    for bytes_per_draw in (1, 10, 999, 5000):
        sizes = intervals._chunks(draws, bytes_per_draw)
        assert sum(sizes) == draws
        assert all(size == 1 or size * bytes_per_draw <= 1000 for size in sizes)


def test_bootstrap_leaves_numpys_global_generator_alone():
    before = np.random.get_state()
    intervals.bootstrap(label_counts(), label_f1, draws=10)
    intervals.bootstrap_examples(lambda predictions, references: {"a": 1.0}, [1, 2], [1, 2], draws=3)
    after = np.random.get_state()
    assert before[2:] == after[2:]
    assert (before[1] == after[1]).all()


def test_undefined_draws_are_left_out_and_all_undefined_is_nan():
    # Share of correct among examples of a label with two examples: undefined in about 13 % of the draws.
    statistics = np.zeros((20, 2))
    statistics[:2] = [[1, 1], [0, 1]]

    def values(sums):
        share = np.divide(sums[..., 0], sums[..., 1], out=np.full(sums.shape[:-1], np.nan), where=sums[..., 1] > 0)
        return {"share": share, "pair": np.stack([share, np.full_like(share, np.nan)], axis=-1)}

    ends = intervals.bootstrap(statistics, values, draws=200)
    np.testing.assert_equal(ends["share"], (0.0, 1.0))
    np.testing.assert_equal(ends["pair"], ([0.0, np.nan], [1.0, np.nan]))


def test_a_nan_statistic_makes_the_interval_nan():
    statistics = correct_and_one(np.array([0.2, np.nan, 0.4]))
    np.testing.assert_equal(intervals.bootstrap(statistics, accuracy, draws=50)["accuracy"], (np.nan, np.nan))


def test_no_examples_give_nan_of_the_right_shape():
    ends = intervals.bootstrap(np.zeros((0, 12)), label_f1, draws=50)
    np.testing.assert_equal(ends["mean"], (np.nan, np.nan))
    assert ends["per_label"][0].shape == ends["per_label"][1].shape == (4,)
    assert np.isnan(ends["per_label"]).all()


@pytest.mark.parametrize("correct", [[1], [1] * 80, [0] * 80, [0.1] * 3])
def test_draws_that_never_vary_give_no_interval(correct):
    found = intervals.bootstrap(correct_and_one(correct), accuracy, draws=20)
    np.testing.assert_equal(found["accuracy"], (np.nan, np.nan))
    found = intervals.bootstrap_examples(
        lambda predictions, references: {"mean": np.mean(predictions)}, correct, correct
    )
    np.testing.assert_equal(found["mean"], (np.nan, np.nan))


def test_bootstrap_refuses_no_draws():
    with pytest.raises(ValueError, match="got 0"):
        intervals.bootstrap(correct_and_one([1]), accuracy, draws=0)
    with pytest.raises(ValueError, match="got 0"):
        intervals.bootstrap_examples(lambda **_: {"a": 1.0}, [1], [1], draws=0)


def test_bootstrap_covers_about_as_often_as_it_says():
    generator = np.random.default_rng(11)
    covered = []
    for seed in range(400):
        correct = generator.random(60) < 0.7
        low, high = intervals.bootstrap(correct_and_one(correct), accuracy, draws=400, seed=seed)["accuracy"]
        covered.append(low <= 0.7 <= high)
    # Percentile intervals of 60 examples cover a little less than 95 %; 400 repetitions give 1.1 points.
    assert 0.90 < np.mean(covered) < 0.98


# ---------------------------------------------------------------- bootstrap over examples


def test_generic_bootstrap_agrees_with_the_fast_one():
    generator = np.random.default_rng(4)
    references = generator.integers(3, size=80).tolist()
    predictions = [label if generator.random() < 0.6 else 0 for label in references]
    correct = np.array(predictions) == np.array(references)

    def compute(*, predictions, references):
        return {"accuracy": float(np.mean(np.array(predictions) == np.array(references)))}

    slow = intervals.bootstrap_examples(compute, predictions, references, draws=2000, seed=1)["accuracy"]
    fast = intervals.bootstrap(correct_and_one(correct), accuracy, draws=4000, seed=2)["accuracy"]
    np.testing.assert_allclose(slow, fast, atol=0.07 * (fast[1] - fast[0]) + 1 / 80)
    again = intervals.bootstrap_examples(compute, predictions, references, draws=2000, seed=1)["accuracy"]
    np.testing.assert_equal(again, slow)


def test_generic_bootstrap_keeps_numbers_and_pairs_and_leaves_the_rest():
    def compute(*, predictions, references):
        assert [text.upper() for text in predictions] == references
        undefined = float("nan") if "a" in predictions else predictions.count("b")
        number = np.float32(predictions.count("b"))
        return {"number": number, "maybe": undefined, "list": [1.0], "text": "x", "flag": True, "none": None}

    ends = intervals.bootstrap_examples(compute, ["a", "b", "c"], ["A", "B", "C"], draws=40)
    assert ends.keys() == {"number", "maybe"}
    assert (ends["number"][0], ends["number"][1]) == (0, pytest.approx(3, abs=1))
    assert 0 <= ends["maybe"][0] < ends["maybe"][1] <= 3


def test_generic_bootstrap_without_examples_or_with_a_missing_one():
    assert intervals.bootstrap_examples(lambda **_: 1 / 0, [], []) == {}
    with pytest.raises(ValueError, match="2 predictions for 1 references"):
        intervals.bootstrap_examples(lambda **_: {}, [1, 2], [1])
