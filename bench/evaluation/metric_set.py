"""The metrics of a run, computed together from one set of predictions, with intervals and signatures."""

import atexit
import hashlib
import inspect
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bench.analysis.stats.intervals import Interval, bootstrap, bootstrap_examples, bootstrap_weights, wilson
from bench.config import foreign_code, registry
from bench.config.cards import LM_EVAL
from bench.config.contracts import (
    AdditiveMetric,
    CheckedMetric,
    ExplainingMetric,
    ExtractingMetric,
    Metric,
    WeightedMetric,
)
from bench.config.extraction import Extract
from bench.config.foreign_code import LIBRARY
from bench.data import tagging
from bench.data.examples import per_row
from bench.errors import ScoreError, SetupError
from bench.evaluation.lm_eval_metric import LmEvalMetric
from bench.models.library_internals import evaluate_internals
from bench.records.record import Score

BOOTSTRAP_DRAWS = 2000
# A metric that is no function of sums is recomputed as a whole for each draw, which costs milliseconds.
RECOMPUTED_DRAWS = 200
# Of more numbers that are ranked or binned, 2,000 draws would take longer than most models to score them.
MOST_RANKED = 2**16
CONFUSIONS = "confusion_matrix"  # counts without an interval
# What is known of each choice of an example, in `Predictions.extra`.
CHOICE_ROWS = ("log_likelihoods", "choice_characters", "choice_bytes", "choice_tokens")


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """All predictions of one split, sorted by id.

    predictions, references: [examples] label ids, or [examples, labels] of 0 and 1. scores: [examples, labels]
    probabilities. extra: per example, what is only written down, e.g. a generated text.

    Of numbers: both [examples], NaN for a prediction that is missing. Of tags of words: both [examples] tuples of tags,
    an array of objects. scores are then not written.

    Of answers in words: predictions [examples] texts ("" for "there is no answer", None for a missing one),
    references [examples] lists of gold texts (empty where there is no answer), an array of objects: `per_row`.
    scores: [examples, 1] probabilities that there is no answer, or [examples, 0] where nothing gives them.
    """

    ids: tuple[str, ...]
    predictions: np.ndarray
    references: np.ndarray
    scores: np.ndarray
    extra: tuple[dict[str, Any], ...] = ()

    @property
    def likelihoods(self) -> np.ndarray | None:
        """Return [examples, 2]: log-likelihood of the first reference in nats, and its tokens; None without."""
        if not self.extra or "reference_nll" not in self.extra[0]:
            return None
        return np.array([[-each["reference_nll"], each["reference_tokens"]] for each in self.extra], dtype=float)


