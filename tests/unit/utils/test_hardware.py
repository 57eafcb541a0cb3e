"""Devices: rates of the very one that is named, with a source, what it really gives, and no guess for any other."""

import pytest

from bench.errors import SetupError
from bench.utils import device_table, hardware
from bench.utils.hardware import GIB
from tests.helpers.cases import together

# In-line error correction takes a sixteenth; what the driver takes besides, a part of a GiB.
MOST_LOST = 1 / 16 + 0.04


@together("name", list(hardware.DEVICES))
def test_every_device_has_rates_in_order_and_sources(name):
    device = hardware.DEVICES[name]
    assert device.half_flops >= device.tf32_flops >= device.fp32_flops > 1e12
    assert 1e11 < device.bandwidth < 1e13
    assert device.source
    assert device.memory_source
    assert hardware.find(name) is device
    assert hardware.named(name) == (name, device)
    assert hardware.peak_flops(name, "no") == device.fp32_flops
    assert hardware.peak_flops(name, "fp16") == device.half_flops
    assert hardware.peak_flops(name, "bf16") == (device.half_flops if device.bf16 else None)


@together("name", list(hardware.DEVICES))
def test_every_device_gives_less_than_is_printed_on_its_box(name):
    device = hardware.DEVICES[name]
    assert device.memory_gib in (8, 10, 11, 12, 16, 24, 32, 40, 48, 80, 94, 141, 180, 192)
    assert (1 - MOST_LOST) * device.memory_gib < device.usable_gib < device.memory_gib
    assert hardware.memory(name) == device.usable_bytes == round(device.usable_gib * GIB)
    assert device.inline_ecc == (device.usable_gib < 0.932 * device.memory_gib)


@together("name", list(hardware.DEVICES))
def test_bf16_is_of_ampere_and_newer(name):
    device = hardware.DEVICES[name]
    assert device.bf16 == (device.capability is None or device.capability >= (8, 0))
    refused = hardware.refused_precision(name, device, "bf16")
    assert (refused is None) == device.bf16
    assert hardware.refused_precision(name, device, "fp16") is hardware.refused_precision(name, device, "no") is None
    if refused is not None:
        assert refused.startswith(f"{name} (compute capability 7.")
        assert "take fp16" in refused


@pytest.mark.parametrize(
    "name",
    [
        "", "cpu", "nvidia h200", "NVIDIA", "NVIDIA L40G", "NVIDIA L400", "NVIDIA H200 NVL", "NVIDIA H200 MIG 1g.18gb",
        "NVIDIA A100-SXM4-80GB MIG 3g.40gb", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 3090 Ti", "NVIDIA A16", "Tesla T40 24GB", "AMD Instinct MI325X",
    ],
)  # fmt: skip
def test_another_device_is_not_guessed(name):
    assert hardware.find(name) is None
    assert hardware.peak_flops(name, "bf16") is None


@pytest.mark.parametrize(
    ("nickname", "name"),
    [
        ("RTX4090", "NVIDIA GeForce RTX 4090"),
        ("rtx-4090", "NVIDIA GeForce RTX 4090"),
        ("rtx 4090", "NVIDIA GeForce RTX 4090"),
        ("4090", "NVIDIA GeForce RTX 4090"),
        ("RTX 4090 24GB", "NVIDIA GeForce RTX 4090"),
        ("GeForce RTX 5090", "NVIDIA GeForce RTX 5090"),
        ("2080ti", "NVIDIA GeForce RTX 2080 Ti"),
        ("RTX3060", "NVIDIA GeForce RTX 3060"),
        ("RTX 4070", "NVIDIA GeForce RTX 4070"),
        ("A6000", "NVIDIA RTX A6000"),
        ("6000 ada", "NVIDIA RTX 6000 Ada Generation"),
        ("a40", "NVIDIA A40"),
        ("A10", "NVIDIA A10"),
        ("A10G", "NVIDIA A10G"),
        ("L4", "NVIDIA L4"),
        ("L40", "NVIDIA L40"),
        ("l40s", "NVIDIA L40S"),
        ("T4", "Tesla T4"),
        ("B200", "NVIDIA B200"),
        ("mi300x", "AMD Instinct MI300X"),
        # The slower of two forms with the same memory.
        ("A100-80GB", "NVIDIA A100 80GB PCIe"),
        ("A100 80 GB", "NVIDIA A100 80GB PCIe"),
        ("H100", "NVIDIA H100 PCIe"),
        ("H100 SXM", None),
        ("V100 32GB", "Tesla V100-PCIE-32GB"),
        ("V100-16GB", "Tesla V100-PCIE-16GB"),
        ("Apple M2 Max 64GB", "Apple M2 Max 64GB"),
        ("m1 16 GB", "Apple M1 16GB"),
    ],
)
def test_a_name_is_known_as_people_write_it(nickname, name):
    if name is None:
        with pytest.raises(SetupError, match="is not known here"):
            hardware.named(nickname)
    else:
        assert hardware.named(nickname)[0] == name


