"""distributed/setup.py: precision that a device does not have is refused, before anything is loaded."""

import pytest
import torch

from bench.distributed import setup
from bench.errors import SetupError


@pytest.mark.parametrize("chosen", ["no", "bf16", "", None])
def test_what_a_cpu_has(monkeypatch, chosen):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if chosen is not None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", chosen)
    setup.check_precision(on_cpu=True)


def test_fp16_needs_a_gpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    setup.check_precision(on_cpu=False)
    with pytest.raises(SetupError, match="mixed_precision fp16 needs a GPU, and this run is on the CPU"):
        setup.check_precision(on_cpu=True)
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
