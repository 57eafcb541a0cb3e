"""Every file of bench/metrics: the contract of a drop-in, scikit-learn's numbers, `evaluate.load` by path."""

import ast
import importlib
import inspect
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from bench.analysis.stats import sums, tables
from bench.config import contracts, registry
from bench.data import tagging
from tests.helpers.cases import together

ROOT = Path(__file__).resolve().parents[3]
FILES = sorted(path for path in (ROOT / "bench" / "metrics").glob("*.py") if not path.stem.startswith("_"))
CONFIGS = ("default", "multilabel")
# Ranks and bins are no sums over examples; test_number_and_tag_metrics.py and test_probability_metrics.py have them.
NOT_ADDITIVE = {"spearman", "auroc", "average_precision", "ece"}
TAGS = ("O", "B-A", "I-A", "B-B", "I-B")
# What a metric of answers in words may need beside what comes with `evaluate`; all are requirements of the package.
OF_TEXTS = {"nltk", "rouge_score", "sacrebleu"}
WORDS = ("The", "the", "a", "10 a.m.", "10 am", "well-known", "Zürich", "“quoted”", "cat", "cats", "sat", "on", "mat")


def metric_class(name):
    """The one `evaluate.Metric` of bench/metrics/<name>.py."""
    import evaluate  # it takes seconds, which collecting does without

    module = importlib.import_module(f"bench.metrics.{name}")
    found = [value for value in vars(module).values() if inspect.isclass(value) and issubclass(value, evaluate.Metric)]
    assert len(found) == 1, f"{name} must hold exactly one evaluate.Metric, found {found}"
    return found[0]


FACTS = {name: registry.literals("metrics", name) for name in registry.names("metrics")}
# Of the schemes of tags one, as random tags are none of the others; each is held to seqeval beside this file.
OTHER_SCHEMES = set(tagging.PREFIXES) - {"IOB2"}
PAIRS = [
    (name, config)
    for name, facts in FACTS.items()
    for config in facts["configs"]
    if name not in NOT_ADDITIVE and config not in OTHER_SCHEMES
]
LABEL_PAIRS = [(name, config) for name, config in PAIRS if FACTS[name]["reads"] in ("predictions", "scores")]
# Metrics of label ids, of which one may be missing; probabilities never are.
OF_IDS = {name for name, facts in FACTS.items() if facts["reads"] == "predictions"}
every_pair = pytest.mark.parametrize(("name", "config"), PAIRS)
every_label_pair = pytest.mark.parametrize(("name", "config"), LABEL_PAIRS)


@pytest.fixture
def make(tmp_path):
    """make(name, config) -> an instance that writes nothing outside of tmp_path."""

    def instance(name, config="default"):
        return metric_class(name)(config_name=config, keep_in_memory=True, cache_dir=str(tmp_path))

    return instance


def random_answers(seed):
    """Answer texts, some of them missing, lists of one to three golds, and a number of labels that nothing reads."""
    generator = np.random.default_rng(seed)

    def text():
        return " ".join(generator.choice(WORDS, size=generator.integers(1, 7)))

    references = [[text() for _ in range(generator.integers(1, 4))] for _ in range(1 if seed == 3 else 30)]
    predictions = [golds[0] if generator.random() < 0.3 else text() for golds in references]
    if seed == 2:
        predictions[:3] = [None, "", "the"]
    return np.fromiter(predictions, dtype=object), np.fromiter(references, dtype=object), 2


def random_numbers(seed):
    """Predicted numbers, some of them missing, and references."""
    generator = np.random.default_rng(seed)
    references = generator.normal(3, 1, 1 if seed == 3 else 30)
    predictions = references + generator.normal(0, 1, len(references))
    if seed == 2:
        predictions[:3] = np.nan
    return predictions, references, 0