@pytest.mark.parametrize(
    ("nickname", "message"),
    [
        ("V100", "the device 'V100' could be Tesla V100-SXM2-32GB or Tesla V100-SXM2-16GB or"),
        ("A100", "the device 'A100' could be NVIDIA A100-SXM4-80GB or"),
        ("RTX 2080", "the device 'RTX 2080' is not known here. Did you mean NVIDIA GeForce RTX 2080 Ti?"),
        ("RTX 6000", "the device 'RTX 6000' is not known here. Did you mean NVIDIA RTX 6000 Ada Generation?"),
        ("RTX 4070 Ti", "the device 'RTX 4070 Ti' is not known here. Known: NVIDIA B200, "),
        ("M9 64GB", "the device 'M9 64GB' is not known here."),
        ("M2 Max", "the device 'M2 Max' is not known here."),
        ("", "the device '' is not known here."),
    ],
)
def test_another_name_is_refused(nickname, message):
    with pytest.raises(SetupError) as error:
        hardware.named(nickname)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", ["24 GB", "24GB", "24GiB", "24 gib", "24gb"])
def test_a_size_on_the_box_is_what_such_a_card_gives(size):
    assert hardware.memory(size) == hardware.memory("RTX 4090") == round(23.52 * GIB)
    less = {name: card for name, card in hardware.near(size) if card.usable_bytes < hardware.memory(size)}
    assert set(less) == {"NVIDIA L4", "NVIDIA A10", "NVIDIA A10G"}
    assert all(device.inline_ecc for device in less.values())


@pytest.mark.parametrize(
    ("size", "names", "usable"),
    [
        ("15GB", {"Tesla T4"}, 14.56), ("15 GiB", {"Tesla T4"}, 14.56), ("15360MiB", {"Tesla T4"}, 14.56),
        ("14.75 GiB", {"Tesla T4"}, 14.75), ("23GB", {"NVIDIA L4", "NVIDIA A10", "NVIDIA A10G"}, 22.03),
        ("11GB", {"NVIDIA GeForce RTX 2080 Ti"}, 10.75), ("20GB", set(), None), ("T4", set(), None),
        ("15", set(), None),
    ],
)  # fmt: skip
def test_a_size_means_the_devices_that_other_programs_show_so(size, names, usable):
    near = hardware.near(size)
    assert {name for name, _ in near} == names
    assert not near or hardware.given(size, near[0][1]) == round(usable * GIB)


def test_every_size_on_a_box_is_known():
    for device in hardware.DEVICES.values():
        cards = hardware.on_the_box(f"{device.memory_gib} GB")
        assert device in [card for _, card in cards]
        assert not cards[0][1].inline_ecc or all(card.inline_ecc for _, card in cards)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("20GiB", 20 * GIB), ("20 GB", 20 * 10**9), ("0.3GiB", round(0.3 * GIB)), ("23.64GiB", round(23.64 * GIB)),
        ("24564MiB", 24564 * 2**20), ("24576 MiB", 24 * GIB), ("1TiB", 1024 * GIB),
    ],
)  # fmt: skip
def test_another_size_is_what_it_says(text, size):
    assert hardware.memory(text) == size
    assert hardware.on_the_box(text) == []


@pytest.mark.parametrize(("size", "usable"), [(16, 16 * 2 / 3), (36, 24), (64, 48), (128, 96)])
def test_a_mac_shares_its_memory(size, usable):
    name, device = hardware.named(f"Apple M4 Max {size}GB")
    assert name == f"Apple M4 Max {size}GB"
    assert device.usable_gib == pytest.approx(usable)
    assert "shared with the system" in device.notes
    assert device_table.apple("Apple M4 Max") is None


def test_precisions():
    assert hardware.peak_flops("NVIDIA H200", "bf16") == 989e12
    assert hardware.peak_flops("NVIDIA H200", "no") == 67e12
    assert hardware.peak_flops("NVIDIA H200", "fp32") == 67e12
    assert hardware.peak_flops("NVIDIA H200", "tf32") == 494e12
    assert hardware.peak_flops("Tesla T4", "fp16") == 65e12
    assert hardware.peak_flops("Tesla T4", "bf16") is None
    assert hardware.peak_flops("NVIDIA H200", "fp8") is None
