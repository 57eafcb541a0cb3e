"""Energy of a run: joules of each phase by the devices' own counters, read where a phase begins and ends.

GPU: NVML's total energy, else its power, sampled. CPU: RAPL. What can't be measured, or is not this run's alone, is
None with the reason; no number is made from a nameplate. Loads no torch.
"""

import importlib
import math
import os
import platform
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from bench.records.record import EnergyPart

POWERCAP = Path("/sys/class/powercap")
PROC_STAT = Path("/proc/stat")
INSTALL = "pip install 'finetune-bench[energy]'"
# NVML's counters move every 15 to 100 ms by device (Yang, Adamek and Armour, "Part-time power measurements", 2023).
NVML_UPDATE_S = 0.1
# RAPL's registers move about every millisecond (Intel SDM, volume 3, "RAPL interfaces").
RAPL_UPDATE_S = 0.001
# The two ends of an interval are each off by up to one update: of so many updates they are below 5 %.
SHORTEST_UPDATES = 20
# Power is sampled so often where a GPU counts no energy; a longer gap leaves a phase without a number.
SAMPLE_S, LONGEST_GAP_S = 0.1, 1.0
# Between two samples who else uses the GPU is asked so often.
CHECK_S = 1.0
# RAPL's counters wrap around after some 65 to 262 kJ: they are read at least so often.
TICK_S = 30.0
# No processor package takes more, and no GPU. A counter that would have needed more was reset, and did not wrap around,
# or it jumped.
MOST_WATTS, MOST_GPU_WATTS = 1500.0, 5000.0
# The CPU's energy is the run's where others used at most this share of the busy time, or this share of all cores.
OTHERS_OF_BUSY, OTHERS_OF_CORES = 0.10, 0.02
# Energy per 100 examples is left open where more of a phase's time than this went into comparing scorers.
MOST_APART = 0.05
KINDS = ("gpu", "cpu")


class UnmeasurableError(Exception):
    """A device whose energy can't be read here; the message is the reason, for people."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Joules since the last reading; why: they are no measurement. error: of sampled power, in joules."""

    joules: float = 0.0
    error: float = 0.0
    why: str | None = None


class Counter(Protocol):
    """An energy counter. update_s: how often it moves. every_s: how often it must be read between phases, or None."""

    source: str
    update_s: float
    every_s: float | None

    def read(self) -> Reading:
        """Return the energy since the last reading; the first one is of no energy."""
        ...


# ---------------------------------------------------------------- CPU


class Rapl:
    """RAPL's counters: all processor packages of this machine, with their memory where it is counted."""

    update_s = RAPL_UPDATE_S
    every_s: float | None = TICK_S

    def __init__(self, root: Path = POWERCAP, now: Callable[[], float] = time.monotonic) -> None:
        """Open the counters. Raises UnmeasurableError where there are none, or none that may be read."""
        self._now, self._read_at = now, now()
        names = {zone: _text(zone / "name") for zone in sorted(root.glob("intel-rapl:*"))}
        # A package holds its cores; its memory is counted apart, and "psys" is the whole machine.
        self._zones = [zone for zone, name in names.items() if name.startswith("package") or name == "dram"]
        if not any(names[zone].startswith("package") for zone in self._zones):
            raise UnmeasurableError(
                f"no RAPL counters in {root}: a virtual machine, a container, or a processor without them"
            )
        self._ranges = {zone: _number(zone / "max_energy_range_uj") for zone in self._zones}
        self._last = {zone: _number(zone / "energy_uj") for zone in self._zones}
        with_memory = " with their memory" if "dram" in names.values() else ""
        packages = sum(name.startswith("package") for name in names.values())
        self.source = (
            f"RAPL, {packages} whole processor package{'s' * (packages > 1)}{with_memory}, idle power included"
        )

    def read(self) -> Reading:
        """Return the energy since the last reading. Raises UnmeasurableError where a counter can't be read any more."""
        now_s = self._now()
        elapsed_s, self._read_at = now_s - self._read_at, now_s
        total, why = 0, None
        for zone in self._zones:
            last, value = self._last[zone], _number(zone / "energy_uj")
            self._last[zone] = value
            most = MOST_WATTS * elapsed_s * 1e6
            grown = value - last if value >= last else value - last + self._ranges[zone]
            if self._ranges[zone] < most:
                why = f"the CPU's energy counter may have wrapped around more than once in {elapsed_s:.0f} s"
            elif grown > most + MOST_WATTS * RAPL_UPDATE_S * 1e6:  # it may be an update ahead of the time
                why = "the CPU's energy counter was reset meanwhile, or jumped"
            total += grown
        return Reading(joules=total / 1e6, why=why)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _number(path: Path) -> int:
    """Return the number of a counter's file. Raises UnmeasurableError where it can't be read."""
    try:
        return int(path.read_text(encoding="utf-8"))
    except PermissionError as error:
        raise UnmeasurableError(
            f"the CPU's energy counter may not be read by this user: sudo chmod a+r {path}"
        ) from error
    except (OSError, ValueError) as error:
        raise UnmeasurableError(f"the CPU's energy counter {path} can't be read: {error}") from error


