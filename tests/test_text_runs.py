"""Runs that ask a model for its answer: the same prompts on any number of processes, and the check."""

import json

import numpy as np
import pytest

from bench import record
from tests.launching import ROOT, launch, launch_all, losses, read_lines

pytestmark = pytest.mark.slow

TINY = ROOT / "recipes" / "tiny"
SMALL = ["limit.test=45", "limit.validation=20", "save=false"]
LONG = ["model.architecture.max_position_embeddings=512", "model.max_length=512", "max_length=512"]
EACH = ["method={name: few_shot, shots: 3, draw: per_example}", *LONG, *SMALL]
SHORT = ["training={steps: 4, global_batch: 8, per_device_batch: 2, log_every: 1, learning_rate: 1e-3}", *SMALL]
# name -> (recipe, overrides)
JOBS = {
    "each": ("llama-zero_shot", [*EACH, "prompting={calibration: content_free, normalization: tokens}"]),
    "written": ("gpt2-few_shot", ["limit.test=45", "prompting.max_new_tokens=10"]),
    "lora": ("mistral-text_lora", SHORT),
    "qlora": ("llama-text_qlora", SHORT),
    # Dropout differs from process to process.
    "t5": ("t5-text_full", [*SHORT, "model.architecture.dropout_rate=0"]),
}


def arguments(name, folder):
    recipe, overrides = JOBS[name]
    return [str(TINY / f"{recipe}.yaml"), "--check", "--out", str(folder), *overrides]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of every job on one process and, in one launch, on two."""
    folder = tmp_path_factory.mktemp("text")
    done = launch_all({name: arguments(name, folder / f"{name}1") for name in JOBS})
    for name, one in done.items():
        assert one.returncode == 0, f"{name}: {one.stderr[-2000:]}"
    jobs = folder / "jobs.json"
    jobs.write_text(json.dumps([arguments(name, folder / f"{name}2") for name in JOBS]), encoding="utf-8")
    two = launch(jobs, config="ddp_cpu2", script=ROOT / "tests" / "run_many.py", timeout_s=600)
    assert two.returncode == 0, two.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", JOBS)
def test_one_process_and_two_ask_the_same_and_hear_the_same(runs, name):
    one, two = (record.read(runs / f"{name}{number}") for number in (1, 2))
    assert (one.launch.world_size, two.launch.world_size) == (1, 2)
    assert one.prompts.manifests["test"]
    assert one.prompts == two.prompts
    for stage in one.scores:
        left, right = (
            read_lines(runs / f"{name}{number}" / "predictions" / f"{stage}-test.jsonl") for number in (1, 2)
        )
        assert [row["prompt_hash"] for row in left] == [row["prompt_hash"] for row in right]
        assert [row["prediction"] for row in left] == [row["prediction"] for row in right]
        likely = [[list(row.get("log_likelihoods", [0])) for row in rows] for rows in (left, right)]
        assert np.allclose(*likely, atol=1e-4)
    if "after" in one.scores and "before" in one.scores:
        assert np.allclose(losses(runs / f"{name}1"), losses(runs / f"{name}2"), atol=1e-4)


@pytest.mark.parametrize("name", JOBS)
def test_the_fast_path_was_checked_by_the_plain_one(runs, name):
    for number in (1, 2):
        found = [check for check in record.read(runs / f"{name}{number}").checks if check.name == "fast_equals_plain"]
        assert len(found) == 1
        assert found[0].ok
        assert "0 answers changed" in found[0].detail


def test_a_limit_leaves_the_other_prompts_as_they_are(runs, tmp_path):
    """Fewer test examples, and fewer training rows to draw shots from: what is asked about an example stays."""
    recipe, overrides = JOBS["each"]
    fewer = [*(item for item in overrides if item != "limit.test=45"), "limit.test=20", "limit.train=30"]
    done = launch(TINY / f"{recipe}.yaml", "--out", tmp_path / "run", *fewer)
    assert done.returncode == 0, done.stderr[-2000:]
    assert any("limit.train is not used" in note for note in record.read(tmp_path / "run").notes)
    small = {row["id"]: row for row in read_lines(tmp_path / "run" / "predictions" / "after-test.jsonl")}
    large = {row["id"]: row for row in read_lines(runs / "each1" / "predictions" / "after-test.jsonl")}
    both = small.keys() & large.keys()
    assert both
    for identity in both:
        assert small[identity]["prompt_hash"] == large[identity]["prompt_hash"]
        assert small[identity]["scores"] == pytest.approx(large[identity]["scores"], abs=1e-4)


def test_another_seed_shows_other_shots(runs, tmp_path):
    done = launch(*arguments("written", tmp_path / "run"), "--seed", "14")
    assert done.returncode == 0, done.stderr[-2000:]
    one, other = record.read(runs / "written1"), record.read(tmp_path / "run")
    assert one.prompts.shot_ids != other.prompts.shot_ids
    assert one.prompts.manifests != other.prompts.manifests
    assert one.recipe.hash == other.recipe.hash, "the same experiment, to be summed up over seeds"


@pytest.mark.parametrize(
    ("recipe", "overrides", "sentence"),
    [
        ("llama-zero_shot", ["prompting.format=chat"], "the tokenizer has no chat template; use format: plain"),
        ("llama-zero_shot", ["max_length=12"], "does not fit max_length 12: the question and"),
        ("gpt2-few_shot", ["method.shots=4000"], "shots: 4000 asks for up to 2000 training examples with the label"),
        ("gpt2-few_shot", ["method.shots=40"], "its 40 shots, the question and"),
        (
            "llama-zero_shot",
            ["dataset.prompt.answers={negative: Yes, positive: yes}"],
            "the answers 'Yes' and 'yes' have the same tokens",
        ),
        ("gpt2-few_shot", ["dataset.prompt.answers={negative: '!', positive: '?'}"], "would be read as another one"),
        ("gpt2-few_shot", ["prompting.max_new_tokens=2"], "prompting.max_new_tokens is 2, but the answer"),
        ("llama-zero_shot", ["model.attention=flash_attention_2"], "model.attention is 'flash_attention_2'"),
        ("llama-zero_shot", ["prompting.answer=entailment"], "it needs one that begins with 'entail'"),
    ],
)
def test_what_can_not_be_asked_is_refused_in_a_sentence(tmp_path, recipe, overrides, sentence):
    done = launch(TINY / f"{recipe}.yaml", "--out", tmp_path / "run", *overrides)
    assert done.returncode != 0  # the launcher turns every failure into 1
    assert "Traceback" not in done.stderr
    found = record.read(tmp_path / "run")
    assert found.status == "invalid"
    assert sentence in found.reason
    assert sentence in " ".join(done.stderr.split())
