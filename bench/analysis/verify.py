"""Verify a record's scores by recomputing them from the run's predictions. Loads no torch."""

import hashlib
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.analysis import accessors
from bench.analysis.stats import chrf, intervals
from bench.analysis.stats.sums import (
    BY_ENTITY,
    BY_LABEL,
    BY_PROBABILITY,
    BY_TOKENS,
    CHOICE_LENGTHS,
    OF_NUMBERS,
    POSITIVE,
    TOKENIZERS,
    Line,
    Tally,
    entity_value,
    label_value,
    likeliest_choice,
    tally,
)
from bench.analysis.stats.tables import Table
from bench.errors import DataError
from bench.records.record import Record, Score

# A recomputed score may differ from the record's in the last bits, as sums are taken in another order.
ROUNDING = 1e-9
_PREDICTION, _REFERENCE = operator.itemgetter(0), operator.itemgetter(1)
# The name that `bench.evaluation.metric_set` gives to this interval; bootstrap intervals are not recomputed here.
WILSON = "wilson 95 %"


class UnsoundPredictions(DataError):
    """Predictions that can't be parsed, or that contradict the record's scores."""


@dataclass(frozen=True, kw_only=True)
class StatedScores:
    """The scores that a record states for a prediction file. metric: the compared one."""

    file: Path
    record: Record
    stage: str
    split: str
    metric: str

    @property
    def scores(self) -> dict[str, Score]:
        """All single-valued scores of the stage and split."""
        return accessors.scalars(self.record, self.stage, self.split)

    def require_equal(self, name: str, recomputed: float, bound: str = "") -> None:
        """Raise UnsoundPredictions where the record states another value. bound: "low" or "high", of the interval."""
        stated = getattr(self.scores[name], bound or "value")
        if stated is None and math.isnan(recomputed):
            return  # not defined, as the record says
        # Written so that NaN is refused.
        if not (isinstance(stated, int | float) and abs(recomputed - stated) <= ROUNDING * max(1, abs(recomputed))):
            shown = f"{name} ({bound} end of the interval)" if bound else name
            raise UnsoundPredictions(
                f"{self.file}: {shown} recomputed from the predictions is {recomputed!r}, but the record states "
                f"{stated!r}; one of the two files was modified"
            )

    def tally(self, name: str, lines: Sequence[Line], made: dict[str, Table] | None = None) -> Tally:
        """Return a metric's statistics for these lines. Raises UnsoundPredictions for lines without its statistics.

        made: see `sums.tally`.
        """
        if name in BY_TOKENS and any(line.loss is None or not line.tokens for line in lines):
            raise UnsoundPredictions(f"{self.file}: a line lacks reference_nll or reference_tokens, of which {name} is")
        if name in BY_PROBABILITY and any(line.scores is None for line in lines):
            raise UnsoundPredictions(f"{self.file}: a line lacks the probabilities (scores), of which {name} is")
        labels = self.record.data.labels if self.record.data else []
        scheme = _dataset(self.record).get("scheme")
        return tally(name, lines, labels, multi_label=_is_multi_label(self.record), scheme=scheme, made=made)


def check_seed(path: Path, record: Record) -> None:
    """Raise UnsoundPredictions where record and recipe name different seeds: a copy would count as another sample."""
    given = record.recipe.resolved.get("seed", record.seed)
    if given != record.seed:
        raise UnsoundPredictions(
            f"{path}: the record states seed {record.seed}, but its recipe {given}; one of the two was modified"
        )


def check_metric(stated: StatedScores, lines: dict[str, Line]) -> Tally:
    """Return the compared metric's statistics; raise UnsoundPredictions unless they give the score in the record."""
    assert stated.record.data is not None
    part = stated.record.data.splits.get(stated.split)
    if part is not None and len(lines) != part.examples:
        raise UnsoundPredictions(
            f"{stated.file}: {len(lines)} predictions, but the record states {part.examples} examples"
        )
    _check_expected(stated, stated.metric, lines, [line.value for line in lines.values()])
    statistics = stated.tally(stated.metric, list(lines.values()))
    stated.require_equal(stated.metric, statistics.score)
    if math.isnan(statistics.score):
        raise DataError(
            f"{stated.file}: {stated.metric} is not defined for these predictions, as where all are the same; compare "
            "by another metric (--metric)"
        )
    _check_wilson(stated, statistics)
    return statistics


def _check_expected(stated: StatedScores, metric: str, lines: dict[str, Line], values: Sequence[float | None]) -> None:
    """Check values that follow from one prediction and reference. values: as stated, in the order of the lines."""
    if (expected := _EXPECTED_VALUES.get(metric)) is None:
        return
    found = [*map(expected, map(_PREDICTION, lines.values()), map(_REFERENCE, lines.values()))]
    if found == values:
        return
    for identity, value, right in zip(lines, values, found, strict=True):
        if value != right:
            reason = f"prediction and reference of {identity!r} contradict its {metric} of {value}"
            raise UnsoundPredictions(f"{stated.file}: {reason}; was the file edited?")


