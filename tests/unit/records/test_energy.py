"""Energy counters: synthetic ones of a processor and of a GPU, phases, processes, and this machine's own."""

import json
import math
import os
import time
from types import SimpleNamespace

import pytest

from bench.records import energy
from bench.records.clock import Clock
from bench.records.energy import Amount, Meter, NvmlPower, RankEnergy, Rapl, UnmeasurableError
from bench.records.record import EnergyPart

# A process of this container by its number outside: no process here has one as large.
OUTSIDE = 2**22 + 1
RANGE = 262_143_328_850  # microjoules, of a real machine


class Hands:
    """A clock that is set by hand."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


def zone(root, number, name, microjoules=0):
    folder = root / f"intel-rapl:{number}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{RANGE}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    return folder / "energy_uj"


@pytest.fixture
def machine(tmp_path):
    """Two packages; cores are in their package, memory is apart, and the platform holds all of them."""
    return {
        "package-0": zone(tmp_path, "0", "package-0", 1_000_000),
        "core": zone(tmp_path, "0:0", "core", 0),
        "dram": zone(tmp_path, "0:1", "dram", 500_000),
        "package-1": zone(tmp_path, "1", "package-1", RANGE - 1_000_000),
        "psys": zone(tmp_path, "2", "psys", 0),
    }


def test_packages_and_memory_are_summed_and_the_rest_is_left_out(machine, tmp_path):
    now = Hands()
    counter = Rapl(tmp_path, now)
    assert counter.source.startswith("RAPL, 2 whole processor packages with their memory")
    now.now_s = 10.0
    for name, value in {"package-0": 41_000_000, "dram": 5_500_000, "core": 9**9, "psys": 9**9}.items():
        machine[name].write_text(str(value))
    machine["package-1"].write_text("19000000")  # wrapped around: 1 J to the end, 19 J after it
    assert counter.read() == energy.Reading(joules=pytest.approx(40 + 5 + 20))
    assert counter.read().joules == 0


def test_a_counter_that_was_reset_is_no_measurement(machine, tmp_path):
    now = Hands()
    counter = Rapl(tmp_path, now)
    now.now_s = 10.0
    machine["package-0"].write_text("0")  # as a wrap-around this were 262 kJ in 10 s
    assert counter.read().why == "the CPU's energy counter was reset meanwhile, or jumped"
    machine["package-0"].write_text("3000000")
    now.now_s = 20.0
    assert counter.read() == energy.Reading(joules=3.0)
    machine["package-0"].write_text("90000000000")  # 90 kJ at once
    assert counter.read().why == "the CPU's energy counter was reset meanwhile, or jumped"
    now.now_s = 1000.0
    assert counter.read().why.startswith("the CPU's energy counter may have wrapped around more than once in 980 s")


def test_no_counters_or_none_that_may_be_read(machine, tmp_path, monkeypatch):
    with pytest.raises(UnmeasurableError, match=r"no RAPL counters in .*: a virtual machine, a container"):
        Rapl(tmp_path / "nothing")
    monkeypatch.setattr(energy.Path, "read_text", refusing(energy.Path.read_text))
    assert Meter.here(tmp_path).missing["cpu"].startswith("the CPU's energy counter may not be read by this user: sudo")


def refusing(read_text):
    """Reading a file, but for a counter's: as root alone may read it."""

    def read(path, *args, **kwargs):
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read_text(path, *args, **kwargs)

    return read


class NVMLError(Exception):
    """As the bindings raise it."""


def fake_nvml(**changes):
    """NVML of one GPU that only this process uses. changes: in place of what a function returns or raises."""
    answers = {
        "nvmlInit": None,
        "nvmlDeviceGetHandleByUUID": "handle",
        "nvmlDeviceGetMigMode": NVMLError("Not Supported"),
        "nvmlDeviceGetTotalEnergyConsumption": 5_000,
        "nvmlDeviceGetPowerUsage": 100_000,
        "nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(pid=os.getpid())],
        **changes,
    }

    def function(name):
        def call(*args):
            answer = answers[name]
            if isinstance(answer, Exception):
                raise answer
            return answer() if callable(answer) else answer

        return call

    return SimpleNamespace(NVMLError=NVMLError, answers=answers, **{name: function(name) for name in answers})