class MetricSet:
    """Loads metrics once; `scores` gives values with intervals, `values` the bare numbers.

    tags, scheme: of tags of words: all of them, and how entities are read. Raises SetupError for metrics that read
    different things, as answers in words and labels.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        *,
        multi_label: bool,
        num_labels: int,
        tags: tuple[str, ...] = (),
        scheme: str | None = None,
        extract: Extract | None = None,
    ) -> None:
        self.num_labels = num_labels
        self.multi_label = multi_label
        config = "multilabel" if multi_label else "default"
        own_names = [name for name in names if not name.startswith((LIBRARY, LM_EVAL))]
        own = [_own_metric(name, config, scheme) for name in own_names]
        for metric in own:
            if metric.reads == "tags":
                setattr(metric, "kinds", tagging.kinds_of(tags))  # noqa: B010 (not of every metric)
            if isinstance(metric, ExtractingMetric) and extract is not None:
                metric.use(extract)
        if len(read := {registry.READ_BY.get(metric.reads, "labels") for metric in own}) > 1:
            kinds = " don't go with metrics of ".join(
                "answers in words" if kind == "answers" else kind for kind in sorted(read)
            )
            raise SetupError(f"metrics of {kinds}: {', '.join(names)}")
        library = [LibraryMetric(name.removeprefix(LIBRARY), config) for name in names if name.startswith(LIBRARY)]
        of_lm_eval: list[Any] = [LmEvalMetric(name) for name in names if name.startswith(LM_EVAL)]
        self.metrics: list[Metric] = [*own, *library, *of_lm_eval]
        code = {path.stem: digest for path, digest in registry.included_code({"metrics": own_names}).items()}
        self._code = {id(metric): code[name] for name, metric in zip(own_names, own, strict=True) if name in code}

    def signatures(self) -> dict[str, str]:
        """Return value name -> every setting that moves the number."""
        return dict(sorted(item for metric in self.metrics for item in self._signatures_of(metric).items()))

    def _signatures_of(self, metric: Metric) -> dict[str, str]:
        """Return a metric's signatures; of one from an included folder with its code, which no version tells."""
        code = self._code.get(id(metric))
        suffix = f"|code:{code[:12]}" if code else ""
        return {name: f"{text}{suffix}" for name, text in metric.signatures().items()}

    def higher_is_better(self, value: str) -> bool:
        """Return the direction of a value; of the evaluate library's, see `registry.higher_is_better`."""
        return registry.higher_is_better(value)

    def values(self, predictions: Predictions, reads: str | None = None) -> dict[str, float]:
        """Return scalar values only, without intervals: for validation during training and for baselines.

        reads: only of metrics that read this, e.g. "scores"; None for all.
        """
        scalars: dict[str, float] = {}
        for metric in self.metrics:
            if isinstance(metric, AdditiveMetric) and not (metric.higher_is_better or metric.counts):
                continue  # it has no single number
            if reads not in (None, metric.reads):
                continue
            if metric.reads == "likelihoods" and predictions.likelihoods is None:
                continue  # an answer that no model gave
            values = metric.compute_values(read_by(metric, predictions), predictions.references, self.num_labels)
            scalars |= {name: float(value) for name, value in values.items() if np.ndim(value) == 0}
            scalars |= _tuned(metric, predictions)
        return scalars

    def scores(self, predictions: Predictions) -> dict[str, Score]:
        """Return every value with its interval: Wilson's for proportions, the bootstrap by example for the rest.

        A value that no draw changes has none, which `interval` says; a mean of 0s or of 1s alone has Wilson's.
        """
        scores: dict[str, Score] = {}
        for metric in self.metrics:
            if isinstance(metric, AdditiveMetric):
                scores |= self._additive_scores(metric, predictions)
            elif isinstance(metric, WeightedMetric):
                scores |= self._weighted_scores(metric, predictions)
            else:
                scores |= self._recomputed_scores(metric, predictions)
        return scores

    def per_example(self, predictions: Predictions) -> dict[str, np.ndarray]:
        """Return values [examples] of those metrics that are means of per-example scores."""
        scores: dict[str, np.ndarray] = {}
        for metric in self.metrics:
            if isinstance(metric, AdditiveMetric):
                read = read_by(metric, predictions)
                scores |= metric.per_example(read, predictions.references, self.num_labels)
        return scores

    def undefined(self, predictions: Predictions, labels: tuple[str, ...]) -> list[str]:
        """Return a sentence for each metric that these references leave undefined, in whole or of some labels."""
        told = [metric for metric in self.metrics if isinstance(metric, ExplainingMetric)]
        reasons = [metric.why_undefined(predictions.references, labels) for metric in told]
        return [reason for reason in reasons if reason is not None]

    def _additive_scores(self, metric: AdditiveMetric, predictions: Predictions) -> dict[str, Score]:
        read = (read_by(metric, predictions), predictions.references, self.num_labels)
        signatures = self._signatures_of(metric)
        if set(signatures) == {CONFUSIONS}:
            (matrix,) = metric.compute_values(*read).values()
            return {CONFUSIONS: _score(matrix, None, len(predictions.ids), signatures[CONFUSIONS])}
        statistics = metric.statistics(*read)
        sums = statistics.sum(0)
        values, proportions = metric.values(sums, self.num_labels), metric.proportions(sums, self.num_labels)
        intervals: dict[str, tuple[Any, Any, str]] = {
            name: (*wilson(successes, trials), "wilson 95 %") for name, (successes, trials) in proportions.items()
        }
        rest = [name for name in values if name not in intervals and name not in metric.counts]
        if rest:
            drawn = bootstrap(statistics, partial(self._drawn_values, metric, rest), draws=BOOTSTRAP_DRAWS)
            for name in rest:
                intervals[name] = _drawn_interval(values[name], drawn[name], BOOTSTRAP_DRAWS)
        counted = {name: int(trials) for name, (_, trials) in proportions.items() if np.ndim(trials) == 0}
        # Of a part of the examples, like the questions with an answer, F1 counts those that exact match does.
        counted |= {name.replace("_exact", "_f1"): count for name, count in counted.items()}
        left_out = sum(int(values[name]) for name in metric.counts if name.endswith("_left_out"))
        number = len(predictions.ids)
        counted = {name: number - (0 if name in metric.counts else left_out) for name in values} | counted
        # Where all are 0, or all 1, no draw of a bootstrap differs. Wilson's interval holds then, since of all means of
        # numbers from 0 to 1 that of 0s and 1s alone spreads most.
        for name in set(rest).intersection(metric.unit_means):
            if values[name] in (0, 1):
                examples = counted[name]
                ends = wilson(float(values[name]) * examples, examples)
                intervals[name] = (*ends, f"wilson 95 %, as every example scores {values[name]:g}")
        return {
            name: _score(value, intervals.get(name), counted.get(name, number), signatures[name])
            for name, value in {**values, **_tuned(metric, predictions)}.items()
        }

    def _drawn_values(self, metric: AdditiveMetric, names: list[str], sums: np.ndarray) -> dict[str, np.ndarray]:
        values = metric.values(sums, self.num_labels)
        return {name: values[name] for name in names}

    def _weighted_scores(self, metric: WeightedMetric, predictions: Predictions) -> dict[str, Score]:
        read = (read_by(metric, predictions), predictions.references, self.num_labels)
        rows, values = metric.rows(*metric.checked(*read), self.num_labels), metric.compute_values(*read)
        draws = BOOTSTRAP_DRAWS if rows.size <= MOST_RANKED else RECOMPUTED_DRAWS
        drawn = bootstrap_weights(len(rows), partial(metric.weighted_values, rows), draws)
        defined = {name for name, value in values.items() if not np.isnan(value).all()}
        intervals = {name: metric.interval(name, rows, drawn[name]) for name in defined.intersection(drawn)}
        signatures = self._signatures_of(metric)
        return {
            name: _score(value, intervals.get(name), len(predictions.ids), signatures[name])
            for name, value in values.items()
        }

    def _recomputed_scores(self, metric: Metric, predictions: Predictions) -> dict[str, Score]:
        read, references = read_by(metric, predictions), predictions.references
        if metric.reads == "numbers" and isinstance(metric, CheckedMetric):
            # What fills in for a missing number is the same in all draws as for the whole split.
            read, references = metric.checked(read, references, self.num_labels)

        def _computed(predictions: Any, references: Any) -> dict[str, float]:
            values = metric.compute_values(predictions, references, self.num_labels)
            return {name: float(value) for name, value in values.items()}

        values = _computed(read, references)
        drawn = bootstrap_examples(_computed, list(read), list(references), draws=RECOMPUTED_DRAWS)
        signatures = self._signatures_of(metric)
        # A metric of the evaluate library has one signature for whatever values it gives.
        signature = next(iter(signatures.values()))
        return {
            name: _score(
                value,
                _drawn_interval(value, drawn[name], RECOMPUTED_DRAWS),
                len(predictions.ids),
                signatures.get(name, signature),
            )
            for name, value in values.items()
        }


