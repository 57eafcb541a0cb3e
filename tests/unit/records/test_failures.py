"""Each way a run can end has its own status and a sentence that says what to do."""

import errno
import os
import resource
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench import errors
from bench.errors import did_you_mean
from bench.memory import limits
from bench.records import failures, record
from bench.runner import out_of_memory


class OutOfMemoryError(RuntimeError):
    """As torch.OutOfMemoryError is called, without a text that says so."""


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (errors.StoppedError("stopped by SIGTERM"), "interrupted"),
        (errors.DivergedError("the loss is nan at step 3"), "diverged"),
        (errors.BenchError("x"), "invalid"),
        (errors.RecipeError("x"), "invalid"),
        (errors.DataError("x: out of memory"), "invalid"),
        (errors.SetupError("x"), "invalid"),
        (errors.ScoreError("x"), "invalid"),
        (MemoryError(), "oom"),
        (OutOfMemoryError("tried to allocate"), "oom"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "oom"),
        (RuntimeError("CUDA out of memory"), "oom"),
        (RuntimeError("HIP out of memory"), "oom"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 64 bytes"), "oom"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"), "oom"),
        (RuntimeError("std::bad_alloc"), "oom"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "oom"),
        (OSError(errno.ENOSPC, "No space left on device"), "crashed"),
        (FileNotFoundError(errno.ENOENT, "out of memory"), "crashed"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "crashed"),
        (ValueError("out of memory"), "crashed"),
        (ZeroDivisionError(), "crashed"),
    ],
)
def test_status(error, status):
    assert failures.status_of(error) == status


def test_a_real_allocation_that_fails():
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        torch.empty(2**55)
    assert failures.status_of(caught.value) == "oom"


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (KeyboardInterrupt(), ["stopped by Ctrl-C during train", "is kept"]),
        (errors.DataError("row 3 is empty"), ["row 3 is empty"]),
        (RuntimeError("CUDA out of memory.\nmore lines"), ["out of memory during train", "per_device_batch", "lora"]),
        (OSError(errno.ENOSPC, "No space left on device"), ["the disk is full", "during train", "free some room"]),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), ["a quota is reached"]),
        (RuntimeError("write failed: No space left on device"), ["the disk is full"]),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), ["no permission during train", "/x"]),
        (ZeroDivisionError("division by zero"), ["ZeroDivisionError during train: division by zero"]),
        (KeyError("x"), ["KeyError during train: 'x'"]),
        (ValueError(), ["ValueError during train"]),
        (ValueError("\n\nfirst\nsecond"), ["first"]),
    ],
)
def test_sentence(error, parts):
    sentence = failures.sentence(error, "train")
    for part in parts:
        assert part in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("wrong", "known", "hint"),
    [
        ("trian", ["train", "test"], " Did you mean 'train'?"),
        ("zzz", ["train", "test"], " Known: test, train."),
        ("zzz", [], ""),
        ("", ["a"], " Known: a."),
        ("x" * 100_000, ["train"], " Known: train."),
    ],
)
def test_did_you_mean(wrong, known, hint):
    assert did_you_mean(wrong, known) == hint


# As torch 2.13 writes it (c10/cuda/CUDACachingAllocator.cpp).
CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 11.99 GiB of which 10.50 MiB is "
    "free. {process}Of the allocated memory 9.02 GiB is allocated by PyTorch, and 300.50 MiB is reserved by PyTorch "
    "but unallocated. If reserved but unallocated memory is large try setting PYTORCH_ALLOC_CONF"
)
MIB, GIB = 2**20, 2**30


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        (
            CUDA.format(process="Including non-PyTorch memory, this process has 9.98 GiB memory in use. "),
            {"asked": 20 * MIB, "capacity": round(11.99 * GIB), "free": round(10.5 * MIB),
             "process": round(9.98 * GIB), "allocated": round(9.02 * GIB)},
        ),
        (
            CUDA.format(process="Process 7 has 2 GiB memory in use. 6.00 GiB allowed; "),
            {"asked": 20 * MIB, "capacity": round(11.99 * GIB), "free": round(10.5 * MIB), "allowed": 6 * GIB,
             "allocated": round(9.02 * GIB)},
        ),
        ("HIP out of memory. Tried to allocate 1.50 KiB.", {"asked": 1536}),
        (
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
            "allocate 16777216 bytes. Error code 12 (Cannot allocate memory)",
            {"asked": 16777216},
        ),
        ("Unable to allocate 256. PiB for an array with shape (3,)", {"asked": 2**58}),
        ("unable to mmap 1234 bytes from file <x.safetensors>: Cannot allocate memory (12)", {"asked": 1234}),
        ("std::bad_alloc", {}),
        ("tried to allocate apples; total capacity of 3 bytes", {"capacity": 3}),
        ("", {}),
    ],
)  # fmt: skip
def test_sizes_in_what_allocators_say(text, sizes):
    assert failures.sizes_in(text) == sizes


def test_a_real_error_names_its_size():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    found = record.OutOfMemory(**out_of_memory.describe(caught.value, "load"))
    assert found.asked_bytes == 2**52
    assert found.memory == "host"
    assert 0 < found.allocated_bytes < found.capacity_bytes
    assert (found.step, found.rows) == (None, None)


def test_the_tightest_limit_counts():
    found = limits.limits()
    gaps = [limit.capacity - limit.used for limit in found]
    assert gaps == sorted(gaps)
    assert "physical memory" in {limit.name for limit in found}
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    try:
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, hard))
        first = limits.limits()[0]
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert (first.name, first.shared) == ("address space (ulimit -v)", False)
    assert 0 <= first.capacity - first.used <= 2**26


