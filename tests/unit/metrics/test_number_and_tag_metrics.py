"""Metrics of numbers equal scipy and scikit-learn, those of tags seqeval; also in draws, swaps and left-outs."""

import itertools
import random

import numpy as np
import pytest
import scipy.stats
import seqeval.metrics
import seqeval.scheme
import sklearn.metrics

from bench.analysis.stats import correlations, intervals, paired
from bench.analysis.stats.sums import Line, tally
from bench.data import tagging
from bench.evaluation.metric_set import MetricSet, Predictions
from tests.helpers.cases import together

NUMBERS = ("pearson", "spearman", "mse", "mae")
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-X-Y", "I-X-Y")


def numbers(examples=60, seed=0, step=0.5):
    generator = np.random.default_rng(seed)
    references = np.round(generator.normal(1000, 2, examples) / step) * step  # with ties, and far from 0
    predictions = np.round((references + generator.normal(0, 2, examples)) / step) * step
    return predictions, references


def predictions_of(predicted, references, extra=()):
    rows = len(references)
    ids = tuple(f"{number:04d}" for number in range(rows))
    return Predictions(ids=ids, predictions=predicted, references=references, scores=np.zeros((rows, 0)), extra=extra)


def metrics_of(names, **options):
    return MetricSet(names, multi_label=False, num_labels=0, **options)


@together("seed", range(5))
def test_numbers_equal_scipy_and_scikit_learn(seed):
    predicted, references = numbers(seed=seed)
    values = metrics_of(NUMBERS).values(predictions_of(predicted, references))
    assert values["pearson"] == pytest.approx(scipy.stats.pearsonr(predicted, references).statistic, abs=1e-11)
    assert values["spearman"] == pytest.approx(scipy.stats.spearmanr(predicted, references).statistic, abs=1e-12)
    assert values["mse"] == pytest.approx(sklearn.metrics.mean_squared_error(references, predicted), abs=1e-12)
    assert values["mae"] == pytest.approx(sklearn.metrics.mean_absolute_error(references, predicted), abs=1e-12)


def test_each_draw_of_both_correlations_equals_scipy():
    predicted, references = numbers(25)
    generator = np.random.default_rng(3)
    draws = [generator.integers(25, size=25) for _ in range(100)]
    weights = np.array([np.bincount(draw, minlength=25) for draw in draws], dtype=float)
    ranked = correlations.RankValue().weighted(np.stack([predicted, references], axis=1), weights)
    pearson = correlations.pearson_value(weights @ correlations.pearson_rows(predicted, references))
    for draw, one, other in zip(draws, ranked, pearson, strict=True):
        assert one == pytest.approx(scipy.stats.spearmanr(predicted[draw], references[draw]).statistic, abs=1e-12)
        assert other == pytest.approx(scipy.stats.pearsonr(predicted[draw], references[draw]).statistic, abs=1e-9)


# As of prices, which a head that starts near 0 is to predict.
SIDES = [(scale, offset) for scale in (1e-6, 1e-3, 1.0, 3e5, 1e8) for offset in (0, -3, 1e4)]


@together("side", SIDES)
def test_draws_of_pearson_equal_scipy_at_any_scale_and_place(side):
    scale, offset = side
    generator = np.random.default_rng(1)
    plain = generator.lognormal(0, 0.4, 200)
    references = scale * (plain + offset)
    predicted = generator.normal(0, 0.3, 200) + 0.3 * plain
    draws = [generator.integers(200, size=200) for _ in range(100)]
    weights = np.array([np.bincount(draw, minlength=200) for draw in draws], dtype=float)
    for one, other in ((predicted, references), (references, predicted)):
        rows = correlations.pearson_rows(one, other)
        # The references' own last digit is a share of 1e-12 of their spread where they lie 1e4 from 0.
        assert float(correlations.pearson_value(rows.sum(0))) == pytest.approx(
            scipy.stats.pearsonr(one, other).statistic, abs=1e-11
        )
        expected = [scipy.stats.pearsonr(one[draw], other[draw]).statistic for draw in draws]
        assert correlations.pearson_value(weights @ rows) == pytest.approx(expected, abs=1e-11)


@together("predicted, references", [
    (lambda base: 1e-3 * base + 1e4, lambda base: base),
    (lambda base: base + 1e8, lambda base: base),
    (lambda base: 1e200 * base, lambda base: 1e-200 * base),
    (lambda base: np.where(base == base.max(), 1e12, base), lambda base: base),
])  # fmt: skip
def test_pearson_far_from_its_references_equals_scipy(predicted, references):
    base = np.random.default_rng(2).uniform(0, 5, 100)
    one, other = predicted(base), references(base)
    # scipy's own squares overflow at 1e200; a power of ten changes no correlation.
    small = (one / np.abs(one).max(), other / np.abs(other).max())
    expected = scipy.stats.pearsonr(*small).statistic
    found = metrics_of(("pearson",)).values(predictions_of(one, other))["pearson"]
    assert found == pytest.approx(expected, abs=1e-10)


