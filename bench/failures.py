"""An exception that ended a run -> the record's status and one sentence for a person."""

import errno

from bench import errors
from bench.errors import Status

# Failures of allocation have no type of their own on a CPU.
NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "defaultcpuallocator",
    "bad_alloc",
    "status_alloc_failed",  # cuBLAS and cuDNN, when they can't have their work space
)
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_SPACE_TEXTS = ("no space left", "file too large", "disk quota exceeded")


def status_of(error: BaseException) -> Status:
    """ok is not among the answers: a run that raised did not succeed."""
    if isinstance(error, KeyboardInterrupt | errors.StoppedError):
        return "interrupted"
    if isinstance(error, errors.DivergedError):
        return "diverged"
    if isinstance(error, errors.BenchError):
        return "invalid"
    return "oom" if is_out_of_memory(error) else "crashed"


def is_out_of_memory(error: BaseException) -> bool:
    """torch.OutOfMemoryError, MemoryError, an OSError with that number, or a RuntimeError that says so."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    text = str(error).lower()
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or (isinstance(error, RuntimeError) and any(part in text for part in NO_MEMORY))


def is_disk_full(error: BaseException) -> bool:
    """An OSError with such a number, or a library's error with such a text."""
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return True
    return any(part in str(error).lower() for part in NO_SPACE_TEXTS)


def sentence(error: BaseException, phase: str) -> str:
    """What happened, where, and what to do."""
    if isinstance(error, KeyboardInterrupt):
        return f"stopped by Ctrl-C during {phase}; what was written so far is kept"
    if isinstance(error, errors.BenchError):
        return str(error)
    text = (str(error).strip().splitlines() or [""])[0]
    if is_out_of_memory(error):
        return (
            f"out of memory during {phase} ({text}); lower training.per_device_batch or max_length, set "
            "training.gradient_checkpointing: true, or use method lora or qlora"
        )
    if is_disk_full(error):
        return f"the disk is full, or a quota is reached, during {phase} ({text}); free some room and start again"
    if isinstance(error, PermissionError):
        return f"no permission during {phase}: {text}"
    return f"{type(error).__name__} during {phase}: {text}"
