"""`training.loss_on: all` of a labelled text: both engines, with and without other logits, against a plain forward."""

import itertools

import pytest
import torch

from bench.config import resolve
from bench.memory.planner import assumed
from tests.helpers import models as tiny
from tests.helpers import text_training as texts
from tests.helpers.cases import together
from tests.helpers.launching import ROOT


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """(lessons of whole texts, the loss of all their tokens by transformers' own forward, one text after another)."""
    known, model = texts.model_of("llama-full", tmp_path_factory.mktemp("plain"))
    lessons = tiny.lessons(known, texts.TEXTS)[:8]
    total = 0.0
    with torch.no_grad():
        for row in lessons:
            ids = torch.tensor([row["input_ids"]])
            # The mean over all tokens behind the first, as TRL's trainer has it for a text without a mask.
            total += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
    return lessons, total / sum(len(row["input_ids"]) - 1 for row in lessons)


@together("engine, answer_logits", itertools.product(["trainer", "loop"], [True, False]))
def test_the_loss_is_that_of_a_plain_forward(engine, answer_logits, plain, tmp_path):
    lessons, expected = plain
    known, model = texts.model_of("llama-full", tmp_path)
    inputs = texts.inputs_of(
        model, known, tmp_path / f"{engine}-{answer_logits}", lessons=lessons, engine=engine,
        answer_logits=answer_logits, steps=1, per_device_batch=4, loss_on="all", group_by_length=True,
    )  # fmt: skip
    _, found = texts.train(inputs)
    assert found["losses"][0] == pytest.approx(expected, abs=1e-5)


def test_the_forecast_counts_all_of_a_text():
    path, given = ROOT / "recipes" / "tiny" / "mistral-text_lora.yaml", ("max_length=100",)
    answers, whole = (resolve.load(path, (*given, f"training.loss_on={where}")).recipe for where in ("answer", "all"))
    assert assumed(answers).answers < assumed(whole).answers == 100