def random_tags(seed):
    """Tags of sentences of 1 to 8 words, with entities of both types on either side of any half."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, 9, size=30)
    references = [["B-A", "B-B"], *(generator.choice(TAGS, size=length).tolist() for length in lengths)]
    references.append(["B-A", "B-B"])
    predictions = [[tag if generator.random() < 0.7 else "O" for tag in tags] for tags in references]
    return np.fromiter(predictions, dtype=object), np.fromiter(references, dtype=object), 0


def random_choices(seed):
    """For each of some examples rows of log-likelihoods and lengths of two to five choices, and the right one."""
    generator = np.random.default_rng(seed)
    rows, references = [], []
    for _ in range(1 if seed == 3 else 30):
        count = 3 if seed == 2 else int(generator.integers(2, 6))
        lengths = generator.integers(1, 9, size=(3, count))
        rows.append([(-generator.random(count) * lengths[0]).tolist(), *lengths.tolist()])
        references.append(int(generator.integers(count)))
    return np.fromiter(rows, dtype=object), np.array(references), 5


def random_data(reads, config, seed):
    """Predictions, references and num_labels; seeds differ in size, quality, absent labels and empty sets."""
    if reads == "answers":
        return random_answers(seed)
    if reads in ("numbers", "tags"):
        return random_numbers(seed) if reads == "numbers" else random_tags(seed)
    if reads == "choices":
        return random_choices(seed)
    if reads == "likelihoods":
        _, references, num_labels = random_answers(seed)
        generator = np.random.default_rng(seed)
        tokens = generator.integers(1, 20, size=len(references))
        return np.stack([-tokens * generator.random(len(references)), tokens], axis=1), references, num_labels
    generator = np.random.default_rng(seed)
    num_labels = int(generator.integers(2, 7))
    num_examples = 1 if seed == 3 else int(generator.integers(20, 80))
    # Seeds 1 and 4 leave the last label out of the references, seed 2 predicts one label (or set) only.
    used = num_labels - (seed in (1, 4))
    if config == "default":
        references = generator.integers(used, size=num_examples)
        guesses = generator.integers(num_labels, size=num_examples)
        predictions = np.where(generator.random(num_examples) < 0.6, references, guesses)
        scores = generator.dirichlet(np.ones(num_labels), size=num_examples)
    else:
        # A share of 0.25 gives rows without a label.
        references = (generator.random((num_examples, num_labels)) < 0.25).astype(int)
        references[:, used:] = 0
        flipped = generator.random(references.shape) < 0.2
        predictions = np.where(flipped, 1 - references, references)
        scores = generator.random((num_examples, num_labels))
    if seed == 2:
        predictions[:] = predictions[0]
    return (scores if reads == "scores" else predictions), references, num_labels


# Four kinds of data: see `random_data`.
every_seed = together("seed", range(4))


# ---------------------------------------------------------------- the contract


def test_there_are_metrics():
    assert len(FILES) >= 11
    assert {config for name, config in PAIRS if FACTS[name]["reads"] != "tags"} == set(CONFIGS)


def test_value_names_are_unique_over_all_metrics(make):
    owners = {}
    for name, config in PAIRS:
        for value in make(name, config).signatures():
            assert owners.setdefault(value, name) == name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_metric_file_imports_its_base_and_public_libraries(path):
    """evaluate's loader copies the file elsewhere and takes the first Metric class that it sees in the copy."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            assert node.module not in ("evaluate", "bench.metrics._base"), "import the module, not a class of it"
            imported.add(node.module if node.module.startswith("bench") else node.module.split(".")[0])
    own = OF_TEXTS if metric_class(path.stem).reads == "answers" else set()
    package = {"bench.metrics", *(f"bench.analysis.stats{part}" for part in ("", ".sums", ".tables"))}
    package |= {"bench.analysis.stats.correlations"} if path.stem == "spearman" else set()
    assert imported <= {"numpy"} | package | own | set(sys.stdlib_module_names)


@every_pair
def test_the_contract(name, config, make):
    assert isinstance(make(name, config), contracts.AdditiveMetric)


