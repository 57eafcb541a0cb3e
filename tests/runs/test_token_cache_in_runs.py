"""Runs with a token cache: the same numbers as without it, and on several processes one makes the tokens for all."""

import json

import pytest

from bench.data import token_cache
from bench.records import store
from bench.runner import lifecycle
from tests.helpers.launching import ROOT, launch, losses

RECIPE = str(ROOT / "recipes" / "tiny" / "bert-full.yaml")
SMALL = [
    "limit={train: 24, test: 16}", "training.epochs=null", "training.steps=3", "training.log_every=1",
    "training.global_batch=8", "save=false", "evaluation.before=false",
]  # fmt: skip


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A cache of one's own, empty at first."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


def entries(place):
    return sorted(place.glob(f"*{token_cache.SUFFIX}"))


def ran(folder, *settings):
    assert lifecycle.main([RECIPE, *SMALL, *settings, "--out", str(folder)]) == 0
    return store.read(folder), losses(folder), (folder / "predictions" / "after-test.jsonl").read_text()


def test_a_run_is_the_same_with_its_tokens_kept_or_not(tmp_path, place):
    off, *plain = ran(tmp_path / "off", "speed.token_cache=false")
    assert not place.exists()
    cold, *made = ran(tmp_path / "cold")
    warm, *kept = ran(tmp_path / "warm")
    assert plain == made == kept
    assert off.speed["token_cache"] is False
    assert cold.speed["token_cache"] == {"train": False, "test": False}
    assert warm.speed["token_cache"] == {"train": True, "test": True}
    assert len(entries(place)) == 2
    assert cold.data == warm.data == off.data
    assert cold.notes == warm.notes == off.notes
    # Another length is another entry; the label of nothing but a task head is kept.
    assert ran(tmp_path / "short", "max_length=16")[0].speed["token_cache"] == {"train": False, "test": False}


def test_questions_are_not_kept(tmp_path, place):
    recipe = str(ROOT / "recipes" / "tiny" / "llama-zero_shot.yaml")
    assert lifecycle.main([recipe, "limit={test: 4}", "--out", str(tmp_path / "asked")]) == 0
    assert store.read(tmp_path / "asked").speed["token_cache"] is False
    assert not place.exists()


TWO = """
import json, sys
sys.path.insert(0, {root!r})
from accelerate import PartialState
from bench.data import tokenizer as tokenizers
from bench.config.cards import TokenizerCard
from bench.data.token_cache import TokenCache

state = PartialState(cpu=True, backend="gloo")
tokens = tokenizers.train(TokenizerCard(train="wordpiece", vocab_size=200), "encoder", ["a few words"])
cache = TokenCache(tokens, 8, [])
calls, seen = [], []


def encode():
    calls.append(state.process_index)
    if {fails!r}:
        raise ValueError("no room for a text")
    return [{{"input_ids": [1, 2], "labels": 0}}], ()


try:
    with cache.first(state):
        seen = cache.tokens("rows", 1, encode).features
except ValueError as error:
    seen = str(error)
answer = json.dumps({{"rank": state.process_index, "calls": calls, "seen": seen, "notes": cache.notes}})
open(sys.argv[1] + str(state.process_index), "w").write(answer)
state.wait_for_everyone()
state.destroy_process_group()
"""


@pytest.mark.parametrize("fails", [False, True])
def test_one_process_makes_the_tokens_and_nobody_waits_for_one_that_failed(fails, tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO.format(root=str(ROOT), fails=fails))
    done = launch(str(tmp_path / "answer"), config="ddp_cpu2", script=script, timeout_s=120)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (json.loads((tmp_path / f"answer{rank}").read_text()) for rank in (0, 1))
    assert first["calls"] == [0]
    assert second["calls"] == ([1] if fails else [])
    assert first["seen"] == second["seen"] == ("no room for a text" if fails else [{"input_ids": [1, 2], "labels": 0}])
    assert first["notes"] == second["notes"] == []


def test_a_run_on_two_processes_reads_what_one_of_them_made(tmp_path, place):
    _, *alone = ran(tmp_path / "alone", "speed.token_cache=false", "model.architecture.hidden_dropout_prob=0.0",
                    "model.architecture.attention_probs_dropout_prob=0.0")  # fmt: skip
    off = ["model.architecture.hidden_dropout_prob=0.0", "model.architecture.attention_probs_dropout_prob=0.0"]
    for name in ("cold", "warm"):
        done = launch(RECIPE, *SMALL, *off, "--out", tmp_path / name, config="ddp_cpu2", timeout_s=300)
        assert done.returncode == 0, done.stderr[-2000:]
        found = store.read(tmp_path / name)
        assert found.speed["token_cache"] == dict.fromkeys(("train", "test"), name == "warm")
        assert losses(tmp_path / name) == pytest.approx(alone[0], abs=1e-5)
    assert len(entries(place)) == 2


def test_a_run_that_can_not_tokenise_ends_on_all_processes(tmp_path):
    done = launch(RECIPE, *SMALL, "max_length=2", "--out", tmp_path / "short", config="ddp_cpu2", timeout_s=120)
    assert done.returncode != 0
    found = store.read(tmp_path / "short")
    assert found.status == "invalid"
    assert "max_length 2 leaves no room for text" in found.reason
