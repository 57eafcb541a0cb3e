"""Forwards of a sharded model in step, in one process: hooks, calls of a body or a head alone, and forwards that fail.

Two processes are in tests/runs/test_spread_scoring.py.
"""

import pytest
import torch
from torch.distributed.fsdp import fully_shard

from bench.distributed import in_step
from bench.evaluation import likelihood
from bench.evaluation.generation import Generator
from bench.evaluation.likelihood import Item, Scorer
from bench.models import heads
from tests.helpers.decoders import FAMILIES, build

ITEMS = [Item(context=(5, 6, 7, 8, number), continuations=((9, 10), (11,), (9, 12))) for number in range(13, 17)]


@pytest.fixture
def alone():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture
def sharded(alone):
    """sharded(family): the same model twice, plain and sharded by FSDP2 layer by layer."""

    def make(family):
        plain, model = (build(*FAMILIES[family]) for _ in range(2))
        model.load_state_dict(plain.state_dict())
        for block in heads.transformer_blocks(model):
            fully_shard(block, reshard_after_forward=True)
        fully_shard(model, reshard_after_forward=True)
        return plain, model

    return make


def is_sharded(model):
    return all(isinstance(part, torch.distributed.tensor.DTensor) for part in model.parameters())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_label_likelihoods_and_answers_are_those_of_the_plain_model(sharded, family):
    plain, model = sharded(family)
    prompts = [list(item.context) for item in ITEMS]
    options = {"end_token_ids": {2}, "max_new_tokens": 4, "pad_token_id": 0}
    expected = [answer.sums for answer in Scorer(plain, ITEMS, pad_token_id=0).run([0, 1, 2, 3])]
    written = Generator(plain, prompts, **options).run([0, 1, 2, 3])
    with in_step.running(model):
        assert in_step.is_on()
        scorer = Scorer(model, ITEMS, pad_token_id=0)
        found = [answer.sums for answer in scorer.run([0, 1, 2, 3])]
        assert scorer.notes == []
        assert Generator(model, prompts, **options).run([0, 1, 2, 3]) == written
        assert Generator(model, prompts, plainly=True, checked=0, **options).run([1]) == written[1:2]
    assert not in_step.is_on()
    assert is_sharded(model)
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_a_forward_that_fails_leaves_the_model_sharded_and_usable(sharded, monkeypatch):
    plain, model = sharded("llama")
    ids = torch.tensor([[5, 6, 7]])
    layer = heads.transformer_blocks(model)[1].mlp
    with in_step.running(model), torch.no_grad():
        with monkeypatch.context() as patch:
            patch.setattr(layer, "forward", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                model(input_ids=ids)
        assert is_sharded(model)
        assert torch.allclose(model(input_ids=ids).logits, plain(input_ids=ids).logits, atol=1e-6)
    assert is_sharded(model)


def test_out_of_memory_is_not_tried_again_in_step(sharded, monkeypatch):
    """The other processes wait in the midst of the forward that failed."""
    _, model = sharded("llama")
    with in_step.running(model):
        scorer = Scorer(model, ITEMS, pad_token_id=0, checked=0)
        monkeypatch.setattr(scorer._strategy, "answers", lambda *_: (_ for _ in ()).throw(MemoryError("no room")))
        with pytest.raises(MemoryError):
            scorer.run([0, 1])
        assert scorer.notes == []


def test_kinds_in_which_gathers_differ_are_agreed_on(sharded, monkeypatch):
    """A body without its head, the head by itself, and the whole model."""
    _, model = sharded("llama")
    seen = []
    agree = in_step.InStep._agree

    def agreed(step, wanted, own):
        seen.append(wanted)
        return agree(step, wanted, own)

    monkeypatch.setattr(in_step.InStep, "_agree", agreed)
    with in_step.running(model):
        Scorer(model, ITEMS, pad_token_id=0).run([0, 1, 2, 3])
    names = {in_step.KINDS[kind] for kind in seen if kind != in_step.IDLE}
    assert names == {"body", "head", "model"}
    assert seen[-1] == in_step.IDLE


def test_a_repeated_forward_changes_nothing_of_what_waits(sharded):
    """It runs with the model's own attention, without gradients, in evaluation mode."""
    _, model = sharded("llama")
    ids = torch.tensor([[5, 6, 7]])
    step = in_step.InStep(model)
    with step.watching():
        model.train()
        with torch.no_grad():
            model(input_ids=ids)
        own = model.config._attn_implementation
        model.config._attn_implementation = "something of a reader"
        step._begin(in_step.KINDS.index("model"))
        step._repeat(in_step.KINDS.index("model"))
        assert model.config._attn_implementation == "something of a reader"
        model.config._attn_implementation = own
        assert model.training
    assert is_sharded(model)


def test_nothing_happens_where_the_model_is_whole():
    assert not in_step.is_on()
    in_step.settle()
    with in_step.turn("head", likelihood.plain):
        assert not in_step.is_on()
