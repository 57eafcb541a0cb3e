"""The memory diet: 4-bit models are never whole; what is moved or dropped changes no number; all of it is counted."""

import os

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from bench.config import registry, resolve
from bench.config.contracts import NF4, LoadPlan
from bench.config.training import Speed
from bench.errors import RecipeError, SetupError
from bench.memory import activations, state_sizes
from bench.memory.activations import Batch
from bench.memory.planner import MemoryPlan, Parallelism
from bench.models import build, saving
from bench.training import fit, memory_saving
from bench.utils import process
from tests.helpers import models as tiny

FOUR_BITS = LoadPlan(frozen_body=True, quantization={**NF4, "bnb_4bit_compute_dtype": "bfloat16"})
IN_16_BITS = LoadPlan(frozen_body=True)
pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")


class Alive(activations._Ledger):
    """Real tensors that are alive; what is built on the meta device takes no memory."""

    def __init__(self, model=None):
        super().__init__(nn.Module() if model is None else model)

    def _see(self, storage):
        if storage.device.type != "meta":
            super()._see(storage)


def redrawn(model):
    """The same model with the weights that a model drawn in one piece has after this seed."""
    for module in model.modules():
        module.__dict__.pop("_is_hf_initialized", None)
    torch.manual_seed(13)
    model.initialize_weights()
    return model


def stored(known, folder, shard="10MB", make=tiny.text_build):
    """The card of a checkpoint of this architecture, and how many shards it has."""
    redrawn(make(known, folder, IN_16_BITS)).save_pretrained(folder / "whole", max_shard_size=shard)
    shards = len(list((folder / "whole").glob("*.safetensors")))
    return known.model_copy(update={"id": str(folder / "whole"), "weights": "pretrained"}), shards


@pytest.mark.parametrize(
    ("family", "make"),
    [("bert", tiny.build), ("albert", tiny.build), *((name, tiny.text_build) for name in ("gemma", "gpt2", "t5"))],
)
def test_random_weights_in_4_bits_are_those_of_the_whole_model_that_is_quantised(family, make, tmp_path):
    # bitsandbytes can't compute the tiny ALBERT's layer of 32 inputs on every CPU.
    sizes = {"embedding_size": 64} if family == "albert" else {}
    known = tiny.narrow(family, **sizes).model_copy(update={"dtype": "bfloat16"})
    drawn = make(known, tmp_path, FOUR_BITS, base_folder=None)
    loaded = make(stored(known, tmp_path, make=make)[0], tmp_path, FOUR_BITS)
    assert not (tmp_path / "base").exists()
    one, other = drawn.state_dict(), loaded.state_dict()
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.dtype == other[name].dtype
        assert torch.equal(value, other[name]), name
    for (name, value), (same, expected) in zip(drawn.named_buffers(), loaded.named_buffers(), strict=True):
        assert name == same
        assert value.dtype == expected.dtype
        assert torch.equal(value, expected), name
    assert build.dtypes(drawn) == build.dtypes(loaded)
    assert drawn.is_loaded_in_4bit
    assert drawn.config.quantization_config.to_dict() == loaded.config.quantization_config.to_dict()


def test_another_seed_draws_other_weights(tmp_path):
    one = tiny.text_build(tiny.card("llama"), tmp_path, FOUR_BITS, base_folder=None)
    torch.manual_seed(14)
    config = build.make_config(tiny.card("llama"), (), False, tiny.tokenizer(tiny.card("llama")), "random")
    other = build._random_quantized(
        build.transformers.AutoModelForCausalLM, config, tiny.card("llama"), FOUR_BITS, tiny.CPU
    )
    weights = [model.get_submodule("model.layers.1.mlp.up_proj").weight for model in (one, other)]
    assert not torch.equal(*weights)


@pytest.mark.parametrize("weights", ["pretrained", "random"])
def test_a_model_in_4_bits_is_never_whole_in_16(weights, tmp_path):
    known = tiny.narrow("llama", hidden_size=256, intermediate_size=512, num_hidden_layers=12, vocab_size=2048)
    known = known.model_copy(update={"dtype": "bfloat16"})
    if weights == "pretrained":
        known, shards = stored(known, tmp_path, "2MB")
        assert shards > 5
    with Alive() as ledger:
        model = tiny.text_build(known, tmp_path, FOUR_BITS, base_folder=None)
    held = sum(one.numel() * one.element_size() for part in model.parameters() for one in state_sizes.held_by(part))
    linear = [part.weight for part in model.modules() if hasattr(getattr(part, "weight", None), "quant_state")]
    largest = max(part.quant_state.shape.numel() for part in linear)
    block = sum(part.quant_state.shape.numel() for part in linear) // 12
    # Of a tensor that is quantised: in 16 and in 32 bits, and scaled. Of a block that is drawn: 16 bits.
    once = 10 * largest + (2 * block if weights == "random" else 0)
    assert ledger.peaks["forward"] <= held + once + 100_000
    assert once < 2 * 12 * block / 3


