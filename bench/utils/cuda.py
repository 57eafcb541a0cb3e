"""Every question to CUDA about one device, asked by the device's index.

`torch.device("cuda")`, which accelerate gives to a run of one process, has no index, and some of torch's functions
refuse it ("Expected a torch.device with a specified index"). So nothing else here gives a device to `torch.cuda`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def indexed(device: "torch.device") -> "torch.device":
    """Return the device with an index: its own, or that of the process's current device."""
    import torch

    if device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", torch.cuda.current_device())


def names() -> list[str]:
    """Return the names of all devices that this process sees, in their order."""
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def name(device: "torch.device") -> str:
    """Return the name of a device."""
    import torch

    found: str = torch.cuda.get_device_name(indexed(device))
    return found


def capability(device: "torch.device") -> tuple[int, int]:
    """Return the compute capability of a device, e.g. (7, 5) for a T4."""
    import torch

    found: tuple[int, int] = torch.cuda.get_device_capability(indexed(device))
    return found


def uuid(device: "torch.device") -> str:
    """Return the identifier by which the driver knows a device, without the prefix "GPU-"."""
    import torch

    return str(torch.cuda.get_device_properties(indexed(device)).uuid)


def free_and_total(device: "torch.device") -> tuple[int, int]:
    """Return a device's free bytes and all of its bytes, as the driver counts them for all processes."""
    import torch

    found: tuple[int, int] = torch.cuda.mem_get_info(indexed(device))
    return found


def reserved(device: "torch.device") -> int:
    """Return the bytes that torch's allocator holds on a device for this process."""
    import torch

    found: int = torch.cuda.memory_reserved(indexed(device))
    return found


def allowed(device: "torch.device") -> int:
    """Return the bytes that torch's allocator may hold on a device: all, or the share that it was limited to."""
    import torch

    share: float = torch.cuda.get_per_process_memory_fraction(indexed(device))
    return round(share * free_and_total(device)[1])


def allow(device: "torch.device", size: float) -> None:
    """Let torch's allocator hold so many bytes on a device, and no more."""
    import torch

    total = free_and_total(device)[1]
    torch.cuda.set_per_process_memory_fraction(min(1.0, size / total), indexed(device))
