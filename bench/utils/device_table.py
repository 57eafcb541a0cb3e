"""The table of devices: peak rates and bandwidths from the makers' data sheets, usable memory as programs reported it.

A card of 24 GB has 24 GiB of chips, of which the driver keeps some, and in-line error correction a sixteenth. What is
left is what torch calls the "total capacity" of a GPU; each row has the least that was published, and where.
"""

import re
from dataclasses import dataclass, replace

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Device:
    """Dense peak rates in FLOP/s (`half`: bf16 or fp16, accumulated in fp32), bandwidth in bytes/s, memory as sold.

    usable_gib: what is left for programs. inline_ecc: whether error correction is kept in its memory. capability: as
    CUDA reports it; None for a device that is not CUDA's. bf16: whether it has units for bf16.
    source: of the rates. memory_source: of usable_gib. notes: what a plan should say of it.
    """

    half_flops: float
    tf32_flops: float
    fp32_flops: float
    bandwidth: float
    memory_gib: float
    usable_gib: float
    source: str
    memory_source: str
    capability: tuple[int, int] | None
    bf16: bool = True
    inline_ecc: bool = False
    notes: str = ""

    @property
    def usable_bytes(self) -> int:
        """Return the memory that is left for programs."""
        return round(self.usable_gib * GIB)


def _card(
    tera: tuple[float, float, float],
    gb_per_s: float,
    memory_gib: tuple[float, float],
    capability: tuple[int, int] | None,
    source: str,
    memory_source: str,
    *,
    inline_ecc: bool = False,
) -> Device:
    """Return a row. tera: dense TFLOP/s of 16 bits, TF32 and float32. memory_gib: as sold, and usable."""
    half, tf32, fp32 = (rate * 1e12 for rate in tera)
    return Device(
        half_flops=half,
        tf32_flops=tf32,
        fp32_flops=fp32,
        bandwidth=gb_per_s * 1e9,
        memory_gib=memory_gib[0],
        usable_gib=memory_gib[1],
        capability=capability,
        # Units for bf16 came with Ampere; AMD's CDNA has them, too.
        bf16=capability is None or capability >= (8, 0),
        source=source,
        memory_source=memory_source,
        inline_ecc=inline_ecc,
    )


def _seen(where: str) -> str:
    return f"total capacity in a message of torch, {where}"


# Messages in public repositories that name the card, without an issue of their own.
_LOGS = _seen("public logs with drivers of 2025 and 2026")
_ADA = "NVIDIA Ada GPU architecture whitepaper, 2022"
_GA102 = "NVIDIA Ampere GA102 GPU architecture whitepaper, 2020"
_BLACKWELL = "NVIDIA RTX Blackwell GPU architecture whitepaper, 2025"
_80 = _seen("vllm-project/vllm#27508 (H100), levihsu/OOTDiffusion#235 (A100: 79.25)")

