"""Memory limits that are in force for this process (GPU, host, control group, ulimit), and what is left of each.

A GPU has one: its memory, or the share of it that torch was told to keep to. A process on a CPU has two: what the
machine or a control group still gives to all of its processes, and the addresses that its own limits (ulimit) leave it.
"""

import contextlib
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import SetupError
from bench.utils import cuda
from bench.utils.system import process_memory

if TYPE_CHECKING:
    import torch

DEVICE, MEMORY, ADDRESSES = "device memory", "memory", "address space"
GROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# A control group without a limit says "max", or by an older kernel a number as large as can be.
NO_LIMIT = 2**60


def available_bytes(device: "torch.device", sharers: int = 1) -> dict[str, int]:
    """Return limit -> bytes that this process may still take. sharers: processes of this machine that take alike.

    Raises SetupError where the system does not tell.
    """
    if device.type == "cuda":
        free, _ = cuda.free_and_total(device)
        own = cuda.allowed(device) - cuda.reserved(device)
        return {DEVICE: max(0, min(free, own))}
    available: dict[str, int] = {}
    for limit in limits():
        name, size = (MEMORY, sharers) if limit.shared else (ADDRESSES, 1)
        size = max(0, limit.capacity - limit.used) // size
        available[name] = min(size, available.get(name, size))
    if MEMORY not in available:
        raise SetupError("this system does not tell how much memory is left")
    return available


def held_bytes(device: "torch.device") -> dict[str, int]:
    """Return limit -> bytes that this process has now. Raises SetupError where the system does not tell."""
    if device.type == "cuda":
        return {DEVICE: cuda.reserved(device)}
    status = _status()
    return {MEMORY: status["VmRSS"], ADDRESSES: status["VmSize"]}


def peak_address_space() -> int:
    """Return the most bytes of addresses that this process had at once."""
    return _status()["VmPeak"]


def keep_within(more_bytes: dict[str, int], device: "torch.device") -> None:
    """Limit this process to so much more memory: to ask for more is an error, before the machine has none left.

    more_bytes: limit -> bytes on top of what it has. Limits that hold already are never widened.
    """
    if device.type == "cuda":
        cuda.allow(device, cuda.reserved(device) + more_bytes[DEVICE])
        return
    status = _status()
    # The kernel counts what a process may write to by itself: a tensor, but no library.
    _lower(resource.RLIMIT_DATA, status["VmData"] + more_bytes[MEMORY])
    if ADDRESSES in more_bytes:
        _lower(resource.RLIMIT_AS, status["VmSize"] + more_bytes[ADDRESSES])


def _lower(kind: int, size: int) -> None:
    soft, hard = resource.getrlimit(kind)
    if soft == resource.RLIM_INFINITY or size < soft:
        resource.setrlimit(kind, (size, hard))


def _status() -> dict[str, int]:
    status = process_memory()
    if not status:
        raise SetupError("this system does not tell how much memory a process takes")
    return status


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A bound on the host's memory, in bytes. shared: whether all processes of a run have it together."""

    name: str
    capacity: int
    used: int
    shared: bool = True


def limits() -> list[Limit]:
    """Return the bounds that are in force for this process, the tightest first."""
    bounds = [*_of_process(), *_of_groups(), *_of_machine()]
    return sorted(bounds, key=lambda limit: limit.capacity - limit.used)


def resident() -> int | None:
    """Return the bytes of this process that are in memory now."""
    return process_memory().get("VmRSS")


def _of_process() -> Iterator[Limit]:
    with contextlib.suppress(KeyError):  # on a system that does not tell
        status = process_memory()
        address_space, data = status["VmSize"], status["VmData"] + status["VmStk"]
        for name, kind, used in (
            ("address space (ulimit -v)", resource.RLIMIT_AS, address_space),
            ("data segment (ulimit -d)", resource.RLIMIT_DATA, data),
        ):
            most = resource.getrlimit(kind)[0]
            if most != resource.RLIM_INFINITY:
                yield Limit(name=name, capacity=most, used=used, shared=False)


def _of_groups() -> Iterator[Limit]:
    """Yield the limits of this process's control group, and of those around it; of version 2, and of version 1."""
    with contextlib.suppress(OSError):
        for line in OWN_GROUPS.read_text().splitlines():
            _, kinds, place = line.split(":", 2)
            if kinds not in ("", "memory"):
                continue
            names = (
                ("memory.max", "memory.current") if not kinds else ("memory.limit_in_bytes", "memory.usage_in_bytes")
            )
            inner = (GROUPS / kinds / place.strip("/")).absolute()
            for folder in (inner, *inner.parents):
                if folder.is_relative_to(GROUPS):
                    yield from _of_group(folder, *names)


def _of_group(folder: Path, most: str, now: str) -> Iterator[Limit]:
    with contextlib.suppress(OSError, ValueError):
        capacity = int((folder / most).read_text())
        counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        # Files that were read lie in memory as long as nobody needs it.
        used = int((folder / now).read_text()) - int(counts.get("total_inactive_file", counts.get("inactive_file", 0)))
        if capacity < NO_LIMIT:
            yield Limit(name="control group (container, or scheduler)", capacity=capacity, used=used)


def _of_machine() -> Iterator[Limit]:
    with contextlib.suppress(OSError, ValueError, KeyError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        kib = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
        total, free = kib["MemTotal"] * 1024, kib["MemAvailable"] * 1024
        yield Limit(name="physical memory", capacity=total, used=total - free)


@dataclass(frozen=True, kw_only=True)
class MemoryBaseline:
    """Memory in use before the model was built: bytes by limit, and the process's own that were in memory."""

    used: dict[str, int]
    resident: int | None

    @classmethod
    def now(cls) -> "MemoryBaseline":
        """Return the baseline of this moment."""
        return cls(used={limit.name: limit.used for limit in limits()}, resident=resident())