@dataclass
class Load:
    """Processor time: of all processes of this machine (`busy`), and of this one, in seconds since the last reading."""

    stat: Path = PROC_STAT
    _last: tuple[float, float] | None = None

    def read(self, *, of_all: bool = True) -> tuple[float | None, float]:
        """Return (busy seconds of all cores, None where unknown; seconds of this process and its ended children)."""
        now = (self._busy_s() if of_all else math.nan, sum(os.times()[:4]))
        last, self._last = self._last or now, now
        return (now[0] - last[0] if math.isfinite(now[0]) else None), now[1] - last[1]

    def _busy_s(self) -> float:
        # user nice system idle iowait irq softirq steal, in ticks: proc_stat(5).
        fields = _text(self.stat).split("\n", 1)[0].split()
        if len(fields) < 8 or fields[0] != "cpu":
            return math.nan
        busy = sum(map(int, (*fields[1:4], *fields[6:8])))
        return busy / os.sysconf("SC_CLK_TCK")


# ---------------------------------------------------------------- GPU


class NvmlEnergy:
    """The total energy of one GPU as its driver counts it (NVML, Volta and newer)."""

    update_s = NVML_UPDATE_S
    every_s: float | None = None

    def __init__(self, nvml: Any, handle: Any) -> None:
        """Open the counter. Raises the module's NVMLError where the GPU counts no energy."""
        self._nvml, self._handle = nvml, handle
        self._last = nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        self.source = "NVML, the GPU's own counter of total energy, idle power included"

    def read(self) -> Reading:
        """Return the energy since the last reading."""
        value = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)  # millijoules since the driver was loaded
        grown, self._last = value - self._last, value
        if grown < 0:
            return Reading(why="the GPU's energy counter was reset meanwhile")
        return Reading(joules=grown / 1000, why=why_shared(self._nvml, self._handle))


class NvmlPower:
    """The power of one GPU, sampled and integrated by the trapezoidal rule, where its driver counts no energy.

    The error is that of sampling: what the same rule gives with every second sample, less what it gives with all.
    """

    update_s = SAMPLE_S
    every_s: float | None = SAMPLE_S

    def __init__(self, nvml: Any, handle: Any, now: Callable[[], float] = time.monotonic) -> None:
        """Open the sensor. Raises the module's NVMLError where the GPU tells no power."""
        self._nvml, self._handle, self._now = nvml, handle, now
        self._samples, self._checked_s = [self._sample()], -math.inf
        self._why: str | None = None
        self.source = f"NVML, the GPU's power sampled every {SAMPLE_S:g} s and integrated, idle power included"

    def _sample(self) -> tuple[float, float]:
        return self._now(), self._nvml.nvmlDeviceGetPowerUsage(self._handle) / 1000

    def read(self) -> Reading:
        """Return the energy between the last two samples."""
        self._samples = [*self._samples[-2:], self._sample()]
        (before_s, before), (now_s, now) = self._samples[-2:]
        if now_s - self._checked_s >= CHECK_S:
            self._checked_s, self._why = now_s, why_shared(self._nvml, self._handle)
        why = self._why
        if now_s - before_s > LONGEST_GAP_S:
            why = f"the GPU's power was not sampled for {now_s - before_s:.1f} s"
        first_s, first = self._samples[0]
        coarse = (first + now) / 2 * (now_s - first_s)
        fine = sum((a + b) / 2 * (t - s) for (s, a), (t, b) in zip(self._samples, self._samples[1:], strict=False))
        # Each step lies in two of these pairs of steps.
        return Reading(joules=(before + now) / 2 * (now_s - before_s), error=abs(coarse - fine) / 2, why=why)


