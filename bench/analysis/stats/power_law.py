"""Power laws of the error over the number of training examples, error(n) = floor + scale * n ** -exponent.

The inverse power law with a floor is the usual form of a learning curve: Figueroa et al. 2012, "Predicting sample size
required for classification performance", BMC Medical Informatics and Decision Making 12:8 (its equation 1, here for the
error); Hestness et al. 2017, "Deep learning scaling is predictable, empirically", arXiv:1712.00409; for its limits see
Viering and Loog 2023, "The shape of learning curves: a review", IEEE TPAMI 45.

Least squares, weighted by the inverse variance of each mean. For a given exponent the law is linear in floor and scale,
so that only the exponent is searched (variable projection: Golub and Pereyra 1973, SIAM Journal on Numerical Analysis
10), on a grid that is fine beside any uncertainty of it, and for all draws of a bootstrap at once.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# Exponents that are searched: neighbours differ by 2 %. Below the first the law can't be told from a logarithm, above
# the last one doubling the examples removes all but 3 % of what is left above the floor.
EXPONENTS = np.geomspace(0.02, 5.0, 280)
# Fewer means leave no degree of freedom to three parameters.
LEAST_SIZES = 4
# Seeds from which their variance is estimated rather than guessed.
LEAST_SEEDS = 3


@dataclass(frozen=True, kw_only=True)
class PowerLaws:
    """Laws of several draws, each array [draws]: floor and scale are not negative. unit: examples at which scale holds.

    error(n) = floor + scale * (n / unit) ** -exponent, so that scale is the error above the floor at the smallest size.
    """

    floor: np.ndarray
    scale: np.ndarray
    exponent: np.ndarray
    unit: float

    def at(self, examples: np.ndarray | float) -> np.ndarray:
        """Return errors [draws, sizes] at these numbers of examples; [draws, 1] for one number."""
        ratio = np.atleast_1d(np.asarray(examples, dtype=float)) / self.unit
        errors: np.ndarray = self.floor[:, None] + self.scale[:, None] * ratio[None] ** -self.exponent[:, None]
        return errors

    def examples_for(self, errors: np.ndarray) -> np.ndarray:
        """Return the examples [draws] with which each law reaches an error [draws]; infinite for one it never does."""
        above = errors - self.floor
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            needed: np.ndarray = self.unit * (self.scale / above) ** (1 / self.exponent)
        return np.where((above > 0) & (self.scale > 0), needed, np.where(above >= self.scale, 0.0, math.inf))


def fit(sizes: np.ndarray, errors: np.ndarray, variances: np.ndarray) -> PowerLaws:
    """Return the law of each draw by weighted least squares with floor and scale of 0 or more.

    sizes: [sizes], rising. errors: [draws, sizes]. variances: [sizes], of the mean error at each size. Raises
    ValueError for fewer sizes than `LEAST_SIZES`.
    """
    if len(sizes) < LEAST_SIZES:
        raise ValueError(f"a law of three parameters needs {LEAST_SIZES} sizes, got {len(sizes)}")
    weights = 1 / np.maximum(variances, 1e-4 * variances.max() or 1.0)
    weights = weights / weights.sum()
    unit = float(sizes[0])
    best = np.full(len(errors), math.inf)
    found = np.zeros((3, len(errors)))
    for exponent in EXPONENTS:
        floor, scale, loss = _linear(errors, (sizes / unit) ** -exponent, weights)
        # The first of equal ones: an error that does not fall has no exponent, and gets the smallest.
        better = loss < best * (1 - 1e-12)
        best = np.where(better, loss, best)
        found = np.where(better, np.stack([floor, scale, np.full(len(errors), exponent)]), found)
    return PowerLaws(floor=found[0], scale=found[1], exponent=found[2], unit=unit)


def _linear(errors: np.ndarray, fall: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return floor, scale and weighted loss [draws] of errors = floor + scale * fall. fall, weights: [sizes]."""
    middle, mean = float(weights @ fall), errors @ weights
    spread = float(weights @ (fall - middle) ** 2)
    scale = (errors @ (weights * (fall - middle))) / spread
    floor = mean - scale * middle
    through_zero = (errors @ (weights * fall)) / float(weights @ fall**2)
    scale, floor = np.where(floor < 0, through_zero, scale), np.maximum(floor, 0.0)
    flat = scale < 0
    scale, floor = np.where(flat, 0.0, scale), np.where(flat, np.maximum(mean, 0.0), floor)
    loss = ((errors - floor[:, None] - scale[:, None] * fall[None]) ** 2) @ weights
    return floor, scale, loss


