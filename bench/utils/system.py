"""Facts from the operating system: the time, the processor, this process's memory."""

import contextlib
import datetime
import platform
from pathlib import Path

KIB = 1024


def utc_now() -> str:
    """Return the time now in UTC, as in ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def processor_name() -> str:
    """Return the processor's model, or its architecture where the model is not told."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def process_memory() -> dict[str, int]:
    """Return the sizes of this process's memory in bytes, by Linux's names; empty on another system.

    proc_pid_status(5): VmSize is address space, VmData and VmStk its data and stack, VmRSS what is resident, and VmHWM
    the most that was, since the start or since the mark was reset.
    """
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines()
        return {line.split(":")[0]: int(line.split()[1]) * KIB for line in lines if line.startswith("Vm")}
    return {}
