"""Lets the cases of scripts/gpu_check take their paths on a stub GPU, whose kernels compute nothing."""

from typing import TYPE_CHECKING

from bench.utils import cuda

if TYPE_CHECKING:
    import torch

# In the name of such a device.
STUB = "(stub GPU)"


def prepare(device: "torch.device") -> None:
    """Heed no comparison of numbers by which a path would be left, where the device is a stub; else do nothing."""
    if device.type == "cuda" and STUB in cuda.name(device):
        from scripts import stub_gpu_branches

        stub_gpu_branches.ignore_numbers()
