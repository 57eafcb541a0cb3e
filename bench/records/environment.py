"""Reads the environment of a run: package versions, devices, driver, and the commit of the harness."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from bench.records.record import Environment
from bench.utils.files import ROOT

PACKAGES = (
    "torch", "transformers", "accelerate", "deepspeed", "trl", "peft", "bitsandbytes", "datasets", "evaluate",
    "tokenizers", "safetensors", "numpy", "scikit-learn", "pydantic", "matplotlib",
)  # fmt: skip


def environment() -> Environment:
    """Versions, devices, and the state of the repository that the harness runs from."""
    versions = {name: version for name in PACKAGES if (version := _version(name)) is not None}
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or [_processor()]
    return Environment(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        packages=versions,
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
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()} ({os.cpu_count()} cores)"
    except OSError:
        pass
    return f"{platform.processor() or platform.machine()} ({os.cpu_count()} cores)"


def _driver() -> str | None:
    if not torch.cuda.is_available():
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return next(iter(_output(command, Path.cwd()).splitlines()), None)


def _git() -> dict[str, Any] | None:
    commit = _output(["git", "rev-parse", "HEAD"], ROOT)
    if not commit:
        return None
    return {"commit": commit, "dirty": bool(_output(["git", "status", "--porcelain", "--untracked-files=no"], ROOT))}


def _output(command: list[str], folder: Path) -> str:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