def test_numbers_that_differ_by_rounding_alone_have_no_correlation():
    references = np.arange(20.0)
    rounding = 0.3 + np.where(references % 2, np.spacing(0.3), 0)
    for predicted in (np.full(20, 0.1), rounding):
        assert np.isnan(metrics_of(("pearson",)).values(predictions_of(predicted, references))["pearson"])


def test_intervals_of_numbers_hold_the_value_and_are_of_all_examples():
    predicted, references = numbers()
    for name, item in metrics_of(NUMBERS).scores(predictions_of(predicted, references)).items():
        assert item.low < item.value < item.high, name
        assert item.interval.startswith("bootstrap 95 %")
        assert (item.examples, item.signature.split("|")[0]) == (60, name)


def test_a_correlation_of_a_constant_is_not_defined():
    _, references = numbers()
    constant = predictions_of(np.full(60, 1000.1), references)
    values = metrics_of(NUMBERS).values(constant)
    assert np.isnan(values["pearson"])
    assert np.isnan(values["spearman"])
    assert values["mse"] > 0
    scores = metrics_of(("pearson", "spearman")).scores(constant)
    assert {item.value for item in scores.values()} == {None}


def test_a_missing_number_is_the_worst_for_errors_and_says_nothing_in_correlations():
    predicted, references = numbers()
    some, worst, middle = predicted.copy(), predicted.copy(), predicted.copy()
    some[:7], middle[:7] = np.nan, np.median(predicted[7:])
    low, high = references.min(), references.max()
    worst[:7] = [high if high - own >= own - low else low for own in references[:7]]
    values = metrics_of(NUMBERS).values(predictions_of(some, references))
    expected = {
        "pearson": scipy.stats.pearsonr(middle, references).statistic,
        "spearman": scipy.stats.spearmanr(middle, references).statistic,
        "mse": sklearn.metrics.mean_squared_error(references, worst),
        "mae": sklearn.metrics.mean_absolute_error(references, worst),
    }
    assert values == pytest.approx(expected, abs=1e-11)
    lines = [Line(None if np.isnan(one) else one, other) for one, other in zip(some, references, strict=True)]
    for name in NUMBERS:
        assert tally(name, lines, (), multi_label=False).score == pytest.approx(expected[name], abs=1e-12)


def test_no_number_at_all():
    _, references = numbers()
    values = metrics_of(NUMBERS).values(predictions_of(np.full(60, np.nan), references))
    ends = np.array([references.min(), references.max()])
    farthest = np.abs(references[:, None] - ends).max(1)
    assert (values["mae"], values["mse"]) == pytest.approx((farthest.mean(), (farthest**2).mean()))
    assert np.isnan([values["pearson"], values["spearman"]]).all()
    # References without a range give no scale for the error.
    same = metrics_of(NUMBERS).scores(predictions_of(np.array([np.nan, 3.0]), np.array([2.0, 2.0])))
    assert {item.value for item in same.values()} == {None}


def test_draws_of_spearman_fill_missing_numbers_as_the_whole_split_does():
    predicted, references = numbers(30)
    predicted[::3] = np.nan
    filled = np.where(np.isnan(predicted), np.median(predicted[~np.isnan(predicted)]), predicted)
    for name in ("spearman", "pearson"):
        one, other = (
            metrics_of((name,)).scores(predictions_of(each, references))[name] for each in (predicted, filled)
        )
        assert one == other
    computed = lambda predictions, references: {"rho": scipy.stats.spearmanr(predictions, references).statistic}  # noqa: E731
    low, high = intervals.bootstrap_examples(computed, list(filled), list(references))["rho"]
    found = metrics_of(("spearman",)).scores(predictions_of(predicted, references))["spearman"]
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)


def test_wrong_numbers_are_refused():
    metric = metrics_of(("mse",)).metrics[0]
    for predicted, references in (([1.0], [1.0, 2.0]), ([np.inf], [1.0]), ([1.0], [np.nan])):
        with pytest.raises(ValueError, match=r"predictions for|must be (finite )?numbers"):
            metric.compute_values(predicted, references)


def brute_force(name, rows, chosen):
    one, other = rows[chosen, 0], rows[chosen, 1]
    function = {"pearson": scipy.stats.pearsonr, "spearman": scipy.stats.spearmanr}[name]
    return function(one, other).statistic