# By the whole name that CUDA reports: an L40S is no L4, and a laptop's RTX 4090, a MIG slice or an H200 NVL has other
# rates than the device whose name theirs begins with.
DEVICES = {
    "NVIDIA B200": _card(
        (2250, 1100, 75), 7672, (180, 178.35), (10, 0), "NVIDIA HGX B200 data sheet, 2024 (dense, an eighth of a node)",
        "pytorch/ao#4002 (178.35 GiB, and the bandwidth of 7,672 GB/s)",
    ),
    "NVIDIA H200": _card(
        (989, 494, 67), 4800, (141, 139.72), (9, 0), "NVIDIA H200 data sheet, 2023", _LOGS,
    ),
    "NVIDIA H100 80GB HBM3": _card(
        (989, 494, 67), 3350, (80, 79.1), (9, 0), "NVIDIA H100 data sheet (SXM), 2023", _80,
    ),
    "NVIDIA H100 PCIe": _card(
        (756, 378, 51), 2000, (80, 79.1), (9, 0), "NVIDIA H100 data sheet (PCIe), 2023", _80,
    ),
    "NVIDIA H100 NVL": _card(
        (835, 417, 60), 3900, (94, 93.0), (9, 0), "NVIDIA H100 data sheet (NVL), 2024", _seen("ali-vilab/VACE#56"),
    ),
    "NVIDIA A100-SXM4-80GB": _card(
        (312, 156, 19.5), 2039, (80, 79.1), (8, 0), "NVIDIA A100 data sheet, 2021", _80,
    ),
    "NVIDIA A100 80GB PCIe": _card(
        (312, 156, 19.5), 1935, (80, 79.1), (8, 0), "NVIDIA A100 data sheet, 2021", _80,
    ),
    "NVIDIA A100-SXM4-40GB": _card(
        (312, 156, 19.5), 1555, (40, 39.38), (8, 0), "NVIDIA A100 data sheet, 2021", _LOGS,
    ),
    "NVIDIA A100-PCIE-40GB": _card(
        (312, 156, 19.5), 1555, (40, 39.38), (8, 0), "NVIDIA A100 data sheet, 2021", _LOGS,
    ),
    "NVIDIA L40S": _card(
        (362.05, 183, 91.6), 864, (48, 44.39), (8, 9), "NVIDIA L40S data sheet, 2023 (dense: half of sparse)",
        _seen("stepfun-ai/Step-Video-T2V#8 (44.42); 44.39 on other drivers"), inline_ecc=True,
    ),
    "NVIDIA L40": _card(
        (181.05, 90.5, 90.5), 864, (48, 44.39), (8, 9), "NVIDIA L40 data sheet, 2022", _seen("QwenLM/Qwen3-VL#2097"),
        inline_ecc=True,
    ),
    "NVIDIA A40": _card(
        (149.7, 74.8, 37.4), 696, (48, 44.39), (8, 6), "NVIDIA A40 data sheet, 2021",
        "46,068 MiB by nvidia-smi, as the L40S", inline_ecc=True,
    ),
    "NVIDIA RTX 6000 Ada Generation": _card(
        (364.2, 182.1, 91.1), 960, (48, 44.43), (8, 9), "NVIDIA RTX 6000 Ada data sheet, 2023",
        _seen("DINGYANB/MTVCrafter#21, with error correction on"), inline_ecc=True,
    ),
    "NVIDIA RTX A6000": _card(
        (154.8, 77.4, 38.7), 768, (48, 47.4), (8, 6), "NVIDIA RTX A6000 data sheet, 2021", _LOGS,
    ),
    "Quadro RTX 8000": _card(
        (130.5, 16.3, 16.3), 672, (48, 47.45), (7, 5), "NVIDIA Turing GPU architecture whitepaper, 2018",
        _seen("SkyworkAI/SkyReels-V1#78"),
    ),
    "NVIDIA L4": _card(
        (121, 60, 30.3), 300, (24, 22.03), (8, 9), "NVIDIA L4 data sheet, 2023 (dense: half of the sparse figures)",
        _LOGS, inline_ecc=True,
    ),
    "NVIDIA A10": _card(
        (125, 62.5, 31.2), 600, (24, 22.05), (8, 6), "NVIDIA A10 data sheet, 2021", _LOGS, inline_ecc=True,
    ),
    "NVIDIA A10G": _card(
        (70, 35, 35), 600, (24, 22.05), (8, 6), "AWS EC2 G5 / NVIDIA A10G product brief, 2021", _LOGS, inline_ecc=True,
    ),
    "NVIDIA RTX A5000": _card(
        (111.1, 55.6, 27.8), 768, (24, 23.56), (8, 6), "NVIDIA RTX A5000 data sheet, 2021", _LOGS,
    ),
    "NVIDIA RTX A4000": _card(
        (76.7, 38.3, 19.2), 448, (16, 15.61), (8, 6), "NVIDIA RTX A4000 data sheet, 2021",
        _seen("DengKaiCQ/VGGT-Long#6"),
    ),
    "NVIDIA GeForce RTX 5090": _card(
        (209.5, 104.8, 104.8), 1792, (32, 31.36), (12, 0), _BLACKWELL, _seen("TrajectoryCrafter/TrajectoryCrafter#20"),
    ),
    "NVIDIA GeForce RTX 5080": _card((112.6, 56.3, 56.3), 960, (16, 15.48), (12, 0), _BLACKWELL, _LOGS),
    "NVIDIA GeForce RTX 4090": _card(
        (165.2, 82.6, 82.6), 1008, (24, 23.52), (8, 9), _ADA,
        _seen("Soul-AILab/SoulX-FlashTalk#5; 23.64 with older drivers, ali-vilab/VGen#104"),
    ),
    "NVIDIA GeForce RTX 4070": _card((58.3, 29.1, 29.1), 504, (12, 11.56), (8, 9), _ADA, _LOGS),
    "NVIDIA GeForce RTX 3090": _card((71, 35.6, 35.6), 936, (24, 23.56), (8, 6), _GA102, _LOGS),
    "NVIDIA GeForce RTX 3080": _card(
        (59.5, 29.8, 29.8), 760, (10, 9.64), (8, 6), _GA102, _seen("public logs; 9.78 in 2023, zai-org/CogVideo#34"),
    ),
    "NVIDIA GeForce RTX 3070": _card(
        (40.6, 20.3, 20.3), 448, (8, 7.76), (8, 6), _GA102, _seen("sshan-zhao/GASDA#19"),
    ),
    "NVIDIA GeForce RTX 3060": _card(
        (25.4, 12.7, 12.7), 360, (12, 11.63), (8, 6), "NVIDIA GeForce RTX 3060 specifications, 2021 (rates by GA102's)",
        _LOGS,
    ),
    "NVIDIA GeForce RTX 2080 Ti": _card(
        (53.8, 13.4, 13.4), 616, (11, 10.75), (7, 5), "NVIDIA Turing GPU architecture whitepaper, 2018",
        _seen("JDAI-CV/image-captioning#11 (10.76)"),
    ),
    "Tesla T4": _card(
        (65, 8.1, 8.1), 320, (16, 14.56), (7, 5), "NVIDIA T4 data sheet, 2019 (65e12 is fp16; T4 has no bf16 units)",
        _seen("public logs; 14.74 with older drivers"), inline_ecc=True,
    ),
    "Tesla V100-SXM2-32GB": _card(
        (125, 15.7, 15.7), 900, (32, 31.73), (7, 0), "NVIDIA V100 data sheet, 2020",
        _seen("haotian-liu/LLaVA#812 (31.74)"),
    ),
    "Tesla V100-SXM2-16GB": _card(
        (125, 15.7, 15.7), 900, (16, 15.75), (7, 0), "NVIDIA V100 data sheet, 2020",
        _seen("Morizeyao/GPT2-Chinese#215"),
    ),
    "Tesla V100-PCIE-32GB": _card(
        (112, 14, 14), 900, (32, 31.73), (7, 0), "NVIDIA V100 data sheet, 2020",
        _seen("liucongg/ChatGLM-Finetuning#73"),
    ),
    "Tesla V100-PCIE-16GB": _card(
        (112, 14, 14), 900, (16, 15.75), (7, 0), "NVIDIA V100 data sheet, 2020", _seen("Morizeyao/GPT2-Chinese#215"),
    ),
    "AMD Instinct MI300X": _card(
        (1307.4, 653.7, 163.4), 5300, (192, 191.69), None, "AMD Instinct MI300X data sheet, 2023",
        "total capacity in a message of torch for ROCm, public logs; 191.98 in AMD's documentation",
    ),
}  # fmt: skip