def why_shared(nvml: Any, handle: Any) -> str | None:
    """Return why the GPU's energy is not this run's alone; None where it is.

    The run's own processes are this one and those of the same launcher. In a container a process may be listed by its
    number outside: a single one that is not here is this process.
    """
    import psutil

    try:
        pids = {process.pid for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)}
    except nvml.NVMLError as error:
        return f"the driver does not tell which processes use the GPU: {error}"
    if not pids:
        return "the driver lists no process on the GPU, not even this one, so that others can't be seen"
    if len(pids) == 1 and not psutil.pid_exists(min(pids)):
        return None
    others = [pid for pid in pids if pid != os.getpid() and not _is_of_this_run(pid)]
    return f"other processes used the GPU: {len(others)}" if others else None


def _is_of_this_run(pid: int) -> bool:
    import psutil

    try:
        return "RANK" in os.environ and psutil.Process(pid).ppid() == os.getppid()
    except psutil.Error:
        return False


def open_gpu(uuid: str, nvml: Any = None) -> Counter:
    """Return the energy counter of a GPU. nvml: the module `pynvml`; None imports it.

    Raises UnmeasurableError where the bindings are missing, the GPU is partitioned, or tells neither energy nor power.
    """
    if nvml is None:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError as error:
            raise UnmeasurableError(f"the GPU's energy needs NVML's bindings: {INSTALL}") from error
    try:
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except nvml.NVMLError as error:
        raise UnmeasurableError(f"the driver tells no energy of this GPU, or of this part of one: {error}") from error
    if _is_partitioned(nvml, handle):
        raise UnmeasurableError("the GPU is partitioned (MIG): its counter is of all partitions together")
    reasons = []
    for counter in (NvmlEnergy, NvmlPower):
        try:
            return counter(nvml, handle)
        except nvml.NVMLError as error:
            reasons.append(str(error))
    raise UnmeasurableError(f"the GPU tells neither its energy ({reasons[0]}) nor its power ({reasons[1]})")


def _is_partitioned(nvml: Any, handle: Any) -> bool:
    try:
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0])
    except nvml.NVMLError:
        return False  # a GPU without partitions


# ---------------------------------------------------------------- phases


@dataclass
class Amount:
    """Energy of one kind in one phase. intervals: in how many pieces. busy_s, own_s: see Load."""

    joules: float = 0.0
    error: float = 0.0
    seconds: float = 0.0
    intervals: int = 0
    busy_s: float | None = 0.0
    own_s: float = 0.0
    why: str | None = None

    def add(self, other: "Amount") -> None:
        """Add another piece; the first reason why there is no number stays."""
        self.joules, self.error = self.joules + other.joules, self.error + other.error
        self.seconds, self.intervals = self.seconds + other.seconds, self.intervals + other.intervals
        known = self.busy_s is not None and other.busy_s is not None
        self.busy_s = self.busy_s + other.busy_s if known else None  # type: ignore[operator]
        self.own_s, self.why = self.own_s + other.own_s, self.why or other.why


@dataclass(frozen=True, kw_only=True)
class RankEnergy:
    """Measurements of one process. gpu: its GPU's UUID. is_owner: it reads the CPU's counters of its machine.

    apart_s: seconds inside a phase that went into comparing a fast scorer with the plain one.
    """

    host: str
    gpu: str | None
    is_owner: bool
    sources: dict[str, str]
    missing: dict[str, str]
    updates_s: dict[str, float]
    phases: dict[str, dict[str, Amount]]
    apart_s: dict[str, float] = field(default_factory=dict)


