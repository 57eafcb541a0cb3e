"""An exception that ended a run -> the record's status and one sentence for a person."""

import dataclasses
import errno
import json
import re
import traceback
from dataclasses import dataclass
from typing import Any, Literal, get_args

from bench import console, errors
from bench.errors import Status
from bench.utils import secret_formats

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
# What gloo, NCCL and the store say when the process at the other end is gone, or does not answer.
NO_CONNECTION = (
    "connection closed by peer",
    "connection reset by peer",
    "connection refused",
    "broken pipe",
    "gloo/transport",
    "timed out waiting",
    "nccl error",
    "nccl communicator",
    "watchdog caught collective operation timeout",
)
# The end of a traceback is what tells; it travels to rank zero.
TRACE_CHARACTERS = 6000
# What helps in this phase, which knows no micro-batches.
METRICS_ADVICE = "metrics are computed on the host: lower limit of the scored split, or give the machine more memory"
# Of the sentence of a failure, and of what it says of memory.
MOST_CHARACTERS = 8000
Kind = Literal["own", "told", "echo", "lost", "done"]
# What helps most runs that need too much memory, where nothing is known of this one.
GENERAL_ADVICE = (
    "lower training.per_device_batch or max_length, set training.gradient_checkpointing: true, or use method lora or "
    "qlora"
)
_SIZE = r"(\d+\.?\d*) ?(bytes|[KMGTPE]iB)\b"
# What allocators say: torch's on GPUs (CUDACachingAllocator.cpp) and on the host (alloc_cpu.cpp), and NumPy's.
_SIZES = {
    "asked": re.compile(rf"(?:tried to allocate|unable to allocate|unable to mmap) {_SIZE}", re.IGNORECASE),
    "capacity": re.compile(rf"total capacity of {_SIZE}"),
    "free": re.compile(rf"of which {_SIZE} is free"),
    "process": re.compile(rf"this process has {_SIZE} memory in use"),
    "allowed": re.compile(rf"{_SIZE} allowed;"),
    "allocated": re.compile(rf"{_SIZE} is allocated by PyTorch"),
}


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a process of a run ended.

    kind: "own" is a failure in that process; "told", a signal; "echo", an error of communication, which tells of
    another's failure; "lost", that the process is gone and can't speak; "done", that all went well.
    shortage: of one that ran out of memory, fields of record.OutOfMemory.
    """

    rank: int
    kind: Kind
    status: Status
    sentence: str
    phase: str
    trace: str = ""
    shortage: dict[str, Any] | None = None

    def packed(self) -> str:
        """Return the failure as one line of JSON."""
        return json.dumps(dataclasses.asdict(self))


def from_json(text: str, world_size: int) -> Failure | None:
    """Return the failure from the text of `Failure.packed`, every field checked; None for any other text."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or content.keys() != {field.name for field in dataclasses.fields(Failure)}:
        return None
    rank, shortage = content["rank"], content["shortage"]
    texts = {"sentence": MOST_CHARACTERS, "phase": 100, "trace": TRACE_CHARACTERS}
    whole = (
        isinstance(rank, int)
        and not isinstance(rank, bool)
        and 0 <= rank < world_size
        and content["kind"] in get_args(Kind)
        and content["status"] in get_args(Status)
        and all(isinstance(content[name], str) and len(content[name]) <= most for name, most in texts.items())
        and (shortage is None or (isinstance(shortage, dict) and len(json.dumps(shortage)) <= MOST_CHARACTERS))
    )
    return Failure(**content | {name: console.escaped(content[name]) for name in texts}) if whole else None


def from_exception(error: BaseException, phase: str, rank: int = 0, where: str = "") -> Failure:
    """Return the failure of this process, from the exception that ended its work."""
    status = status_of(error)
    if status == "interrupted":
        kind: Kind = "told"
    else:
        kind = "echo" if status == "crashed" and is_communication(error) else "own"
    trace = traceback_of(error) if status in ("crashed", "oom") else ""
    shown = sentence(error, phase, where)
    if where and rank and isinstance(error, errors.BenchError) and kind == "own":
        shown = f"{where.strip()}: {shown}"
    return Failure(
        rank=rank,
        kind=kind,
        status=status,
        sentence=shown[:MOST_CHARACTERS],
        phase=phase,
        trace=trace[-TRACE_CHARACTERS:],
    )


def traceback_of(error: BaseException) -> str:
    """Return an exception's traceback without control characters and secrets."""
    return plain("".join(traceback.format_exception(error)))


def plain(text: str) -> str:
    """Return a text of an exception for the record: control characters escaped, secrets removed."""
    return console.escaped(secret_formats.remove(text))


def is_communication(error: BaseException) -> bool:
    """Return whether an error only says that another process did not answer."""
    if any(kind.__name__ == "DistError" for kind in type(error).__mro__):  # of torch, which is not loaded here
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError | ConnectionError) and any(part in text for part in NO_CONNECTION)


def status_of(error: BaseException) -> Status:
    """Return the status for an exception that ended a run; it is never "ok"."""
    if isinstance(error, KeyboardInterrupt | errors.StoppedError):
        return "interrupted"
    if isinstance(error, errors.DivergedError):
        return "diverged"
    if isinstance(error, errors.BenchError):
        return "invalid"
    return "oom" if is_out_of_memory(error) else "crashed"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out: torch.OutOfMemoryError, MemoryError, ENOMEM, or a RuntimeError that says so."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    text = str(error).lower()
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or (isinstance(error, RuntimeError) and any(part in text for part in NO_MEMORY))


def sizes_in(text: str) -> dict[str, int]:
    """Return the bytes that an allocator's error names: "asked" for; on a GPU also its "capacity", and of that what was
    "free", what this "process" had, what it was "allowed", and what torch had "allocated"."""
    matches = {name: pattern.search(text) for name, pattern in _SIZES.items()}
    return {name: _bytes(match[1], match[2]) for name, match in matches.items() if match is not None}


def _bytes(number: str, unit: str) -> int:
    return round(float(number) * 1024 ** (1 + "KMGTPE".index(unit[0]))) if unit != "bytes" else round(float(number))


def is_disk_full(error: BaseException) -> bool:
    """Return whether a disk or a quota is full, by the number of an OSError or the text of a library's error."""
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return True
    return any(part in str(error).lower() for part in NO_SPACE_TEXTS)


def sentence(error: BaseException, phase: str, where: str = "") -> str:
    """Return what happened, where, and what to do. where: " on rank 1 (host b)"; empty for a single process."""
    return plain(_sentence(error, phase, where))


def _sentence(error: BaseException, phase: str, where: str) -> str:
    if isinstance(error, KeyboardInterrupt):
        return f"stopped by Ctrl-C during {phase}; what was written so far is kept"
    if isinstance(error, errors.BenchError):
        return str(error)
    during = f"{where} during {phase}"
    text = (str(error).strip().splitlines() or [""])[0]
    if is_out_of_memory(error):
        advice = METRICS_ADVICE if phase == "metrics" else GENERAL_ADVICE
        return f"out of memory{during}{f' ({text})' if text else ''}; {advice}"
    if is_disk_full(error):
        return f"the disk is full, or a quota is reached,{during} ({text}); free some room and start again"
    if isinstance(error, PermissionError):
        return f"no permission{during}: {text}"
    return f"{type(error).__name__}{during}: {text}"
