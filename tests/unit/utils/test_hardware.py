"""Peak rates: of the very device that is named, with a source, and no guess for any other."""

import pytest

from bench.utils import hardware


@pytest.mark.parametrize("name", hardware.DEVICES)
def test_every_device_has_rates_in_order_and_a_source(name):
    device = hardware.DEVICES[name]
    assert device.half_flops >= device.tf32_flops >= device.fp32_flops > 1e12
    assert 1e11 < device.bandwidth < 1e13
    assert 8 <= device.memory_gib <= 300
    assert device.source
    assert hardware.find(name) is device
    assert hardware.peak_flops(name, "no") == device.fp32_flops
    assert hardware.peak_flops(name, "fp16") == device.half_flops


@pytest.mark.parametrize(
    "name",
    [
        "", "cpu", "nvidia h200", "NVIDIA", "NVIDIA L40S", "NVIDIA L40", "NVIDIA H200 NVL", "NVIDIA H200 MIG 1g.18gb",
        "NVIDIA A100-SXM4-80GB MIG 3g.40gb", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 3090 Ti", "NVIDIA A10", "Tesla T40 24GB", "AMD Instinct MI300X",
    ],
)  # fmt: skip
def test_another_device_is_not_guessed(name):
    assert hardware.find(name) is None
    assert hardware.peak_flops(name, "bf16") is None


def test_precisions():
    assert hardware.peak_flops("NVIDIA H200", "bf16") == 989e12
    assert hardware.peak_flops("NVIDIA H200", "no") == 67e12
    assert hardware.peak_flops("NVIDIA H200", "fp32") == 67e12
    assert hardware.peak_flops("NVIDIA H200", "tf32") == 494e12
    assert hardware.peak_flops("Tesla T4", "fp16") == 65e12
    assert hardware.peak_flops("Tesla T4", "bf16") is None
    assert hardware.peak_flops("NVIDIA H200", "fp8") is None
