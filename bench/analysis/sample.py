"""Choose examples of one run for its page: wrong and right answers, the worst first by loss. Loads no torch.

One pass over the file of predictions, of which only the chosen lines are kept.
"""

import heapq
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.analysis import disagreements
from bench.analysis.stats.sums import Line
from bench.config.cards import GENERATION_TASK, NUMBERS_TASK, TAGS_TASK
from bench.utils import numbers

WRONG, RIGHT = "wrong answers", "right answers"
# Of answers that are better or worse, and neither right nor wrong.
WORST, BEST = "worst answers", "best answers"
# Examples of each group.
MOST = {WRONG: 5, RIGHT: 3, WORST: 5, BEST: 3}
Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A line of predictions that was chosen, and the value that it is ordered by; None where there is no measure."""

    row: Row
    value: float | None


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The chosen lines of each group, with the number of all in it, and by what they are ordered ("" by id alone)."""

    groups: dict[str, list[Chosen]]
    counts: dict[str, int]
    measure: str


@dataclass(kw_only=True)
class _Measure:
    """A way to order examples, the worst first; of all lines it keeps the first few of each group.

    value: of a line, as shown; None where it has none. sign: -1 where a small value is bad. is_graded: it has other
    values than 0 and 1, which say no more than right and wrong.
    """

    name: str
    value: Callable[[Row], float | None]
    sign: int = 1
    is_complete: bool = True
    is_graded: bool = False
    heaps: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)

    def take(self, group: str, row: Row, place: int) -> None:
        """Keep a line if it is among the worst of its group so far, of group BEST among the best."""
        value = self.value(row)
        if value is None:
            self.is_complete = False
        if not self.is_complete:
            return
        self.is_graded = self.is_graded or value not in (0, 1)
        badness = self.sign * value if value is not None else 0.0
        heap = self.heaps.setdefault(group, [])
        # The earlier line comes first among equals; no two have one place, so that rows are never compared.
        item = (-badness if group == BEST else badness, -place, value, row)
        if len(heap) < MOST[group]:
            heapq.heappush(heap, item)
        elif item[:2] > heap[0][:2]:
            heapq.heapreplace(heap, item)

    def chosen(self, group: str) -> list[Chosen]:
        """Return what was kept of a group, in its order."""
        shown = sorted(self.heaps.get(group, ()), key=lambda item: item[:2], reverse=True)
        return [Chosen(row=row, value=value if self.name else None) for *_, value, row in shown]


def choose(rows: Iterable[Row], task: str, metric: str | None, *, higher_is_better: bool = True) -> Sample:
    """Return a sample of a run's lines of predictions.

    metric: the one that ranks the run; where lines have it, 1 is right. Ordered by the first of these that all lines
    have: the loss, the loss of the reference per token, the probability of the right label, the number of wrong tags,
    the absolute error, the metric; else by id.
    """
    measures = [*_measures(task, metric, higher_is_better=higher_is_better), _Measure(name="", value=lambda _: 0.0)]
    if not higher_is_better:
        metric = None  # by its value no answer is right
    counts: dict[str, int] = {}
    for place, row in enumerate(rows):
        for group in _groups(row, task, metric):
            counts[group] = counts.get(group, 0) + 1
            for measure in measures:
                if measure.is_complete:
                    measure.take(group, row, place)
    best = next(measure for measure in measures if measure.is_complete and (measure.is_graded or not measure.name))
    groups = {group: best.chosen(group) for group in (WRONG, RIGHT, WORST, BEST) if group in counts}
    if not best.name:
        groups.pop(BEST, None)  # the first lines, as those of the group before
    return Sample(groups=groups, counts=counts, measure=best.name)


def _measures(task: str, metric: str | None, *, higher_is_better: bool) -> list[_Measure]:
    found = [
        _Measure(name="loss", value=lambda row: numbers.finite(row["metrics"].get("loss"))),
        _Measure(name="loss of the reference per token", value=_loss_per_token),
        _Measure(name="probability of the reference", value=_probability, sign=-1),
    ]
    if task == TAGS_TASK:
        found.append(_Measure(name="wrong tags", value=_wrong_tags))
    if task == NUMBERS_TASK:
        found.append(_Measure(name="absolute error", value=_error))
    if metric is not None:
        sign = -1 if higher_is_better else 1
        found.append(_Measure(name=metric, value=lambda row: numbers.finite(row["metrics"].get(metric)), sign=sign))
    return found


def _groups(row: Row, task: str, metric: str | None) -> tuple[str, ...]:
    """Return the groups of a line: of a number, and of a text that is more or less good, both WORST and BEST."""
    value = numbers.finite(row["metrics"].get(metric)) if metric else None
    if task == NUMBERS_TASK or (task == GENERATION_TASK and value not in (0, 1)):
        return WORST, BEST
    if task == TAGS_TASK:
        return (RIGHT if row["prediction"] == row["reference"] else WRONG,)
    own = value is not None and 0 <= value <= 1
    is_right = disagreements.value_of(Line(row["prediction"], row["reference"], value), own=own)
    return (RIGHT if is_right >= 1 - disagreements.EXACT else WRONG,)


def _loss_per_token(row: Row) -> float | None:
    loss, tokens = numbers.finite(row.get("reference_nll")), numbers.finite(row.get("reference_tokens"))
    return loss / tokens if loss is not None and tokens else None


def _probability(row: Row) -> float | None:
    scores, reference = row.get("scores"), row["reference"]
    if not isinstance(scores, Mapping) or not isinstance(reference, str):
        return None
    return numbers.finite(scores.get(reference))


def _wrong_tags(row: Row) -> float | None:
    predicted, tags = row["prediction"], row["reference"]
    if not isinstance(predicted, list) or not isinstance(tags, list) or len(predicted) != len(tags):
        return None
    return float(sum(one != other for one, other in zip(predicted, tags, strict=True)))


def _error(row: Row) -> float | None:
    predicted, number = row["prediction"], numbers.finite(row["reference"])
    if number is None:
        return None
    answer = numbers.finite(predicted)
    return math.inf if answer is None else abs(answer - number)
