"""Models of which each process holds its shards: loading, drawing, running by layer, saving, and their checkpoints.

In one process that takes itself for one of several, so that nothing is gathered but in a world of one; real launches
are those of tests/runs/test_parallelism.py.
"""

import json
import weakref
from types import SimpleNamespace

import pytest
import torch
import transformers
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, set_seed

from bench.config.contracts import LoadPlan
from bench.errors import SetupError
from bench.models import build, saving, shards, whole_on_disk
from bench.models.kernels import padding_free
from bench.models.library_internals import transformers_internals
from bench.runner import sharded_load
from bench.training import checkpoint_shards

CPU = torch.device("cpu")
DECODER = {
    "hidden_size": 36, "num_hidden_layers": 3, "intermediate_size": 65, "num_attention_heads": 3, "head_dim": 12,
    "num_key_value_heads": 1, "vocab_size": 99,
}  # fmt: skip
KINDS = {
    "mistral": ("AutoModelForCausalLM", DECODER),
    "mixtral": ("AutoModelForCausalLM", {**DECODER, "num_local_experts": 3}),
    "gpt2": ("AutoModelForCausalLM", {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 101}),
    "bert": (
        "AutoModelForSequenceClassification",
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
         "vocab_size": 99, "num_labels": 3},
    ),
    "t5": ("AutoModelForSeq2SeqLM", {"d_model": 32, "d_ff": 64, "num_layers": 2, "num_heads": 2, "vocab_size": 97}),
}  # fmt: skip
CARD = SimpleNamespace(attention="eager", dtype="float32", id="x", package=None, revision=None)


@pytest.fixture
def one_of(monkeypatch):
    """one_of(rank, processes): shards are cut as for that process."""
    PartialState(cpu=True)

    def state(rank, processes):
        known = SimpleNamespace(process_index=rank, num_processes=processes, is_main_process=rank == 0, device=CPU)
        monkeypatch.setattr(shards, "PartialState", lambda: known)

    return state


def whole_model(kind):
    name, settings = KINDS[kind]
    set_seed(3)
    return build.from_config(getattr(transformers, name), AutoConfig.for_model(kind, **settings), CARD, LoadPlan())


def assert_are_the_rows_of(model, whole, rank, processes):
    """Every matrix but the head's is a shard, with the values of the whole model."""
    expected = dict(whole.named_parameters())
    assert dict(model.named_parameters()).keys() == expected.keys()
    for name, parameter in model.named_parameters():
        first, last = shards.rows_of(len(expected[name]), rank, processes)
        shard = shards.of(parameter)
        if shard is None:
            assert torch.equal(parameter, expected[name]), name
        else:
            assert torch.equal(shard, expected[name][first:last]), name
            assert parameter.shape == expected[name].shape
            assert bool(parameter.isnan().all())
            assert parameter.untyped_storage().nbytes() == parameter.element_size()
    cut = [name for name, parameter in expected.items() if parameter.dim() > 1 and "classifier" not in name]
    held = [name for name, parameter in model.named_parameters() if shards.of(parameter) is not None]
    assert held == cut