def test_what_is_not_quantised_is_not_widened(tmp_path):
    """Gemma's embedding of 256k would take 3 GiB in float32; norms take nothing."""
    model = tiny.text_adapted(tiny.card("gemma", dtype="bfloat16"), tmp_path, "qlora", {"compute_dtype": "bfloat16"})
    wide = {name for name, part in model.named_parameters() if part.dtype == torch.float32 and not part.requires_grad}
    assert wide
    assert all("norm" in name for name in wide)
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def planned(write, rest, family="llama", blocks=2):
    card = f"{{card: tiny_{family}, architecture: {{num_hidden_layers: {blocks}}}}}"
    return resolve.load(write("study/own.yaml", f"dataset: reviews\nmodel: {card}\n{rest}"))


@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize("config", ["{r: 8}", "{r: 8, use_dora: true}"])
def test_adapters_in_bfloat16_hold_half(write, tmp_path, method, config):
    found = {}
    for dtype in ("float32", "bfloat16"):
        chosen = planned(write, f"method: {{name: {method}, dtype: {dtype}, config: {config}}}\n")
        found[dtype] = state_sizes.states(state_sizes.outline(chosen), "adamw_torch_fused", "trainer")
        settings = {"dtype": dtype, "config": {"r": 8, "use_dora": "dora" in config}}
        labels = {"labels": chosen.recipe.dataset.labels}
        model = tiny.adapted(tiny.card("llama"), tmp_path, method, settings, **labels)
        trained = {name: part for name, part in model.named_parameters() if part.requires_grad}
        inside = {name for name, part in trained.items() if ".lora_" in name}
        assert {str(trained[name].dtype) for name in inside} == {f"torch.{dtype}"}
        # The head is trained in full, and stays as it was.
        assert {str(trained[name].dtype) for name in trained.keys() - inside} == {"torch.float32"}
        batch = tiny.batch(tiny.tokenizer(tiny.card("llama")))
        batch["labels"] %= 2
        tiny.backward(model, batch)
        assert tiny.without_gradient(model) == []
        assert found[dtype].gradients == sum(part.grad.nbytes for part in trained.values())
        optimizer = torch.optim.AdamW(trained.values())
        optimizer.step()
        held = [value for state in optimizer.state.values() for value in state.values()]
        assert found[dtype].optimizer == sum(value.nbytes for value in held)
        heads = sum(trained[name].nbytes for name in trained.keys() - inside)
        found[dtype] = found[dtype].trained - heads
    assert found["bfloat16"] * 2 == found["float32"]


def test_adapters_in_bfloat16_say_the_same_when_they_are_loaded_again(tmp_path):
    known = tiny.card("llama")
    model = tiny.adapted(known, tmp_path, "qlora", {"dtype": "bfloat16", "compute_dtype": "float32"})
    tokens = tiny.tokenizer(known)
    tiny.train_a_little(model, tiny.batch(tokens))
    head = {"kind": "own", "hidden": 256, "dropout": 0.1}
    described = {"task": "text_classification", "labels": list(tiny.LABELS), "multi_label": False, "pooling": None}
    described |= {"head": head, "quantization": {**NF4, "bnb_4bit_compute_dtype": "float32"}}
    described |= {"unquantized": ["score"], "pad_token_id": 0, "model_card": known.model_dump(mode="json")}
    saving.save(model, tokens, tmp_path, described)
    again, _, _ = saving.load(tmp_path)
    types = {part.dtype for name, part in again.named_parameters() if ".lora_" in name}
    assert types == {torch.bfloat16}
    assert torch.equal(tiny.logits(again, tiny.batch(tokens)), tiny.logits(model, tiny.batch(tokens)))


def test_what_can_not_be_in_bfloat16_is_refused(write, monkeypatch):
    with pytest.raises(RecipeError, match="bfloat16 is for LoraConfig; IA3Config is trained in float32"):
        planned(write, "method: {name: lora, peft: IA3Config, dtype: bfloat16}\n")
    chosen = planned(write, "method: {name: lora, dtype: bfloat16}\n")
    with pytest.raises(SetupError, match=r"method\.dtype: bfloat16 saves nothing under ZeRO-2; take float32"):
        MemoryPlan.of(chosen, Parallelism(world=2, zero=2))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(SetupError, match=r"method\.dtype: bfloat16 saves nothing under FSDP"):
        fit.sharding.check(chosen.recipe, state_sizes.load_plan(chosen)[1])