class LibraryMetric:
    """A metric of the evaluate library: by the name of its Hub space, or the path of a local file.

    Raises SetupError where it can't be loaded.
    """

    reads: ClassVar[str] = "predictions"
    configs: ClassVar[tuple[str, ...]] = ("default", "multilabel")
    higher_is_better: ClassVar[dict[str, bool]] = {}
    counts: ClassVar[tuple[str, ...]] = ()
    unit_means: ClassVar[tuple[str, ...]] = ()

    def __init__(self, name: str, config: str) -> None:
        import evaluate

        foreign_code.check_metric(name)
        try:
            self._metric = evaluate.load(name, config if config == "multilabel" else None, keep_in_memory=True)
        except Exception as error:  # evaluate raises many kinds, among them bare ConnectionError, ModuleNotFoundError
            offline = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("HF_EVALUATE_OFFLINE")
            hint = " (offline: give the path of its file instead)" if offline and not name.endswith(".py") else ""
            text = (str(error).splitlines() or [type(error).__name__])[0]
            raise SetupError(f"the metric '{LIBRARY}{name}' can't be loaded{hint}: {text}") from error
        parameters = evaluate_internals.parameters(self._metric)
        self._settings = {key: item.default for key, item in parameters.items() if item.default is not item.empty}
        self._options: dict[str, Any] = {"average": "macro"} if "average" in parameters else {}

    def signatures(self) -> dict[str, str]:
        """Return the defaults of the metric's arguments, a hash of its code, and the library's version."""
        import evaluate

        settings = {**self._settings, **{key: self._options[key] for key in self._options if key in self._settings}}
        shown = json.dumps(settings, default=str, sort_keys=True)
        source = Path(inspect.getfile(type(self._metric))).read_bytes()
        name = f"{LIBRARY}{self._metric.name}"
        code = hashlib.sha256(source).hexdigest()[:12]
        return {name: f"{name}|{shown}|code:{code}|evaluate:{evaluate.__version__}"}

    def compute_values(self, predictions: Any, references: Any, num_labels: int) -> dict[str, np.ndarray]:
        """Return the values that are single numbers. Raises ScoreError where there is none."""
        computed = self._metric.compute(
            predictions=_column(predictions), references=_column(references), **self._options
        )
        scalars = {
            f"{LIBRARY}{name}": np.array(float(value))
            for name, value in computed.items()
            if isinstance(value, int | float | np.number)
        }
        if not scalars:
            raise ScoreError(f"the metric '{LIBRARY}{self._metric.name}' gives no single number: {', '.join(computed)}")
        return scalars


