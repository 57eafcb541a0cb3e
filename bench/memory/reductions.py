"""Bytes that a sum takes on CUDA while it runs, beside its input and output: torch's `ATen/native/cuda/Reduce.cuh`.

    workspace(torch.ops.aten.sum.dim_IntList, (gradients, [0], True), out)

A sum of many rows, such as the gradient of a bias over all tokens, is computed in parts by several blocks of threads,
which put what they found into a buffer of the device's memory: tens of MiB for a few numbers.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch

# Of a block; values of one thread, between which inputs are divided over blocks (`setReduceConfig`).
MOST_THREADS, WARP, FEWEST_VALUES, MOST_VALUES = 512, 32, 16, 256
# Multiprocessors of a device and threads of each, which bound the number of blocks: of an A100. Others have less.
PROCESSORS, THREADS = 108, 2048
# What a sum in 16 bits is added up in, too.
ELEMENT_BYTES = 4
SUMS = (torch.ops.aten.sum.dim_IntList, torch.ops.aten.mean.dim)


def workspace(operation: Any, args: Sequence[Any], out: Any) -> int:
    """Return the bytes of an operation's buffer; 0 for one that needs none, and for a sum over the last dimension.

    That divides few inputs of many outputs, or gives one number: a buffer of some KiB at most.
    """
    if operation not in SUMS or not isinstance(out, torch.Tensor) or not out.numel():
        return 0
    given = args[0]
    summed = {axis % given.ndim for axis in args[1] or range(given.ndim)} if given.ndim else set()
    if not summed or given.ndim - 1 in summed or not given.is_contiguous():
        return 0
    return column_sums(given.numel() // out.numel(), out.numel(), given.shape[-1])


def column_sums(inputs: int, outputs: int, width: int) -> int:
    """Return the buffer's bytes of so many sums of so many numbers each. width: numbers of a row, side by side.

    `setReduceConfig` and `ReduceConfig::global_memory_size`, for numbers that lie at an address that 16 divides.
    """
    vector = next(size for size in (4, 2, 1) if width % size == 0)
    most = MOST_THREADS // vector
    across, along = (min(most, 2 ** (number.bit_length() - 1)) for number in (max(1, outputs // vector), inputs))
    columns = min(across, WARP)
    rows = min(along, most // columns)
    columns = min(across, most // rows)
    if inputs < min(rows * FEWEST_VALUES, MOST_VALUES):
        return 0
    values = math.ceil(inputs / rows)
    grid = math.ceil(outputs // vector / columns)
    target = PROCESSORS * (THREADS // (columns * rows))
    if values < MOST_VALUES or grid > target:
        return 0
    blocks = min(math.ceil(target / grid), math.ceil(values / FEWEST_VALUES))
    blocks = max(blocks, math.ceil(values / MOST_VALUES))
    return ELEMENT_BYTES * outputs * blocks * columns * vector if blocks > 1 else 0
