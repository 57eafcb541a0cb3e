"""distributed/setup.py: precision that a device does not have is refused, before anything is loaded."""

import re
from types import SimpleNamespace

import pytest
import torch

from bench.config.contracts import LoadPlan
from bench.distributed import setup
from bench.errors import SetupError
from bench.methods import few_shot, qlora
from bench.training import loss_scale


@pytest.mark.parametrize("chosen", ["no", "bf16", "", None])
def test_what_a_cpu_has(monkeypatch, chosen):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if chosen is not None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", chosen)
    setup.check_precision(on_cpu=True)


def test_fp16_needs_a_gpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    setup.check_precision(on_cpu=False)
    with pytest.raises(SetupError, match="mixed_precision fp16 needs a GPU, and this run is on the CPU") as raised:
        setup.check_precision(on_cpu=True)
    assert "--mixed_precision" not in str(raised.value)  # which `finetune-bench run` does not take
    assert str(raised.value).endswith("such as cpu or cpu_bf16")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with pytest.raises(SetupError, match="mixed_precision fp16 needs a GPU"):
        setup.start()


CARDS = {"Tesla T4": (7, 5), "Tesla V100-SXM2-16GB": (7, 0), "NVIDIA A10G": (8, 6), "NVIDIA B200": (10, 0)}


@pytest.mark.parametrize("name", [*CARDS, "AMD Instinct MI300X"])
def test_bf16_needs_ampere(monkeypatch, name):
    # ROCm's capability is another one, and not asked for.
    found = (name, CARDS.get(name))
    monkeypatch.setattr(setup, "gpu", lambda place: ("NVIDIA H200", (9, 0)) if place == 0 else found)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    setup.check_precision(on_cpu=False)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    setup.check_precision(on_cpu=True)
    if CARDS.get(name, (9, 9)) >= (8, 0):
        setup.check_precision(on_cpu=False)
        return
    major, minor = CARDS[name]
    message = (
        rf"^mixed_precision is bf16, and {name} \(compute capability {major}.{minor}\) has no units for bf16, .* take "
        "fp16: --config_file accelerate_configs/gpu1_fp16.yaml"
    )
    with pytest.raises(SetupError, match=message):
        setup.check_precision(on_cpu=False)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    with pytest.raises(SetupError, match=message):  # by a run, before anything is joined or loaded
        setup.start()


@pytest.mark.parametrize("chosen", ["fp8", "half", "FP16"])
def test_others_are_refused_everywhere(monkeypatch, chosen):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", chosen)
    for on_cpu in (True, False):
        with pytest.raises(SetupError, match="this harness supports no, bf16 and fp16"):
            setup.check_precision(on_cpu=on_cpu)


FOUR_BITS = qlora.load_plan(qlora.Options())
FOUR_BITS_IN_FP16 = qlora.load_plan(qlora.Options(compute_dtype="float16"))
PROMPTED = few_shot.load_plan(few_shot.Options(quantized=True))
FROZEN, ADAPTERS = LoadPlan(frozen_body=True), LoadPlan(frozen_body=True, adapter_dtype="bfloat16")


@pytest.mark.parametrize(
    ("plan", "weights", "precision", "refused"),
    [
        (FOUR_BITS, "float32", "fp16", "method.compute_dtype is bfloat16, and {}; set method.compute_dtype: float16"),
        (FOUR_BITS, "float32", "no", "method.compute_dtype is bfloat16, and {}; set method.compute_dtype: float16"),
        (PROMPTED, "float32", "fp16", "method.compute_dtype is bfloat16, and {}; set method.compute_dtype: float16"),
        (FOUR_BITS_IN_FP16, "bfloat16", "fp16", None),
        (FROZEN, "bfloat16", "fp16", None),
        (FROZEN, "bfloat16", "no", "model.dtype is bfloat16, and {}; set model.dtype: float16, or launch with mixed_"),
        (FROZEN, "float16", "no", None),
        (LoadPlan(), "bfloat16", "no", None),  # what is trained in full is held in float32
        (ADAPTERS, "float32", "no", "method.dtype is bfloat16, and {}; set method.dtype: float32"),
        (ADAPTERS, "float32", "fp16", None),
    ],
)
def test_a_recipe_that_multiplies_in_bf16_needs_ampere(monkeypatch, plan, weights, precision, refused):
    recipe = SimpleNamespace(model=SimpleNamespace(dtype=weights))
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", precision)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(setup, "gpu", lambda place: ("NVIDIA A100-SXM4-80GB", (8, 0)))
    setup.check_products(recipe, plan, on_cpu=False)
    monkeypatch.setattr(setup, "gpu", lambda place: ("Tesla T4", (7, 5)))
    setup.check_products(recipe, plan, on_cpu=True)
    if refused is None:
        setup.check_products(recipe, plan, on_cpu=False)
        return
    why = "Tesla T4 (compute capability 7.5) has no units for bf16, which need compute capability 8.0 (Ampere) or newer"
    with pytest.raises(SetupError, match="^" + re.escape(refused.format(why))):
        setup.check_products(recipe, plan, on_cpu=False)


def test_fp16_trains_float32_alone():
    model = torch.nn.ModuleDict({name: torch.nn.Linear(2, 2) for name in ("body", "embed_tokens", "lora_A")})
    loss_scale.check_types(model, "fp16", "gradient")
    model["body"].requires_grad_(False).to(torch.bfloat16)
    loss_scale.check_types(model, "fp16", "gradient")
    model["embed_tokens"].to(torch.float16)
    message = (
        "mixed_precision is fp16, whose scaled gradients are for parameters in float32, and 2 that are trained are in "
        "float16: embed_tokens.weight, embed_tokens.bias; set model.dtype: float32, or launch with mixed_precision: "
        "bf16 or no"
    )
    with pytest.raises(SetupError, match=f"^{message}$"):
        loss_scale.check_types(model, "fp16", "gradient")
    for precision, trains in (("bf16", "gradient"), ("no", "gradient"), ("fp16", "nothing")):
        loss_scale.check_types(model, precision, trains)
    model["lora_A"].to(torch.bfloat16)
    adapters = torch.nn.ModuleDict({"lora_A": model["lora_A"]})
    with pytest.raises(SetupError, match=r"are in bfloat16: lora_A\.weight, lora_A\.bias; set method\.dtype: float32"):
        loss_scale.check_types(adapters, "fp16", "gradient")
