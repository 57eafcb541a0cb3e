"""Describes how a process ran out of memory, for its record and the terminal.

Loads no torch by itself; where a run has loaded it, its allocator is asked.
"""

import contextlib
import dataclasses
import os
import socket
import sys
from typing import TYPE_CHECKING, Any

from bench.memory.limits import MemoryBaseline, limits
from bench.records.failures import GENERAL_ADVICE, METRICS_ADVICE, Failure, sizes_in
from bench.records.record import OutOfMemory
from bench.utils.hardware import CONTEXT, GIB
from bench.utils.numbers import format_bytes

if TYPE_CHECKING:  # they load torch
    from bench.runner.context import RunContext
    from bench.training.state import Progress

# Phases in which a split is scored: their memory hangs on the batches of scoring, not on those of training.
SCORING = ("score_before", "score_after", "validate", "check")


def add_shortage(failure: Failure, error: BaseException, run: "RunContext") -> Failure:
    """Return a failure with what its process knows of it, if it ran out of memory; any other as it is."""
    if failure.status != "oom":
        return failure
    try:
        shortage = describe(error, failure.phase, progress=run.progress, baseline=run.memory_baseline)
    except Exception:  # even this may need more memory than there is; the failure itself must be told
        shortage = {"phase": failure.phase}
    if run.watchdog is not None:
        shortage |= {"rank": failure.rank, "host": socket.gethostname()}
    return dataclasses.replace(failure, shortage=shortage)


def describe(
    error: BaseException, phase: str, *, progress: "Progress | None" = None, baseline: MemoryBaseline | None = None
) -> dict[str, Any]:
    """Return fields of OutOfMemory, of this process and as of now: to be asked before anything is given back.

    progress: of the training that was going on, if any.
    """
    fields: dict[str, Any] = {"phase": phase}
    # Without a batch it was still being set up.
    if progress is not None and phase == "train" and progress.steps.in_hand is not None:
        fields["step"] = progress.step + 1
        fields["rows"], fields["length"] = progress.steps.in_hand
    sizes = sizes_in(str(error))
    fields["asked_bytes"] = sizes.get("asked")
    if not sizes:
        fields["text"] = next(iter(str(error).strip().splitlines()), None)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized() and _is_of_gpu(error):
        return fields | _of_gpu(torch, sizes)
    limit = next(iter(limits()), None)
    if limit is None:
        return fields
    used = baseline.used.get(limit.name) if baseline is not None else None
    return fields | {
        "limit": limit.name,
        "capacity_bytes": limit.capacity,
        "allocated_bytes": limit.used,
        "before_bytes": used,
        "sharers": int(os.environ.get("LOCAL_WORLD_SIZE") or 1) if limit.shared else 1,
    }


def _is_of_gpu(error: BaseException) -> bool:
    text = str(error).lower()
    words = ("cuda", "hip", "cublas", "cudnn")
    named = type(error).__name__ == "OutOfMemoryError" or any(word in text for word in words)
    return named and not isinstance(error, MemoryError) and "defaultcpuallocator" not in text


def _of_gpu(torch: Any, sizes: dict[str, int]) -> dict[str, Any]:
    name = total = allocated = None
    with contextlib.suppress(RuntimeError):  # a device that has failed may not even answer this
        name, total = torch.cuda.get_device_name(), torch.cuda.mem_get_info()[1]
        allocated = torch.cuda.memory_allocated()
    return of_gpu(sizes, name, total, allocated)


def of_gpu(sizes: dict[str, int], name: str | None, total: int | None, allocated: int | None) -> dict[str, Any]:
    """Return fields of OutOfMemory of a GPU: what the error says (see `sizes_in`), else what the device says now.

    What torch is allowed is less than all that a process takes, by CUDA's own context.
    """
    fields: dict[str, Any] = {
        "memory": "gpu",
        "device": name,
        "limit": "memory of the GPU",
        "capacity_bytes": sizes.get("capacity", total),
        "allocated_bytes": sizes.get("allocated", allocated),
    }
    if "allowed" in sizes:
        fields["capacity_bytes"] = sizes["allowed"] + CONTEXT
        fields["limit"] = "share of the GPU that this process may take"
        fields["device"] = None if name is None else f"{name}, held to this size"
    elif {"capacity", "free", "process"} <= set(sizes):
        fields["others_bytes"] = max(0, sizes["capacity"] - sizes["free"] - sizes["process"])
    return fields


def available_bytes(oom: OutOfMemory) -> int | None:
    """Return the bytes that a run's tensors may take where this one ran out; None where that is not known."""
    if oom.capacity_bytes is None:
        return None
    return max(0, oom.capacity_bytes - (oom.before_bytes or 0) - (oom.others_bytes or 0)) // max(1, oom.sharers)


def sentence(oom: OutOfMemory) -> str:
    """Return a sentence on what happened, where, and on which device; what the plan says; and what to type."""
    where = f" on rank {oom.rank} (host {oom.host})" if oom.host is not None else ""
    message = f"out of memory{where} during {oom.phase}"
    message += f", in step {oom.step}" if oom.step is not None else ""
    message += f" with a micro-batch of {oom.rows} x {oom.length} tokens" if oom.rows is not None else ""
    facts = [oom.text] if oom.text else []
    facts += [f"{format_bytes(oom.asked_bytes)} more were asked for"] if oom.asked_bytes is not None else []
    if oom.capacity_bytes is not None:
        used = f"{format_bytes(oom.allocated_bytes)} in use of " if oom.allocated_bytes is not None else ""
        facts.append(f"{used}{format_bytes(oom.capacity_bytes)}, {oom.device or oom.limit}")
    if oom.others_bytes:
        facts.append(f"other processes held {format_bytes(oom.others_bytes)} of it")
    if oom.before_bytes:
        facts.append(f"{format_bytes(oom.before_bytes)} of it before the model was built")
    if oom.predicted_gib is not None:
        each = " of each process" if oom.sharers > 1 else ""
        facts.append(f"predicted for training{each}: {format_bytes(round(oom.predicted_gib * GIB))}")
    message += f" ({'; '.join(facts)})" if facts else ""
    message += f"; {oom.unadvised}" if oom.unadvised else ""
    if not oom.advice:
        general = METRICS_ADVICE if oom.phase == "metrics" else GENERAL_ADVICE
        return message if oom.unadvised else f"{message}; {general}"
    return f"{message}; to make it fit: {', and '.join(f'{one.change} ({one.costs})' for one in oom.advice)}"