@every_pair
def test_declarations(name, config, make):
    metric = make(name, config)
    assert metric.reads in ("predictions", "scores", "answers", "numbers", "tags", "choices", "likelihoods")
    assert set(metric.configs) <= {*CONFIGS, *(tagging.PREFIXES if metric.reads == "tags" else ())}
    assert metric.name == name
    assert metric.description.strip()
    assert metric.citation.strip()
    assert all(inspect.getdoc(getattr(metric, part)) for part in ("statistics", "values", "proportions", "per_example"))
    for value, signature in metric.signatures().items():
        fields = signature.split("|")
        assert fields[0] == value
        assert fields[-1].startswith("v")


@together("path", FILES)
def test_an_unknown_config_is_refused(path, make):
    for config in ({*CONFIGS, "other"}) - set(metric_class(path.stem).configs):
        with pytest.raises(ValueError, match=config):
            make(path.stem, config)


@every_pair
@every_seed
def test_compute_equals_values_of_summed_statistics(name, config, seed, make):
    metric = make(name, config)
    predictions, references, num_labels = random_data(metric.reads, config, seed)
    statistics = metric.statistics(predictions, references, num_labels)
    assert statistics.dtype == np.float64
    assert statistics.shape[0] == len(references)
    np.testing.assert_array_equal(metric.sums(predictions, references, num_labels), statistics.sum(axis=0))
    values = metric.values(statistics.sum(axis=0), num_labels)
    computed = metric.compute(predictions=predictions, references=references, num_labels=num_labels)
    # A value that is tuned over thresholds needs more than predictions and references.
    tuned = {value for value in metric.signatures() if "|tuned_on:" in metric.signatures()[value]}
    assert computed.keys() == values.keys() == metric.signatures().keys() - tuned
    json.dumps(computed)
    for value, got in computed.items():
        np.testing.assert_array_equal(got, values[value])
    scalars = {value for value, got in computed.items() if isinstance(got, float)}
    assert scalars == metric.higher_is_better.keys() | set(getattr(metric, "counts", ()))


@every_pair
@every_seed
def test_means_and_proportions_equal_the_value(name, config, seed, make):
    metric = make(name, config)
    predictions, references, num_labels = random_data(metric.reads, config, seed)
    sums = metric.statistics(predictions, references, num_labels).sum(axis=0)
    values = metric.values(sums, num_labels)
    for value, scores in metric.per_example(predictions, references, num_labels).items():
        assert scores.shape == (len(references),)
        assert scores.mean() == pytest.approx(float(values[value]), abs=1e-12)
    for value, (successes, trials) in metric.proportions(sums, num_labels).items():
        defined = np.asarray(trials) > 0
        share = np.divide(successes, trials, where=defined, out=np.zeros(np.shape(trials)))
        np.testing.assert_allclose(share[defined], np.asarray(values[value])[defined], atol=1e-15)


@every_pair
def test_vectorised_values_equal_a_loop(name, config, make):
    metric = make(name, config)
    predictions, references, num_labels = random_data(metric.reads, config, 0)
    statistics = tables.dense(metric.statistics(predictions, references, num_labels))
    # Zero examples stand among the sums, as a draw may leave labels out.
    counts = np.random.default_rng(0).multinomial(9, np.full(len(statistics), 1 / len(statistics)), size=(2, 3))
    counts[0, 0] = 0
    sums = counts @ statistics  # [2, 3, columns]
    together = metric.values(sums, num_labels)
    for position in np.ndindex(2, 3):
        for value, alone in metric.values(sums[position], num_labels).items():
            np.testing.assert_array_equal(together[value][position], alone)
    for value, got in together.items():
        shape = (num_labels,) if value.endswith("_per_label") else ()
        shape = (2,) if value.endswith("_per_type") else shape
        if value == "confusion_matrix":
            shape = (num_labels, 2, 2) if config == "multilabel" else (num_labels, num_labels)
        assert got.shape == (2, 3, *shape)
    for successes, trials in metric.proportions(sums, num_labels).values():
        assert successes.shape == trials.shape


