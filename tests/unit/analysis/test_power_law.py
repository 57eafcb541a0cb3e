"""Power laws of learning curves: against scipy, against known laws, and what intervals cover."""

import math

import numpy as np
import pytest
from scipy.optimize import curve_fit

from bench.analysis.stats import power_law
from bench.analysis.stats.power_law import PowerLaws

SIZES = np.array([50, 100, 200, 500, 1000, 2000, 4000], dtype=float)


def law(size, floor, scale, exponent):
    return floor + scale * (size / 50) ** -exponent


@pytest.mark.parametrize("known", [(0.12, 0.2, 0.5), (0.0, 0.4, 0.15), (0.3, 0.05, 1.2)])
def test_a_law_without_noise_is_found_again(known):
    found = [law(size, *known) for size in SIZES]
    laws = power_law.fit(SIZES, np.array([found]), np.ones(7))
    assert (laws.floor[0], laws.scale[0]) == pytest.approx(known[:2], abs=0.01)
    assert laws.exponent[0] == pytest.approx(known[2], rel=0.05)
    assert laws.at(SIZES)[0] == pytest.approx(found, abs=5e-4)
    assert laws.at(8000.0)[0, 0] == pytest.approx(law(8000, *known), abs=2e-3)


def test_noisy_draws_are_fitted_as_scipy_fits_each():
    random = np.random.default_rng(3)
    deviations = np.array([0.02, 0.02, 0.015, 0.01, 0.01, 0.008, 0.008])
    errors = law(SIZES, 0.13, 0.22, 0.6) + random.normal(size=(25, 7)) * deviations
    laws = power_law.fit(SIZES, errors, deviations**2)
    for number, row in enumerate(errors):
        best, _ = curve_fit(
            law, SIZES, row, p0=(0.1, 0.2, 0.5), sigma=deviations, bounds=([0, 0, 0.02], [1, 5, 5]), max_nfev=20000
        )
        ours = np.sum(((row - laws.at(SIZES)[number]) / deviations) ** 2)
        theirs = np.sum(((row - law(SIZES, *best)) / deviations) ** 2)
        assert ours <= theirs * 1.002 + 1e-9
        assert laws.at(SIZES)[number] == pytest.approx(law(SIZES, *best), abs=2e-3)


def test_an_error_that_does_not_fall_has_no_scale_and_is_never_below_zero():
    rising = np.array([[0.1, 0.11, 0.12, 0.13, 0.14, 0.15, 0.16], [0.2] * 7])
    laws = power_law.fit(SIZES, rising, np.ones(7))
    assert laws.scale.tolist() == pytest.approx([0.0, 0.0], abs=1e-9)
    assert laws.floor.tolist() == pytest.approx([0.13, 0.2])
    steep = law(SIZES, -0.05, 0.3, 0.3)[None]
    assert power_law.fit(SIZES, steep, np.ones(7)).floor[0] == 0.0
    with pytest.raises(ValueError, match="needs 4 sizes, got 3"):
        power_law.fit(SIZES[:3], rising[:, :3], np.ones(3))


def test_a_size_with_a_large_variance_counts_little():
    errors = law(SIZES, 0.1, 0.2, 0.5)[None].copy()
    errors[0, 0] += 0.1
    loose = power_law.fit(SIZES, errors, np.array([1.0, *[1e-4] * 6]))
    assert loose.at(SIZES)[0, 1:] == pytest.approx(law(SIZES, 0.1, 0.2, 0.5)[1:], abs=1e-3)
    assert power_law.fit(SIZES, errors, np.zeros(7)).at(SIZES).shape == (1, 7)


def test_examples_for_an_error():
    laws = PowerLaws(floor=np.array([0.1, 0.1, 0.1, 0.2]), scale=np.array([0.2, 0.2, 0.2, 0.0]),
                     exponent=np.full(4, 0.5), unit=50.0)  # fmt: skip
    needed = laws.examples_for(np.array([0.2, 0.3, 0.1, 0.2]))
    assert needed.tolist() == [pytest.approx(200.0), pytest.approx(50.0), math.inf, 0.0]


def test_the_last_crossing_and_draws_without_one():
    sizes = np.array([100.0, 200.0, 400.0, 800.0])
    ahead = np.array([
        [-1.0, -1.0, 1.0, 2.0], [1.0, 1.0, 1.0, 1.0], [-1.0, -1.0, -1.0, -1.0], [1.0, -1.0, 3.0, 3.0],
        [-1.0, 1.0, 1.0, -1.0],
    ])  # fmt: skip
    found = power_law.last_crossing(sizes, ahead)
    assert found[0] == pytest.approx(200 * 2**0.5)
    assert found[1:3].tolist() == [-math.inf, math.inf]
    assert found[3] == pytest.approx(200 * 2**0.25)
    assert found[4] == math.inf


def test_seeds_are_drawn_so_that_their_whole_variance_is_kept():
    random = np.random.default_rng(0)
    scores = random.normal(size=5)
    drawn = scores[power_law.draw_seeds(5, 200_000, random)].mean(axis=1)
    assert drawn.var() == pytest.approx(scores.var(ddof=1) / 5, rel=0.02)
    assert power_law.draw_seeds(2, 3, random).tolist() == [[0, 1]] * 3


def test_intervals_of_few_seeds_are_as_wide_as_students():
    from scipy.stats import t

    random = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        scores = random.normal(size=5)
        low, high = power_law.interval(scores[power_law.draw_seeds(5, 2000, random)].mean(axis=1), 5)
        covered += low <= 0 <= high
    # Plain percentiles of five values cover about 83 %, these 92 %.
    assert 0.9 < covered / 400 < 0.97
    wide, plain = (power_law.interval(random.normal(size=20_000), seeds) for seeds in (5, 1))
    assert wide[1] == pytest.approx(t.ppf(0.975, 4), abs=0.25)
    assert plain[1] == pytest.approx(1.96, abs=0.06)
    assert power_law.interval(np.array([-math.inf] * 50 + [math.inf] * 50), 1) == (-math.inf, math.inf)


def test_what_counts_as_an_error():
    assert power_law.error_of((0, 1), higher_is_better=True)(np.array([0.75])).tolist() == [0.25]
    assert power_law.error_of((0, 100), higher_is_better=True)(np.array([75.0])).tolist() == [25.0]
    assert power_law.error_of((0, math.inf), higher_is_better=False)(np.array([1.5])).tolist() == [1.5]
    assert power_law.error_of((-math.inf, math.inf), higher_is_better=True) is None