@cache
def _cache_folder() -> str:
    folder = tempfile.mkdtemp(prefix="bench-metrics-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _own_metric(name: str, config: str, scheme: str | None) -> Metric:
    """Return a metric of `bench/metrics` or of an included folder. Raises SetupError for a file without one."""
    import evaluate

    module = registry.load("metrics", name)
    if scheme is not None and scheme in registry.literals("metrics", name)["configs"]:
        config = scheme
    classes: list[Any] = [item for item in vars(module).values() if inspect.isclass(item)]
    for item in classes:
        if issubclass(item, evaluate.Metric) and item.__module__ == module.__name__:
            try:
                # evaluate makes a cache folder even for a metric that is kept in memory; it goes with the process.
                metric = item(config_name=config, keep_in_memory=True, cache_dir=_cache_folder())
            except (TypeError, ValueError) as error:  # an abstract method, a config or a signature that is missing
                raise SetupError(f"{registry.path_of('metrics', name)}: {error}") from error
            if isinstance(metric, Metric):
                return metric
    raise SetupError(
        f"{registry.path_of('metrics', name)} must hold a class derived from one of bench/metrics/_base.py, "
        "e.g. `class Share(_base.MeanMetric)`"
    )


def _column(rows: Any) -> Any:
    """Return an array of labels; texts, and lists of texts of any length, stay a list; of tags lists, too."""
    if len(rows) and isinstance(rows[0], tuple):
        return [list(row) for row in rows]
    return list(rows) if len(rows) and isinstance(rows[0], str | list | tuple | None) else np.asarray(rows)


def read_by(metric: Metric, predictions: Predictions) -> np.ndarray:
    """Return what a metric reads of predictions, [examples]: labels, probabilities, tables of choices, and so on."""
    if metric.reads == "lm_eval":
        (name,) = metric.higher_is_better
        return np.array([extra["lm_eval"][name.removeprefix(LM_EVAL)] for extra in predictions.extra], dtype=float)
    if metric.reads == "choices":
        return per_row([[extra[name] for name in CHOICE_ROWS] for extra in predictions.extra])
    if metric.reads == "likelihoods":
        found = predictions.likelihoods
        return np.empty((len(predictions.ids), 2)) * np.nan if found is None else found
    return predictions.scores if metric.reads == "scores" else predictions.predictions


def _tuned(metric: Metric, predictions: Predictions) -> dict[str, float]:
    """Return values that are tuned over thresholds of a probability and so are no function of sums."""
    if not isinstance(metric, AdditiveMetric) or metric.reads != "answers" or not predictions.scores.size:
        return {}
    return metric.tuned_values(predictions.predictions, predictions.references, predictions.scores[:, 0])


def _drawn_interval(value: Any, ends: Interval, draws: int) -> tuple[Any, Any, str]:
    """Return a bootstrap's interval with its name; of a defined value without one, that no draw differed."""
    if not np.isnan(value).all() and np.isnan(ends).all():
        return *ends, f"none: {draws} draws by example gave one value"
    return *ends, f"bootstrap 95 %, {draws} draws by example"


def _score(value: Any, interval: tuple[Any, Any, str] | None, examples: int, signature: str) -> Score:
    low, high, stated = interval if interval is not None else (None, None, None)
    return Score(
        value=_plain(value), low=_plain(low), high=_plain(high), interval=stated, examples=examples, signature=signature
    )


def _plain(value: Any) -> Any:
    """Return lists and floats for JSON; what is not finite becomes None (not defined is null, never 0)."""
    if value is None:
        return None
    array = np.asarray(value)
    if array.ndim > 1:
        return array.astype(int).tolist()  # a confusion matrix: counts
    if array.ndim == 1:
        return [_plain(item) for item in array]
    return float(array) if np.isfinite(array) else None
