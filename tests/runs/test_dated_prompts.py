"""A chat template that writes today's date: the same prompts on every day, and a training that goes on the next day."""

import json
import os
import signal
from datetime import datetime

import pytest

from bench.evaluation import predict
from bench.runner import inputs, lifecycle
from bench.training.state import Steps
from tests.helpers.launching import ROOT, losses, read_lines

TEMPLATE = (
    "{{ bos_token }}Today: {{ strftime_now('%d %b %Y') }}\n{% for m in messages %}{{ m.role }}: {{ m.content }}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
RECIPE = ROOT / "recipes" / "tiny" / "llama-zero_shot.yaml"
SHORT = [
    "prompting.format=chat", "limit={train: 24, test: 16, validation: 16}", "max_length=256", "model.max_length=256",
    "model.architecture.max_position_embeddings=256", "evaluation.metrics=[accuracy, loss]",
]  # fmt: skip
STOPPED = 5
TRAINED = ["method=full", "training.steps=8", "training.global_batch=8", "checkpoints.every_steps=2"]

pytestmark = pytest.mark.usefixtures("bare_runs")


@pytest.fixture
def on(monkeypatch):
    """Run a recipe, with a tokenizer that has the template, on a day."""
    from transformers.utils import chat_template_utils

    build = inputs.tokenizers.build

    def with_template(*arguments, **options):
        tokenizer, notes = build(*arguments, **options)
        tokenizer.chat_template = TEMPLATE
        return tokenizer, notes

    monkeypatch.setattr(inputs.tokenizers, "build", with_template)

    def run(day, folder, *settings, code=0):
        class Day(datetime):
            @classmethod
            def now(cls, tz=None):
                return datetime.fromisoformat(day)

        monkeypatch.setattr(chat_template_utils, "datetime", Day)
        assert lifecycle.main([str(RECIPE), *SHORT, *settings, "--out", str(folder)]) == code
        return json.loads((folder / "record.json").read_text(encoding="utf-8"))

    return run


def test_prompts_and_scores_are_the_same_on_every_day(on, tmp_path):
    one, two = (on(day, tmp_path / day) for day in ("2026-11-29", "2027-01-01"))
    assert "today: 26 jul 2024\n" in one["prompts"]["example"]
    assert one["prompts"]["date"] == "2024-07-26"
    assert "the chat template writes a date: prompting.date, 2024-07-26, on every day" in one["notes"]
    for part in ("prompts", "scores", "comparability"):
        assert one[part] == two[part], part
    other = on("2026-11-29", tmp_path / "other", "prompting.date=2020-02-29")
    assert "today: 29 feb 2020\n" in other["prompts"]["example"]
    assert other["recipe"]["hash"] != one["recipe"]["hash"]
    for part in ("template_hash", "frame_hash", "signature", "manifests"):
        assert other["prompts"][part] != one["prompts"][part], part
    assert other["comparability"]["parts"]["template"] != one["comparability"]["parts"]["template"]
    score = other["scores"]["after"]["test"]["accuracy"]
    assert "|date:2020-02-29|" in score["signature"]


def test_a_training_goes_on_the_next_day_and_its_model_is_asked_as_it_was_trained(on, tmp_path, monkeypatch):
    settings = [*TRAINED, "prompting.date=2020-02-29"]
    whole = on("2026-11-29", tmp_path / "whole", *settings)
    with monkeypatch.context() as patch:
        _stop_once(patch)
        on("2026-11-30", tmp_path / "stopped", *settings, code=130)
    resumed = on("2026-12-01", tmp_path / "stopped", *settings)
    assert resumed["resumed"][0]["from_step"] == STOPPED
    assert (resumed["scores"], resumed["prompts"]) == (whole["scores"], whole["prompts"])
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    known, again = (read_lines(tmp_path / name / "predictions" / "after-test.jsonl") for name in ("whole", "stopped"))
    assert again == known
    described = json.loads((tmp_path / "whole" / "model" / "bench.json").read_text(encoding="utf-8"))
    assert described["prompting"]["date"] == "2020-02-29"
    texts = {row["id"]: row for row in inputs.dataset.load(_card(), {"test": 16}, {"test"}).splits["test"].rows}
    found = predict.predict(tmp_path / "whole", [{**texts[row["id"]], "text_pair": None} for row in known])
    for answer, row in zip(found, known, strict=True):
        assert answer["scores"] == pytest.approx(row["scores"], abs=1e-5)


def _stop_once(monkeypatch):
    """Send this process SIGTERM in the middle of a step."""
    start, begun = Steps.start, []

    def begin(steps):
        begun.append(None)
        if len(begun) == STOPPED:
            os.kill(os.getpid(), signal.SIGTERM)
        start(steps)

    monkeypatch.setattr(Steps, "start", begin)


def _card():
    from bench.config import resolve

    return resolve.load(RECIPE).recipe.dataset
