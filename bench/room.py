"""Memory that this process may still take, and what it has taken, by each limit that is in force.

A GPU has one: its memory, or the share of it that torch was told to keep to. A process on a CPU has two: what the
machine or a control group still gives to all of its processes, and the addresses that its own limits (ulimit) leave it.
"""

import resource
from pathlib import Path

import torch

from bench import shortage
from bench.errors import SetupError

DEVICE, MEMORY, ADDRESSES = "device memory", "memory", "address space"
KIB = 1024


def left(device: torch.device, sharers: int = 1) -> dict[str, int]:
    """Limit -> bytes that this process may still take. sharers: processes of this machine that take alike.

    Raises SetupError where the system does not tell.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        own = round(torch.cuda.get_per_process_memory_fraction(device) * total) - torch.cuda.memory_reserved(device)
        return {DEVICE: max(0, min(free, own))}
    found: dict[str, int] = {}
    for limit in shortage.limits():
        name, size = (MEMORY, sharers) if limit.shared else (ADDRESSES, 1)
        size = max(0, limit.capacity - limit.used) // size
        found[name] = min(size, found.get(name, size))
    if MEMORY not in found:
        raise SetupError("this system does not tell how much memory is left")
    return found


def held(device: torch.device) -> dict[str, int]:
    """Limit -> bytes that this process has now. Raises SetupError where the system does not tell."""
    if device.type == "cuda":
        return {DEVICE: torch.cuda.memory_reserved(device)}
    status = _status()
    return {MEMORY: status["VmRSS"], ADDRESSES: status["VmSize"]}


def most_addresses() -> int:
    """Bytes of addresses that this process had at once, at most."""
    return _status()["VmPeak"]


def keep_within(rooms: dict[str, int], device: torch.device) -> None:
    """From now on this process gets no more than that: to ask for more is an error, before the machine has none left.

    rooms: limit -> bytes on top of what it has. Limits that hold already are never widened.
    """
    if device.type == "cuda":
        total = torch.cuda.mem_get_info(device)[1]
        share = (torch.cuda.memory_reserved(device) + rooms[DEVICE]) / total
        torch.cuda.set_per_process_memory_fraction(min(1.0, share), device)
        return
    status = _status()
    # The kernel counts what a process may write to by itself: a tensor, but no library.
    _lower(resource.RLIMIT_DATA, status["VmData"] + rooms[MEMORY])
    if ADDRESSES in rooms:
        _lower(resource.RLIMIT_AS, status["VmSize"] + rooms[ADDRESSES])


def _lower(kind: int, size: int) -> None:
    soft, hard = resource.getrlimit(kind)
    if soft == resource.RLIM_INFINITY or size < soft:
        resource.setrlimit(kind, (size, hard))


def _status() -> dict[str, int]:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError as error:
        raise SetupError("this system does not tell how much memory a process takes") from error
    return {line.split(":")[0]: int(line.split()[1]) * KIB for line in lines if line.startswith("Vm")}