@together("name", ["pearson", "spearman"])
def test_paired_statistics_of_correlations_by_brute_force(name):
    first, references = numbers(12)
    second = first + np.random.default_rng(7).normal(0, 1, 12)
    tallies = [
        tally(
            name, [Line(*pair) for pair in zip(one.tolist(), references.tolist(), strict=True)], (), multi_label=False
        )
        for one in (first, second)
    ]
    rows = [np.stack([one, references], axis=1) for one in (first, second)]
    left_out = [np.delete(np.arange(12), number) for number in range(12)]
    for item, own in zip(tallies, rows, strict=True):
        expected = [brute_force(name, own, chosen) for chosen in left_out]
        assert paired.jackknife_values(item.rows, item.value) == pytest.approx(expected, abs=1e-9)
    stack = paired.stack([item.rows for item in tallies])
    drawn = paired.bootstrap_values(stack, tallies[0].value, 50, 0)
    assert drawn.shape == (50, 2)
    assert np.isfinite(drawn).all()
    # The exact test over all 2^12 swaps of numbers without a unit, which random ones come near to.
    unit_free = {"pearson": scipy.stats.zscore, "spearman": scipy.stats.rankdata}[name]
    first, second = unit_free(first), unit_free(second)
    observed = abs(tallies[0].score - tallies[1].score)
    reached = 0
    for swapped in itertools.product((False, True), repeat=12):
        flags = np.array(swapped)
        one, other = np.where(flags, second, first), np.where(flags, first, second)
        pair = [brute_force(name, np.stack([each, references], axis=1), slice(None)) for each in (one, other)]
        reached += abs(pair[0] - pair[1]) >= observed - 1e-9
    (p_value,) = paired.randomisation_test(stack, tallies[0].value, [(0, 1)], 4000, 1)
    assert p_value == pytest.approx(reached / 2**12, abs=0.04)


def tallies_of(name, systems, references):
    return [
        tally(
            name, [Line(*pair) for pair in zip(own.tolist(), references.tolist(), strict=True)], (), multi_label=False
        )
        for own in systems
    ]


@together("name", ["pearson", "spearman"])
def test_the_paired_test_does_not_depend_on_the_unit_of_a_system(name):
    generator = np.random.default_rng(1)
    references = generator.uniform(0, 5, 400)
    good, other = (references + generator.normal(size=400) * noise for noise in (1.2, 1.8))
    found, ends = [], []
    for second in (other, other / 20, other * 20 + 3):
        tallies = tallies_of(name, (good, second), references)
        stack = paired.stack([item.rows for item in tallies])
        found.append(float(paired.randomisation_test(stack, tallies[0].value, [(0, 1)], 2000, 1)[0]))
        drawn = paired.bootstrap_values(stack, tallies[0].value, 500, 0)
        ends.append(paired.percentile_interval(drawn[:, 0] - drawn[:, 1]))
    assert found == pytest.approx([found[0]] * 3, abs=1e-12)
    assert np.array(ends) == pytest.approx(np.array([ends[0]] * 3), abs=1e-9)
    # The interval agrees: a clear difference, which swaps of raw numbers would have hidden or made up.
    assert found[0] < 0.01
    assert ends[0][0] > 0
    # And no difference: the same system in another unit.
    same = tallies_of(name, (good, good * 20 + 3), references)
    stack = paired.stack([item.rows for item in same])
    assert paired.randomisation_test(stack, same[0].value, [(0, 1)], 200, 1)[0] == 1.0


def sentences(count=40, seed=0, tags=TAGS, sound=False):
    chooser = random.Random(seed)
    made = []
    for _ in range(count):
        length = chooser.randint(0 if not sound else 1, 9)
        made.append([chooser.choice((*tags, "O", "O")) for _ in range(length)])
    return made


def noisy(gold, seed=1, tags=TAGS):
    chooser = random.Random(seed)
    return [[chooser.choice(tags) if chooser.random() < 0.3 else tag for tag in tags_of] for tags_of in gold]


def as_objects(rows):
    return np.fromiter(map(tuple, rows), dtype=object)


def tagged(predicted, gold):
    return predictions_of(as_objects(predicted), as_objects(gold))


@pytest.mark.filterwarnings("ignore")
@together("seed", range(4))
def test_entities_equal_seqeval_in_its_default_mode(seed):
    gold = sentences(seed=seed)
    predicted = noisy(gold, seed)
    found = metrics_of(("entity_f1", "token_accuracy"), tags=TAGS).scores(tagged(predicted, gold))
    for name, function in (("f1", "f1_score"), ("precision", "precision_score"), ("recall", "recall_score")):
        score = getattr(seqeval.metrics, function)
        assert found[f"entity_{name}"].value == pytest.approx(score(gold, predicted), abs=1e-12)
        each = score(gold, predicted, average=None)
        assert found[f"entity_{name}_per_type"].value == pytest.approx(each.tolist(), abs=1e-12)
    assert found["entity_f1_macro"].value == pytest.approx(
        seqeval.metrics.f1_score(gold, predicted, average="macro"), abs=1e-12
    )
    assert found["token_accuracy"].value == pytest.approx(seqeval.metrics.accuracy_score(gold, predicted), abs=1e-12)
    assert all(item.low < item.value < item.high for name, item in found.items() if not name.endswith("_type"))


