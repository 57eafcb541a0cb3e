"""Devices: what memory they really give, their precisions and peak rates. An unknown device is None, never a guess."""

import os
import re

from bench.errors import SetupError
from bench.utils.device_table import DEVICES as DEVICES
from bench.utils.device_table import GIB as GIB
from bench.utils.device_table import Device as Device
from bench.utils.device_table import apple

# What people write of memory, in bytes.
UNITS = {"mb": 10**6, "mib": 2**20, "gb": 10**9, "gib": GIB, "tb": 10**12, "tib": 2**40}
# The context of CUDA, with its kernels and cuBLAS's workspace: 0.3 to 0.6 GiB by device and driver. Not counted by
# torch's allocator.
CONTEXT = GIB // 2
# cuBLAS's workspace for each thread that computes, in bytes, from Hopper (compute capability 9.0) on and before
# (torch's aten/src/ATen/cuda/CublasHandlePool.cpp, `parseChosenWorkspaceSize`). Of torch 2.13, whose allocator counts
# the larger one for 9.0, 10.0 and 12.0, the other for 7.5 to 8.9, on stub GPUs of these.
WORKSPACE_SINCE, WORKSPACE, WORKSPACE_BEFORE = (9, 0), 8 * 4096 * 1024, (2 * 4096 + 8 * 16) * 1024
# What one card gives with other drivers, over what it gives here: 0.2 to 1.2 % were published.
DRIVERS_DIFFER = 1.02
# A card's size as nvidia-smi and Colab show it, over what programs get: 15,360 MiB of a T4's 14.56 GiB, 23 GB of an
# L4's 22.03 GiB.
SHOWN_MORE, SHOWN_LESS = 1.05, 0.995
# Words of a name that say who made a device, or in what form: those that are left make it another device.
_MAKERS = {"nvidia", "geforce", "tesla", "quadro", "amd", "instinct", "generation", "rtx"}
_FORMS = {"sxm2", "sxm4", "pcie", "hbm3"}
# A number from here on that has no unit is no size.
_LEAST_MODEL = 1000
# What a GPU needs for bf16, as the compute capability that CUDA reports: Ampere (CUDA C++ programming guide,
# "Features and Technical Specifications").
BF16_CAPABILITY = (8, 0)


def cublas_workspace(capability: tuple[int, int] | None) -> int:
    """Return the bytes of cuBLAS's workspace for one thread that computes, which torch's allocator counts.

    capability: of the GPU; None for one that is not known, or not CUDA's. CUBLAS_WORKSPACE_CONFIG, where it is set,
    says other sizes, in pairs of KiB and number, as torch reads it.
    """
    pairs = re.findall(r":(\d+):(\d+)", os.environ.get("CUBLAS_WORKSPACE_CONFIG", ""))
    if pairs:
        return sum(int(size) * 1024 * int(count) for size, count in pairs)
    return WORKSPACE if capability is not None and capability >= WORKSPACE_SINCE else WORKSPACE_BEFORE


def find(name: str) -> Device | None:
    """Return the device of that name, as CUDA reports it; None for any other."""
    return DEVICES.get(name.strip())


def peak_flops(name: str, precision: str) -> float | None:
    """Return the peak FLOP/s of a device at the type of its matrix products, or None.

    precision: "bf16", "fp16", "tf32", "fp32", or "no" for float32.
    """
    device = find(name)
    if device is None or (precision == "bf16" and not device.bf16):
        return None
    rates = {"no": device.fp32_flops, "fp32": device.fp32_flops, "tf32": device.tf32_flops}
    return (rates | dict.fromkeys(("bf16", "fp16"), device.half_flops)).get(precision)


def named(nickname: str) -> tuple[str, Device]:
    """Return (whole name, device) of the one device that is meant: "A10G", "rtx 4090", "RTX4090", "A100-80GB".

    Blanks, hyphens and capitals make no difference. Of several forms with the same memory and precisions it is the
    slowest: "H100" is the one with PCIe. Of an Apple chip, whose memory is sold in many sizes, the size must be said:
    "M2 Max 64GB". Raises SetupError for none, or several that differ in memory.
    """
    squeezed = _squeezed(nickname)
    if (shared := apple(nickname)) is not None:
        return shared
    exact = [name for name in DEVICES if _squeezed(name) == squeezed]
    fitting = exact or [name for name in DEVICES if squeezed and _spelt(squeezed, _words(name))]
    near = [name for name in fitting if _left_over(squeezed, name)]
    fitting = [name for name in fitting if name not in near]
    if fitting and len({(DEVICES[name].usable_gib, DEVICES[name].bf16) for name in fitting}) == 1:
        slowest = min(fitting, key=lambda name: (DEVICES[name].half_flops, DEVICES[name].bandwidth))
        return slowest, DEVICES[slowest]
    what = f"could be {' or '.join(fitting)}; say more of its name" if fitting else "is not known here"
    meant = f" Did you mean {' or '.join(near)}?" if near else ""
    hint = "" if fitting else f".{meant} Known: {', '.join(DEVICES)}; or give its memory, as in 24GiB"
    raise SetupError(f"the device {nickname!r} {what}{hint}")


