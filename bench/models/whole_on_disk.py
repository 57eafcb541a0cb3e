"""A model of which each process holds its shards, written by one process that never holds it whole.

    with mapped(model, scratch) as bytes_per_file:     # every process
        if is_main_process: model.save_pretrained(folder, max_shard_size=bytes_per_file)

Parameters are gathered one after another; rank zero appends each to a scratch file, and then maps them from there: what
transformers and peft write is read from the disk piece by piece, by their own code and in their own layout.
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import PartialState
from torch import nn

from bench.models import shards

# Bytes of a file of weights at least: less would give a large model too many of them.
SMALLEST_FILE = 2**25
# Files that each process's share of the weights makes. A file is put together in memory before it is written.
FILES_OF_A_SHARE = 8


def bytes_per_file(model: nn.Module) -> int:
    """Return the size of the files that a model's weights are written in."""
    total = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return max(SMALLEST_FILE, total // (FILES_OF_A_SHARE * PartialState().num_processes))


@contextlib.contextmanager
def mapped(model: nn.Module, scratch: Path) -> Iterator[int]:
    """Let rank zero read a model's whole parameters from files, inside; every process must enter. Changes are lost.

    scratch: a folder that is made and removed again. Gives the size of files to write. Nothing is done where each
    process holds the whole model.
    """
    held = [parameter for parameter in model.parameters() if shards.of(parameter) is not None]
    writes = bool(held) and PartialState().is_main_process
    try:
        if writes:
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
        for number, parameter in enumerate(held):
            values = shards.gathered(parameter)
            if writes:
                parameter.data = _mapped(values, scratch / f"{number}.bin")
            del values
        yield bytes_per_file(model)
    finally:
        for parameter in held:
            shards.empty(parameter)
        if writes:
            shutil.rmtree(scratch, ignore_errors=True)


def _mapped(values: torch.Tensor, path: Path) -> torch.Tensor:
    """Return values as they lie in a file, which is written."""
    size, shape, dtype = values.numel(), values.shape, values.dtype
    with path.open("wb") as file:
        file.write(memoryview(values.contiguous().cpu().flatten().view(torch.uint8).numpy()))
    return torch.from_file(str(path), shared=False, size=size, dtype=dtype).view(shape)
