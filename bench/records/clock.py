"""Phase clock: seconds, memory peaks and energy of each phase of a run."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.records.energy import Meter
from bench.utils import cuda
from bench.utils.hardware import GIB
from bench.utils.system import process_memory


@dataclass
class Peaks:
    """Highest memory seen in a phase, in bytes; None for what this machine does not tell.

    `device` is what all processes hold on the device at the phase's end: no driver tells its peak.
    """

    allocated: int | None = None
    reserved: int | None = None
    device: int | None = None
    rss: int | None = None

    def merge(self, other: "Peaks") -> None:
        """Take the larger of each figure."""
        for name in ("allocated", "reserved", "device", "rss"):
            values = [value for value in (getattr(self, name), getattr(other, name)) if value is not None]
            setattr(self, name, max(values) if values else None)

    def gib(self) -> dict[str, float | None]:
        """Return the same in GiB, under the record's names."""
        names = ("allocated", "reserved", "device", "rss")
        values = {name: getattr(self, name) for name in names}
        return {f"{name}_gib": None if value is None else value / GIB for name, value in values.items()}


class Clock:
    """Seconds, memory peaks and energy per phase. A phase inside another is not counted in the outer one.

    energy: reads the counters; None for a clock that needs no energy. apart_s: see `move`.
    """

    def __init__(self, energy: Meter | None = None) -> None:
        self.energy = energy
        self.apart_s: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        self.peaks: dict[str, Peaks] = {}
        self.open: list[str] = []
        self.failed_in: str | None = None
        self.last: str | None = None
        self._mark_s = time.perf_counter()
        _reset_peaks()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what is inside: `with clock.phase("load"):`. The same name again adds to the phase."""
        self._close_interval()
        self.open.append(name)
        try:
            yield
        except BaseException:
            self.failed_in = self.failed_in or name  # the innermost one sees it first
            raise
        finally:
            self._close_interval()
            self.last = self.open.pop()

    def peak_gib(self) -> float | None:
        """Return the highest memory that PyTorch has allocated in the open phase so far, GiB; None without a GPU."""
        if not torch.cuda.is_initialized():
            return None
        earlier = self.peaks[self.open[-1]].allocated if self.open and self.open[-1] in self.peaks else None
        return float(max(earlier or 0, torch.cuda.max_memory_allocated())) / GIB

    def divide(self, name: str, parts: dict[str, float]) -> None:
        """Replace a phase by parts that were measured separately, and `<name>_other` for the rest of it."""
        rest = self.seconds.pop(name) - sum(parts.values())
        self.seconds.update({**parts, f"{name}_other": max(0.0, rest)})

    def move(self, source: str, target: str, seconds: float) -> None:
        """Count some seconds of a phase that is over as another's. Its energy can't be parted: `apart_s` tells."""
        self.seconds[source] -= seconds
        self.apart_s[source] = self.apart_s.get(source, 0.0) + seconds
        self.seconds[target] = self.seconds.get(target, 0.0) + seconds

    def set_apart(self, name: str) -> None:
        """Move what the open phase has taken so far, time and memory, to a phase of its own."""
        self._close_interval()
        opened = self.open[-1]
        self.seconds[name] = self.seconds.get(name, 0.0) + self.seconds.pop(opened)
        self.peaks.setdefault(name, Peaks()).merge(self.peaks.pop(opened))
        if self.energy is not None:
            self.energy.set_apart(opened, name)

    def _close_interval(self) -> None:
        synchronize()
        now_s = time.perf_counter()
        if self.open:
            name = self.open[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now_s - self._mark_s
            self.peaks.setdefault(name, Peaks()).merge(_read_peaks())
        if self.energy is not None:
            self.energy.close(self.open[-1] if self.open else None)
            if self.energy.gpu is None and torch.cuda.is_initialized():
                self.energy.watch_gpu(cuda.uuid(torch.device("cuda")))
        self._mark_s = now_s
        _reset_peaks()


def synchronize() -> None:
    """Wait for the accelerator, so that the wall clock covers its work; do nothing on a CPU."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _reset_peaks() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    # Linux: 5 resets the high-water mark of resident memory, so that it can be read per phase.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _read_peaks() -> Peaks:
    peaks = Peaks(rss=process_memory().get("VmHWM"))
    if torch.cuda.is_initialized():
        free, total = torch.cuda.mem_get_info()
        peaks.allocated = torch.cuda.max_memory_allocated()
        peaks.reserved = torch.cuda.max_memory_reserved()
        peaks.device = total - free
    return peaks
