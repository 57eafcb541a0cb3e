"""distributed/setup.py: precision that a device does not have is refused, before anything is loaded."""

import pytest

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


@pytest.mark.parametrize("chosen", ["fp8", "half", "FP16"])
def test_others_are_refused_everywhere(monkeypatch, chosen):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", chosen)
    for on_cpu in (True, False):
        with pytest.raises(SetupError, match="this harness supports no, bf16 and fp16"):
            setup.check_precision(on_cpu=on_cpu)