def test_a_gpu_counts_its_energy():
    nvml = fake_nvml()
    counter = energy.open_gpu("abc", nvml)
    assert counter.source.startswith("NVML, the GPU's own counter")
    nvml.answers["nvmlDeviceGetTotalEnergyConsumption"] = 12_500
    assert counter.read() == energy.Reading(joules=7.5)
    nvml.answers["nvmlDeviceGetTotalEnergyConsumption"] = 500
    assert counter.read().why == "the GPU's energy counter was reset meanwhile"
    nvml.answers["nvmlDeviceGetTotalEnergyConsumption"] = 1_500
    assert counter.read() == energy.Reading(joules=1.0)


@pytest.mark.parametrize(
    ("pids", "why"),
    [
        ([os.getpid()], None),
        ([OUTSIDE], None),
        ([1], "other processes used the GPU: 1"),
        ([os.getpid(), 1], "other processes used the GPU: 1"),
        ([OUTSIDE, OUTSIDE + 1], "other processes used the GPU: 2"),
        ([], "the driver lists no process on the GPU, not even this one, so that others can't be seen"),
        (NVMLError("No Permission"), "the driver does not tell which processes use the GPU: No Permission"),
    ],
)
def test_a_shared_gpu_is_no_measurement(pids, why):
    listed = pids if isinstance(pids, Exception) else [SimpleNamespace(pid=pid) for pid in pids]
    counter = energy.open_gpu("abc", fake_nvml(nvmlDeviceGetComputeRunningProcesses=listed))
    assert counter.read().why == why


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"nvmlDeviceGetMigMode": [1, 1]}, "partitioned .MIG."),
        ({"nvmlDeviceGetHandleByUUID": NVMLError("Not Found")}, "tells no energy of this GPU, or of this part of one"),
        ({"nvmlInit": NVMLError("Driver Not Loaded")}, "Driver Not Loaded"),
        (
            dict.fromkeys(("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage"), NVMLError("no")),
            "neither its energy .no. nor its power .no.",
        ),
    ],
)
def test_a_gpu_that_can_not_be_measured(changes, reason):
    with pytest.raises(UnmeasurableError, match=reason):
        energy.open_gpu("abc", fake_nvml(**changes))


