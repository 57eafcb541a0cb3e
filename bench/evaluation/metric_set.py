"""The metrics of a run, computed together from one set of predictions, with intervals and signatures."""

import atexit
import hashlib
import inspect
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bench.analysis.stats.intervals import Interval, bootstrap, bootstrap_examples, wilson
from bench.config import registry
from bench.errors import ScoreError, SetupError
from bench.models.library_internals import evaluate_internals
from bench.records.record import Score

BOOTSTRAP_DRAWS = 2000
# A metric of the evaluate library is recomputed as a whole for each draw, which costs milliseconds.
FOREIGN_DRAWS = 200
# Means over examples of values from 0 to 1. Where all are 0, or all 1, no draw of a bootstrap differs; Wilson's
# interval holds then, since of all such means that of 0s and 1s alone spreads most.
UNIT_MEANS = (
    *("squad_f1", "squad_v2_f1", "squad_v2_HasAns_f1", "jaccard_samples", "jaccard_samples_empty0"),
    *("hamming_accuracy", "rouge1", "rouge2", "rougeL", "rougeLsum", "meteor"),
)


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """All predictions of one split, sorted by id.

    predictions, references: [examples] label ids, or [examples, labels] of 0 and 1. scores: [examples, labels]
    probabilities. extra: per example, what is only written down, e.g. a generated text.

    Of answers in words: predictions [examples] texts ("" for "there is no answer", None for a missing one),
    references [examples] lists of gold texts (empty where there is no answer), an array of objects: `per_row`.
    scores: [examples, 1] probabilities that there is no answer, or [examples, 0] where nothing gives them.
    """

    ids: tuple[str, ...]
    predictions: np.ndarray
    references: np.ndarray
    scores: np.ndarray
    extra: tuple[dict[str, Any], ...] = ()


class MetricSet:
    """Loads metrics once; `scores` gives values with intervals, `values` the bare numbers.

    Raises SetupError for metrics of answers in words beside metrics of labels.
    """

    def __init__(self, names: tuple[str, ...], *, multi_label: bool, num_labels: int) -> None:
        self.num_labels = num_labels
        self.multi_label = multi_label
        config = "multilabel" if multi_label else "default"
        self.own = [_own_metric(name, config) for name in names if not name.startswith("evaluate:")]
        if len({metric.reads == "answers" for metric in self.own}) > 1:
            raise SetupError(f"metrics of answers in words don't go with metrics of labels: {', '.join(names)}")
        foreign = [name.removeprefix("evaluate:") for name in names if name.startswith("evaluate:")]
        self.foreign = {name: _foreign_metric(name, config) for name in foreign}

    def signatures(self) -> dict[str, str]:
        """Value name -> every setting that moves the number."""
        found: dict[str, str] = {}
        for metric in self.own:
            found.update(metric.signatures())
        found.update({f"evaluate:{metric.name}": _foreign_signature(metric) for metric in self.foreign.values()})
        return dict(sorted(found.items()))

    def higher_is_better(self, value: str) -> bool:
        """Whether more is better; True for a foreign metric, whose direction is not known, except a loss or error."""
        for metric in self.own:
            if value in metric.higher_is_better:
                return bool(metric.higher_is_better[value])
        return registry.higher_is_better(value)

    def values(self, predictions: Predictions) -> dict[str, float]:
        """Scalar values only, without intervals: for validation during training and for baselines."""
        found: dict[str, float] = {}
        for metric in self.own:
            sums = self._statistics(metric, predictions).sum(0)
            for name, value in metric.values(sums, self.num_labels).items():
                if np.ndim(value) == 0:
                    found[name] = float(value)
            found.update(_swept(metric, predictions))
        for metric in self.foreign.values():
            found.update(self._foreign_values(metric, predictions.predictions, predictions.references))
        return found

    def scores(self, predictions: Predictions) -> dict[str, Score]:
        """Every value with its interval: Wilson's for proportions, the bootstrap by example for the rest.

        A value that no draw changes has none, which `interval` says; a mean of 0s or of 1s alone has Wilson's.
        """
        found: dict[str, Score] = {}
        for metric in self.own:
            found.update(self._own_scores(metric, predictions))
        for metric in self.foreign.values():
            found.update(self._foreign_scores(metric, predictions))
        return found

    def per_example(self, predictions: Predictions) -> dict[str, np.ndarray]:
        """Values [examples] of those metrics that are means of per-example scores."""
        found: dict[str, np.ndarray] = {}
        for metric in self.own:
            found.update(metric.per_example(_read_by(metric, predictions), predictions.references, self.num_labels))
        return found

    def _statistics(self, metric: Any, predictions: Predictions) -> np.ndarray:
        return metric.statistics(_read_by(metric, predictions), predictions.references, self.num_labels)

    def _own_scores(self, metric: Any, predictions: Predictions) -> dict[str, Score]:
        statistics = self._statistics(metric, predictions)
        sums = statistics.sum(0)
        values = metric.values(sums, self.num_labels)
        proportions = metric.proportions(sums, self.num_labels)
        intervals: dict[str, tuple[Any, Any, str]] = {
            name: (*wilson(successes, trials), "wilson 95 %") for name, (successes, trials) in proportions.items()
        }
        bare = ("confusion_matrix", *getattr(metric, "counts", ()))
        rest = [name for name in values if name not in intervals and name not in bare]
        if rest:
            drawn = bootstrap(statistics, lambda sums: metric.values(sums, self.num_labels), draws=BOOTSTRAP_DRAWS)
            for name in rest:
                intervals[name] = _drawn_interval(values[name], drawn[name], BOOTSTRAP_DRAWS)
        signatures = metric.signatures()
        counted = {name: int(trials) for name, (_, trials) in proportions.items() if np.ndim(trials) == 0}
        # Of a part of the examples, like the questions with an answer, F1 counts those that exact match does.
        counted |= {name.replace("_exact", "_f1"): count for name, count in counted.items()}
        for name in set(rest).intersection(UNIT_MEANS):
            if values[name] in (0, 1):
                examples = counted.get(name, len(predictions.ids))
                ends = wilson(float(values[name]) * examples, examples)
                intervals[name] = (*ends, f"wilson 95 %, as every example scores {values[name]:g}")
        return {
            name: _score(value, intervals.get(name), counted.get(name, len(predictions.ids)), signatures[name])
            for name, value in {**values, **_swept(metric, predictions)}.items()
        }

    def _foreign_values(self, metric: Any, predictions: Any, references: Any) -> dict[str, float]:
        extra = {"average": "macro"} if "average" in evaluate_internals.parameters(metric) else {}
        computed = metric.compute(predictions=_column(predictions), references=_column(references), **extra)
        found = {
            f"evaluate:{name}": float(value)
            for name, value in computed.items()
            if isinstance(value, int | float | np.number)
        }
        if not found:
            raise ScoreError(f"the metric 'evaluate:{metric.name}' gives no single number: {', '.join(computed)}")
        return found

    def _foreign_scores(self, metric: Any, predictions: Predictions) -> dict[str, Score]:
        values = self._foreign_values(metric, predictions.predictions, predictions.references)
        drawn = bootstrap_examples(
            lambda predictions, references: self._foreign_values(metric, predictions, references),
            list(predictions.predictions),
            list(predictions.references),
            draws=FOREIGN_DRAWS,
        )
        signature = _foreign_signature(metric)
        return {
            name: _score(value, _drawn_interval(value, drawn[name], FOREIGN_DRAWS), len(predictions.ids), signature)
            for name, value in values.items()
        }


