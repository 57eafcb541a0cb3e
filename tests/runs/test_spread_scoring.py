"""A model that ZeRO-3 or FSDP2 shards is scored sharded: the predictions of one process, for every way to answer.

Real launches of two processes on the CPU; the last run of each ends on one process alone, while it scores.
"""

import json

import pytest

from bench.records import store
from tests.helpers.cases import together
from tests.helpers.launching import NO_DROPOUT, ROOT, launch, read_lines

COMMON = ["evaluation.sharded=true"]
TRAINED = ["training.epochs=null", "training.steps=2", "training.global_batch=8", "training.log_every=1"]
# Batches of a few texts: four for both processes, or an odd number.
FEW = "evaluation.batch_tokens=120"
STILL = [f"model.architecture.{name}=0.0" for name in NO_DROPOUT["bert"]]
BEST = ["training.evaluate_every=1", "training.warmup=0", "training.best=loss", "training.learning_rate=0.3"]
# Encoder-decoders whose embeddings are one weight; Marian names no layers that are sharded as one.
SIZES = (
    "vocab_size: 2048, d_model: 32, encoder_layers: 2, decoder_layers: 2, encoder_attention_heads: 4, "
    "decoder_attention_heads: 4, encoder_ffn_dim: 48, decoder_ffn_dim: 48, max_position_embeddings: 512, "
    "dropout: 0.0, attention_dropout: 0.0, activation_dropout: 0.0, init_std: 0.1, scale_embedding: true"
)
SPECIAL = "decoder_vocab_size: 2048, pad_token_id: 0, eos_token_id: 1, decoder_start_token_id: 0"
CARD = (
    "model={{family: encoder_decoder, licence: none, weights: random, max_length: 128, attention: eager, "
    "tokenizer: {{train: unigram, vocab_size: 2048}}, architecture: {{model_type: {}}}}}"
)
WRITTEN = "prompting={answer: generate, max_new_tokens: 10}"
JOBS = {
    "head": ["tiny/bert-full", *STILL, FEW, *BEST],
    "text": ["tiny/mistral-text_lora", FEW, "training.evaluate_every=2"],
    # Sharded from load to save.
    "shards": ["tiny/bert-full", *STILL, FEW, *BEST, "speed.sharded_load=true"],
    "spans": ["passages/bert-full", *STILL, FEW, "max_length=48", "spans.doc_stride=16"],
    "written": ["tiny/mistral-text_lora", "prompting={answer: generate, max_new_tokens: 8}", FEW],
    # By transformers' own generate, of several lengths.
    "written_t5": ["tiny/t5-text_full", *(f"model.architecture.{name}=0.0" for name in NO_DROPOUT["t5"]), WRITTEN, FEW],
    "t5_head": ["tiny/t5-full", *(f"model.architecture.{name}=0.0" for name in NO_DROPOUT["t5"]), FEW],
    "bart_head": ["tiny/t5-full", CARD.format(f"bart, classifier_dropout: 0.0, {SIZES}"), FEW],
    "marian_text": ["tiny/t5-text_full", CARD.format(f"marian, {SIZES}, {SPECIAL}"), FEW],
    # One batch for two processes.
    "numbers": ["tiny/bert-ratings", *STILL],
    # Nothing is trained, so that no engine shards the model.
    "asked": ["tiny/llama-zero_shot", FEW],
    "shown": ["tiny/gpt2-few_shot", "evaluation.batch_tokens=400"],
}
UNTRAINED = ("asked", "shown")
# Way -> (accelerate config, the run that ends in the midst of its scoring).
WAYS = {"zero3": ("zero3_cpu2", "oom"), "fsdp2": ("fsdp2_cpu2", "killed")}
CELLS = [(way, job) for way in WAYS for job in JOBS]
# The longest wait for a process that is gone.
LIMIT_S = 600
# After training on two processes: of a number, a probability, a log-likelihood, and a span's sum of two logits.
TOLERANCES = {"prediction": 1e-4, "scores": 1e-4, "log_likelihoods": 1e-4, "score": 1e-3}


def examples(job):
    """Examples that are scored: an odd number; to write takes longest."""
    return 3 if job.startswith("written") else 7


