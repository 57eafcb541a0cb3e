"""Memory settings of a process: glibc's heap, CUDA's allocator, Python's garbage collector."""

import contextlib
import ctypes
import gc
import os
from collections.abc import Callable, Iterator

# glibc's mallopt(3), <malloc.h>: from which size blocks are mapped on their own, and how much free memory the heap
# may end with before it is trimmed.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_INT = 2**31 - 1
# Where torch reads the settings of CUDA's allocator, the first that is set (c10/cuda/CUDAAllocatorConfig.h).
CUDA_SETTINGS = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
EXPANDABLE = "expandable_segments:True"


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees. Returns False where the C library is not glibc.

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
def imports_without_collection() -> Iterator[None]:
    """Inside, import libraries without garbage collection; afterwards, hide them from the collector.

    All that imports make stays, half a million objects. Measured on the imports of a run: 3.0 s in place of 3.9 s, and
    0.24 s less for each full collection later, of which the Trainer alone asks for one. Once a process, since later
    runs leave garbage of their own.
    """
    if gc.get_freeze_count():
        yield
        return
    with no_collection():
        yield
        gc.freeze()


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Inside, switch garbage collection off: while many small objects are made that all stay, it takes a third."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def set_cuda_allocator(*, expandable_segments: bool) -> None:
    """Let CUDA's allocator grow the segments that it has, if asked to. To be called before torch is imported.

    Otherwise batches of ever other lengths leave free pieces of sizes that nothing asks for again. Settings that a
    person has put into the environment stay as they are.
    """
    if expandable_segments and not any(name in os.environ for name in CUDA_SETTINGS):
        os.environ[CUDA_SETTINGS[0]] = EXPANDABLE


def allocator_in_force(
    device: str, *, keep_memory: bool, searches_batch_size: bool, note: Callable[[str], None]
) -> dict[str, bool]:
    """Set the allocator of a kind of device, and return its settings that are in force, named as in `speed`.

    keep_memory: on a CPU, whether to keep freed memory, if no batch size is searched for. note: told what is not used.
    """
    if device == "cpu":
        if keep_memory and searches_batch_size:
            # What is freed lies in pieces between other things, by chance: a peak may double, and differs run by run.
            note("speed.keep_memory is not used with training.per_device_batch: auto: what is kept takes memory too")
            return {}
        return {"keep_memory": keep_freed_memory()} if keep_memory else {}
    import torch

    settings = torch.cuda.memory._snapshot()["allocator_settings"]
    return {"expandable_segments": bool(settings.get("expandable_segments", False))}