def checkpointed(known, folder, offload, method="lora"):
    torch.manual_seed(0)
    model = tiny.liven(tiny.text_adapted(known, folder, method))
    memory_saving.checkpoint_activations(model, offload=offload)
    return model


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5"])
def test_activations_that_waited_elsewhere_give_the_same_gradients(family, tmp_path, monkeypatch):
    known, moved = tiny.card(family), []

    def pack(tensor):
        moved.append(tensor.nbytes)
        return tensor.detach().numpy().copy()

    plain = checkpointed(known, tmp_path, offload=False)
    tiny.backward(plain, tiny.text_batch(known))
    other = checkpointed(known, tmp_path, offload=True)
    tiny.backward(other, tiny.text_batch(known))  # on a CPU nothing is moved
    monkeypatch.setattr(memory_saving, "_hooks", lambda device: saved_tensors_hooks(pack, torch.from_numpy))
    third = checkpointed(known, tmp_path, offload=True)
    tiny.backward(third, tiny.text_batch(known))
    shape = tiny.text_batch(known)["input_ids"].shape
    least = shape.numel() * third.config.hidden_size * 4
    assert sum(size >= least for size in moved) >= third.config.num_hidden_layers
    for one, same, elsewhere in zip(plain.parameters(), other.parameters(), third.parameters(), strict=True):
        if one.requires_grad:
            assert torch.equal(one.grad, same.grad)
            assert torch.equal(one.grad, elsewhere.grad)


def test_the_plan_moves_activations_to_the_host(write):
    rest = "method: lora\nobjective: text\ntraining: {gradient_checkpointing: true, activation_offload: %s}\n"
    here, there = (MemoryPlan.of(planned(write, rest % on, blocks=9), Parallelism()) for on in ("false", "true"))
    hidden = 9 * 4 * 128 * here.model.config.hidden_size * 4
    assert there.usage(4, 128).on_host == hidden
    assert here.usage(4, 128).on_host == 0
    # What the embedding gives is held by its own leaf.
    assert here.usage(4, 128).kept - there.usage(4, 128).kept == pytest.approx(hidden, rel=0.15)
    assert there.predict(4, 128).host == {"activations": hidden}
    assert there.predict(4, 128).total < here.predict(4, 128).total


def test_activations_are_only_moved_where_they_are_checkpointed(write):
    with pytest.raises(RecipeError, match="activation_offload: needs `gradient_checkpointing: true`"):
        planned(write, "method: lora\ntraining: {activation_offload: true}\n")


def mixed_step(model, ids, *, keeps):
    """The most that is alive in the sections of a step in bf16, with autocast's cache or without; the loss."""
    ledger = Alive(model)
    with ledger.watching(model), ledger:
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=keeps):
            loss = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float().square().sum()
        ledger.forward = False
        loss.backward()
    return ledger.peaks, loss.item()


def test_copies_of_weights_are_dropped_where_activations_are_recomputed(write, tmp_path):
    chosen = planned(write, "method: full\n", blocks=4)
    known = tiny.narrow("llama", num_hidden_layers=4)
    outlined = state_sizes.outline(chosen)
    real = tiny.build(known, tmp_path, labels=chosen.recipe.dataset.labels).train()
    for model in (outlined, real):
        memory_saving.checkpoint_activations(model)
    ids = torch.randint(5, 500, (2, 24), generator=torch.Generator().manual_seed(0))
    (kept, one), (dropped, other) = (mixed_step(real, ids, keeps=keeps) for keeps in (True, False))
    assert one == other
    blocks = 2 * sum(part.numel() for name, part in real.named_parameters() if "layers." in name)
    found = {
        keeps: activations.probe(outlined, Batch(rows=2, length=24, precision="bf16", keeps_copies=keeps))
        for keeps in (True, False)
    }
    assert found[True].copies > 0.9 * blocks
    assert found[False].copies == 0
    # All blocks' copies, or one block's.
    gain = found[True].peaks["head"] - found[False].peaks["head"]
    assert gain == pytest.approx(kept["head"] - dropped["head"], rel=0.1)
    assert gain > 0.9 * blocks


@pytest.mark.parametrize("on", [True, False])
def test_the_allocator_of_cuda_is_told_before_torch_starts(on, monkeypatch):
    for name in process.CUDA_SETTINGS:
        monkeypatch.setenv(name, "")  # as it was comes back
        monkeypatch.delenv(name)
    process.set_cuda_allocator(expandable_segments=on)
    assert os.environ.get("PYTORCH_CUDA_ALLOC_CONF") == ("expandable_segments:True" if on else None)
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:64")
    process.set_cuda_allocator(expandable_segments=Speed().expandable_segments)
    assert "PYTORCH_CUDA_ALLOC_CONF" not in os.environ


def test_only_loras_own_weights_are_cast(tmp_path):
    model = tiny.adapted(tiny.card("bert"), tmp_path, "lora", {"dtype": "bfloat16"})
    narrow = {name for name, part in model.named_parameters() if part.dtype == torch.bfloat16}
    assert narrow == {name for name, _ in model.named_parameters() if ".lora_" in name}
    assert registry.load("methods", "lora").Options().dtype == "float32"