def run_all(folder, config, jobs, script="run_many"):
    """Jobs in one launch, one after another; its exit code."""
    listed = [
        [
            *(f"recipes/{recipe}.yaml", *settings, *COMMON, *(TRAINED if name not in UNTRAINED else ())),
            f"limit={{train: 16, validation: 5, test: {examples(name)}}}",
            *("--timeout-s", "60", "--out", str(folder / name)),
        ]
        for name, (recipe, *settings) in jobs.items()
    ]
    folder.mkdir()
    (folder / "jobs.json").write_text(json.dumps(listed), encoding="utf-8")
    path = ROOT / "tests" / "helpers" / f"{script}.py"
    return launch(folder / "jobs.json", "--undrawn", config=config, script=path, timeout_s=LIMIT_S)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scoring")
    done = run_all(folder / "alone", "cpu", JOBS)
    assert done.returncode == 0, done.stderr[-5000:]
    for way, (config, last) in WAYS.items():
        done = run_all(folder / way, config, {**JOBS, last: JOBS["head"]}, "failing_forward")
        assert (folder / way / last).is_dir(), done.stderr[-5000:]
        assert done.returncode != 0
    return folder


@together("way, job", CELLS)
def test_predictions_are_those_of_one_process(runs, way, job):
    found = store.read(runs / way / job)
    assert found.status == "ok", found.reason
    assert found.launch.world_size == 2
    stages = ["after"] if job in UNTRAINED else ["before", "after"]
    phases = [*stages, *(["validate"] if job in ("head", "text", "shards") else [])]
    elsewhere = ["load"] if job in UNTRAINED else ["load", "save"]
    assert found.sharded_phases.keys() == {*phases, *elsewhere}
    loaded = "sharded" if job in ("shards", *UNTRAINED) else "whole on each process"
    assert {found.sharded_phases[phase].partition(":")[0] for phase in elsewhere} == {loaded}
    assert {found.sharded_phases[phase] for phase in phases} == {"sharded: evaluation.sharded: true"}
    for stage in stages:
        ours, theirs = (read_lines(runs / one / job / "predictions" / f"{stage}-test.jsonl") for one in (way, "alone"))
        assert [row["id"] for row in ours] == [row["id"] for row in theirs]
        assert len(ours) == examples(job)
        for one, other in zip(ours, theirs, strict=True):
            assert one.get("text") == other.get("text")
            for name, tolerance in TOLERANCES.items():
                # Before training the weights are the same, and so is every number.
                trained = stage == "after" and job not in UNTRAINED
                assert one.get(name) == pytest.approx(other.get(name), abs=tolerance if trained else 0)


@together("way", WAYS)
def test_the_fast_paths_are_those_of_one_process(runs, way):
    for job in JOBS:
        ours, theirs = (
            [note for note in store.read(runs / one / job).notes if "scored" in note or "written" in note]
            for one in (way, "alone")
        )
        assert ours == theirs


@together("way", WAYS)
def test_validations_choose_the_step_and_its_weights(runs, way):
    for job, count in (("head", 2), ("text", 1)):
        rows = {one: read_lines(runs / one / job / "train_log.jsonl") for one in (way, "alone")}
        values = {one: [row["validation_loss"] for row in rows[one] if "validation_loss" in row] for one in rows}
        assert len(values["alone"]) == count
        assert values[way] == pytest.approx(values["alone"], abs=1e-3)
    assert store.read(runs / way / "head").training.best_step == store.read(runs / "alone" / "head").training.best_step


def test_out_of_memory_on_one_process_ends_the_run_as_such(runs):
    found = store.read(runs / "zero3" / "oom")
    assert (found.status, found.failed_in) == ("oom", "score_after")
    assert found.reason.startswith("out of memory on rank 1")
    assert found.oom.rank == 1
    assert "lower evaluation.batch_tokens" in found.reason


def test_a_process_that_is_gone_ends_the_run_as_crashed(runs):
    found = store.read(runs / "fsdp2" / "killed")
    assert found.status == "crashed"
    # As of its last sign of life.
    assert found.failed_in in ("score_after", "the step after train")
    assert found.reason.startswith("rank 1 ")
    assert found.scores["before"]
