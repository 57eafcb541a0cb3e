"""What is done with memory: by the C library with what is freed, by CUDA with its segments, by Python with objects."""

import contextlib
import ctypes
import gc
import os
from collections.abc import Callable, Iterator
from typing import Any

# glibc's mallopt(3), <malloc.h>: from which size blocks are mapped on their own, and how much free memory the heap
# may end with before it is trimmed.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_INT = 2**31 - 1
# Where torch reads the settings of CUDA's allocator, the first that is set (c10/cuda/CUDAAllocatorConfig.h).
CUDA_SETTINGS = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
EXPANDABLE = "expandable_segments:True"


def keep_freed_memory() -> bool:
    """Lets this process keep what it frees; False where the C library is another one than glibc.

    By default each large tensor is mapped and unmapped anew, and every page of it is cleared by the kernel at first
    use: an eighth of a small model's training step on a CPU, and up to half of a tiny one's. What the process was seen
    to hold (resident memory) then never falls.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # no such function; no way to look into the process
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_INT) and mallopt(M_TRIM_THRESHOLD, LARGEST_INT))


@contextlib.contextmanager
def libraries_apart() -> Iterator[None]:
    """Inside, libraries are imported without garbage collection, and afterwards they are out of the collector's sight.

    A fifth of the imports' time would go into looking for garbage among what stays. Half a million objects do: each
    full collection would look through them, a third of a second, and the Trainer alone asks for one. Once a process,
    since later runs leave garbage of their own.
    """
    if gc.get_freeze_count():
        yield
        return
    with no_collection():
        yield
        gc.freeze()


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Inside, nobody looks for garbage: of many small objects that all stay, that is a third of the time."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def prepare(speed: Any) -> None:
    """Lets CUDA's allocator grow the segments that it has, where the recipe's `speed` says so.

    To be called before torch is imported. Otherwise batches of ever other lengths leave free pieces of sizes that
    nothing asks for again. Settings that a person has put into the environment stay as they are.
    """
    if speed.expandable_segments and not any(name in os.environ for name in CUDA_SETTINGS):
        os.environ[CUDA_SETTINGS[0]] = EXPANDABLE


def in_force(recipe: Any, device: str, note: Callable[[str], None]) -> dict[str, bool]:
    """What is so from now on, by its key in `speed`; what CUDA's allocator does, it says itself. device: its kind."""
    if device == "cpu":
        if recipe.speed.keep_memory and recipe.training.per_device_batch == "auto":
            # What is freed lies in pieces between other things, by chance: a peak may double, and differs run by run.
            note("speed.keep_memory is not used with training.per_device_batch: auto: what is kept takes memory too")
            return {}
        return {"keep_memory": keep_freed_memory()} if recipe.speed.keep_memory else {}
    import torch

    settings = torch.cuda.memory._snapshot()["allocator_settings"]
    return {"expandable_segments": bool(settings.get("expandable_segments", False))}
