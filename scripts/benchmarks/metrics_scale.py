"""Time and memory of every metric by number of labels and examples: `python scripts/benchmarks/metrics_scale.py`.

Prints, for one label an example, CPU seconds (of all threads) of the values, of the values with intervals, of the
baselines, and of a paired comparison of two runs, each with the peak of the memory that NumPy and Python allocate; and
the time of the values per (example + label), which stays the same from 77 to 5,000 labels.
Values are compared with scikit-learn's. The probabilities that the loss reads are examples x labels by their nature
(8 bytes each): they are made before the clock starts and are not part of the peak.
"""

import argparse
import gc
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn import metrics as sklearn

from bench.analysis.stats import paired, sums
from bench.analysis.stats.sums import Line
from bench.evaluation.baselines import baselines
from bench.evaluation.metric_set import MetricSet, Predictions

NAMES = ("accuracy", "f1", "precision", "recall", "mcc", "per_label_accuracy", "confusion_matrix")
SIZES = ((77, 3_000), (600, 3_000), (2_000, 3_000), (77, 100_000), (1_000, 100_000), (5_000, 100_000))


def main() -> None:
    """Measure all sizes, and print one line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="values only, without intervals and comparisons")
    options = parser.parse_args()
    print(
        "labels examples | values s, us per (example + label), peak MiB | with intervals s | baselines s | compared s"
    )
    for labels, examples in SIZES:
        print(_line(labels, examples, quick=options.quick), flush=True)


def _line(labels: int, examples: int, *, quick: bool) -> str:
    found = _predictions(labels, examples)
    metrics = MetricSet(NAMES, multi_label=False, num_labels=labels)
    _check(metrics.values(found), found, labels)
    read = (found.predictions, found.references, labels)
    seconds, peak = _measured(lambda: [metric.compute_values(*read) for metric in metrics.metrics])
    shown = f"{labels:6} {examples:8} | {seconds:7.3f} {seconds / (labels + examples) * 1e6:6.2f} {peak:8.1f}"
    works: tuple[Callable[[], Any], ...] = (
        lambda: metrics.scores(found),
        lambda: baselines(metrics, found.references, found),
        lambda: _compared(found, labels),
    )
    for work in () if quick else works:
        seconds, peak = _measured(work)
        shown += f" | {seconds:7.2f} ({peak:.0f} MiB)"
    return shown


def _predictions(labels: int, examples: int, seed: int = 0) -> Predictions:
    """Return predictions of which 70 % are right, and the others any label."""
    draw = np.random.default_rng(seed)
    references = np.random.default_rng(0).integers(labels, size=examples)
    predicted = np.where(draw.random(examples) < 0.7, references, draw.integers(labels, size=examples))
    ids = tuple(map(str, range(examples)))
    # No metric here reads probabilities.
    return Predictions(ids=ids, predictions=predicted, references=references, scores=np.zeros((examples, 0)))


def _check(values: dict[str, float], found: Predictions, labels: int) -> None:
    """Compare with scikit-learn."""
    options: dict[str, Any] = {"labels": range(labels), "average": "macro", "zero_division": 0}
    expected = {
        "accuracy": sklearn.accuracy_score(found.references, found.predictions),
        "f1_macro": sklearn.f1_score(found.references, found.predictions, **options),
        "precision_macro": sklearn.precision_score(found.references, found.predictions, **options),
        "recall_macro": sklearn.recall_score(found.references, found.predictions, **options),
    }
    for name, value in expected.items():
        assert abs(values[name] - value) < 1e-12, (name, values[name], value)


def _compared(found: Predictions, labels: int) -> None:
    names = [f"label {number}" for number in range(labels)]
    other = _predictions(labels, len(found.ids), seed=1)
    runs = []
    for run in (found, other):
        pairs = zip(run.predictions.tolist(), run.references.tolist(), strict=True)
        lines = [Line(prediction=names[left], reference=names[right]) for left, right in pairs]
        runs.append(sums.tally("f1_macro", lines, names, multi_label=False))
    paired.bootstrap_values(paired.stack([run.rows for run in runs]), runs[0].value, 1000, 0)
    for run in runs:
        paired.jackknife_values(run.rows, run.value)


def _measured(work: Callable[[], Any]) -> tuple[float, float]:
    """Return seconds (best of two where it is short), and the peak in MiB of a run of its own."""
    seconds = []
    while len(seconds) < 2 and sum(seconds) < 2:
        gc.collect()
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return min(seconds), peak


if __name__ == "__main__":
    main()
