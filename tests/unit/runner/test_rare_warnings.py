"""Warnings that few runs have: each is raised by its cause, and not by what is like it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench.evaluation import exhibits
from bench.evaluation.metric_set import Predictions
from bench.runner import memory_prediction, model_checks, stages, temperature
from bench.utils.hardware import GIB


class Notebook:
    """What a run's record takes down."""

    def __init__(self, **fields):
        self.warned, self.checks = [], {}
        vars(self).update(fields)

    def warn(self, code, sentence):
        self.warned.append((code, sentence))

    def check(self, name, ok, detail=""):
        self.checks[name] = ok


@pytest.mark.parametrize(
    ("best", "rates", "code", "ok"),
    [
        (1, [1e-3, 1e-3], ["best_is_untrained"], True),
        (3, [1e-3, 1e-3], [], False),  # the last step is the best one, and has changed nothing
        (1, [0.0, 0.0], [], False),  # nothing could change
    ],
)
def test_the_best_step_is_the_untrained_model(best, rates, code, ok):
    model = torch.nn.Linear(2, 2)
    record = Notebook(training=SimpleNamespace(best_step=best, steps=3))
    rows = [{"learning_rate": rate} for rate in rates]
    run = SimpleNamespace(
        model=model, live=None, record=record, progress=SimpleNamespace(log=SimpleNamespace(rows=rows))
    )
    model_checks.check_changed(run, model_checks.fingerprints(model))
    assert [one for one, _ in record.warned] == code
    assert record.checks["changed"] == ok


@pytest.mark.parametrize(
    ("limit", "said"), [(8, "2 of 3 training examples have more than 8 tokens"), (20, None), (None, None)]
)
def test_positions_that_depend_on_the_batch(monkeypatch, limit, said):
    monkeypatch.setattr(stages.positions, "rescaled_beyond", lambda _: limit)
    record = Notebook()
    train = SimpleNamespace(lengths=[4, 9, 20])
    stages._warn_of_positions(SimpleNamespace(inputs=SimpleNamespace(train=train), model=None, record=record))
    assert [code for code, _ in record.warned] == (["positions_by_batch"] if said else [])
    assert all(sentence.startswith(said) for _, sentence in record.warned)


@pytest.mark.parametrize(("used", "warned"), [(GIB - 1000, True), (0, False)])
def test_scores_that_the_host_does_not_hold(monkeypatch, used, warned):
    monkeypatch.setattr(memory_prediction, "limits", lambda: [SimpleNamespace(capacity=GIB, used=used)])
    record = Notebook(memory_predicted={})
    run = SimpleNamespace(
        record=record,
        inputs=SimpleNamespace(
            corpus=SimpleNamespace(labels=("a", "b")),
            task=SimpleNamespace(READS="labels"),
            splits={"test": SimpleNamespace(ids=tuple(map(str, range(1000))))},
        ),
        resolved=SimpleNamespace(
            recipe=SimpleNamespace(
                dataset=SimpleNamespace(multi_label=False), evaluation=SimpleNamespace(splits=("test",))
            )
        ),
    )
    memory_prediction._predict_scoring(run)
    assert [code for code, _ in record.warned] == ["scoring_memory"] * warned
    assert all("scoring test (1,000 examples x 2 labels)" in sentence for _, sentence in record.warned)


def labelled(predictions, references):
    ids = tuple(f"e{number}" for number in range(len(references)))
    return Predictions(
        ids=ids, predictions=np.array(predictions), references=np.array(references), scores=np.full((len(ids), 2), 0.5)
    )


@pytest.mark.parametrize(
    ("value", "losses", "predictions", "said"),
    [
        (1.7, [0.6, 0.5], [0, 1, 1], None),
        (1.7, [0.6, 0.5], [0, 1, 0], "is no minimum"),  # all are right
        (temperature.probabilities.MOST_TEMPERATURE, [0.7, 0.69], [0, 1, 1], "is no minimum"),
        (temperature.probabilities.LEAST_TEMPERATURE, [0.7, 0.69], [0, 1, 1], "is no minimum"),
        (1.7, [float("inf"), 0.5], [0, 1, 1], "none was fitted"),
    ],
)
def test_a_temperature_that_was_not_found(value, losses, predictions, said):
    found = temperature.doubt_of("validation", value, losses, labelled(predictions, [0, 1, 0]))
    assert (found is None) == (said is None)
    assert (said or "") in (found or "")


@pytest.mark.parametrize(("stopped", "codes"), [([False, True, True], ["texts_cut_at_limit"]), ([True] * 20, [])])
def test_texts_that_were_cut_at_the_limit(stopped, codes):
    extra = tuple({"stopped": one, "reference_nll": 1.0, "reference_tokens": 2} for one in stopped)
    ids = tuple(f"e{number}" for number in range(len(stopped)))
    texts = np.array(["x"] * len(ids), dtype=object)
    found = exhibits.unfinished(
        "after test",
        Predictions(ids=ids, predictions=texts, references=texts, scores=np.empty((len(ids), 0)), extra=extra),
    )
    assert [one.code for one in found] == codes