@dataclass
class Meter:
    """Reads the counters of one process where phases begin and end.

    counters, missing: kind -> counter, or why there is none. now: the clock, in seconds.
    """

    counters: dict[str, Counter] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    load: Load = field(default_factory=Load)
    now: Callable[[], float] = time.monotonic
    phases: dict[str, dict[str, Amount]] = field(default_factory=dict)
    gpu: str | None = None

    def __post_init__(self) -> None:
        """Begin the first interval."""
        self._mark_s = self.now()
        self._pending: dict[str, Amount] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        for counter in self.counters.values():
            self._keep_reading(counter)
        self.load.read()

    @classmethod
    def here(cls, root: Path = POWERCAP) -> "Meter":
        """Return the meter of this process: the CPU's counters on the first process of each machine."""
        if int(os.environ.get("LOCAL_RANK") or 0):
            return cls()
        try:
            return cls(counters={"cpu": Rapl(root)})
        except UnmeasurableError as error:
            return cls(missing={"cpu": str(error)})

    def watch_gpu(self, uuid: str, nvml: Any = None) -> None:
        """Read this GPU from now on; do nothing where it is read already, or can't be."""
        if self.gpu is not None:
            return
        self.gpu = uuid
        try:
            self.counters["gpu"] = open_gpu(uuid, nvml)
        except UnmeasurableError as error:
            self.missing["gpu"] = str(error)
            return
        self._keep_reading(self.counters["gpu"])
        for amounts in self.phases.values():
            amounts["gpu"] = Amount(why="the GPU was not in use yet when the phase began")

    def close(self, phase: str | None) -> None:
        """End an interval, and count it as a phase's; None: as no phase's."""
        now_s = self.now()
        seconds, self._mark_s = now_s - self._mark_s, now_s
        busy_s, own_s = self.load.read(of_all="cpu" in self.counters)
        with self._lock:
            for kind in list(self.counters):
                self._read(kind)
            pending, self._pending = self._pending, {}
        if phase is None:
            return
        amounts = self.phases.setdefault(phase, {})
        for kind in KINDS:
            piece = pending.get(kind, Amount())
            piece.seconds, piece.intervals, piece.busy_s, piece.own_s = seconds, 1, busy_s, own_s
            amounts.setdefault(kind, Amount()).add(piece)

    def set_apart(self, phase: str, name: str) -> None:
        """Count what a phase has taken so far as another one's; see `Clock.set_apart`."""
        for kind, amount in self.phases.pop(phase, {}).items():
            self.phases.setdefault(name, {}).setdefault(kind, Amount()).add(amount)

    def stop(self) -> None:
        """End the thread that reads between phases, if there is one."""
        self._ended.set()

    def so_far(self, phase: str) -> dict[str, float]:
        """Return the joules of a phase until its last interruption, by kind; NaN for what is not measured."""
        amounts = self.phases.get(phase, {})
        return {kind: math.nan if (one := amounts.get(kind, Amount())).why else one.joules for kind in self.counters}

    def result(self, apart_s: dict[str, float]) -> RankEnergy:
        """Return what was measured here. apart_s: see `RankEnergy`."""
        return RankEnergy(
            host=platform.node(),
            gpu=self.gpu,
            is_owner="cpu" in self.counters or "cpu" in self.missing,
            sources={kind: counter.source for kind, counter in self.counters.items()},
            missing=dict(self.missing),
            updates_s={kind: counter.update_s for kind, counter in self.counters.items()},
            phases=self.phases,
            apart_s=apart_s,
        )

    def _read(self, kind: str) -> None:
        """Add a counter's reading to the open interval. A counter that fails once is not read again."""
        try:
            found = self.counters[kind].read()
            piece = Amount(joules=found.joules, error=found.error, why=found.why, intervals=0)
        except Exception as error:  # of the driver's bindings, or a counter that has gone: it must not end a run
            self.missing[kind] = f"{error}" if isinstance(error, UnmeasurableError) else f"the counter failed: {error}"
            del self.counters[kind]
            piece = Amount(why=self.missing[kind])
        self._pending.setdefault(kind, Amount()).add(piece)

    def _keep_reading(self, counter: Counter) -> None:
        """Read a counter between phases too, from a thread, where it would wrap around or has to be sampled."""
        if counter.every_s is None:
            return
        (kind,) = (name for name, one in self.counters.items() if one is counter)

        def _loop() -> None:
            while not self._ended.wait(counter.every_s):
                with self._lock:
                    if kind not in self.counters:
                        return
                    self._read(kind)

        threading.Thread(target=_loop, name=f"energy of {kind}", daemon=True).start()


def merged(ranks: Sequence[RankEnergy], examples: dict[str, int], tokens: dict[str, int]) -> EnergyPart:
    """Return the energy of a run over all its processes: each GPU once, the CPUs once for each machine.

    examples, tokens: phase -> how many it processed, over all processes.
    """
    seen: set[tuple[str, str]] = set()
    owned: list[tuple[RankEnergy, tuple[str, ...]]] = []
    for rank in ranks:
        device = (rank.host, rank.gpu or "")
        kinds = (*(["gpu"] if rank.gpu is not None and device not in seen else []), *(["cpu"] if rank.is_owner else []))
        seen.add(device)
        owned.append((rank, kinds))
    found = EnergyPart(sources={kind: text for rank in ranks for kind, text in rank.sources.items()})
    for kind in KINDS:
        reasons = [rank.missing[kind] for rank, kinds in owned if kind in kinds and kind in rank.missing]
        if reasons:
            found.missing[kind] = reasons[0]
    if not found.sources:
        return found
    for phase in dict.fromkeys(name for rank in ranks for name in rank.phases):
        per_rank = [_of_rank(rank, kinds, phase, ranks, found) for rank, kinds in owned]
        found.phases[phase] = {**_summed(per_rank), "per_rank": per_rank}
        if phase not in examples or not _is_known(found.phases[phase]):
            continue
        if any(rank.apart_s.get(phase, 0.0) > MOST_APART * _seconds(rank, phase) for rank in ranks):
            found.missing[f"{phase}, per 100 examples"] = (
                "comparing the fast scorer with the plain one took a large share of the phase"
            )
        else:
            found.phases[phase] |= _per_unit(found.phases[phase], examples[phase], tokens.get(phase))
    return found


