"""Do a run's predictions bear out what its record says? Scores are computed again from them. Loads no torch."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.analysis import accessors
from bench.analysis.stats import intervals
from bench.analysis.stats.sums import BY_LABEL, TOKENIZERS, Line, Tally, label_value, tally
from bench.errors import DataError
from bench.records.record import Record, Score

# A recomputed score may differ from the record's in the last bits, as sums are taken in another order.
ROUNDING = 1e-9
# As `bench.evaluation.metric_set` calls the interval of a share; others are drawn, and not drawn again here.
WILSON = "wilson 95 %"


class Unsound(DataError):
    """Predictions that are broken, or not those of which the record's score was made."""


@dataclass(frozen=True, kw_only=True)
class Stated:
    """What a record says of a file of predictions. metric: the one that is compared."""

    file: Path
    record: Record
    stage: str
    split: str
    metric: str

    @property
    def scores(self) -> dict[str, Score]:
        """Every single-valued score of the stage and split."""
        return accessors.scalars(self.record, self.stage, self.split)

    def refuse_other(self, name: str, found: float, what: str = "") -> None:
        """Raises Unsound where the record says something else than what was found. what: a part of the score."""
        item = self.scores[name]
        said = getattr(item, what or "value")
        # Written so that NaN is refused.
        if not (isinstance(said, int | float) and abs(found - said) <= ROUNDING * max(1, abs(found))):
            shown = f"{name}, {what} end of the interval," if what else name
            raise Unsound(
                f"{self.file}: gives {shown} {found!r}, and the record says {said!r}; one of the two was changed"
            )

    def tally(self, name: str, lines: Sequence[Line]) -> Tally:
        """What a metric adds up on these lines."""
        labels = self.record.data.labels if self.record.data else []
        return tally(name, lines, labels, multi_label=_has_several_labels(self.record))


def check_seed(path: Path, record: Record) -> None:
    """Raises Unsound for a seed that the run itself was not given: it would count as one more sample."""
    given = record.recipe.resolved.get("seed", record.seed)
    if given != record.seed:
        raise Unsound(f"{path}: the record says seed {record.seed}, and its recipe {given}; one of the two was changed")


def checked(stated: Stated, lines: dict[str, Line]) -> Tally:
    """What the metric adds up; the predictions must give the very score that the record states."""
    assert stated.record.data is not None
    part = stated.record.data.splits.get(stated.split)
    if part is not None and len(lines) != part.examples:
        raise Unsound(f"{stated.file}: {len(lines)} predictions, and the record tells of {part.examples} examples")
    if (right := _RIGHT.get(stated.metric)) is not None:
        for identity, line in lines.items():
            if line.value != right(line.prediction, line.reference):
                told = f"{identity!r} is not what its {stated.metric} of {line.value} says"
                raise Unsound(f"{stated.file}: {told}; was the file edited?")
    counted = stated.tally(stated.metric, list(lines.values()))
    stated.refuse_other(stated.metric, counted.score)
    _check_wilson(stated, counted)
    return counted


def check_others(stated: Stated, lines: Sequence[Line], values: Sequence[dict[str, Any]]) -> None:
    """The metrics beside the one that is compared stand in the same tables. values: of each line, by metric.

    BLEU is left out, which takes as long as all the rest; so is what lines don't hold a value of each. Raises Unsound.
    """
    others = [name for name, item in stated.scores.items() if name != stated.metric and item.value is not None]
    by_label = [name for name in others if name in BY_LABEL]
    if by_label:
        sums = stated.tally(by_label[0], lines).rows.sum(0, dtype=float)
        for name in by_label:
            stated.refuse_other(name, float(label_value(name)(sums)))
    for name in sorted(set(others) - set(by_label) - set(TOKENIZERS)):
        if name == "mcc":
            stated.refuse_other(name, stated.tally(name, lines).score)
            continue
        found = [value for row in values if isinstance(value := row.get(name), int | float) and math.isfinite(value)]
        if found and len(found) == len(values):
            stated.refuse_other(name, sum(found) / len(found))


def _check_wilson(stated: Stated, counted: Tally) -> None:
    """The interval of a share follows from it."""
    name = stated.metric
    if stated.scores[name].interval != WILSON or not counted.is_binary:
        return
    low, high = intervals.wilson(float(counted.rows[:, 0].sum()), float(len(counted.rows)))
    stated.refuse_other(name, low, "low")
    stated.refuse_other(name, high, "high")


def check_prompts(stated: Stated, hashes: dict[str, str], examples: int) -> None:
    """Check the manifest (`evaluation.text_examples.manifest`): SHA-256 over ids and hashes of the prompts, by id."""
    asked = stated.record.prompts
    manifest = asked.manifests.get(stated.split) if asked else None
    if manifest is None or len(hashes) != examples:
        return
    text = "".join(f"{identity} {hashes[identity]}\n" for identity in sorted(hashes))
    if hashlib.sha256(text.encode()).hexdigest()[:16] != manifest:
        raise Unsound(f"{stated.file}: its prompts are not those of the record's manifest; one of the two was changed")


def _same_set(prediction: Any, reference: Any) -> bool:
    return isinstance(prediction, list) and sorted(map(str, prediction)) == sorted(map(str, reference or []))


# Values of an example that follow from its labels alone.
_RIGHT: dict[str, Callable[[Any, Any], bool]] = {
    "accuracy": lambda prediction, reference: prediction == reference,
    "subset_accuracy": _same_set,
}


def _has_several_labels(record: Record) -> bool:
    """Whether an example of the record's data set has several labels."""
    data = record.recipe.resolved.get("dataset")
    return isinstance(data, dict) and bool(data.get("multi_label"))