@cache
def _cache_folder() -> str:
    folder = tempfile.mkdtemp(prefix="bench-metrics-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _own_metric(name: str, config: str) -> Any:
    import evaluate

    module = registry.load("metrics", name)
    classes: list[Any] = [item for item in vars(module).values() if inspect.isclass(item)]
    classes = [item for item in classes if issubclass(item, evaluate.Metric)]
    # evaluate makes a cache folder even for a metric that is kept in memory; this one goes with the process.
    return classes[0](config_name=config, keep_in_memory=True, cache_dir=_cache_folder())


def _foreign_metric(name: str, config: str) -> Any:
    """A metric of the evaluate library: by the name of its Hub space, or the path of a local file."""
    import evaluate

    try:
        return evaluate.load(name, config if config == "multilabel" else None, keep_in_memory=True)
    except Exception as error:  # evaluate raises many kinds, among them bare ConnectionError and ModuleNotFoundError
        offline = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("HF_EVALUATE_OFFLINE")
        hint = " (offline: give the path of its file instead)" if offline and not name.endswith(".py") else ""
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise SetupError(f"the metric 'evaluate:{name}' can't be loaded{hint}: {text}") from error


def _column(rows: Any) -> Any:
    """An array of labels; texts, and lists of texts of any length, stay a list."""
    return list(rows) if len(rows) and isinstance(rows[0], str | list | tuple | None) else np.asarray(rows)


def _foreign_signature(metric: Any) -> str:
    import evaluate

    parameters = evaluate_internals.parameters(metric)
    settings = {key: item.default for key, item in parameters.items() if item.default is not inspect.Parameter.empty}
    if "average" in settings:
        settings["average"] = "macro"
    shown = json.dumps(settings, default=str, sort_keys=True)
    source = Path(inspect.getfile(type(metric))).read_bytes()
    code = hashlib.sha256(source).hexdigest()[:12]
    return f"evaluate:{metric.name}|{shown}|code:{code}|evaluate:{evaluate.__version__}"


def _read_by(metric: Any, predictions: Predictions) -> np.ndarray:
    return predictions.scores if metric.reads == "scores" else predictions.predictions


def _swept(metric: Any, predictions: Predictions) -> dict[str, float]:
    """Values that are tuned over thresholds of a probability and so are no function of sums; {} without one."""
    if not hasattr(metric, "sweep") or not predictions.scores.size:
        return {}
    return metric.sweep(predictions.predictions, predictions.references, predictions.scores[:, 0])


def _drawn_interval(value: Any, ends: Interval, draws: int) -> tuple[Any, Any, str]:
    """A bootstrap's interval with its name; of a defined value without one, that no draw differed."""
    if not np.isnan(value).all() and np.isnan(ends).all():
        return *ends, f"none: {draws} draws by example gave one value"
    return *ends, f"bootstrap 95 %, {draws} draws by example"


def _score(value: Any, interval: tuple[Any, Any, str] | None, examples: int, signature: str) -> Score:
    low, high, stated = interval if interval is not None else (None, None, None)
    return Score(
        value=_plain(value), low=_plain(low), high=_plain(high), interval=stated, examples=examples, signature=signature
    )


def _plain(value: Any) -> Any:
    """NumPy -> JSON: lists and floats, NaN becomes None (not defined is null, never 0)."""
    if value is None:
        return None
    array = np.asarray(value)
    if array.ndim > 1:
        return array.astype(int).tolist()  # a confusion matrix: counts
    if array.ndim == 1:
        return [_plain(item) for item in array]
    return None if np.isnan(array) else float(array)
