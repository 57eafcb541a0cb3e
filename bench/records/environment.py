"""Reads the environment of a run: package versions, devices, driver, and the commit of the harness."""

import contextlib
import importlib.metadata
import os
import platform
import subprocess
from typing import Any

import torch

from bench import __version__
from bench.errors import SetupError
from bench.records.record import Environment
from bench.utils import cuda
from bench.utils.git import git, untracked_code
from bench.utils.system import processor_name

PACKAGES = (
    "torch", "transformers", "accelerate", "deepspeed", "trl", "peft", "bitsandbytes", "datasets", "evaluate",
    "tokenizers", "safetensors", "numpy", "scikit-learn", "pydantic", "matplotlib",
)  # fmt: skip
# A run does not wait longer for a tool that hangs, as one on a lost network folder does.
PATIENCE_S = 10


def environment() -> Environment:
    """Return versions, devices, and the state of the repository that the harness runs from."""
    versions = {name: version for name in PACKAGES if (version := _version(name)) is not None}
    devices = cuda.names() or [_processor()]
    return Environment(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        packages={"finetune-bench": __version__, **versions},
        devices=devices,
        cpu_threads=torch.get_num_threads(),
        driver=_driver(),
        git=_git(),
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    return f"{processor_name()} ({os.cpu_count()} cores)"


def _driver() -> str | None:
    if not torch.cuda.is_available():
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.split() if done.returncode == 0 else []
    return lines[0] if lines else None


def _git() -> dict[str, Any] | None:
    """Return the commit, whether the code differs from it, and files of code that git does not track.

    None where git or a checkout is missing. A drop-in or a card that nobody has added to git changes a run, too.
    """
    try:
        commit = git("rev-parse", "HEAD", timeout_s=PATIENCE_S).strip()
    except SetupError:
        return None
    changed, untracked = "", list[str]()
    with contextlib.suppress(SetupError):
        changed = git("status", "--porcelain", "--untracked-files=no", timeout_s=PATIENCE_S).strip()
    with contextlib.suppress(SetupError):
        untracked = untracked_code(timeout_s=PATIENCE_S)
    state: dict[str, Any] = {"commit": commit, "dirty": bool(changed or untracked)}
    return {**state, "untracked": untracked} if untracked else state
