"""Bytes of weights, gradients and optimisers, against those of models that are really built and really trained."""

import bitsandbytes
import pytest
import torch
from transformers import Trainer, TrainingArguments

from bench.config import registry, resolve
from bench.errors import SetupError
from bench.memory import state_sizes
from bench.training import optimizer_registry
from bench.utils.hardware import GIB
from tests.helpers import models as tiny
from tests.helpers.cases import cover

METHODS = ["full", "head", "last_layers", "lora", "qlora"]
OPTIMIZERS = [
    "adamw_torch", "adamw_torch_fused", "adamw_bnb_8bit", "paged_adamw_32bit", "paged_adamw_8bit", "adafactor", "sgd",
]  # fmt: skip
pytestmark = [
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False"),
    pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU"),
]


def resolved(write, family, method, objective="head"):
    quantized = "{name: qlora, compute_dtype: float32}"
    text = f"dataset: reviews\nmodel: tiny_{family}\nmethod: {quantized if method == 'qlora' else method}\n"
    # bitsandbytes can't compute the tiny ALBERT's layer of 32 inputs on every CPU.
    wider = ("model.architecture.embedding_size=64",) if (family, method) == ("albert", "qlora") else ()
    return resolve.load(write("study/own.yaml", text + f"objective: {objective}\n"), wider)


def built(planned, tmp_path):
    """The same recipe's model, as a run builds it."""
    card = planned.recipe.model
    method = registry.load("methods", planned.recipe.method.name)
    plan = method.load_plan(planned.options)
    make = tiny.build if planned.recipe.objective == "head" else tiny.text_build
    labels = {"labels": planned.recipe.dataset.labels} if planned.recipe.objective == "head" else {}
    return method.adapt(make(card, tmp_path, plan, weights=plan.weights or card.weights, **labels), planned.options)


def batch(planned):
    found = tiny.batch(tiny.tokenizer(planned.recipe.model))
    found["labels"] %= len(planned.recipe.dataset.labels)
    return found


def size(tensors):
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def constants(weight):
    state = getattr(weight, "quant_state", None)
    found = []
    while state is not None:
        found += [item for item in (state.absmax, state.code, state.offset) if torch.is_tensor(item)]
        state = state.state2
    return found


def check_weights(found, model):
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    held = size(frozen) + sum(size(constants(weight)) for weight in frozen) + size(model.buffers())
    assert found.frozen == held
    assert found.trained == size(parameter for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize(("family", "method"), cover(tiny.FAMILIES, METHODS, tiny.KINDS))
def test_weights_and_gradients_are_those_of_a_trained_model(write, tmp_path, family, method):
    planned = resolved(write, family, method)
    outlined = state_sizes.outline(planned)
    assert {item.device.type for item in [*outlined.parameters(), *outlined.buffers()]} == {"meta"}
    found = state_sizes.states(outlined, "adamw_torch", "loop")
    model = built(planned, tmp_path)
    check_weights(found, model)
    tiny.backward(model, batch(planned))
    assert found.gradients == size(item.grad for item in model.parameters() if item.grad is not None)
    optimizer = torch.optim.AdamW([item for item in model.parameters() if item.requires_grad])
    optimizer.step()
    assert found.optimizer == size(item for state in optimizer.state.values() for item in state.values())


@pytest.mark.parametrize(("family", "method"), cover(["gemma", "gpt2", "t5"], ["full", "lora", "qlora"], ["t5"]))
def test_weights_of_language_models(write, tmp_path, family, method):
    planned = resolved(write, family, method, "text")
    check_weights(state_sizes.states(state_sizes.outline(planned), "sgd", "loop"), built(planned, tmp_path))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("engine", ["loop", "trainer"])
def test_optimizers_hold_what_they_were_said_to(write, tmp_path, name, engine):
    planned = resolved(write, "llama", "full")
    found = state_sizes.states(state_sizes.outline(planned), name, engine)
    model = built(planned, tmp_path)
    arguments = TrainingArguments(output_dir=str(tmp_path), optim=name, use_cpu=True, report_to="none")
    optimizer_registry.forget_overrides()
    if engine == "trainer":
        optimizer = Trainer(model, arguments).create_optimizer()
    else:
        kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
        optimizer = kind(list(model.parameters()), **options)
    tiny.backward(model, batch(planned))
    optimizer.step()
    # The tables of 8-bit values are one for all tensors, 2 KiB.
    held = [state[key] for state in optimizer.state.values() for key in state if not key.startswith("qmap")]
    assert found.optimizer + found.paged == size(item for item in held if torch.is_tensor(item))
    # On a CPU nothing is paged; on a GPU larger tensors are.
    large = sum(item.numel() for item in model.parameters() if item.numel() >= 100_000)
    kept_whole = engine == "trainer" and "8bit" in name
    expected = 0 if not name.startswith("paged") else 2 * large * (1 if "8bit" in name and not kept_whole else 4)
    assert found.paged == expected


@pytest.mark.parametrize(("name", "least", "most"), [("mistral_7b_v03", 3.8, 4.0), ("gemma_7b", 5.1, 5.3)])
def test_four_bit_weights_of_real_architectures(name, least, most):
    """4-bit weights, their constants, and embeddings in 16 bits: what must be there before anything is trained."""
    planned = resolve.load(resolve.SHIPPED / "sst2" / f"{name}-text_qlora.yaml")
    found = state_sizes.states(state_sizes.outline(planned), "paged_adamw_8bit", "trainer")
    assert least < found.frozen / GIB < most


def test_a_method_that_raises_is_said_in_a_sentence(write, monkeypatch):
    def adapt(model, options):
        raise ZeroDivisionError("by\nnothing")

    monkeypatch.setattr(registry.load("methods", "head"), "adapt", adapt)
    with pytest.raises(SetupError, match=r"^method 'head' can't adapt the model: ZeroDivisionError: by$"):
        state_sizes.outline(resolved(write, "bert", "head"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: tiny_bert\nmethod: {name: last_layers, blocks: 3}", "method.blocks is 3, but the model has 2 block"),
        ("model: tiny_llama\nmethod: zero_shot\nobjective: text", "method 'zero_shot' trains nothing by gradients"),
        ("model: mine\nmethod: full", "the model 'nobody/nothing' can't be loaded"),
    ],
)
def test_what_can_not_be_outlined_is_said_in_a_sentence(write, text, message):
    write("models/mine.yaml", "id: nobody/nothing\nfamily: encoder\nlicence: none\n")
    with pytest.raises(SetupError, match=message) as caught:
        state_sizes.outline(resolve.load(write("study/own.yaml", f"dataset: reviews\n{text}\n")))
    assert "\n" not in str(caught.value)


def test_what_bitsandbytes_keeps_of_one_model_is_not_of_the_next():
    registry = bitsandbytes.optim.GlobalOptimManager.get_instance()
    first, second = torch.nn.Linear(128, 64), torch.nn.Linear(128, 64)
    registry.override_config(first.weight, "optim_bits", 32)
    registry.register_parameters(first.parameters())  # by its place, which the second model's weight has, too
    widths = []
    for forget in (False, True):
        if forget:
            optimizer_registry.forget_overrides()
        optimizer = bitsandbytes.optim.AdamW(second.parameters(), optim_bits=8, min_8bit_size=1)
        second(torch.ones(1, 128)).sum().backward()
        optimizer.step()
        widths.append(optimizer.state[second.weight]["state1"].dtype)
    assert widths == [torch.float32, torch.uint8]
