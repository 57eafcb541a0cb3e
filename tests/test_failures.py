"""Each way a run can end has its own status and a sentence that says what to do."""

import errno
import os

import pytest
import torch

from bench import errors, failures
from bench.errors import did_you_mean


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