def draw_seeds(seeds: int, draws: int, generator: np.random.Generator) -> np.ndarray:
    """Return seed numbers [draws, seeds], with replacement from all but one seed, which is drawn first.

    Plain resampling gives (k - 1) / k of a variance over k seeds; the bootknife gives all of it: Hesterberg 2004,
    "Unbiasing the bootstrap: bootknife sampling vs. smoothing", Proceedings of the ASA Section on Statistics and the
    Environment. With fewer than `LEAST_SEEDS` all seeds are kept as they are.
    """
    if seeds < LEAST_SEEDS:
        return np.tile(np.arange(seeds), (draws, 1))
    left_out = generator.integers(seeds, size=(draws, 1))
    drawn = generator.integers(seeds - 1, size=(draws, seeds))
    return drawn + (drawn >= left_out)


def interval(drawn: np.ndarray, seeds: int) -> tuple[float, float]:
    """Return the 95 % percentile interval of drawn values [draws], which may be infinite.

    It is expanded as Student's interval is over the normal one, for the degrees of freedom of the seeds: percentiles of
    few seeds are too short. Of five normal seeds alone it covers 92 %. Source: Hesterberg 2015, "What teachers should
    know about the bootstrap", The American Statistician 69, section 5.3 (the bootknife has done the other part). Where
    examples rather than seeds make the variance, it is too wide.
    """
    from scipy.special import ndtr, stdtrit

    tail = 0.025 if seeds < LEAST_SEEDS else float(ndtr(-stdtrit(seeds - 1, 0.975)))
    # Of neighbours, never a mean of both: that of two infinite values is none.
    low = np.quantile(drawn, tail, method="lower")
    high = np.quantile(drawn, 1 - tail, method="higher")
    return float(low), float(high)


def last_crossing(sizes: np.ndarray, ahead: np.ndarray) -> np.ndarray:
    """Return where each draw gets ahead to stay, [draws]: -inf if it is from the start, inf if it is not at the end.

    sizes: [grid]. ahead: [draws, grid], positive where ahead. Between two sizes by linear interpolation in log(size).
    """
    grid = np.log(sizes)
    behind = ahead <= 0
    last = ahead.shape[1] - 1 - np.argmax(behind[:, ::-1], axis=1)  # the last place where it is behind
    inner = np.minimum(last, ahead.shape[1] - 2)
    rows = np.arange(len(ahead))
    before, after = ahead[rows, inner], ahead[rows, inner + 1]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # of draws that are replaced below
        share = np.where(after > before, -before / (after - before), 0.0)
        places = np.exp(grid[inner] + share * (grid[inner + 1] - grid[inner]))
    places = np.where(behind.any(axis=1), places, -math.inf)
    return np.where(behind[:, -1], math.inf, places)


def error_of(
    metric_bounds: tuple[float, float], *, higher_is_better: bool
) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return what makes errors of scores: the distance from the best value, or the score where lower is better.

    None where a metric has no best value, so that there is no error which could fall towards a floor.
    """
    if not higher_is_better:
        return lambda scores: scores
    best = metric_bounds[1]
    return (lambda scores: best - scores) if math.isfinite(best) else None
