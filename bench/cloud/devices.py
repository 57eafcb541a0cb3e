"""GPUs as the platforms name them: labels of Kubernetes nodes, accelerators of SkyPilot."""

from typing import Any

from bench.errors import SetupError
from bench.memory.verdict import Card
from bench.utils import hardware

# The name that CUDA reports -> SkyPilot's, of its catalogue (skypilot 0.14.1).
ACCELERATORS = {
    "NVIDIA B200": "B200",
    "NVIDIA H200": "H200",
    "NVIDIA H100 80GB HBM3": "H100",
    "NVIDIA H100 PCIe": "H100",
    "NVIDIA H100 NVL": "H100-NVL",
    "NVIDIA A100-SXM4-80GB": "A100-80GB",
    "NVIDIA A100 80GB PCIe": "A100-80GB",
    "NVIDIA A100-SXM4-40GB": "A100",
    "NVIDIA A100-PCIE-40GB": "A100",
    "NVIDIA L40S": "L40S",
    "NVIDIA L40": "L40",
    "NVIDIA A40": "A40",
    "NVIDIA RTX 6000 Ada Generation": "RTX6000-Ada",
    "NVIDIA RTX A6000": "RTXA6000",
    "NVIDIA L4": "L4",
    "NVIDIA A10": "A10",
    "NVIDIA A10G": "A10G",
    "NVIDIA RTX A5000": "RTXA5000",
    "NVIDIA RTX A4000": "RTXA4000",
    "NVIDIA GeForce RTX 5090": "RTX5090",
    "NVIDIA GeForce RTX 5080": "RTX5080",
    "NVIDIA GeForce RTX 4090": "RTX4090",
    "NVIDIA GeForce RTX 3090": "RTX3090",
    "NVIDIA GeForce RTX 3080": "RTX3080",
    "NVIDIA GeForce RTX 3070": "RTX3070",
    "Tesla T4": "T4",
    "Tesla V100-SXM2-32GB": "V100-32GB",
    "Tesla V100-PCIE-32GB": "V100-32GB",
    "Tesla V100-SXM2-16GB": "V100",
    "Tesla V100-PCIE-16GB": "V100",
}
# Words by which the forms of a GPU differ, whose memory is the same.
FORMS = ("pcie", "sxm", "hbm", "nvl")
# What the driver keeps of the memory that it reports: 0.39 to 0.53 GiB of the cards in `device_table` (24,564 MiB of an
# RTX 4090, 15,360 of a T4, by nvidia-smi). The label of a node has what is reported.
KEPT_MIB = 768
MIB = 2**20


def refuse_other_makers(card: Card) -> None:
    """Raise SetupError for a GPU that is not NVIDIA's: image, labels and resource names are for those."""
    if card.device is not None and card.device.capability is None:
        raise SetupError(f"--gpu {card.text}: {card.name} is no NVIDIA GPU; the files are for these alone")


def accelerators(card: Card, needed: int, *, bf16: bool) -> list[str]:
    """Return SkyPilot's names of GPUs that the run fits: the one that was named, else all that are sold in this size.

    Of a size that no GPU is sold with, all that have as much. bf16: only those with units for it.
    """
    if card.device is not None:
        return [ACCELERATORS[card.name]] if card.name in ACCELERATORS else []
    sold = hardware.on_the_box(card.text)
    known = sold or [(name, one) for name, one in hardware.DEVICES.items() if one.usable_bytes >= (card.usable or 0)]
    fitting = [name for name, one in known if one.usable_bytes >= needed and (one.bf16 or not bf16)]
    return sorted({ACCELERATORS[name] for name in fitting if name in ACCELERATORS})


def node_labels(card: Card, needed: int, *, bf16: bool) -> list[dict[str, Any]]:
    """Return what the node of a pod must have, by the labels of NVIDIA's GPU feature discovery."""
    if card.device is not None:
        products = [name.replace(" ", "-") for name in _forms(card)]
        return [{"key": "nvidia.com/gpu.product", "operator": "In", "values": products}]
    least = str(needed // MIB + KEPT_MIB)
    asked = [{"key": "nvidia.com/gpu.memory", "operator": "Gt", "values": [least]}]
    if bf16:
        before = str(hardware.BF16_CAPABILITY[0] - 1)
        asked.append({"key": "nvidia.com/gpu.compute.major", "operator": "Gt", "values": [before]})
    return asked


def _forms(card: Card) -> list[str]:
    """Return the GPUs that a name means: of "H100", which says no form, all forms with as much memory.

    The forecast is for the slowest of them; providers offer mostly another.
    """
    if any(word in card.text.lower() for word in FORMS) or card.name not in ACCELERATORS:
        return [card.name]
    asked, sold = hardware.DEVICES[card.name], ACCELERATORS[card.name]
    alike = [name for name, one in ACCELERATORS.items() if one == sold]
    return [name for name in alike if hardware.DEVICES[name].usable_bytes == asked.usable_bytes]
