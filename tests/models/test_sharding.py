"""Sharded models: what is refused before anything is loaded, the shell of a full model, and the first gradients."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch.distributed.fsdp import FSDPModule, fully_shard

from bench.config import registry, resolve
from bench.distributed import sharding
from bench.errors import SetupError
from bench.models.kernels import padding_free
from bench.training import autocast
from tests.helpers.launching import ROOT
from tests.helpers.models import build, card

BERT, QLORA = ROOT / "recipes/tiny/bert-full.yaml", ROOT / "recipes/tiny/llama-qlora.yaml"


@pytest.fixture
def launched(monkeypatch):
    """launched("zero3"): the environment that accelerate's launcher leaves to its processes."""

    def launch(kind):
        if kind.startswith("zero"):
            monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
            monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", kind.removeprefix("zero"))
        elif kind == "fsdp2":
            monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")

    return launch


def checked(path, *overrides):
    resolved = resolve.load(path, overrides)
    plan = registry.load("methods", resolved.recipe.method.name).load_plan(resolved.options)
    return sharding.check(resolved.recipe, plan)


def test_without_either_nothing_is_asked_and_nothing_refused():
    assert (sharding.requested_backend(), sharding.requested_stage(), sharding.shards_parameters()) == (
        None,
        None,
        False,
    )
    assert checked(BERT, "training.engine=loop", "training.optimizer=adafactor") is None


@pytest.mark.parametrize(
    ("kind", "stage", "shards"), [("zero1", 1, False), ("zero2", 2, False), ("zero3", 3, True), ("fsdp2", None, True)]
)
def test_what_was_asked_for(launched, kind, stage, shards):
    launched(kind)
    assert sharding.requested_stage() == stage
    assert sharding.shards_parameters() == shards
    note = checked(BERT)
    assert ("shards the parameters during training" in note) if shards else (note is None)


def test_the_stage_is_read_from_a_deepspeed_file_too(launched, monkeypatch, tmp_path):
    launched("zero2")
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 3}}), encoding="utf-8")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(path))
    assert sharding.requested_stage() == 3


REFUSED = {
    "loop": ("zero1", BERT, ["training.engine=loop"], "whole models only, not under ZeRO-1; take engine: trainer"),
    "8-bit": (
        "zero3",
        BERT,
        ["training.optimizer=adamw_bnb_8bit"],
        "which checkpoints of ZeRO-3 don't hold; take adam",
    ),
    "paged": ("zero2", BERT, ["training.optimizer=paged_adamw_8bit"], "paged_adamw_8bit was not tried under ZeRO-2;"),
    "adafactor": ("fsdp2", BERT, ["training.optimizer=adafactor"], "something else on shards of parameters, as FSDP"),
    "qlora-zero3": ("zero3", QLORA, [], "set method.storage=float32, or launch with zero2.yaml or ddp.yaml"),
    "qlora-fsdp2": ("fsdp2", QLORA, [], "4-bit weights that are stored as what they are computed in"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_t_be_is_refused_with_the_way_out(launched, case):
    kind, path, overrides, sentence = REFUSED[case]
    launched(kind)
    with pytest.raises(SetupError, match=sentence):
        checked(path, *overrides)


def test_qlora_is_taken_by_zero2_and_with_the_right_storage_by_zero3(launched):
    launched("zero2")
    assert checked(QLORA) is None
    launched("zero3")
    assert "ZeRO-3 shards the parameters during training" in checked(QLORA, "method.storage=float32")


@pytest.mark.parametrize(
    ("kind", "recipe", "sentence"),
    [
        ("zero3", "llama-zero_shot", "has nothing to train here; sharded_phases says whether"),
        ("zero2", "llama-zero_shot", "is not used: nothing is trained"),
        ("zero3", "albert-probe", "is not used: nothing is trained"),
    ],
)
def test_nothing_to_train_is_noted(launched, kind, recipe, sentence):
    launched(kind)
    assert sentence in checked(ROOT / f"recipes/tiny/{recipe}.yaml")


@pytest.mark.parametrize("kind", ["zero1", "zero2"])
def test_8_bit_states_are_sharded_with_a_note_where_checkpoints_hold_them(launched, kind):
    launched(kind)
    note = checked(BERT, "training.optimizer=adamw_bnb_8bit")
    assert note == (
        f"ZeRO-{kind[-1]}: adamw_bnb_8bit has its 8-bit blocks in each process's part, and rounds otherwise there"
    )


def test_an_optimizer_that_accelerate_replaces_where_it_is_offloaded_is_refused(launched, monkeypatch):
    """It would take Adam for SGD, and say nothing."""
    launched("zero3")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "cpu")
    assert "ZeRO-3 shards the parameters" in checked(BERT, "training.optimizer=adamw_torch")
    with pytest.raises(SetupError, match=r"with offload accelerate takes DeepSpeed's Adam for CPUs in place of sgd"):
        checked(BERT, "training.optimizer=sgd")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "none")
    assert "ZeRO-3 shards the parameters" in checked(BERT, "training.optimizer=sgd")


@pytest.fixture
def classifier(tmp_path):
    return lambda family: build(card(family), tmp_path)