@every_pair
def test_statistics_are_additive_over_parts(name, config, make):
    metric = make(name, config)
    predictions, references, num_labels = random_data(metric.reads, config, 5)

    def statistics(part):
        return tables.dense(metric.statistics(predictions[part], references[part], num_labels))

    if name == "pearson":  # of z-scores, which are the same in parts that have mean 0 and standard deviation 1
        predictions, references = (
            np.concatenate([scipy.stats.zscore(half) for half in (values[:9], values[9:])])
            for values in (predictions, references)
        )
    parts = [statistics(half) for half in (slice(9), slice(9, None))]
    if name == "pearson":
        np.testing.assert_allclose(np.concatenate(parts), statistics(slice(None)), atol=1e-12)
        return
    np.testing.assert_array_equal(np.concatenate(parts), statistics(slice(None)))


@every_pair
def test_number_of_labels_is_derived_from_the_data(name, config, make):
    metric = make(name, config)
    predictions, references, num_labels = random_data(metric.reads, config, 0)
    if config == "default" and metric.reads in ("predictions", "scores"):
        references[0] = num_labels - 1
    derived = metric.compute(predictions=predictions, references=references)
    given = metric.compute(predictions=predictions, references=references, num_labels=num_labels)
    np.testing.assert_equal(derived, given)