SCHEME_TAGS = {
    "IOB1": ("O", "B-A", "I-A", "B-B", "I-B"),
    "IOB2": ("O", "B-A", "I-A", "B-B", "I-B"),
    "IOE2": ("O", "E-A", "I-A", "E-B", "I-B"),
    "IOBES": ("O", "B-A", "I-A", "E-A", "S-A", "B-B", "S-B"),
    "BILOU": ("O", "B-A", "I-A", "L-A", "U-A", "B-B", "U-B"),
}


@pytest.mark.filterwarnings("ignore")
@together("scheme", SCHEME_TAGS)
def test_entities_equal_seqeval_in_its_strict_mode(scheme):
    tags = SCHEME_TAGS[scheme]
    gold = sentences(seed=3, tags=tags, sound=True)
    predicted = noisy(gold, tags=tags)
    found = metrics_of(("entity_f1",), tags=tags, scheme=scheme)
    values = found.values(tagged(predicted, gold))
    options = {"mode": "strict", "scheme": getattr(seqeval.scheme, scheme)}
    assert values["entity_f1"] == pytest.approx(seqeval.metrics.f1_score(gold, predicted, **options), abs=1e-12)
    macro = seqeval.metrics.f1_score(gold, predicted, average="macro", **options)
    assert values["entity_f1_macro"] == pytest.approx(macro, abs=1e-12)
    assert f"|mode:strict|scheme:{scheme}|" in found.signatures()["entity_f1"]
    lines = [Line(one, other) for one, other in zip(predicted, gold, strict=True)]
    assert tally("entity_f1", lines, tags, multi_label=False, scheme=scheme).score == values["entity_f1"]


@pytest.mark.filterwarnings("ignore")
def test_draws_over_sentences_equal_seqeval():
    gold = sentences(20, seed=5)
    predicted = noisy(gold)
    lines = [Line(one, other) for one, other in zip(predicted, gold, strict=True)]
    item = tally("entity_f1", lines, TAGS, multi_label=False)
    generator = np.random.default_rng(0)
    for _ in range(50):
        draw = generator.integers(20, size=20)
        value = float(item.value(item.rows[draw].sum(0)))
        assert value == pytest.approx(
            seqeval.metrics.f1_score([gold[n] for n in draw], [predicted[n] for n in draw]), abs=1e-12
        )


def test_a_type_that_neither_side_has_is_null():
    found = metrics_of(("entity_f1",), tags=TAGS).scores(tagged([["B-PER", "O"], ["O"]], [["B-PER", "O"], ["O"]]))
    assert tagging.kinds_of(TAGS) == ("LOC", "PER", "X-Y")
    assert found["entity_f1_per_type"].value == [None, 1.0, None]
    assert found["entity_f1_macro"].value == 1.0


@pytest.mark.filterwarnings("ignore")
def test_without_any_entity_all_values_are_0_where_seqeval_has_no_macro():
    gold = [["O", "O"], ["O"]]
    values = metrics_of(("entity_f1",), tags=TAGS).values(tagged(gold, gold))
    assert set(values.values()) == {0.0}
    assert seqeval.metrics.f1_score(gold, gold) == 0
    assert np.isnan(seqeval.metrics.f1_score(gold, gold, average="macro"))


def test_tags_of_another_number_than_words_are_refused():
    metric = metrics_of(("entity_f1",)).metrics[0]
    with pytest.raises(ValueError, match="prediction 1 has 1 tags, its reference 2"):
        metric.compute_values([["O"], ["O"]], [["O"], ["O", "O"]])


def test_metrics_that_read_different_things_are_not_computed_together():
    from bench.errors import SetupError

    with pytest.raises(SetupError, match="metrics of numbers don't go with metrics of tags: mse, entity_f1"):
        metrics_of(("mse", "entity_f1"))


def test_evaluate_loads_them_by_path(tmp_path):
    import evaluate

    from bench.utils.files import ROOT

    def load(name):
        path = str(ROOT / "bench" / "metrics" / f"{name}.py")
        return evaluate.load(path, keep_in_memory=True, cache_dir=str(tmp_path))

    assert load("mae").compute(predictions=[1.0, 4.0], references=[2.0, 2.0]) == {"mae": 1.5}
    assert load("spearman").compute(predictions=[1, 2, 3], references=[2, 3, 9]) == {"spearman": 1.0}
    found = load("entity_f1").compute(predictions=[["B-A", "O"]], references=[["B-A", "B-B"]])
    assert (found["entity_precision"], found["entity_recall"]) == (1.0, 0.5)
    assert found["entity_recall_per_type"] == [1.0, 0.0]
