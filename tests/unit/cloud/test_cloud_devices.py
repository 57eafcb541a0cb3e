"""GPUs in Kubernetes' labels: a short name means every form that is sold under it with as much memory."""

import pytest

from bench.cloud import devices
from bench.memory.verdict import asked_card


@pytest.mark.parametrize(
    ("text", "products"),
    [
        ("H100", ["NVIDIA-H100-80GB-HBM3", "NVIDIA-H100-PCIe"]),
        ("H100 PCIe", ["NVIDIA-H100-PCIe"]),
        ("NVIDIA H100 80GB HBM3", ["NVIDIA-H100-80GB-HBM3"]),
        ("A100-80GB", ["NVIDIA-A100-SXM4-80GB", "NVIDIA-A100-80GB-PCIe"]),
        ("A100-40GB", ["NVIDIA-A100-SXM4-40GB", "NVIDIA-A100-PCIE-40GB"]),
        ("A100-SXM4-80GB", ["NVIDIA-A100-SXM4-80GB"]),
        ("V100 32GB", ["Tesla-V100-SXM2-32GB", "Tesla-V100-PCIE-32GB"]),
        ("A10", ["NVIDIA-A10"]),
        ("RTX3060", ["NVIDIA-GeForce-RTX-3060"]),
    ],
)
def test_a_short_name_means_all_forms_of_a_gpu(text, products):
    (label,) = devices.node_labels(asked_card(text), 2**30, bf16=False)
    assert (label["key"], label["operator"]) == ("nvidia.com/gpu.product", "In")
    assert sorted(label["values"]) == sorted(products)
