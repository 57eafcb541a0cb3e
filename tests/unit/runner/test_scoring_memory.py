"""memory/scoring.py: what metrics take is predicted, and grows with examples and labels."""

import tracemalloc

import numpy as np
import pytest

from bench.evaluation.metric_set import MetricSet, Predictions
from bench.memory.scoring import scoring_bytes
from bench.records.failures import METRICS_ADVICE, sentence
from bench.records.record import OutOfMemory
from bench.runner import out_of_memory


@pytest.mark.parametrize(("labels", "examples"), [(3, 2000), (600, 1500), (3000, 600)])
def test_the_metrics_of_many_labels_stay_within_the_prediction(labels, examples):
    draw = np.random.default_rng(0)
    references = draw.integers(labels, size=examples)
    predicted = np.where(draw.random(examples) < 0.7, references, draw.integers(labels, size=examples))
    scores = np.full((examples, labels), 1 / labels)
    found = Predictions(
        ids=tuple(map(str, range(examples))), predictions=predicted, references=references, scores=scores
    )
    names = ("accuracy", "f1", "mcc", "loss", "confusion_matrix", "per_label_accuracy")
    metrics = MetricSet(names, multi_label=False, num_labels=labels)
    tracemalloc.start()
    metrics.scores(found)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak + scores.nbytes < scoring_bytes(examples, labels, multi_label=False)


def test_the_prediction_is_linear_in_examples_and_in_labels():
    for several in (False, True):
        sizes = [scoring_bytes(examples, 500, multi_label=several) for examples in (1000, 2000, 3000)]
        assert sizes[2] - sizes[1] == sizes[1] - sizes[0]
        sizes = [scoring_bytes(3000, labels, multi_label=several) for labels in (1000, 2000, 3000)]
        assert sizes[2] - sizes[1] == sizes[1] - sizes[0]
        assert sizes[1] < 2**30  # 3,000 examples of 2,000 labels: once 89 GiB
    assert scoring_bytes(1000, 50, multi_label=True) > scoring_bytes(1000, 50, multi_label=False)


def test_metrics_that_run_out_of_memory_are_not_told_of_micro_batches():
    shown = sentence(MemoryError("Unable to allocate 89.4 GiB"), "metrics")
    assert METRICS_ADVICE in shown
    assert "per_device_batch" not in shown
    assert "per_device_batch" in sentence(MemoryError(), "train")
    described = out_of_memory.sentence(OutOfMemory(phase="metrics", asked_bytes=2**36))
    assert METRICS_ADVICE in described
    assert "per_device_batch" not in described
