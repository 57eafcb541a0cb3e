"""Peak arithmetic rates of devices, from the makers' data sheets. An unknown device is None, never a guess."""

import re
from dataclasses import dataclass

from bench.errors import SetupError

GIB = 2**30
# What people write of memory, in bytes. A card that is sold with 24 GB has about 24 GiB, less what the driver takes.
UNITS = {"mb": 10**6, "mib": 2**20, "gb": 10**9, "gib": GIB, "tb": 10**12, "tib": 2**40}
# In-line error correction keeps a sixteenth of GDDR memory; HBM has room of its own for it.
ECC_SHARE = 1 / 16
# The context of CUDA, with its kernels and cuBLAS's workspace: 0.3 to 0.6 GiB by device and driver. Not counted by
# torch's allocator.
CONTEXT = GIB // 2


@dataclass(frozen=True, kw_only=True)
class Device:
    """Dense peak rates in FLOP/s (`half`: bf16 or fp16, accumulated in fp32), bandwidth in bytes/s, memory as sold.

    bf16: whether the device has units for bf16 too. inline_ecc: whether error correction is kept in its memory.
    """

    half_flops: float
    tf32_flops: float
    fp32_flops: float
    bandwidth: float
    memory_gib: float
    source: str
    bf16: bool = True
    inline_ecc: bool = False

    @property
    def usable_bytes(self) -> int:
        """Return the memory that is left for programs."""
        return round(self.memory_gib * GIB * (1 - ECC_SHARE * self.inline_ecc))


# By the whole name that CUDA reports: an L40S is no L4, and a laptop's RTX 4090, a MIG slice or an H200 NVL has other
# rates than the device whose name theirs begins with.
DEVICES = {
    "NVIDIA H200": Device(
        half_flops=989e12,
        tf32_flops=494e12,
        fp32_flops=67e12,
        bandwidth=4.8e12,
        memory_gib=141,
        source="NVIDIA H200 data sheet, 2023",
    ),
    "NVIDIA H100 80GB HBM3": Device(
        half_flops=989e12,
        tf32_flops=494e12,
        fp32_flops=67e12,
        bandwidth=3.35e12,
        memory_gib=80,
        source="NVIDIA H100 data sheet (SXM), 2023",
    ),
    "NVIDIA H100 PCIe": Device(
        half_flops=756e12,
        tf32_flops=378e12,
        fp32_flops=51e12,
        bandwidth=2.0e12,
        memory_gib=80,
        source="NVIDIA H100 data sheet (PCIe), 2023",
    ),
    "NVIDIA A100-SXM4-80GB": Device(
        half_flops=312e12,
        tf32_flops=156e12,
        fp32_flops=19.5e12,
        bandwidth=2.039e12,
        memory_gib=80,
        source="NVIDIA A100 data sheet, 2021",
    ),
    "NVIDIA A100-SXM4-40GB": Device(
        half_flops=312e12,
        tf32_flops=156e12,
        fp32_flops=19.5e12,
        bandwidth=1.555e12,
        memory_gib=40,
        source="NVIDIA A100 data sheet, 2021",
    ),
    "NVIDIA L4": Device(
        half_flops=121e12,
        tf32_flops=60e12,
        fp32_flops=30.3e12,
        bandwidth=300e9,
        memory_gib=24,
        source="NVIDIA L4 data sheet, 2023 (dense: half of the sparse figures)",
        inline_ecc=True,
    ),
    "NVIDIA A10G": Device(
        half_flops=70e12,
        tf32_flops=35e12,
        fp32_flops=35e12,
        bandwidth=600e9,
        memory_gib=24,
        source="AWS EC2 G5 / NVIDIA A10G product brief, 2021",
        inline_ecc=True,
    ),
    "NVIDIA GeForce RTX 4090": Device(
        half_flops=165.2e12,
        tf32_flops=82.6e12,
        fp32_flops=82.6e12,
        bandwidth=1.008e12,
        memory_gib=24,
        source="NVIDIA Ada GPU architecture whitepaper, 2022",
    ),
    "NVIDIA GeForce RTX 3090": Device(
        half_flops=71e12,
        tf32_flops=35.6e12,
        fp32_flops=35.6e12,
        bandwidth=936e9,
        memory_gib=24,
        source="NVIDIA GA102 whitepaper, 2020",
    ),
    "Tesla T4": Device(
        half_flops=65e12,
        tf32_flops=8.1e12,
        fp32_flops=8.1e12,
        bandwidth=320e9,
        memory_gib=16,
        source="NVIDIA T4 data sheet, 2019 (65e12 is fp16; T4 has no bf16 units)",
        inline_ecc=True,
        bf16=False,
    ),
}


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
    """Return (whole name, device) of the one device whose name has these words: "A10G", "rtx 4090", "A100 40GB".

    Raises SetupError for none, or several.
    """
    wanted = _words(nickname)
    fitting = [name for name in DEVICES if wanted and wanted <= _words(name)]
    if len(fitting) == 1:
        return fitting[0], DEVICES[fitting[0]]
    what = f"could be {' or '.join(fitting)}; say more of its name" if fitting else "is not known here"
    hint = "" if fitting else f". Known: {', '.join(DEVICES)}; or give its memory, as in 24GiB"
    raise SetupError(f"the device {nickname!r} {what}{hint}")


def _words(name: str) -> set[str]:
    return set(re.split(r"[\s-]+", name.strip().lower())) - {""}


def memory(text: str) -> int:
    """Return the bytes of a size such as "12GiB" or "24 GB", or the usable bytes of a device.

    Raises SetupError for text that is neither a size above zero nor a device.
    """
    match = re.fullmatch(r"(-?\d+(?:\.\d+)?)\s*([a-z]*)", text.strip(), re.IGNORECASE)
    if match is None or any(_words(text) <= _words(name) for name in DEVICES):
        return named(text)[1].usable_bytes
    size = round(float(match[1]) * UNITS.get(match[2].lower(), 0))
    if size <= 0:
        raise SetupError(f"{text!r} is not a size of memory; write a number above 0 and a unit, as in 24GiB or 12 GB")
    return size
