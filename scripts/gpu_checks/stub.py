"""Lets the cases of scripts/gpu_check take their paths on a stub GPU, whose kernels compute nothing."""

from typing import TYPE_CHECKING

from bench.utils import cuda

if TYPE_CHECKING:
    import torch

# In the name of such a device.
STUB = "(stub GPU)"


_compares = [True]


def prepare(device: "torch.device") -> None:
    """Heed no comparison of numbers, where the device is a stub; else do nothing."""
    if device.type == "cuda" and STUB in cuda.name(device):
        from scripts import stub_gpu_branches

        stub_gpu_branches.ignore_numbers()
        _compares[0] = False


def holds(good: bool) -> bool:
    """Return whether a comparison of numbers came out well; on a stub none is made, and nothing fails by it."""
    return good or not _compares[0]


def word(good: bool) -> str:
    """Return the outcome of a comparison, for a table."""
    return ("same" if good else "differs") if _compares[0] else "ran; not compared"