def test_without_the_bindings(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    with pytest.raises(UnmeasurableError, match=r"pip install 'finetune-bench\[energy\]'"):
        energy.open_gpu("abc")


def test_sampled_power_is_integrated_with_its_error():
    now, nvml = Hands(), fake_nvml(nvmlDeviceGetTotalEnergyConsumption=NVMLError("Not Supported"))
    assert isinstance(energy.open_gpu("abc", nvml), NvmlPower)
    nvml.answers["nvmlDeviceGetPowerUsage"] = lambda: 1000 * (100 + 50 * math.sin(now.now_s))
    counter, joules, error = NvmlPower(nvml, "handle", now), 0.0, 0.0
    for step in range(1, 101):
        now.now_s = step * 0.1
        found = counter.read()
        assert found.why is None
        joules, error = joules + found.joules, error + found.error
    exact = 1000 + 50 * (1 - math.cos(10.0))
    assert joules == pytest.approx(exact, rel=1e-3)
    assert 0 < abs(joules - exact) < error < 0.005 * exact
    nvml.answers["nvmlDeviceGetComputeRunningProcesses"] = [SimpleNamespace(pid=1), SimpleNamespace(pid=2)]
    now.now_s += 1
    assert counter.read().why == "other processes used the GPU: 2"
    now.now_s += 3
    assert counter.read().why == "the GPU's power was not sampled for 3.0 s"


class Steady:
    """A counter of so many watts."""

    source, update_s, every_s = "a steady counter", 0.001, None

    def __init__(self, now, watts):
        self._now, self._watts, self._last_s = now, watts, now()

    def read(self):
        elapsed_s, self._last_s = self._now() - self._last_s, self._now()
        return energy.Reading(joules=self._watts * elapsed_s)


class Idle:
    """Nobody else uses the processor."""

    def read(self, *, of_all=True):
        return (1.0 if of_all else None), 1.0


def meter(now, **counters):
    return Meter(counters=counters, load=Idle(), now=now)


def test_phases_inside_one_another_are_apart():
    now = Hands()
    clock = Clock(meter(now, cpu=Steady(now, 10.0)))
    now.now_s = 1.0  # before any phase
    with clock.phase("train"):
        now.now_s = 3.0
        clock.set_apart("train_setup")
        now.now_s = 7.0
        assert clock.energy.so_far("train") == {"cpu": 0.0}
        with clock.phase("validate"):
            assert clock.energy.so_far("train") == {"cpu": pytest.approx(40.0)}
            now.now_s = 12.0
        now.now_s = 20.0
    found = energy.merged([clock.energy.result({})], {"train": 400}, {"train": 8000})
    joules = {name: phase["cpu_joules"] for name, phase in found.phases.items()}
    assert joules == pytest.approx({"train_setup": 20.0, "train": 120.0, "validate": 50.0})
    assert found.phases["train"]["cpu_joules_per_100_examples"] == pytest.approx(30.0)
    assert found.phases["train"]["cpu_joules_per_million_tokens"] == pytest.approx(15_000.0)
    assert found.missing == {}
    assert EnergyPart.model_validate(json.loads(found.model_dump_json())) == found


def test_a_gpu_that_is_used_later_is_not_counted_in_earlier_phases():
    now, nvml = Hands(), fake_nvml()
    one = meter(now)
    now.now_s = 5.0
    one.close("load")
    one.watch_gpu("abc", nvml)
    nvml.answers["nvmlDeviceGetTotalEnergyConsumption"] = 605_000
    now.now_s = 15.0
    one.close("train")
    one.watch_gpu("abc", nvml)
    found = energy.merged([one.result({})], {}, {})
    assert found.phases["train"] == {"gpu_joules": 600.0, "per_rank": [{"gpu_joules": 600.0}]}
    assert found.phases["load"]["gpu_joules"] is None
    assert found.missing == {"load, gpu": "the GPU was not in use yet when the phase began"}


def test_a_counter_that_fails_ends_no_run():
    now, nvml = Hands(), fake_nvml()
    one = meter(now)
    one.watch_gpu("abc", nvml)
    nvml.answers["nvmlDeviceGetTotalEnergyConsumption"] = NVMLError("GPU is lost")
    now.now_s = 9.0
    one.close("train")
    one.close("save")
    assert energy.merged([one.result({})], {}, {}).missing == {"gpu": "the counter failed: GPU is lost"}


def rank(host="a", gpu=None, owner=True, apart_s=0.0, **amounts):
    """Measurements of a process in the phase "train"."""
    kinds = list(amounts)
    return RankEnergy(
        host=host, gpu=gpu, is_owner=owner, sources=dict.fromkeys(kinds, "a counter"), missing={},
        updates_s=dict.fromkeys(kinds, 0.1), phases={"train": amounts}, apart_s={"train": apart_s},
    )  # fmt: skip


def amount(joules, seconds=10.0, busy_s=20.0, own_s=10.0, **others):
    return Amount(joules=joules, seconds=seconds, intervals=1, busy_s=busy_s, own_s=own_s, **others)


def test_each_gpu_counts_once_and_the_processor_once_for_each_machine():
    ranks = [
        rank("a", "g0", cpu=amount(50.0)),
        rank("a", "g1", owner=False),
        rank("b", "g0", cpu=amount(70.0)),
    ]
    for one, joules in zip(ranks, (100.0, 200.0, 400.0), strict=True):
        one.phases["train"] |= {"gpu": amount(joules)}
        one.phases["train"].setdefault("cpu", amount(0.0))
        one.updates_s["gpu"] = one.updates_s["cpu"] = 0.1
        one.sources["gpu"] = "a counter"
    ranks[2].phases["train"]["cpu"].own_s = 20.0
    found = energy.merged([*ranks, ranks[1]], {}, {}).phases["train"]
    assert (found["gpu_joules"], found["cpu_joules"]) == (700.0, 120.0)
    assert found["per_rank"][1] == {"gpu_joules": 200.0}
    assert found["per_rank"][3] == {}, "the same GPU once more"


@pytest.mark.parametrize(
    ("measured", "why"),
    [
        (amount(9.0, own_s=19.0), None),
        (amount(9.0, own_s=10.0), "other processes used 50% of the processor time"),
        (amount(9.0, busy_s=None), "how much other processes used the processor is not known"),
        (amount(9.0, seconds=1.5, own_s=20.0), "too short for a counter that moves every 0.1 s: 1.5 s"),
        (amount(0.0, own_s=19.0), "the counter tells 0 J in 10 s: it stood still, or jumped"),
        (amount(9.0, why="the CPU's energy counter was reset meanwhile"), "the CPU's energy counter was reset"),
    ],
)
def test_a_phase_without_a_number_says_why(measured, why):
    found = energy.merged([rank(cpu=measured)], {"train": 100}, {})
    assert found.phases["train"]["cpu_joules"] == (9.0 if why is None else None)
    assert found.missing.get("train, cpu", "").startswith(why or "")
    assert bool(found.missing) == (why is not None)


@pytest.mark.parametrize("joules", [0.0, 5e4 + 1, math.nan, math.inf])
def test_a_gpus_counter_that_stands_still_or_jumps_is_no_measurement(joules):
    """A GPU that is switched on takes some power, and none takes 5 kW."""
    one = rank(gpu="g0", owner=False)
    one.phases["train"]["gpu"], one.updates_s["gpu"], one.sources["gpu"] = amount(joules), 0.1, "a counter"
    found = energy.merged([one], {"train": 100}, {})
    assert found.phases["train"]["gpu_joules"] is None
    assert "J in 10 s: it stood still, or jumped" in found.missing["train, gpu"]


def test_energy_for_examples_is_left_open_where_scorers_were_compared():
    compared = energy.merged([rank(cpu=amount(9.0, own_s=20.0), apart_s=1.0)], {"train": 300}, {})
    assert "cpu_joules_per_100_examples" not in compared.phases["train"]
    assert compared.phases["train"]["cpu_joules"] == 9.0
    assert list(compared.missing) == ["train, per 100 examples"]
    little = energy.merged([rank(cpu=amount(9.0, own_s=20.0), apart_s=0.1)], {"train": 300}, {})
    assert little.phases["train"]["cpu_joules_per_100_examples"] == 3.0


def test_nothing_to_read_leaves_the_reason_alone(tmp_path):
    one = Meter.here(tmp_path)
    one.close("train")
    found = energy.merged([one.result({})], {"train": 10}, {})
    assert found.phases == {}
    assert list(found.missing) == ["cpu"]


def test_a_counter_that_wraps_around_is_read_between_phases(monkeypatch):
    now = Hands()
    counter = Steady(now, 1.0)
    counter.every_s, reads = 0.01, []
    counter.read = lambda: reads.append(1) or energy.Reading(joules=2.0)
    one = meter(now, cpu=counter)
    limit_s = time.monotonic() + 5
    while len(reads) < 3 and time.monotonic() < limit_s:
        time.sleep(0.01)
    one.stop()
    one.close("train")
    assert one.phases["train"]["cpu"].joules == 2.0 * len(reads) >= 8.0


def test_this_machine_against_itself():
    """Two readers of the same counters, one of them at more moments, agree within 5 %."""
    try:
        once, often = Rapl(), Rapl()
    except UnmeasurableError as error:
        pytest.skip(str(error))
    joules, limit_s = 0.0, time.monotonic() + 1.0
    while time.monotonic() < limit_s:
        sum(range(10_000))
        joules += often.read().joules
    assert joules == pytest.approx(once.read().joules, rel=0.05)
    assert joules > 0