@every_pair
def test_no_examples_are_undefined_or_zero_without_a_warning(name, config, make):
    metric = make(name, config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for value, got in metric._compute([], [], num_labels=3).items():
            assert np.isnan(got).all() or (np.asarray(got) == 0).all(), value


# ---------------------------------------------------------------- errors and missing answers


@every_label_pair
@together("wrong", [-1, 77])
def test_a_reference_out_of_range_is_named(name, config, wrong, make):
    metric = make(name, config)
    predictions, references, num_labels = random_data(metric.reads, config, 0)
    references[4] = wrong
    with pytest.raises(ValueError, match=f"reference {wrong} is out of range"):
        metric.statistics(predictions, references, num_labels)
    with pytest.raises(ValueError, match=f"reference {wrong} is out of range"):
        metric.compute(predictions=predictions, references=references, num_labels=num_labels)


@pytest.mark.parametrize(("name", "config"), [pair for pair in LABEL_PAIRS if pair[0] in OF_IDS])
def test_wrong_predictions_are_refused(name, config, make):
    metric = make(name, config)
    predictions, references, num_labels = random_data("predictions", config, 0)
    with pytest.raises(ValueError, match="must be integers of shape"):
        metric.statistics(predictions[:-1], references, num_labels)
    with pytest.raises(ValueError, match="float64"):
        metric.statistics(predictions * 0.5, references, num_labels)
    # One prediction must not be spread over all examples.
    with pytest.raises(ValueError, match="must be integers of shape"):
        metric.statistics(predictions[:1], references, num_labels)
    predictions[2] = 50
    with pytest.raises(ValueError, match="prediction 50 is out of range"):
        metric.statistics(predictions, references, num_labels)


def test_missing_answers_are_wrong_everywhere_in_single_label(make):
    # Label 2, the last, is the one that index -1 would name; -1 and -7 are both "no answer".
    references, predictions = [0, 1, 2, 2, 2, 0], [0, 1, 2, -1, -7, 1]
    got = {}
    for name, config in LABEL_PAIRS:
        if config == "default" and name in OF_IDS:
            got |= make(name).compute(predictions=predictions, references=references, num_labels=3)
    assert got["accuracy"] == 0.5
    assert got["accuracy_per_label"] == got["recall_per_label"] == pytest.approx([1 / 2, 1, 1 / 3])
    assert got["precision_per_label"] == [1, 1 / 2, 1]
    assert got["precision_micro"] == 3 / 4
    assert got["recall_micro"] == 3 / 6
    assert got["f1_micro"] == pytest.approx(2 * 3 / (4 + 6))
    assert got["f1_per_label"] == pytest.approx([2 / 3, 2 / 3, 1 / 2])
    assert got["confusion_matrix"] == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    as_own_label = [3 if label < 0 else label for label in predictions]
    assert got["mcc"] == pytest.approx(sklearn.metrics.matthews_corrcoef(references, as_own_label))
    assert got["mcc"] < make("mcc").compute(predictions=[0, 1, 2, 2, 2, 1], references=references)["mcc"]


def test_only_missing_answers(make):
    for name, config in LABEL_PAIRS:
        if name not in OF_IDS:
            continue
        shape = (4,) if config == "default" else (4, 3)
        references = np.arange(np.prod(shape)).reshape(shape) % 2
        metric = make(name, config)
        got = metric.compute(predictions=np.full(shape, -1), references=references, num_labels=3)
        if config == "multilabel":
            assert got == metric.compute(predictions=np.zeros(shape, dtype=int), references=references, num_labels=3)
            continue
        for value, number in got.items():
            assert np.nansum(number) == 0, (name, config, value)


def test_missing_answers_are_the_empty_set_in_multilabel(make):
    # No label is right, one of 5 entries of the references is 1: saying nothing scores 0.8 of the entries.
    references = [[1, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]
    got = {}
    for missing in ([-1] * 5, [1, -1, 0, 0, 0], [0, 0, 0, 0, -7], [0] * 5):
        predictions = [[1, 1, 0, 0, 0], missing, missing]
        for name, config in LABEL_PAIRS:
            if config == "multilabel" and name in OF_IDS:
                got |= make(name, config).compute(predictions=predictions, references=references)
        # As scikit-learn scores the empty set.
        empty = [[1, 1, 0, 0, 0], [0] * 5, [0] * 5]
        assert got["hamming_accuracy"] == 1 - sklearn.metrics.hamming_loss(references, empty) == pytest.approx(13 / 15)
        assert got["subset_accuracy"] == sklearn.metrics.accuracy_score(references, empty) == pytest.approx(1 / 3)
        options = {"average": "samples", "zero_division": 1}
        assert got["jaccard_samples"] == sklearn.metrics.jaccard_score(references, empty, **options) == 0.5
        assert got["jaccard_samples_empty0"] == pytest.approx(1 / 6)
        assert got["accuracy_per_label"] == pytest.approx([1, 2 / 3, 1, 1, 2 / 3])
        assert got["f1_per_label"] == [1, 0, 0, 0, 0]
        expected = sklearn.metrics.multilabel_confusion_matrix(references, empty)
        assert got["confusion_matrix"] == expected.tolist()


def test_every_metric_of_several_labels_says_its_rule_of_missing_answers(make):
    for name, config in LABEL_PAIRS:
        if config == "multilabel" and name in OF_IDS:
            for signature in make(name, config).signatures().values():
                assert "|no_answer:empty_set|" in signature or "|no_answer:no_label|" in signature


@every_seed
def test_losing_a_right_answer_never_helps_a_useful_classifier(seed, make):
    predictions, references, num_labels = random_data("predictions", "default", seed)
    metric = make("mcc")
    before = metric._compute(predictions, references, num_labels)["mcc"]
    for index in np.flatnonzero(predictions == references):
        fewer = predictions.copy()
        fewer[index] = -1
        after = metric._compute(fewer, references, num_labels)["mcc"]
        assert after < before or before <= 0


# ---------------------------------------------------------------- scikit-learn


def sklearn_averages(function, predictions, references, num_labels):
    options = {"labels": range(num_labels), "zero_division": 0}
    name = function.__name__.removesuffix("_score")
    for average in ("macro", "micro", "weighted", None):
        value = function(references, predictions, average=average, **options)
        yield f"{name}_{average or 'per_label'}", value


@every_seed
@pytest.mark.parametrize("config", CONFIGS)
@together("missing", [False, True])
@pytest.mark.parametrize("name", ["precision", "recall", "f1"])
def test_averages_equal_sklearn(name, config, missing, seed, make):
    predictions, references, num_labels = random_data("predictions", config, seed)
    if missing:
        predictions[::4] = -1
    got = make(name, config).compute(predictions=predictions, references=references, num_labels=num_labels)
    # scikit-learn takes -1 as one more label, which `labels` leaves out; an unanswered row is an empty set.
    theirs = np.maximum(predictions, 0) if config == "multilabel" else predictions
    function = getattr(sklearn.metrics, f"{name}_score")
    expected = dict(sklearn_averages(function, theirs, references, num_labels))
    assert got.keys() == expected.keys()
    for value, number in expected.items():
        np.testing.assert_allclose(got[value], number, atol=1e-12, err_msg=value)


@every_seed
def test_single_label_metrics_equal_sklearn(seed, make):
    predictions, references, num_labels = random_data("predictions", "default", seed)
    got = {}
    for name in ("accuracy", "mcc", "confusion_matrix", "per_label_accuracy"):
        got |= make(name).compute(predictions=predictions, references=references, num_labels=num_labels)
    labels = range(num_labels)
    matrix = sklearn.metrics.confusion_matrix(references, predictions, labels=labels)
    assert got["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(references, predictions), abs=1e-12)
    assert got["mcc"] == pytest.approx(sklearn.metrics.matthews_corrcoef(references, predictions), abs=1e-12)
    assert got["confusion_matrix"] == matrix.tolist()
    recall = sklearn.metrics.recall_score(references, predictions, labels=labels, average=None, zero_division=np.nan)
    np.testing.assert_allclose(got["accuracy_per_label"], recall)


@every_seed
def test_multilabel_metrics_equal_sklearn(seed, make):
    predictions, references, num_labels = random_data("predictions", "multilabel", seed)
    got = {}
    for name in ("jaccard", "hamming_accuracy", "subset_accuracy", "confusion_matrix", "per_label_accuracy"):
        metric = make(name, "multilabel")
        got |= metric.compute(predictions=predictions, references=references, num_labels=num_labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for value, empty in (("jaccard_samples", 1), ("jaccard_samples_empty0", 0)):
            theirs = sklearn.metrics.jaccard_score(references, predictions, average="samples", zero_division=empty)
            assert got[value] == pytest.approx(theirs, abs=1e-12)
    hamming = sklearn.metrics.hamming_loss(references, predictions)
    assert got["hamming_accuracy"] == pytest.approx(1 - hamming, abs=1e-12)
    assert got["subset_accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(references, predictions), abs=1e-12)
    assert got["confusion_matrix"] == sklearn.metrics.multilabel_confusion_matrix(references, predictions).tolist()
    np.testing.assert_allclose(got["accuracy_per_label"], (predictions == references).mean(axis=0))


@every_seed
def test_loss_equals_sklearn(seed, make):
    scores, references, num_labels = random_data("scores", "default", seed)
    got = make("loss").compute(predictions=scores, references=references)["loss"]
    expected = sklearn.metrics.log_loss(references, scores, labels=range(num_labels))
    assert got == pytest.approx(expected, abs=1e-12)
    scores, references, num_labels = random_data("scores", "multilabel", seed)
    got = make("loss", "multilabel").compute(predictions=scores, references=references)["loss"]
    expected = sklearn.metrics.log_loss(references.ravel(), scores.ravel(), labels=[0, 1])
    assert got == pytest.approx(expected, abs=1e-12)


def test_large_confusion_matrix_is_summed_in_parts(make):
    generator = np.random.default_rng(0)
    references, predictions = generator.integers(30, size=(2, 1000))
    got = make("confusion_matrix").compute(predictions=predictions, references=references, num_labels=30)
    assert got["confusion_matrix"] == sklearn.metrics.confusion_matrix(references, predictions).tolist()


# ---------------------------------------------------------------- known results


def test_known_single_label_values(make):
    # Two classes: 6 true positives, 1 false positive, 2 false negatives, 3 true negatives.
    references = [1] * 8 + [0] * 4
    predictions = [1] * 6 + [0] * 2 + [1] + [0] * 3

    def value(name, key):
        return make(name).compute(predictions=predictions, references=references)[key]

    assert value("accuracy", "accuracy") == 9 / 12
    assert value("f1", "f1_per_label") == pytest.approx([2 * 3 / (5 + 4), 2 * 6 / (7 + 8)])
    assert value("precision", "precision_macro") == pytest.approx((3 / 5 + 6 / 7) / 2)
    assert value("recall", "recall_weighted") == pytest.approx(9 / 12)
    # Matthews 1975: (TP TN - FP FN) / sqrt((TP + FP) (TP + FN) (TN + FP) (TN + FN))
    assert value("mcc", "mcc") == pytest.approx((6 * 3 - 1 * 2) / np.sqrt(7 * 8 * 4 * 5))
    assert value("confusion_matrix", "confusion_matrix") == [[3, 1], [2, 6]]


def test_a_label_of_the_card_that_never_occurs_lowers_the_macro_average(make):
    metric = make("f1")
    assert metric.compute(predictions=[0, 1], references=[0, 1], num_labels=2)["f1_macro"] == 1
    assert metric.compute(predictions=[0, 1], references=[0, 1], num_labels=4)["f1_macro"] == 1 / 2


def test_known_multilabel_values(make):
    references = [[1, 1, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0]]
    predictions = [[1, 0, 1], [0, 0, 0], [0, 0, 1], [1, 0, 0]]

    def computed(name):
        return make(name, "multilabel").compute(predictions=predictions, references=references)

    jaccard = computed("jaccard")
    assert jaccard["jaccard_samples"] == pytest.approx((1 / 3 + 1 + 1 + 0) / 4)
    assert jaccard["jaccard_samples_empty0"] == pytest.approx((1 / 3 + 0 + 1 + 0) / 4)
    assert computed("hamming_accuracy")["hamming_accuracy"] == pytest.approx(9 / 12)
    assert computed("subset_accuracy")["subset_accuracy"] == 2 / 4
    assert computed("per_label_accuracy")["accuracy_per_label"] == [3 / 4, 3 / 4, 3 / 4]


def test_known_losses(make):
    default, multilabel = make("loss"), make("loss", "multilabel")
    got = default.compute(predictions=[[0.5, 0.5], [0.25, 0.75]], references=[0, 0])["loss"]
    assert got == pytest.approx((np.log(2) + np.log(4)) / 2)
    got = multilabel.compute(predictions=[[0.5, 0.25]], references=[[1, 0]])["loss"]
    assert got == pytest.approx(-(np.log(0.5) + np.log(0.75)) / 2)
    sure_and_wrong = default.compute(predictions=[[1.0, 0.0]], references=[1])["loss"]
    assert sure_and_wrong == pytest.approx(-np.log(1e-12))
    assert "clip:1e-12" in default.signatures()["loss"]
    assert "clip:1e-12" in multilabel.signatures()["loss"]


def test_loss_refuses_what_is_no_probability(make):
    metric = make("loss")
    with pytest.raises(ValueError, match=r"2\.5 is not a probability"):
        metric.statistics([[2.5, -1.5]], [0], 2)
    with pytest.raises(ValueError, match=r"sum to 1\.4"):
        metric.statistics([[0.5, 0.9]], [0], 2)
    with pytest.raises(ValueError, match="shape"):
        metric.statistics([[0.5, 0.5]], [0, 1], 2)
    assert np.isnan(metric.statistics([[np.nan, np.nan]], [0], 2)[0, 0])


# ---------------------------------------------------------------- the evaluate library


@pytest.mark.parametrize("in_memory", [True, False])
def test_several_instances_at_once_do_not_mix(in_memory, tmp_path):
    first, second = (
        metric_class("accuracy")(keep_in_memory=in_memory, cache_dir=str(tmp_path), experiment_id=name)
        for name in ("first", "second")
    )
    for prediction in (0, 1):
        first.add_batch(predictions=[prediction, 0], references=[0, 0])
        second.add_batch(predictions=[1, 1], references=[1, 1])
    assert first.compute() == {"accuracy": 3 / 4}
    assert second.compute() == {"accuracy": 1}
    assert list(tmp_path.rglob("*.arrow")) == []


def test_an_instance_works_again_after_an_error(make):
    metric = make("accuracy")
    with pytest.raises(ValueError, match="reference 5"):
        metric.compute(predictions=[0], references=[5], num_labels=2)
    assert metric.compute(predictions=[0, 1], references=[0, 0], num_labels=2) == {"accuracy": 1 / 2}


LOAD_ALL = """
import json, socket, sys

def refuse(*arguments, **options):
    raise OSError("no network in this test")

socket.socket.connect = socket.getaddrinfo = refuse
import evaluate

def answers(name, config, inputs):
    metric = evaluate.load(f"{sys.argv[1]}/{name}.py", config)
    return metric.compute(**inputs)

cases = json.load(sys.stdin)
print(json.dumps([answers(*case) for case in cases]))
"""


def test_evaluate_loads_every_file_by_path_without_a_network(tmp_path, make):
    cases, expected = [], []
    for name, config in PAIRS:
        metric = make(name, config)
        predictions, references, num_labels = random_data(metric.reads, config, 0)
        inputs = {
            "predictions": predictions.tolist(),
            "references": references.tolist(),
            "num_labels": num_labels,
        }
        cases.append((name, config, inputs))
        expected.append(metric.compute(**inputs))
    caches = {name: str(tmp_path / name) for name in ("HF_HOME", "HF_MODULES_CACHE", "HF_EVALUATE_CACHE")}
    environment = os.environ | caches | {"HF_EVALUATE_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
    # In another folder, with the package on the path as an installed one is: the copy of a file imports its base.
    finished = subprocess.run(
        [sys.executable, "-P", "-c", LOAD_ALL, str(ROOT / "bench" / "metrics")],
        input=json.dumps(cases),
        env=environment | {"HF_METRICS_CACHE": str(tmp_path / "metrics"), "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    got = json.loads(finished.stdout.splitlines()[-1])
    np.testing.assert_equal(got, expected)


def test_choices_are_compared_by_their_log_likelihoods_and_by_these_over_three_lengths(make):
    """By hand: the raw one favours the short choice, each length favours another."""
    table = [[-2.0, -3.0, -4.0, -8.0], [1, 3, 2, 5], [1, 1, 4, 4], [1, 1, 1, 8]]
    metric = make("choice_accuracy")
    expected = {"acc": 0, "acc_norm": 1, "acc_bytes": 2, "acc_tokens": 3}
    for number, name in enumerate(expected):
        got = metric.compute(predictions=[table], references=[number])
        assert got == {other: float(other == name) for other in expected}, name
    # Equal ones: the first.
    assert metric.compute(predictions=[[[-1.0, -1.0], [2, 2], [2, 2], [1, 1]]], references=[0])["acc_norm"] == 1
    for wrong, error in (([1.0, 2.0], "rows of one number for each choice"), (table, "reference 4 is out of range")):
        with pytest.raises(ValueError, match=error):
            metric.statistics([wrong], [4])


def test_f1_of_the_positive_label_is_scikit_learn_s_and_the_task_s_own(make):
    generator = np.random.default_rng(0)
    references, predictions = generator.integers(0, 2, 200), generator.integers(-1, 2, 200)
    got = make("f1_positive").compute(predictions=predictions, references=references, num_labels=2)
    # No answer is neither label there.
    expected = sklearn.metrics.f1_score(references == 1, predictions == 1)
    assert got == {"f1_positive": pytest.approx(expected, abs=1e-12)}
    references, predictions = generator.integers(0, 3, 200), generator.integers(0, 3, 200)
    got = make("f1_positive").compute(predictions=predictions, references=references, num_labels=3)
    # Of `none`, `against` and `favor`, as the scorer of SemEval-2016 task 6 has it.
    expected = sklearn.metrics.f1_score(references, predictions, labels=[1, 2], average="macro")
    assert got == {"f1_positive": pytest.approx(expected, abs=1e-12)}
    names = ("none", "against", "favor")
    lines = [
        sums.Line(prediction=names[prediction], reference=names[reference])
        for prediction, reference in zip(predictions, references, strict=True)
    ]
    tally = sums.tally("f1_positive", lines, names, multi_label=False)
    assert tally.score == pytest.approx(expected, abs=1e-12)
