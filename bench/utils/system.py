"""Facts from the operating system: the time, the processor, this process's memory, its locale, its variables."""

import contextlib
import datetime
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from bench.errors import SetupError

KIB = 1024


def utc_now() -> str:
    """Return the time now in UTC, as in ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@contextlib.contextmanager
def variables(given: Mapping[str, str | None]) -> Iterator[None]:
    """Set variables of the environment inside the block, or remove those given as None; they are as before after it."""
    before = {name: os.environ.get(name) for name in given}
    _set(given)
    try:
        yield
    finally:
        _set(before)


def _set(given: Mapping[str, str | None]) -> None:
    for name, value in given.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


# x86 and Arm names in /proc/cpuinfo of what PyTorch, oneDNN and MKL dispatch on.
VECTOR_FLAGS = frozenset(
    ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "asimd", "sve", "sve2", "bf16")
)


def processor_name() -> str:
    """Return the processor's model, or its architecture where the model is not told."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def vector_instructions() -> str:
    """Return the processor's vector instruction sets by which libraries choose their kernels; empty where unknown.

    Processors of one model name may differ in them, e.g. virtual ones called "AMD EPYC".
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, flags = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return " ".join(sorted(VECTOR_FLAGS.intersection(flags.split())))
    return ""


def process_memory() -> dict[str, int]:
    """Return the sizes of this process's memory in bytes, by Linux's names; empty on another system.

    proc_pid_status(5): VmSize is address space, VmData and VmStk its data and stack, VmRSS what is resident, and VmHWM
    the most that was, since the start or since the mark was reset.
    """
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines()
        return {line.split(":")[0]: int(line.split()[1]) * KIB for line in lines if line.startswith("Vm")}
    return {}


def is_undecoded(word: str) -> bool:
    """Return whether a word of the command line has bytes that this locale has no characters for."""
    return any("\ud800" <= character <= "\udfff" for character in word)


def require_working_folder() -> None:
    """Raise SetupError where the working folder was removed: no relative path means anything there."""
    try:
        os.getcwd()
    except OSError as error:
        raise SetupError("the working folder is no longer there; change into another one") from error


def refuse_undecoded(words: Iterable[str]) -> None:
    """Raise SetupError for such a word: libraries that write files take no such name, which shows after training."""
    for word in words:
        if is_undecoded(word):
            shown = os.fsencode(word).decode("ascii", "backslashreplace")
            raise SetupError(
                f"{shown:.200}: this locale can't hold its characters; set LC_ALL=C.UTF-8 or PYTHONUTF8=1, or use ASCII"
            )