@pytest.mark.parametrize("kind", KINDS)
def test_random_weights_are_those_of_one_process(kind, one_of, monkeypatch):
    whole = whole_model(kind)
    after = torch.rand(1)
    one_of(1, 3)
    drawn, seen = transformers_internals.drawn_by, []

    def noted(draw):
        def act(model):
            draw(model)
            seen.append(held_bytes(model))

        return drawn(act)

    monkeypatch.setattr(transformers_internals, "drawn_by", noted)
    set_seed(3)
    name, settings = KINDS[kind]
    config = AutoConfig.for_model(kind, **settings)
    card = SimpleNamespace(**vars(CARD))
    model = build.random_sharded(getattr(transformers, name), config, card, LoadPlan(), CPU, ())
    assert torch.equal(torch.rand(1), after)
    assert_are_the_rows_of(model, whole, 1, 3)
    # Also of a body that is drawn before the head around it.
    assert seen
    assert max(seen) <= held_bytes(model) + max(parameter.numel() * 4 for parameter in whole.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_model_never_holds_more_than_its_part_and_one_weight(kind, one_of, tmp_path, monkeypatch):
    whole = whole_model(kind)
    whole.save_pretrained(tmp_path, max_shard_size=20_000)
    sizes = [parameter.numel() * 4 for parameter in whole.parameters()]
    vectors = sum(parameter.numel() * 4 for parameter in whole.parameters() if parameter.dim() < 2)
    tied = {id(whole.get_parameter(name)) for name in transformers_internals.tied_names(whole)}
    compared = 2 * sum(parameter.numel() * 4 for parameter in whole.parameters() if id(parameter) in tied)
    one_of(2, 4)
    seen, held = [], shards.hold_parameter

    def watched(parameter, device=None):
        seen.append(held_bytes(models[0]) if models else 0)
        held(parameter, device)
        seen.append(held_bytes(models[0]) if models else 0)

    models, own = [], transformers.PreTrainedModel.tie_weights
    monkeypatch.setattr(shards, "hold_parameter", watched)
    loaded = transformers_internals.one_weight_at_a_time

    def noted(after):
        def act(model, name):
            models[:] = [model]
            after(model, name)

        return loaded(act)

    monkeypatch.setattr(shards.transformers_internals, "one_weight_at_a_time", noted)
    with shards.loading(CPU):
        model = getattr(transformers, KINDS[kind][0]).from_pretrained(tmp_path, dtype=torch.float32)
    assert own is transformers.PreTrainedModel.tie_weights
    part = sum(sizes) / 4
    head = sum(parameter.numel() * 4 for name, parameter in whole.named_parameters() if "classifier" in name)
    assert len(seen) > 8
    assert max(seen) <= 1.15 * part + max(sizes) + vectors + compared + head
    shards.hold(model)
    if kind != "bert":
        assert_are_the_rows_of(model, whole, 2, 4)


def held_bytes(model):
    """Bytes of all memory behind a model's parameters and their shards, each counted once."""
    storages = {}
    for parameter in model.parameters():
        for tensor in (parameter, shards.of(parameter)):
            if tensor is not None and not tensor.is_meta:
                storage = tensor.untyped_storage()
                # Until a weight is cut, it lies in the file that it is read from.
                storages[storage.data_ptr()] = min(storage.nbytes(), tensor.numel() * tensor.element_size())
    return sum(storages.values())


@pytest.mark.parametrize("kind", ["mistral", "bert", "t5"])
def test_layers_are_gathered_to_run_and_given_up_again(kind, one_of):
    model = whole_model(kind).eval()
    ids = torch.arange(12).view(2, 6)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if kind == "t5":
        inputs["decoder_input_ids"] = ids
    wanted = model(**inputs).logits
    chosen = [*model.parameters()][:3]
    expected = torch.autograd.grad((wanted**2).sum(), chosen)
    one_of(0, 1)
    shards.hold(model)
    assert shards.are_held(model)
    with shards.by_layer(model):
        given = model(**inputs).logits
        gradients = torch.autograd.grad((given**2).sum(), chosen)
    assert torch.equal(given, wanted)
    assert all(torch.allclose(one, other, rtol=1e-5) for one, other in zip(gradients, expected, strict=True))
    assert bool(model(**inputs).logits.isnan().all())  # whatever runs without its weights shows it
    with shards.whole(model):
        assert torch.equal(model(**inputs).logits, wanted)
    assert all(parameter.isnan().all() for parameter in model.parameters() if shards.of(parameter) is not None)


def test_gradients_that_are_compared_of_a_model_in_shards_are_those_of_a_layer_at_most(one_of):
    whole, model = whole_model("mistral"), whole_model("mistral")
    one_of(0, 1)
    shards.hold(model)
    assert padding_free.attach(whole) is None
    with shards.by_layer(model):
        assert padding_free.attach(model) is None
    compared, all_of_them = (padding_free.figures(each)["gradients"]["parameters"] for each in (model, whole))
    assert all_of_them == sum(1 for _ in whole.model.parameters())
    assert 0 < compared <= sum(1 for _ in whole.model.layers[0].parameters()) + 1


def test_a_graph_is_given_up_with_its_result(one_of):
    model = whole_model("mistral")
    one_of(0, 1)
    shards.hold(model)
    with shards.by_layer(model):
        result = torch.ones(2, requires_grad=True).exp()  # which its own gradient is computed from
        watched = weakref.ref(result)
        del result
    assert watched() is None


def test_a_layer_that_fails_gives_up_its_weights(one_of):
    model = whole_model("mistral").eval()
    one_of(0, 1)
    shards.hold(model)
    with shards.by_layer(model), pytest.raises(IndexError):
        model(input_ids=torch.tensor([[10**6]]))
    assert all(parameter.isnan().all() for parameter in model.parameters() if shards.of(parameter) is not None)


def test_a_model_is_saved_from_the_disk_in_files_of_a_limited_size(one_of, tmp_path, monkeypatch):
    model = whole_model("mistral")
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    one_of(0, 1)
    shards.hold(model)
    monkeypatch.setattr(whole_on_disk, "SMALLEST_FILE", 30_000)
    tokenizer = SimpleNamespace(save_pretrained=lambda folder: None)
    with whole_on_disk.mapped(model, tmp_path / "scratch") as size:
        saving.save(model, tokenizer, tmp_path / "model", {"head": {"kind": "own"}}, bytes_per_file=size)
    assert not (tmp_path / "scratch").exists()
    index = json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert len(set(index["weight_map"].values())) > 3
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
    assert shards.are_held(model)


DAMAGED = {
    "torn": "model-00002-of-{} is damaged",
    "missing": "model-00002-of-{}",
    "empty": "model-00002-of-{} is damaged",
    "without an index": "there is no model.safetensors.index.json",
    "of another shape": "have another shape",
}


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_file_of_weights_is_one_sentence_of_all_processes(how, tmp_path, monkeypatch):
    whole = whole_model("mistral")
    whole.save_pretrained(tmp_path, max_shard_size=20_000)
    path = sorted(tmp_path.glob("model-*.safetensors"))[1]
    weights = load_file(path)
    name = next(name for name in weights if name.endswith("proj.weight"))
    if how == "torn":
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "missing":
        path.unlink()
    elif how == "without an index":
        (tmp_path / "model.safetensors.index.json").unlink()
    else:
        save_file(weights | {name: weights[name][:-2].clone()}, path, {"format": "pt"})
    monkeypatch.setattr(build, "locate", lambda card: tmp_path)
    monkeypatch.setattr(build, "own_config", lambda card: whole.config.to_dict())
    card = SimpleNamespace(**vars(CARD), trust_remote_code=False)

    def load():
        with shards.loading(CPU):
            return build.loaded(transformers.AutoModelForCausalLM, str(tmp_path), whole.config, card, LoadPlan(), {})

    PartialState(cpu=True)
    with pytest.raises(SetupError, match=r"can't be loaded: ") as raised:
        sharded_load.together(load)
    assert DAMAGED[how].format(path.name.split("-")[-1]) in str(raised.value)
    # A process whose own files are whole is told of the other's.
    monkeypatch.setattr(sharded_load, "gather_object", lambda own: [*own, str(raised.value)])
    with pytest.raises(SetupError, match=r"can't be loaded: "):
        sharded_load.together(lambda: whole)


# ---------------------------------------------------------------- checkpoints


def written(folder, processes, values, *, cut):
    """Files of so many processes with parts of some tensors; cut: (elements, rank) -> first and last element."""
    for rank in range(processes):
        tensors, ranges = {}, {}
        for key, value in values.items():
            first, last = cut(value.numel(), rank)
            tensors[key], ranges[key] = value.flatten()[first:last].clone(), [first, value.numel()]
        tensors["step:a"] = torch.tensor(7.0)
        save_file(tensors, checkpoint_shards.path_of(folder, rank, processes), {"ranges": json.dumps(ranges)})


@pytest.mark.parametrize("now", [1, 2, 3, 5])
def test_parts_are_read_by_any_number_of_processes(now, tmp_path):
    values = {"weight:a": torch.arange(35.0).view(7, 5), "exp_avg:a": torch.rand(7, 5), "weight:b": torch.rand(3)}
    written(tmp_path, 2, values, cut=lambda total, rank: shards.rows_of(total, rank, 2))
    for rank in range(now):
        with checkpoint_shards.Files(tmp_path, 2, rank, now) as files:
            assert files.steps == {"a": 7.0}
            for key, value in values.items():
                first, last = shards.rows_of(value.numel(), rank, now)
                part = torch.empty(last - first)
                piece = checkpoint_shards.Piece(key=key, start=first, total=value.numel(), values=part, put=part.copy_)
                assert torch.equal(files.values(piece), value.flatten()[first:last])


def test_what_a_checkpoint_lacks_is_said(tmp_path):
    written(tmp_path, 2, {"weight:a": torch.rand(8)}, cut=lambda total, rank: shards.rows_of(total, rank, 2))
    part = torch.empty(8)
    for change, sentence in (
        ({"key": "weight:b"}, "it lacks elements of weight:b"),
        ({"total": 9}, "weight:a has 8 elements, and 9 are trained"),
    ):
        piece = {"key": "weight:a", "start": 0, "total": 8, "values": part, "put": part.copy_, **change}
        with checkpoint_shards.Files(tmp_path, 2, 0, 1) as files, pytest.raises(ValueError, match=sentence):
            files.values(checkpoint_shards.Piece(**piece))
    checkpoint_shards.path_of(tmp_path, 1, 2).unlink()
    with pytest.raises(ValueError, match=r"shards-00002-of-00002.* is not on this machine, and is needed by 1 proc"):
        checkpoint_shards.Files(tmp_path, 2, 0, 1)
    with checkpoint_shards.Files(tmp_path, 2, 0, 2) as files:  # its own is all that a process of as many needs
        assert files.keys == {"weight:a"}
