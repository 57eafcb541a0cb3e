"""Label curves from records: the runs that belong to one, laws, crossings, equal scores, and what is refused."""

import math

import pytest

from bench.analysis import accessors, label_curves
from bench.analysis.label_curves import Unmade
from bench.records import store
from tests.helpers import sizes
from tests.helpers.sizes import law, write_series

SIZES = (50, 100, 200, 500, 1000, 2000, 4000)


def read(folder):
    records, unreadable = accessors.read_all([folder])
    assert not unreadable
    return records


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """full starts worse than lora and passes it at some hundred examples; head is soon worse than both."""
    folder = tmp_path_factory.mktemp("study")
    write_series(folder, "full", lambda size: law(size, 0.05, 0.40, 0.6), sizes=SIZES, examples=600)
    write_series(folder, "lora", lambda size: law(size, 0.10, 0.30, 0.7), sizes=SIZES, examples=600)
    write_series(folder, "head", lambda size: law(size, 0.30, 0.10, 0.5), sizes=SIZES, examples=600)
    return read(folder)


def test_smaller_sizes_are_in_no_other_table(study):
    curves, whole = label_curves.take(study)
    assert len(curves) == 3 * 7 * 5
    assert len(whole) == 3 * 5
    assert all(label_curves.size_asked(record) is None for _, record in whole)


def test_runs_of_one_size_are_no_curve(study):
    alone = [pair for pair in study if label_curves.size_asked(pair[1]) == 50]
    assert label_curves.take(alone) == ([], alone)


def test_laws_crossings_equal_scores_and_twice_the_labels(study):
    (found,) = label_curves.label_curves(study)
    assert (found.metric, found.scored, found.seeds) == ("accuracy", 600, [13, 14, 15, 16, 17])
    assert [curve.name for curve in found.curves] == ["full", "lora", "head"]
    for curve, known in zip(found.curves, [(0.05, 0.4, 0.6), (0.1, 0.3, 0.7), (0.3, 0.1, 0.5)], strict=True):
        assert [point.examples for point in curve.points] == list(SIZES)
        for point in curve.points:
            assert point.score == pytest.approx(1 - law(point.examples, *known), abs=0.012)
            assert point.low < point.score < point.high
        assert curve.law.floor.low <= known[0] + 0.02
        assert curve.law.exponent.low <= known[2] <= curve.law.exponent.high
        assert curve.law.rmse < 0.01
        gain = law(4000, *known) - law(8000, *known)
        assert curve.law.doubled.low <= gain <= curve.law.doubled.high
        assert 0 <= curve.law.doubled.low < 0.02
    by_pair = {(one.first, one.last): one for one in found.crossings}
    passed = by_pair["lora", "full"]
    known = next(size for size in range(50, 4000) if law(size, 0.05, 0.4, 0.6) < law(size, 0.1, 0.3, 0.7))
    assert passed.at.low <= known <= passed.at.high
    assert 50 < passed.at.low < passed.at.value < passed.at.high < 4000
    assert (passed.least, passed.most, passed.several) == (50, 4000, False)
    assert passed.agreeing > 0.99
    equal = {(one.name, one.other): one for one in found.equivalents}["full", "head"]
    assert equal.examples == 4000
    needed = next(size for size in range(50, 4000) if law(size, 0.05, 0.4, 0.6) < law(4000, 0.3, 0.1, 0.5))
    assert equal.needed.low <= needed <= equal.needed.high
    assert equal.needed.high < 2 * needed


def test_a_curve_of_few_sizes_has_points_and_no_law(tmp_path):
    write_series(tmp_path, "full", lambda size: law(size, 0.1, 0.3, 0.5), sizes=(50, 200, 4000), examples=100)
    (found,) = label_curves.label_curves(read(tmp_path))
    (curve,) = found.curves
    assert (curve.law, curve.why_not) == (None, "3 sizes; a law of three parameters needs 4")
    assert len(curve.points) == 3
    assert (found.crossings, found.equivalents) == ([], [])


def test_one_seed_has_intervals_over_examples_alone(tmp_path):
    write_series(tmp_path, "full", lambda size: law(size, 0.1, 0.3, 0.5), sizes=SIZES, seeds=(13,), examples=200)
    (found,) = label_curves.label_curves(read(tmp_path))
    assert found.seeds == [13]
    assert all(point.low < point.score < point.high for point in found.curves[0].points)
    assert math.isfinite(found.curves[0].law.doubled.high)


def test_an_error_that_does_not_fall(tmp_path):
    write_series(tmp_path, "full", lambda size: 0.2, sizes=SIZES, examples=200, noise=0)
    (found,) = label_curves.label_curves(read(tmp_path))
    assert not found.curves[0].law.falls
    assert found.curves[0].law.doubled.value == 0


def test_a_seed_that_lacks_a_size_is_left_out_and_said(tmp_path):
    write_series(tmp_path, "full", lambda size: law(size, 0.1, 0.3, 0.5), sizes=SIZES, examples=100)
    path = tmp_path / "full-200-15" / "record.json"
    record = store.read(path.parent)
    record.status, record.reason = "oom", "out of memory"
    store.write(record, path.parent)
    (found,) = label_curves.label_curves(read(tmp_path))
    assert found.seeds == [13, 14, 16, 17]
    assert found.notes == ["Seed 15 is not counted, since it has no run of study / minilm / full with 200 examples."]
    assert [(one.path, one.reason) for one in found.left_out] == [
        (path, "the run ended with status oom: out of memory")
    ]


def test_no_common_seed_and_no_second_size_are_told(tmp_path):
    write_series(tmp_path / "a", "full", lambda size: 0.2, sizes=(50, 100), seeds=(13,), examples=50)
    write_series(tmp_path / "a", "lora", lambda size: 0.2, sizes=(50, 100), seeds=(14,), examples=50)
    (found,) = label_curves.label_curves(read(tmp_path / "a"))
    assert isinstance(found, Unmade)
    assert found.reason.startswith("no seed has a run at every size of every system. Seed 13 is not counted")


def test_two_runs_of_one_point_count_once(tmp_path):
    write_series(tmp_path, "full", lambda size: law(size, 0.1, 0.3, 0.5), sizes=SIZES, examples=60)
    sizes.write_run(tmp_path / "again", "full", 13, 200, set(), 60, 4000, started_at="2999-01-01T00:00:00+00:00")
    (found,) = label_curves.label_curves(read(tmp_path))
    assert any("full-200-13" in item.reason or "full-200-13" in str(item.path) for item in found.left_out)
    assert len(found.seeds) == 5