# What Metal lets a program take of a Mac's memory, recommendedMaxWorkingSetSize: two thirds, and three quarters of more
# than 36 GB (ggml-org/llama.cpp#2011: 21,845 MB of 32 GB; #1870: 49,152 MiB of 64 GB).
_SHARED_UP_TO, _SHARED, _SHARED_OF_MORE = 36, 2 / 3, 3 / 4
# TFLOP/s of float32 and GB/s, from Apple's press releases; later chips have none published.
_APPLE = {
    "m1": (2.6, 68), "m1 pro": (5.2, 200), "m1 max": (10.4, 400), "m1 ultra": (21, 800),
    "m2": (3.6, 100), "m2 pro": (6.8, 200), "m2 max": (13.6, 400), "m2 ultra": (27.2, 800),
    "m3": (0, 100), "m3 pro": (0, 150), "m3 max": (0, 400), "m3 ultra": (0, 800),
    "m4": (0, 120), "m4 pro": (0, 273), "m4 max": (0, 546),
}  # fmt: skip


def apple(text: str) -> tuple[str, Device] | None:
    """Return (name, device) of an Apple chip with a size, as in "Apple M2 Max 64GB"; None for any other text."""
    found = re.fullmatch(r"(?:apple\s*)?(m[1-4])[\s-]*(pro|max|ultra)?[\s,-]*(\d+)\s*(?:gb|gib)", text.strip().lower())
    chip = " ".join(filter(None, found.group(1, 2))) if found else ""
    if found is None or chip not in _APPLE:
        return None
    size, (tera, gb_per_s) = int(found[3]), _APPLE[chip]
    row = _card(
        (tera, tera, tera), gb_per_s, (size, size * (_SHARED if size <= _SHARED_UP_TO else _SHARED_OF_MORE)), None,
        "Apple's press release of the chip", "Metal's recommendedMaxWorkingSetSize, ggml-org/llama.cpp#1870 and #2011",
    )  # fmt: skip
    note = "memory is shared with the system; runs of this harness are on a Mac's CPU, which has all of it"
    return f"Apple {chip.title()} {size}GB", replace(row, notes=note)