def check_other_metrics(stated: StatedScores, found: dict[str, Line], values: Sequence[dict[str, Any]]) -> None:
    """Recompute the other metrics, which reports show too. values: per-example values by metric, for each line.

    Not recomputed: BLEU, which takes as long as all others together; values of an example that need a library or the
    probabilities (ROUGE, METEOR, SQuAD's, the loss, lm_eval's), of which only the mean is; metrics that have no value
    in every line; what is counted, as the examples that chrF leaves out; and intervals. Raises UnsoundPredictions.
    """
    others = [name for name, item in stated.scores.items() if name != stated.metric and item.value is not None]
    lines = list(found.values())
    made: dict[str, Table] = {}
    by_label = [name for name in others if name in BY_LABEL]
    if by_label:
        sums = stated.tally(by_label[0], lines, made).rows.sum(0, dtype=float)
        for name in by_label:
            stated.require_equal(name, float(label_value(name)(sums)))
    by_entity = [name for name in others if name in BY_ENTITY]
    if by_entity:
        sums = stated.tally(by_entity[0], lines).rows.sum(0)
        for name in by_entity:
            stated.require_equal(name, float(entity_value(name)(sums)))
    for name in sorted({*others} - {*by_label, *by_entity, *TOKENIZERS}):
        recomputed = ("mcc", POSITIVE, "token_accuracy", *OF_NUMBERS, *BY_PROBABILITY, *BY_TOKENS, *chrf.WORD_ORDERS)
        if name in recomputed:
            stated.require_equal(name, stated.tally(name, lines, made).score)
            continue
        of_lines = [row.get(name) for row in values]
        _check_expected(stated, name, found, of_lines)
        known = [value for value in of_lines if isinstance(value, int | float) and math.isfinite(value)]
        if known and len(known) == len(of_lines):
            stated.require_equal(name, sum(known) / len(known))


def _check_wilson(stated: StatedScores, statistics: Tally) -> None:
    """Recompute Wilson's interval of a proportion."""
    name = stated.metric
    if stated.scores[name].interval != WILSON or not statistics.is_binary:
        return
    low, high = intervals.wilson(float(statistics.rows[:, 0].sum()), float(statistics.examples))
    stated.require_equal(name, low, "low")
    stated.require_equal(name, high, "high")


def check_choices(stated: StatedScores, identity: str, row: dict[str, Any], names: Sequence[str]) -> None:
    """Check the accuracies of one example of multiple choice against its log-likelihoods. names: of CHOICE_LENGTHS.

    Raises UnsoundPredictions where one does not follow from them, or they are missing.
    """
    labels = stated.record.data.labels if stated.record.data else []
    sums = _numbers(row.get("log_likelihoods"))
    for name in names:
        length = CHOICE_LENGTHS[name]
        lengths = _numbers(row.get(length)) if length else np.ones_like(sums)
        if not len(sums) or len(lengths) != len(sums):
            lacks = f"log_likelihoods{f' and {length}' if length else ''}"
            raise UnsoundPredictions(f"{stated.file}: {identity!r} lacks {lacks} of each choice; was the file edited?")
        chosen, value = likeliest_choice(sums, lengths), row["metrics"].get(name)
        if value != (chosen < len(labels) and labels[chosen] == row["reference"]):
            reason = f"the log-likelihoods of {identity!r} contradict its {name} of {value}"
            raise UnsoundPredictions(f"{stated.file}: {reason}; was the file edited?")


def _numbers(values: Any) -> np.ndarray:
    """Return a list of numbers as an array, an empty one for anything else."""
    is_list = isinstance(values, list) and all(isinstance(value, int | float) for value in values)
    return np.array(values if is_list else [], dtype=float)


def check_prompts(stated: StatedScores, hashes: dict[str, str], examples: int) -> None:
    """Check the manifest (`evaluation.text_examples.manifest`): SHA-256 over ids and hashes of the prompts, by id."""
    prompts = stated.record.prompts
    manifest = prompts.manifests.get(stated.split) if prompts else None
    if manifest is None or len(hashes) != examples:
        return
    text = "".join(f"{identity} {hashes[identity]}\n" for identity in sorted(hashes))
    if hashlib.sha256(text.encode()).hexdigest()[:16] != manifest:
        raise UnsoundPredictions(
            f"{stated.file}: its prompts differ from the record's manifest; one of the two files was modified"
        )


def _same_set(prediction: Any, reference: Any) -> bool:
    # An answer that could not be read, null, counts as the empty set.
    return sorted(map(str, prediction or [])) == sorted(map(str, reference or []))


def _same_text(prediction: Any, reference: Any) -> bool:
    # As bench/metrics/exact_match.py has it.
    if prediction is None:
        return False
    written, golds = " ".join(prediction.split()), [" ".join(gold.split()) for gold in reference]
    return written in golds if golds else not written


# Per-example values that follow from prediction and reference alone.
_EXPECTED_VALUES: dict[str, Callable[[Any, Any], bool]] = {
    "accuracy": operator.eq,
    "subset_accuracy": _same_set,
    "exact_match": _same_text,
}


def _is_multi_label(record: Record) -> bool:
    return bool(_dataset(record).get("multi_label"))


def _dataset(record: Record) -> dict[str, Any]:
    data = record.recipe.resolved.get("dataset")
    return data if isinstance(data, dict) else {}