def batch(model):
    ids = torch.arange(12).view(2, 6) + 5
    mask = torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0]])
    if model.config.is_encoder_decoder:  # its head reads the end of a text
        ids[0, 5] = ids[1, 3] = model.config.eos_token_id
    with torch.no_grad():
        return model.eval()(input_ids=ids, attention_mask=mask).logits


@pytest.mark.parametrize("tied", [True, False])
def test_an_encoder_decoder_s_embeddings_of_one_weight_become_one_module(classifier, launched, tied):
    """Else FSDP2 would give encoder and decoder a shard each."""
    launched("fsdp2")
    model = classifier("t5")
    encoder, decoder = model.get_encoder(), model.get_decoder()
    if not tied:
        encoder.get_input_embeddings().weight = torch.nn.Parameter(torch.zeros(2, 2))
    assert encoder.get_input_embeddings() is not decoder.get_input_embeddings()
    plugin = SimpleNamespace(mixed_precision_policy="some", transformer_cls_names_to_wrap=None)
    trainer = SimpleNamespace(model=model, accelerator=SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin)))
    sharding.choose_units(trainer)
    assert plugin.transformer_cls_names_to_wrap == ["T5Block"]
    parts = [part.get_input_embeddings() for part in (model, encoder, decoder)]
    assert (len({id(part) for part in parts}) == 1) == tied


def test_fsdp2_shards_the_gradients_of_each_micro_batch(launched):
    """Else each process keeps those of the whole model until a step's last micro-batch, as is the Trainer's default."""
    arguments = SimpleNamespace(accelerator_config=SimpleNamespace(gradient_accumulation_kwargs=None))
    assert sharding.apply_defaults(arguments).accelerator_config.gradient_accumulation_kwargs is None
    launched("fsdp2")
    found = sharding.apply_defaults(arguments).accelerator_config.gradient_accumulation_kwargs
    assert found == {"sync_each_batch": True}
    accelerator = SimpleNamespace(
        distributed_type=SimpleNamespace(value="FSDP"), gradient_state=SimpleNamespace(plugin_kwargs={})
    )
    model = type("Sharded", (FSDPModule,), {"__new__": object.__new__})()
    with pytest.raises(SetupError, match=r"^FSDP2 would keep whole gradients between micro-batches"):
        sharding.in_force(accelerator, model)
    accelerator.gradient_state.plugin_kwargs = found
    assert sharding.in_force(accelerator, model) == {"distributed_type": "FSDP"}


@pytest.mark.parametrize("drops", [True, False])
def test_autocast_under_fsdp2_keeps_no_copies_of_weights_where_they_are_dropped(launched, drops):
    """Else each process holds the whole model in 16 bits during the forward pass."""
    scoring = SimpleNamespace(device=torch.device("cpu"), precision="bf16")
    with autocast.autocast(scoring, drops_copies=drops):
        assert not torch.is_autocast_enabled("cpu")
    launched("fsdp2")
    with autocast.autocast(scoring, drops_copies=drops):
        assert (torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled()) == (True, not drops)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5"])
@pytest.mark.parametrize("without_pads", [True, False])
def test_a_filled_shell_gives_the_model_s_own_answers(classifier, family, without_pads):
    model = classifier(family)
    if without_pads:
        padding_free.attach(model)
    attached = padding_free.is_attached(model)
    expected = batch(model)
    shell = sharding.FullModelShell(model)
    assert padding_free.is_attached(model) == attached
    assert all(parameter.is_meta for parameter in shell.model.parameters())
    for _ in range(2):
        with sharding.whole(model, shell) as plain:
            assert plain is not model
            assert padding_free.is_attached(plain) == attached
            assert torch.equal(batch(plain), expected)
            names = [name for name, _ in model.named_parameters()]
            assert [name for name, _ in plain.named_parameters()] == names  # what is tied stays tied
        assert all(parameter.is_meta for parameter in shell.model.parameters())
    assert torch.equal(batch(model), expected)


def test_a_shell_is_filled_from_a_sharded_model_and_follows_it(classifier):
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        model = classifier("bert")
        shell, expected = sharding.FullModelShell(model), batch(model)
        fully_shard(model)
        filled = shell.filled(model)
        assert torch.equal(batch(filled), expected)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.5)
        with sharding.whole(model, shell) as plain:
            assert not torch.allclose(batch(plain), expected, atol=1e-3)
    finally:
        torch.distributed.destroy_process_group()


def test_without_a_shell_the_model_itself_is_whole(classifier):
    model = classifier("bert")
    with sharding.whole(model, None) as plain:
        assert plain is model


def test_first_gradients_name_what_gets_none_or_an_infinite_one():
    model = torch.nn.ModuleDict({name: torch.nn.Linear(2, 2, bias=False) for name in ("good", "unused", "broken")})
    watch = sharding.FirstGradients(model)
    given = torch.ones(1, 2)
    (model["good"](given).sum() + (model["broken"](given) * float("inf")).sum()).backward()
    assert watch.missing() == ["unused.weight", "broken.weight"]
    watch.restart()
    model["good"](given).sum().backward()
    assert watch.missing() == ["unused.weight", "broken.weight"]
    watch.close()
    model["unused"](given).sum().backward()  # no longer watched
    assert watch.missing() == ["unused.weight", "broken.weight"]