def _squeezed(name: str) -> str:
    """Return a name without blanks and hyphens; a size in GiB is one in GB."""
    return re.sub(r"[\s_-]+", "", name.lower()).replace("gib", "gb")


def _words(name: str) -> frozenset[str]:
    """Return the words of a whole name, and the size on its box, which may be said though the name has it not."""
    words = set(re.split(r"[\s-]+", name.lower()))
    return frozenset({*words, f"{DEVICES[name].memory_gib:g}gb"})


def _spelt(text: str, words: frozenset[str]) -> bool:
    """Return whether a text without blanks is some of the words, one after another, each once."""
    return not text or any(_spelt(text[len(word) :], words - {word}) for word in words if text.startswith(word))


def _left_over(squeezed: str, name: str) -> set[str]:
    """Return the words of a name that were not asked for, and make it another device, as "Ti" does."""
    own = {word for word in _words(name) if word not in _MAKERS | _FORMS and not re.fullmatch(r"\d+gb", word)}
    return {word for word in own if word not in squeezed}


def memory(text: str) -> int:
    """Return the usable bytes of a device, or of a card that is sold with such a size.

    "24 GB", "24GB" and "24GiB" are what is printed on the box: they mean what such a card really gives (`on_the_box`).
    A size that no card is sold with, or in MiB, is taken as it is written. Raises SetupError for text that is neither a
    size above zero nor a device.
    """
    size = _size(text)
    if size is None:
        return named(text)[1].usable_bytes
    if size[0] <= 0 or size[1] == 0:
        raise SetupError(f"{text!r} is not a size of memory; write a number above 0 and a unit, as in 24GiB or 12 GB")
    cards = on_the_box(text)
    return cards[0][1].usable_bytes if cards else round(size[0] * size[1])


def on_the_box(text: str) -> list[tuple[str, Device]]:
    """Return the devices that are sold with a size, as "24 GB" or "24GiB"; [] for any other size, or text.

    First the one that the size stands for: the least usable memory among those without in-line error correction. Those
    with it (as L4, A10G and T4) give a sixteenth less, and must be named for that.
    """
    size = _size(text)
    if size is None or size[1] not in (UNITS["gb"], UNITS["gib"]):
        return []
    sold = [(name, device) for name, device in DEVICES.items() if device.memory_gib == size[0]]
    return sorted(sold, key=lambda item: (item[1].inline_ecc, item[1].usable_bytes))


def near(text: str) -> list[tuple[str, Device]]:
    """Return the devices that a size may mean, in the order of `on_the_box`; [] for a size near none, or other text.

    They are sold with it; else it is nearly what they give, as other programs show it: "15 GB", "15360MiB" of a T4.
    """
    size = _size(text)
    if (cards := on_the_box(text)) or size is None or not size[1]:
        return cards
    shown = size[0] if size[1] in (UNITS["gb"], UNITS["gib"]) else size[0] * size[1] / GIB
    alike = [
        (name, device)
        for name, device in DEVICES.items()
        if SHOWN_LESS * device.usable_gib <= shown <= SHOWN_MORE * device.usable_gib
    ]
    return sorted(alike, key=lambda item: (item[1].inline_ecc, item[1].usable_bytes))


def given(text: str, device: Device) -> int:
    """Return the usable bytes of a size that is near a device: as written where its drivers may give that."""
    size = _size(text)
    if size is None or size[1] == UNITS["gb"] or on_the_box(text):
        return device.usable_bytes
    written = round(size[0] * size[1])
    return written if written <= DRIVERS_DIFFER * device.usable_bytes else device.usable_bytes


def _size(text: str) -> tuple[float, int] | None:
    """Return (number, bytes of its unit, 0 for an unknown one), or None for what does not look like a size.

    A large number without a unit is a model's, as in "4090" and "4070 Ti".
    """
    match = re.fullmatch(r"(-?\d+(?:\.\d+)?)\s*([a-z]*)", text.strip(), re.IGNORECASE)
    unit = UNITS.get(match[2].lower(), 0) if match is not None else 0
    if match is None or (not unit and float(match[1]) >= _LEAST_MODEL):
        return None
    return float(match[1]), unit


def refused_precision(name: str, device: Device, precision: str) -> str | None:
    """Return why a device can't train in a precision, in a sentence; None where it can."""
    if precision == "bf16" and not device.bf16:
        return no_bf16(name, device.capability)
    return None


def no_bf16(name: str, capability: tuple[int, int] | None) -> str:
    """Return the sentence about a GPU before Ampere that was asked for bf16."""
    return (
        f"{no_bf16_units(name, capability)}; take fp16: "
        "--config_file accelerate_configs/gpu1_fp16.yaml (several GPUs: ddp_fp16 or zero2_fp16)"
    )


def no_bf16_units(name: str, capability: tuple[int, int] | None) -> str:
    """Return why a GPU before Ampere does not take bf16, as a sentence's part."""
    which = f" (compute capability {capability[0]}.{capability[1]})" if capability is not None else ""
    return f"{name}{which} has no units for bf16, which need compute capability 8.0 (Ampere) or newer"
