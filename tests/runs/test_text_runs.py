"""Runs that ask a model for its answer: the same prompts on any number of processes, and the check."""

import hashlib
import json

import numpy as np
import pytest

from bench.records import store
from tests.helpers.launching import ROOT, launch, launch_all, losses, read_lines

TINY = ROOT / "recipes" / "tiny"
SMALL = ["limit.test=45", "limit.validation=20", "save=false"]
LONG = ["model.architecture.max_position_embeddings=512", "model.max_length=512", "max_length=512"]
EACH = ["method={name: few_shot, shots: 3, draw: per_example}", *LONG, *SMALL]
CALIBRATED = ["prompting={calibration: content_free, normalization: tokens}"]
SHORT = ["training={steps: 4, global_batch: 8, per_device_batch: 2, log_every: 1, learning_rate: 1e-3}", *SMALL]
# name -> (recipe, overrides)
JOBS = {
    "each": ("llama-zero_shot", [*EACH, *CALIBRATED]),
    "written": ("gpt2-few_shot", ["limit.test=45", "prompting.max_new_tokens=10"]),
    "lora": ("mistral-text_lora", SHORT),
    "qlora": ("llama-text_qlora", SHORT),
    # Dropout differs from process to process.
    "t5": ("t5-text_full", [*SHORT, "model.architecture.dropout_rate=0"]),
}


def arguments(name, folder):
    recipe, overrides = JOBS[name]
    return [str(TINY / f"{recipe}.yaml"), "--check", "--out", str(folder), *overrides]


REFUSED = {
    "chat": ("llama-zero_shot", ["prompting.format=chat"], "the tokenizer has no chat template; use format: plain"),
    "long question": ("llama-zero_shot", ["max_length=12"], "does not fit max_length 12: the question and"),
    "few examples": (
        "gpt2-few_shot",
        ["method.shots=4000"],
        "shots: 4000 asks for up to 2000 training examples with the label",
    ),
    "long shots": ("gpt2-few_shot", ["method.shots=40"], "its 40 shots, the question and"),
    "same tokens": (
        "llama-zero_shot",
        ["dataset.prompt.answers={negative: Yes, positive: yes}"],
        "the answers 'Yes' and 'yes' have the same tokens",
    ),
    "symbols": (
        "gpt2-few_shot",
        ["dataset.prompt.answers={negative: '!', positive: '?'}"],
        "would be parsed as another one",
    ),
    "short answer": ("gpt2-few_shot", ["prompting.max_new_tokens=2"], "prompting.max_new_tokens is 2, but the answer"),
    "flash attention": (
        "llama-zero_shot",
        ["model.attention=flash_attention_2"],
        "model.attention is 'flash_attention_2'",
    ),
    "entailment": ("llama-zero_shot", ["prompting.answer=entailment"], "it needs one that begins with 'entail'"),
}
# Fewer test examples, and fewer training rows to draw shots from.
FEWER = [*(item for item in EACH if item != "limit.test=45"), *CALIBRATED, "limit.test=20", "limit.train=30"]


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """The folder of all runs on one process, and how each ended."""
    folder = tmp_path_factory.mktemp("text")
    jobs = {f"{name}1": arguments(name, folder / f"{name}1") for name in JOBS}
    jobs["fewer"] = [TINY / f"{JOBS['each'][0]}.yaml", "--out", folder / "fewer", *FEWER]
    jobs["seed"] = [*arguments("written", folder / "seed"), "--seed", "14"]
    for case, (recipe, overrides, _) in REFUSED.items():
        jobs[case] = [TINY / f"{recipe}.yaml", "--out", folder / case, *overrides]
    return folder, launch_all(jobs, tmp_path_factory.mktemp("printed"), alone=["each1", "chat"])


@pytest.fixture(scope="module")
def runs(launched):
    """Folders of every job on one process and, in one launch, on two."""
    folder, done = launched
    for name in set(done) - set(REFUSED):
        assert done[name].returncode == 0, f"{name}: {done[name].stderr[-2000:]}"
    jobs = folder / "jobs.json"
    jobs.write_text(json.dumps([arguments(name, folder / f"{name}2") for name in JOBS]), encoding="utf-8")
    two = launch(jobs, config="ddp_cpu2", script=ROOT / "tests" / "helpers" / "run_many.py", timeout_s=600)
    assert two.returncode == 0, two.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", JOBS)
def test_one_process_and_two_ask_the_same_and_hear_the_same(runs, name):
    one, two = (store.read(runs / f"{name}{number}") for number in (1, 2))
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


def test_every_examples_own_shots_stand_beside_its_prediction(runs):
    record = store.read(runs / "each1")
    rows = read_lines(runs / "each1" / "predictions" / "after-test.jsonl")
    assert all(len(set(row["shot_ids"])) == record.prompts.shots for row in rows)
    assert len({tuple(row["shot_ids"]) for row in rows}) > len(rows) / 2
    lines = "".join(f"{row['id']} {json.dumps(row['shot_ids'])}\n" for row in rows)
    assert record.prompts.shot_manifests == {"test": hashlib.sha256(lines.encode()).hexdigest()[:16]}
    fixed = store.read(runs / "written1")
    assert (len(fixed.prompts.shot_ids), fixed.prompts.shot_manifests) == (fixed.prompts.shots, {})
    assert "shot_ids" not in read_lines(runs / "written1" / "predictions" / "after-test.jsonl")[0]


@pytest.mark.parametrize("name", JOBS)
def test_the_fast_path_was_checked_by_the_plain_one(runs, name):
    for number in (1, 2):
        found = [check for check in store.read(runs / f"{name}{number}").checks if check.name == "fast_equals_plain"]
        assert len(found) == 1
        assert found[0].ok
        assert "0 answers changed" in found[0].detail


def test_a_limit_leaves_the_other_prompts_as_they_are(runs):
    """What is asked about an example stays."""
    assert any("limit.train is not used" in note for note in store.read(runs / "fewer").notes)
    small = {row["id"]: row for row in read_lines(runs / "fewer" / "predictions" / "after-test.jsonl")}
    large = {row["id"]: row for row in read_lines(runs / "each1" / "predictions" / "after-test.jsonl")}
    both = small.keys() & large.keys()
    assert both
    for identity in both:
        assert small[identity]["prompt_hash"] == large[identity]["prompt_hash"]
        assert small[identity]["scores"] == pytest.approx(large[identity]["scores"], abs=1e-4)


def test_another_seed_shows_other_shots(runs):
    one, other = store.read(runs / "written1"), store.read(runs / "seed")
    assert one.prompts.shot_ids != other.prompts.shot_ids
    assert one.prompts.manifests != other.prompts.manifests
    assert one.recipe.hash == other.recipe.hash, "the same experiment, to be summed up over seeds"


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_asked_is_refused_in_a_sentence(launched, case):
    sentence = REFUSED[case][2]
    folder, done = launched
    assert done[case].returncode != 0  # the launcher turns every failure into 1
    assert "Traceback" not in done[case].stderr
    found = store.read(folder / case)
    assert found.status == "invalid"
    assert sentence in found.reason
    assert sentence in " ".join(done[case].stderr.split())
