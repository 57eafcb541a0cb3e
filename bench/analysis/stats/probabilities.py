"""Scores of probabilities: calibration error, areas under curves, and the temperature that calibrates.

Rows are [examples, 2 x columns]: probabilities, then 1 where the column's event came true and else 0. A column is a
label, or that the predicted label is right.
"""

from collections.abc import Callable, Sequence

import numpy as np

from bench.analysis.stats.weighted import WeightedValue, before, groups, ratio, through

# Guo et al. 2017, arXiv:1706.04599, have 15 bins.
BINS = 15
# Draws of outcomes of a perfectly calibrated model.
CHANCE_DRAWS = 200
# (probabilities [examples], outcomes [examples], weights [draws, examples]) -> [draws]
OfColumn = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def label_rows(scores: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return rows of all labels. scores: [examples, labels]; references: ids [examples], or 0 and 1 as scores."""
    scores = np.asarray(scores, dtype=float)
    truth = references if references.ndim == 2 else np.arange(scores.shape[1]) == references[:, None]
    return np.concatenate([scores, truth.astype(float)], axis=1)


def confidence_rows(scores: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return rows of whether the likeliest label is right; of several labels an example, rows of all labels."""
    if references.ndim == 2:
        return label_rows(scores, references)
    if not scores.size:
        return np.zeros((len(references), 2))
    rows: np.ndarray = np.stack([scores.max(axis=1), scores.argmax(axis=1) == references], axis=1).astype(float)
    return rows


class CalibrationError(WeightedValue):
    """Expected calibration error with bins of equal mass, 0 to 1.

    Examples are sorted by probability and cut into 15 bins of equally many. The error is the mean over examples of the
    distance between a bin's mean probability and its share of right predictions. Equal probabilities share a bin, the
    one of their middle place, so that the order of examples does not matter. Source: Naeini, Cooper and Hauskrecht 2015
    (ECE); Nixon et al. 2019, arXiv:1904.01685 (equal mass).
    """

    def weighted(self, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the error [draws]; NaN without examples."""
        probabilities, outcomes, weights = _flat(rows, weights)
        total = weights.sum(axis=1)
        if not len(probabilities):
            return np.full(len(weights), np.nan)
        bins, order, ends = _bins(probabilities, weights)
        gaps = np.diff(through(weights * (outcomes - probabilities), order, ends), axis=1, prepend=0.0)
        flat = bins + BINS * np.arange(len(weights))[:, None]
        summed = np.bincount(flat.ravel(), weights=gaps.ravel(), minlength=BINS * len(weights))
        errors = np.abs(summed.reshape(len(weights), BINS)).sum(axis=1)
        return ratio(errors, total)


def errors_by_chance(rows: np.ndarray) -> np.ndarray:
    """Return calibration errors [draws] that a perfectly calibrated model with these probabilities would have.

    Of finitely many examples they are above 0: outcomes are drawn by the probabilities, 200 times with a fixed seed.
    NaN without examples. Source: Bröcker and Smith 2007, Increasing the Reliability of Reliability Diagrams
    (consistency resampling).
    """
    probabilities, _, weights = _flat(rows, np.ones((1, len(rows))))
    if not len(probabilities):
        return np.full(CHANCE_DRAWS, np.nan)
    bins, order, ends = _bins(probabilities, weights)
    of_place, predicted = np.repeat(bins[0], np.diff(ends, prepend=-1)), probabilities[order]
    generator, errors = np.random.default_rng(0), []
    for _ in range(CHANCE_DRAWS):
        gaps = np.bincount(of_place, weights=(generator.random(len(predicted)) < predicted) - predicted, minlength=BINS)
        errors.append(np.abs(gaps).sum() / len(predicted))
    return np.array(errors)


def error_interval(rows: np.ndarray, drawn: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval (low, high) of a calibration error, from a bootstrap's errors [draws].

    An error of finitely many examples is too high, and of a bootstrap's draws still higher, so that percentiles may
    leave out the error itself. Hence the basic interval, which mirrors them about it: twice the error minus each
    percentile. It begins at 0 where the error is within what a perfectly calibrated model has by chance. Source:
    Davison and Hinkley 1997, Bootstrap Methods and their Application, equation 2.10.
    """
    error, tail = CalibrationError().score(rows), (1 - confidence) / 2
    below, above = np.quantile(drawn, [tail, 1 - tail])
    by_chance = error <= np.quantile(errors_by_chance(rows), 1 - tail)
    return (0.0 if by_chance else max(0.0, float(2 * error - above))), max(error, float(2 * error - below))


def reliability(rows: np.ndarray) -> list[tuple[int, float, float]]:
    """Return of each bin that has examples (their number, mean probability, share that came true), by probability."""
    probabilities, outcomes, weights = _flat(rows, np.ones((1, len(rows))))
    if not len(probabilities):
        return []
    bins, order, ends = _bins(probabilities, weights)
    of_place = np.repeat(bins[0], np.diff(ends, prepend=-1))  # [examples], in order
    counts = np.bincount(of_place, minlength=BINS)
    sums = [np.bincount(of_place, weights=each[order], minlength=BINS) for each in (probabilities, outcomes)]
    return [
        (int(number), float(predicted / number), float(right / number))
        for number, predicted, right in zip(counts, *sums, strict=True)
        if number
    ]


def _flat(rows: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return probabilities and outcomes of all columns [examples x columns], and weights for them."""
    columns = rows.shape[1] // 2
    return rows[:, :columns].ravel(), rows[:, columns:].ravel(), np.repeat(weights, columns, axis=1)


def _bins(probabilities: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the bin [draws, groups] of each group of equal probabilities, and `weighted.groups`' order and ends."""
    _, order, ends = groups(probabilities)
    last = through(weights, order, ends)
    middle = (before(last) + last) / 2
    share = middle / np.maximum(last[:, -1:], 1e-300)  # a draw without weight has no error, whatever the bins
    return np.minimum((BINS * share).astype(np.int64), BINS - 1), order, ends


class OverLabels(WeightedValue):
    """The mean over labels of a score of each label's probabilities; NaN where a label has none.

    Of one label of two per example it is that of the second, by convention the positive one.
    """

    def __init__(self, of_column: OfColumn, *, several: bool) -> None:
        self.of_column, self.several = of_column, several

    def by_label(self, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the score of each label, [draws, labels]."""
        scores, truths = np.split(rows, 2, axis=1)
        columns = [self.of_column(score, truth, weights) for score, truth in zip(scores.T, truths.T, strict=True)]
        return np.stack(columns, axis=1) if columns else np.full((len(weights), 0), np.nan)

    def combined(self, labels: np.ndarray) -> np.ndarray:
        """Return the score [draws] from those of labels [draws, labels]."""
        if not labels.shape[1]:
            return np.full(len(labels), np.nan)
        return labels[:, 1] if labels.shape[1] == 2 and not self.several else labels.mean(axis=1)

    def weighted(self, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the score [draws]."""
        return self.combined(self.by_label(rows, weights))


def area_under_roc(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the probability that a positive example scores above a negative one, ties half; NaN without one of both.

    Source: Hanley and McNeil 1982, Radiology 143 (the area as the Mann-Whitney statistic). As scikit-learn's
    `roc_auc_score` with sample weights.
    """
    _, order, ends = groups(scores)
    positive, negative = (through(weights * side, order, ends) for side in (truth, 1 - truth))
    if not positive.shape[1]:
        return np.full(len(weights), np.nan)
    below = before(negative)
    wins = ((positive - before(positive)) * (below + (negative - below) / 2)).sum(axis=1)
    pairs = positive[:, -1] * negative[:, -1]
    return ratio(wins, pairs)


def average_precision(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean of precision at each threshold, weighed by the recall gained there; NaN without a positive.

    Not interpolated. Source: Buckley and Voorhees 2000, Evaluating Evaluation Measure Stability; as scikit-learn's
    `average_precision_score` with sample weights, which gives 0 without a positive example.
    """
    _, order, ends = groups(-scores)
    positive, all_of = (through(amounts, order, ends) for amounts in (weights * truth, weights))
    if not positive.shape[1]:
        return np.full(len(weights), np.nan)
    precision = np.divide(positive, all_of, out=np.zeros_like(positive), where=all_of > 0)
    gained = ((positive - before(positive)) * precision).sum(axis=1)
    total = positive[:, -1]
    return ratio(gained, total)


# Value name -> (function of one label's probabilities).
OF_LABELS: dict[str, OfColumn] = {"auroc": area_under_roc, "average_precision": average_precision}
BY_PROBABILITY = ("ece", "ece_by_chance", *OF_LABELS)


def value_of(name: str, *, multi_label: bool) -> WeightedValue:
    """Return the score of one of BY_PROBABILITY but `ece_by_chance`, which has no draws."""
    return CalibrationError() if name == "ece" else OverLabels(OF_LABELS[name], several=multi_label)


def rows_of(name: str, scores: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return the rows that one of BY_PROBABILITY reads."""
    return label_rows(scores, references) if name in OF_LABELS else confidence_rows(scores, references)


def undefined_labels(references: np.ndarray, labels: Sequence[str], *, needs_negative: bool) -> list[str]:
    """Return the labels that no example has, or, with `needs_negative`, that all examples have."""
    truth = references if references.ndim == 2 else np.arange(len(labels)) == references[:, None]
    counts = truth.sum(axis=0)
    lacking = (counts == 0) | (needs_negative & (counts == len(truth)))
    return [name for name, one in zip(labels, lacking, strict=True) if one]


# ---------------------------------------------------------------- temperature

# Of what is fitted: no model that answers at all needs more.
LEAST_TEMPERATURE, MOST_TEMPERATURE = 0.02, 50.0


def tempered(scores: np.ndarray, temperature: float, *, multi_label: bool) -> np.ndarray:
    """Return probabilities [examples, labels] of logits over the temperature; one that is 0 stays so.

    Of one label per example the softmax of log-probabilities over it, which is that of the logits, as they differ by a
    constant of the example; of several each label's sigmoid. The likeliest label stays the likeliest. Source: Guo et
    al. 2017, arXiv:1706.04599, section 4.2.
    """
    scores = np.asarray(scores, dtype=float)
    with np.errstate(divide="ignore"):
        logits = np.log(scores)
        if multi_label:
            logits = logits - np.log1p(-scores)
            return np.asarray(1 / (1 + np.exp(-logits / temperature)))
    raised = np.exp((logits - logits.max(axis=1, keepdims=True)) / temperature)
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def negative_log_likelihood(scores: np.ndarray, references: np.ndarray, clip: float = 1e-12) -> float:
    """Return the mean loss in nats, as the metric `loss`. references: ids [examples], or 0 and 1 as scores."""
    if references.ndim == 2:
        right = np.where(references == 1, scores, 1 - scores)
    else:
        right = scores[np.arange(len(references)), references]
    return float(-np.log(np.clip(right, clip, 1 - clip)).mean())


def fitted_temperature(scores: np.ndarray, references: np.ndarray) -> float:
    """Return the temperature of the lowest mean loss, within 0.02 to 50; references: see `negative_log_likelihood`."""
    from scipy.optimize import minimize_scalar

    several = references.ndim == 2

    def _loss(log_temperature: float) -> float:
        return negative_log_likelihood(
            tempered(scores, float(np.exp(log_temperature)), multi_label=several), references
        )

    ends = np.log([LEAST_TEMPERATURE, MOST_TEMPERATURE])
    # The loss is convex in 1 / temperature, so that there is one minimum.
    found = minimize_scalar(_loss, bounds=ends, method="bounded", options={"xatol": 1e-7})
    return float(np.exp(found.x))
