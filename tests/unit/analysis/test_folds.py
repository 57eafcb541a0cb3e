"""Cross-validation: the corrected resampled t-test, and which runs may be compared by it."""

import math
import statistics

import numpy as np
import pytest
from scipy import stats

from bench.analysis import accessors, compare, folds
from bench.analysis.predictions import CompareRequest
from bench.analysis.stats import resampled
from bench.cli.main import main
from bench.errors import DataError
from bench.records import store
from bench.reporting import study_page
from tests.helpers.sizes import write_folds

FULL, LORA = (0.10, 0.15, 0.10, 0.20, 0.15), (0.20, 0.20, 0.25, 0.25, 0.25)
ASKED = CompareRequest()


def test_the_corrected_test_by_hand():
    """Differences of five folds: mean 0.09, variance 0.00175; 1/5 + 1/4 in the place of 1/5."""
    differences = [0.10, 0.05, 0.15, 0.05, 0.10]
    found = resampled.corrected(differences, 1 / 4)
    assert found.mean == pytest.approx(0.09)
    assert statistics.variance(differences) == pytest.approx(0.00175)
    assert found.standard_error == pytest.approx(math.sqrt((0.2 + 0.25) * 0.00175))
    assert found.degrees_of_freedom == 4
    t = 0.09 / math.sqrt(0.45 * 0.00175)
    assert t == pytest.approx(3.2071, abs=1e-4)
    assert found.p_value() == pytest.approx(2 * stats.t.sf(t, 4))
    assert found.p_value() == pytest.approx(0.0327, abs=2e-4)
    # t at 97.5 % with 4 degrees of freedom is 2.7764.
    assert found.interval() == pytest.approx((0.09 - 2.7764 * 0.028062, 0.09 + 2.7764 * 0.028062), abs=1e-4)
    # The test for independent samples is too sure: p 0.0086.
    assert stats.ttest_1samp(differences, 0).pvalue < found.p_value() / 3


def test_the_corrected_test_keeps_its_level_over_folds_where_the_plain_one_does_not():
    """Two systems that learn a mean from overlapping training sets, with the same expected error."""
    random, corrected, plain, times = np.random.default_rng(5), 0, 0, 400
    for _ in range(times):
        values, noise = random.normal(size=(2, 100)), random.normal(size=100)
        differences = []
        for test in np.split(np.arange(100), 10):
            train = np.setdiff1d(np.arange(100), test)
            errors = [((noise[test] + one[test] - one[train].mean()) ** 2).mean() for one in values]
            differences.append(errors[0] - errors[1])
        corrected += resampled.corrected(differences, 1 / 9).p_value() < 0.05
        plain += stats.ttest_1samp(differences, 0).pvalue < 0.05
    assert corrected / times < 0.05
    assert corrected < plain


def test_agreeing_folds_and_what_is_refused():
    assert resampled.corrected([0.1] * 5, 0.25).p_value() == pytest.approx(2**-4)
    assert resampled.corrected([0.0] * 5, 0.25).p_value() == 1.0
    with pytest.raises(ValueError, match="at least two"):
        resampled.corrected([0.1], 0.25)
    with pytest.raises(ValueError, match="must be positive"):
        resampled.corrected([0.1, 0.2], 0.0)


@pytest.fixture
def runs(tmp_path):
    write_folds(tmp_path / "runs", "full", FULL)
    write_folds(tmp_path / "runs", "lora", LORA)
    return tmp_path / "runs"


def test_systems_are_compared_fold_by_fold(runs):
    found = folds.compare_folds([runs], ASKED, margin=0.3)
    assert [(one.letter, one.name.split(" / ")[-1], one.tier) for one in found.systems] == [
        ("A", "full", 1), ("B", "lora", 2)
    ]  # fmt: skip
    assert [one.scores for one in found.systems] == [[1 - x for x in FULL], [1 - x for x in LORA]]
    (pair,) = found.pairs
    known = resampled.corrected([b - a for a, b in zip(FULL, LORA, strict=True)], 1 / 4)
    assert pair.difference == pytest.approx(known.mean)
    assert (pair.low, pair.high) == pytest.approx(known.interval())
    assert pair.p == pytest.approx(known.p_value())
    assert (pair.test, pair.verdict) == (folds.TEST, "A better, equivalent within ±0.3")
    assert (found.examples, found.split) == (300, "fold")


def test_several_seeds_deal_the_folds_anew(runs):
    for method, shares in (("full", FULL), ("lora", LORA)):
        write_folds(runs, method, shares[::-1], seed=14)
    found = folds.compare_folds([runs], ASKED)
    assert [len(one.scores) for one in found.systems] == [10, 10]
    differences = [b - a for a, b in zip(FULL, LORA, strict=True)]
    assert found.pairs[0].p == pytest.approx(resampled.corrected(differences * 2, 1 / 4).p_value())


def test_compare_prints_the_corrected_test_and_no_other_test_takes_folds(runs, tmp_path, capsys):
    assert main(["compare", str(runs), "-o", str(tmp_path / "page.md")]) == 0
    shown = capsys.readouterr().out + (tmp_path / "page.md").read_text()
    assert "on 300 examples each in one of 5 folds" in shown
    assert "Test of every pair: corrected resampled t." in shown
    assert "Nadeau and Bengio (2003)" in shown
    one_fold = [runs / "full-13-1", runs / "lora-13-1"]
    with pytest.raises(DataError, match="is of one fold of a cross-validation"):
        compare.compare(one_fold, ASKED)
    with pytest.raises(DataError, match=r"needs a sound run of every fold .* no sound run of fold 2 of"):
        folds.compare_folds(one_fold, ASKED)


def test_a_fold_that_failed_takes_its_seed_with_it(runs):
    for method, shares in (("full", FULL), ("lora", LORA)):
        write_folds(runs, method, shares, seed=14)
    record = store.read(runs / "lora-13-4")
    record.status, record.reason = "oom", "out of memory"
    store.write(record, runs / "lora-13-4")
    found = folds.compare_folds([runs], ASKED)
    assert [one.seeds for one in found.systems] == [[14], [14]]
    assert "Seed 13 is not counted: no sound run of fold 4 of study / minilm / lora." in found.notes
    assert [one.reason for one in found.left_out] == ["the run ended with status oom: out of memory"]


def test_other_folds_are_not_compared(runs, tmp_path):
    record = store.read(runs / "lora-13-4")
    record.data.fold.fingerprint = "other"
    store.write(record, runs / "lora-13-4")
    with pytest.raises(DataError, match="fold 4 of seed 13 is not of the same examples"):
        folds.compare_folds([runs], ASKED)
    records, unreadable = accessors.read_all([runs])
    page = study_page.page(records, unreadable, tmp_path)
    text = page if isinstance(page, str) else page[0]
    assert "These runs can't be compared: " in text


def test_one_system_has_scores_and_no_comparison(runs, tmp_path):
    for path in runs.glob("lora-*"):
        (path / "record.json").unlink()
    with pytest.raises(DataError, match="a comparison needs two systems"):
        folds.compare_folds([runs], ASKED)
    records, unreadable = accessors.read_all([runs])
    page = study_page.page(records, unreadable, tmp_path)
    text = page if isinstance(page, str) else page[0]
    assert "accuracy on 300 examples of train, each scored in one of 5 folds." in text
    assert "0.800 to 0.900" in text