@pytest.mark.parametrize(
    ("kind", "groups"),
    [
        ("0::/a/b", {"a/b": ("max", 5), "a": ("3000", 700), "": (None, 0)}),
        ("7:memory:/a/b", {"memory/a/b": (str(2**63 - 4096), 5), "memory/a": ("3000", 700)}),
    ],
)
def test_limits_of_control_groups(tmp_path, monkeypatch, kind, groups):
    """Files as kernels write them, for this process's own group would need a privilege to be made."""
    version_1 = kind.startswith("7")
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if version_1 else ("memory.max", "memory.current")
    for place, (most, used) in groups.items():
        folder = tmp_path / place
        folder.mkdir(parents=True, exist_ok=True)
        if most is not None:
            (folder / names[0]).write_text(f"{most}\n")
            (folder / names[1]).write_text(f"{used}\n")
            (folder / "memory.stat").write_text("anon 600\ninactive_file 100\n")
    (tmp_path / "cgroup").write_text(f"3:cpu:/x\n{kind}\n")
    monkeypatch.setattr(limits, "GROUPS", tmp_path)
    monkeypatch.setattr(limits, "OWN_GROUPS", tmp_path / "cgroup")
    (limit,) = limits._of_groups()
    assert (limit.capacity, limit.used, limit.shared) == (3000, 600, True)


def oom(**changes):
    """A shortage on a GPU of 12 GiB, of which others hold two."""
    fields = {
        "phase": "train", "step": 3, "rows": 4, "length": 512, "memory": "gpu", "device": "NVIDIA X",
        "limit": "memory of the GPU", "asked_bytes": 20 * MIB, "capacity_bytes": 12 * GIB,
        "allocated_bytes": round(9.02 * GIB), "others_bytes": 2 * GIB,
    }  # fmt: skip
    return record.OutOfMemory(**{**fields, **changes})


def test_the_sentence_of_a_shortage():
    advice = [record.Advice(change="training.per_device_batch=2", costs="less speed")]
    assert out_of_memory.sentence(oom(predicted_gib=14.1, advice=advice)) == (
        "out of memory during train, in step 3 with a micro-batch of 4 x 512 tokens (20 MiB more were asked for; "
        "9.02 GiB in use of 12 GiB, NVIDIA X; other processes held 2 GiB of it; predicted for training: 14.1 GiB); "
        "to make it fit: training.per_device_batch=2 (less speed)"
    )
    bare = record.OutOfMemory(rank=1, host="b", phase="load", text="std::bad_alloc")
    assert out_of_memory.sentence(bare) == (
        f"out of memory on rank 1 (host b) during load (std::bad_alloc); {failures.GENERAL_ADVICE}"
    )
    odd = oom(unadvised="by the plan this fits", advice=advice)
    assert out_of_memory.sentence(odd).endswith(
        "; by the plan this fits; to make it fit: training.per_device_batch=2 (less speed)"
    )


def test_a_gpu_s_memory_and_what_of_it_a_process_may_take():
    process = "Including non-PyTorch memory, this process has 9.00 GiB memory in use. "
    sizes = failures.sizes_in(CUDA.format(process=process))
    found = out_of_memory.of_gpu(sizes, "NVIDIA X", 1, 1)
    assert (found["capacity_bytes"], found["allocated_bytes"]) == (round(11.99 * GIB), round(9.02 * GIB))
    assert found["others_bytes"] == pytest.approx(2.98 * GIB, rel=0.01)
    held = failures.sizes_in(CUDA.format(process=f"{process}11.50 GiB allowed; "))
    found = record.OutOfMemory(phase="train", **out_of_memory.of_gpu(held, "NVIDIA X", 1, 1))
    # Of 12 GiB, the context of CUDA takes half a GiB that torch does not count.
    assert (out_of_memory.available_bytes(found), found.device) == (12 * GIB, "NVIDIA X, held to this size")
    told_nothing = out_of_memory.of_gpu({}, None, 5, 4)
    assert (told_nothing["capacity_bytes"], told_nothing["allocated_bytes"]) == (5, 4)


def test_the_room_of_a_run_that_ran_out():
    assert out_of_memory.available_bytes(oom()) == 10 * GIB
    assert out_of_memory.available_bytes(oom(others_bytes=None, before_bytes=4 * GIB, sharers=2)) == 4 * GIB
    assert out_of_memory.available_bytes(oom(capacity_bytes=None)) is None


def test_a_shortage_travels_to_rank_zero():
    failure = failures.from_exception(MemoryError(), "train", 1, " on rank 1 (host b)")
    run = SimpleNamespace(progress=None, memory_baseline=None, watchdog=object())
    sent = failures.from_json(out_of_memory.add_shortage(failure, MemoryError(), run).packed(), 2)
    found = record.OutOfMemory(**sent.shortage)
    assert (found.rank, found.host, found.phase) == (1, socket.gethostname(), "train")
    crashed = failures.from_exception(ValueError(), "train")
    assert out_of_memory.add_shortage(crashed, ValueError(), run) is crashed


def test_neither_secrets_nor_control_characters_reach_a_record():
    error = OSError("https://me:" + "hunter22" + "@example.org: \x1b[2J glpat-" + "a" * 20)
    failure = failures.from_exception(error, "load")
    for text in (failure.sentence, failure.trace, failures.traceback_of(error)):
        assert "https://<removed>@example.org: \\u001b[2J <removed>" in text
    told = failures.sentence(errors.DataError("see xoxb-" + "1" * 12 + "-" + "b" * 20 + " in\u202e"), "load")
    assert told == "see <removed> in\\u202e"
