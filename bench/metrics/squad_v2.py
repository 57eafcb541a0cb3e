"""SQuAD v2.0: exact match and word F1 of answers, for questions that may have none, by the official script's rules."""

from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from bench.analysis.stats import sums as formulas
from bench.metrics import _base

RULES = "squad_v2.0|0-1|text:lower,no_ascii_punctuation,no_articles|golds:max,not_empty|missing:0"
TUNED = f"{RULES}|ties:together|tuned_on:these_examples|threshold:null_score_diff,nats"
# Log-odds from which on a probability is 1 to all bits: its true log-odds are not known, only that they are no less.
MOST_ODDS = 36.0
# A threshold above the log-odds of any answer: all are kept.
KEEPS_ALL = 1e6
SCORES = ("exact", "f1", "HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1")
COUNTS = ("HasAns_total", "NoAns_total", "missing")
TUNED_VALUES = ("best_exact", "best_exact_thresh", "best_f1", "best_f1_thresh")
# Columns of the statistics: exact match, F1 and number of questions, with and without an answer, and missing ones.
HAS, NO, MISSING = slice(0, 3), slice(3, 6), 6


class SquadV2(_base.AdditiveMetric):
    """Exact match and F1 of answers to questions of which some have none.

    Predictions are answer texts, "" where the question is held to have no answer; references are lists of gold texts,
    empty where it has none. Values lie in 0 ... 1, where the official script prints per cent.

    Texts are compared in lower case, without ASCII punctuation (deleted) and without the words a, an and the. Golds of
    which nothing is left are left out; if no gold is left, the right answer is the empty one. Exact match and F1 of
    words are the best over the golds; if nothing is left of the answer or the gold, F1 is 1 if they are equal, else 0.
    HasAns values are over questions with a gold answer, NoAns values over the others, NaN where there are none; the
    totals say how many.

    F1 of words = 2 x common words / (words of the answer + words of the gold).

    A missing answer (None) counts 0 with every question, also one without an answer, and is counted in
    squad_v2_missing: the official script leaves it out of the total.

    With no_answer_probabilities (one for each question, 0 ... 1; a difference d of log-odds is 1 / (1 + exp(-d))), an
    answer whose probability is above no_answer_threshold (default 1, which keeps them all) becomes the empty one, and
    best_exact and best_f1 are the best values that any threshold gives, found on these very examples, with the lowest
    threshold that gives each; a run's record states it on the scale of the recipe's spans.null_score_diff_threshold,
    see `tuned_values`. As in the official script they start from the answers as given, so that an empty one stays
    empty, and with a question without an answer any kept text is wrong, even "The". Other than there, questions with
    equal probabilities are kept together, so that a threshold exists for the value, and the order of examples is of no
    account. They are no sums over examples and have no intervals.
    """

    source = (
        "Rajpurkar, Jia and Liang 2018, Know What You Don't Know: Unanswerable Questions for SQuAD, arXiv:1806.03822; "
        "rules as in the official script evaluate-v2.0.py."
    )
    reads = "answers"
    configs = ("default",)
    higher_is_better: ClassVar[dict[str, bool]] = {
        "squad_v2_exact": True,
        "squad_v2_f1": True,
        "squad_v2_HasAns_exact": True,
        "squad_v2_HasAns_f1": True,
        "squad_v2_NoAns_exact": True,
        "squad_v2_NoAns_f1": True,
    }
    unit_means = ("squad_v2_f1", "squad_v2_HasAns_f1")
    counts = ("squad_v2_HasAns_total", "squad_v2_NoAns_total", "squad_v2_missing")

    def example_statistics(self, predictions: list[str | None], references: list[list[str]], _: int) -> np.ndarray:
        """Return [examples, 7]: exact match, F1, 1 for questions with an answer, the same without one, 1 if missing."""
        rows = np.zeros((len(predictions), 7))
        for row, answer, golds in zip(rows, predictions, references, strict=True):
            row[HAS if golds else NO] = (0, 0, 1) if answer is None else (*_scores(answer, golds), 1)
            row[MISSING] = answer is None
        return rows

    def values(self, sums: np.ndarray, num_labels: int = 0) -> dict[str, np.ndarray]:
        """Return all values but the tuned ones, [...], from sums [..., 7]."""
        has, no = np.moveaxis(sums[..., HAS], -1, 0), np.moveaxis(sums[..., NO], -1, 0)
        together = has + no
        means = [formulas.mean(part[column], part[2]) for part in (together, has, no) for column in (0, 1)]
        numbers = [has[2], no[2], sums[..., MISSING]]
        names = (f"squad_v2_{name}" for name in (*SCORES, *COUNTS))
        return dict(zip(names, [*means, *numbers], strict=True))

    def proportions(self, sums: np.ndarray, num_labels: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return (right, questions) of exact match, and of F1 where it is 0 or 1: of questions without an answer."""
        has, no = sums[..., HAS], sums[..., NO]
        return {
            "squad_v2_exact": (has[..., 0] + no[..., 0], has[..., 2] + no[..., 2]),
            "squad_v2_HasAns_exact": (has[..., 0], has[..., 2]),
            "squad_v2_NoAns_exact": (no[..., 0], no[..., 2]),
            "squad_v2_NoAns_f1": (no[..., 1], no[..., 2]),
        }

    def per_example(self, predictions: Any, references: Any, num_labels: int = 0) -> dict[str, np.ndarray]:
        """Return exact match and F1 of each question, [examples]."""
        rows = self.statistics(predictions, references)
        exact, f1, _ = (rows[:, HAS] + rows[:, NO]).T
        return {"squad_v2_exact": exact, "squad_v2_f1": f1}

    def tuned_values(self, predictions: Any, references: Any, probabilities: ArrayLike) -> dict[str, float]:
        """Return best_exact and best_f1 over all thresholds, each with a threshold that gives it.

        The threshold is one for `spans.null_score_diff_threshold`: log-odds ln(p / (1 - p)) of "no answer", in nats,
        half-way between the last answer that is kept and the first that becomes empty (1 beyond where all or none are),
        so that rounding changes no answer. No examples give NaN. Raises ValueError unless each example has a
        probability.
        """
        tuned = self._tuned(predictions, references, probabilities)
        array = _probabilities(probabilities, len(references))
        for name in [name for name in tuned if name.endswith("_thresh")]:
            tuned[name] = _as_odds(tuned[name], array)
        return tuned

    def _tuned(self, predictions: Any, references: Any, probabilities: ArrayLike) -> dict[str, float]:
        """Return the best values with the lowest probability that gives each.

        A threshold below every probability, which makes all answers empty, is written as 0, or as -1 where a
        probability is 0.
        """
        rows = self.statistics(predictions, references)
        probabilities = _probabilities(probabilities, len(rows))
        no_gold = (rows[:, NO][:, 2] == 1) & (rows[:, MISSING] == 0)  # and an answer that may be kept or not
        # Kept, the answer to a question without one is right only if it says nothing: what normalising leaves does
        # not count here, as in the official script.
        harm = -np.array([bool(text) for text in predictions], dtype=float)
        tuned: dict[str, float] = {}
        for column, name in enumerate(("exact", "f1")):
            gains = np.where(no_gold, harm, rows[:, HAS][:, column])
            best, threshold = _best(gains, float(no_gold.sum()), probabilities)
            tuned |= {f"squad_v2_best_{name}": best, f"squad_v2_best_{name}_thresh": threshold}
        return tuned

    def signatures(self) -> dict[str, str]:
        """Return the settings of each value; those of the tuned values too, which need probabilities."""
        signatures = {f"squad_v2_{name}": f"squad_v2_{name}|{RULES}|no_answer_threshold:1|v1" for name in SCORES}
        signatures |= {f"squad_v2_{name}": f"squad_v2_{name}|questions|v1" for name in COUNTS}
        return signatures | {f"squad_v2_{name}": f"squad_v2_{name}|{TUNED}|v1" for name in TUNED_VALUES}

    def _compute(
        self,
        predictions: Any,
        references: Any,
        num_labels: int | None = None,
        no_answer_probabilities: ArrayLike | None = None,
        no_answer_threshold: float = 1.0,
    ) -> dict[str, Any]:
        rows = self.statistics(predictions, references)
        best: dict[str, float] = {}
        if no_answer_probabilities is not None:
            best = self._tuned(predictions, references, no_answer_probabilities)
            rows = _silenced(rows, _probabilities(no_answer_probabilities, len(rows)) > no_answer_threshold)
        elif no_answer_threshold != 1:
            raise ValueError(f"no_answer_threshold {no_answer_threshold} needs no_answer_probabilities")
        return {name: value.tolist() for name, value in self.values(rows.sum(axis=0)).items()} | best


def _scores(answer: str, golds: list[str]) -> tuple[float, float]:
    """Return (exact match, F1), each the best over the golds."""
    predicted = _base.normalised_answer(answer)
    normalised = [text for text in map(_base.normalised_answer, golds) if text] or [""]
    exact = float(predicted in normalised)
    if not predicted or normalised == [""]:
        return exact, exact
    return exact, max(_base.word_f1(predicted.split(), gold.split()) for gold in normalised)


def _silenced(rows: np.ndarray, silent: np.ndarray) -> np.ndarray:
    """Return the statistics with the empty answer where `silent`: it is right if the question has no answer."""
    changed = rows.copy()
    right = rows[silent, NO.start + 2] * (1 - rows[silent, MISSING])
    changed[silent, HAS.start : HAS.start + 2] = 0
    changed[silent, NO.start : NO.start + 2] = right[:, None]
    return changed


def _best(gains: np.ndarray, start: float, probabilities: np.ndarray) -> tuple[float, float]:
    """Return (the best mean score, its threshold).

    start: summed score with no answer kept. gains: [examples], what keeping an answer adds.
    """
    if not len(gains):
        return np.nan, np.nan
    # Sorted by gain too, so that sums of fractions do not depend on the order of the examples.
    order = np.lexsort((gains, probabilities))
    ordered = probabilities[order]
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))  # of each run of equal probabilities
    totals = np.concatenate([[start], (start + np.cumsum(gains[order]))[last]])
    # Rounded, as sums that are equal in fractions may differ in their last bits.
    first = int(np.round(totals, 9).argmax())
    below = 0.0 if ordered[0] > 0 else -1.0
    return float(totals[first] / len(gains)), below if first == 0 else float(ordered[last[first - 1]])


def _as_odds(threshold: float, probabilities: np.ndarray) -> float:
    """Return the log-odds that keep the answers which this probability keeps: those that are not above it."""
    if not len(probabilities):
        return np.nan
    with np.errstate(divide="ignore"):
        odds = np.log(probabilities) - np.log1p(-probabilities)
    kept, dropped = odds[probabilities <= threshold], odds[probabilities > threshold]
    if not len(dropped):
        return float(kept.max() + 1) if kept.max() < MOST_ODDS else KEEPS_ALL
    # Of a probability of 0 or 1 the log-odds are not known, but are beyond these.
    low = max(float(kept.max()), -MOST_ODDS) if len(kept) else float(dropped.min()) - 2
    high = min(float(dropped.min()), max(MOST_ODDS, low))
    return (low + high) / 2


def _probabilities(given: ArrayLike, examples: int) -> np.ndarray:
    """Return float [examples]. Raises ValueError for another shape or what does not lie in 0 ... 1."""
    array = np.asarray(given, dtype=float)
    if array.shape != (examples,):
        raise ValueError(f"no_answer_probabilities must have the shape {(examples,)}, got {array.shape}")
    outside = array[~((array >= 0) & (array <= 1))]
    if outside.size:
        raise ValueError(f"no_answer_probability {outside[0]} is not a probability; log-odds d are 1 / (1 + exp(-d))")
    return array