def _is_known(sums: dict[str, Any]) -> bool:
    return any(sums.get(f"{kind}_joules") is not None for kind in KINDS)


def _seconds(rank: RankEnergy, phase: str) -> float:
    return max((amount.seconds for amount in rank.phases.get(phase, {}).values()), default=0.0)


def _per_unit(sums: dict[str, Any], examples: int, tokens: int | None) -> dict[str, float | None]:
    """Return joules per 100 examples, and per million tokens where these are counted."""
    found: dict[str, float | None] = {}
    for kind in KINDS:
        joules = sums.get(f"{kind}_joules")
        if f"{kind}_joules" in sums and examples:
            found[f"{kind}_joules_per_100_examples"] = None if joules is None else 100 * joules / examples
        if f"{kind}_joules" in sums and tokens:
            found[f"{kind}_joules_per_million_tokens"] = None if joules is None else 1e6 * joules / tokens
    return found


def _of_rank(
    rank: RankEnergy, kinds: tuple[str, ...], phase: str, ranks: Sequence[RankEnergy], found: EnergyPart
) -> dict[str, float | None]:
    """Return one process's joules of a phase, by kind; write down why there are none."""
    joules: dict[str, float | None] = {}
    for kind in kinds:
        amount = rank.phases.get(phase, {}).get(kind)
        if kind in rank.missing or amount is None:
            joules[f"{kind}_joules"] = None
            continue
        why = amount.why or _why_not(amount, kind, rank, phase, ranks)
        joules[f"{kind}_joules"] = None if why else amount.joules
        if why:
            found.missing.setdefault(f"{phase}, {kind}", why)
        elif amount.error:
            joules[f"{kind}_error_joules"] = amount.error
    return joules


def _why_not(amount: Amount, kind: str, rank: RankEnergy, phase: str, ranks: Sequence[RankEnergy]) -> str | None:
    """Return why a phase's counter is no measurement of it: too short, or others used the processor."""
    update_s = rank.updates_s[kind]
    if amount.seconds < SHORTEST_UPDATES * update_s * math.sqrt(max(1, amount.intervals)):
        return f"too short for a counter that moves every {update_s:g} s: {amount.seconds:.3g} s"
    # A device that is switched on takes some power; a virtual machine may show a counter that stands still.
    most = MOST_GPU_WATTS * amount.seconds if kind == "gpu" else math.inf  # a CPU's is checked where it is read
    if not 0 < amount.joules <= most:
        return f"the counter tells {amount.joules:.3g} J in {amount.seconds:.3g} s: it stood still, or jumped"
    if kind != "cpu":
        return None
    if amount.busy_s is None:
        return "how much other processes used the processor is not known"
    here = [one.phases.get(phase, {}).get("cpu") for one in ranks if one.host == rank.host]
    others_s = amount.busy_s - sum(one.own_s for one in here if one is not None)
    allowed_s = max(OTHERS_OF_BUSY * amount.busy_s, OTHERS_OF_CORES * (os.cpu_count() or 1) * amount.seconds)
    if others_s > allowed_s:
        return f"other processes used {others_s / amount.busy_s:.0%} of the processor time"
    return None


def _summed(per_rank: Sequence[dict[str, float | None]]) -> dict[str, Any]:
    """Return the sums over the processes; None where one of them is not known."""
    names = dict.fromkeys(name for rank in per_rank for name in rank)
    sums: dict[str, Any] = {}
    for name in names:
        values = [rank[name] for rank in per_rank if name in rank]
        known = [value for value in values if value is not None]
        sums[name] = sum(known) if len(known) == len(values) else None
    return sums
