"""The processes of a run and the machine they run on: started, then read back; versions and hardware."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from bench.errors import SetupError
from bench.fitting import Budget
from bench.record import Environment, Launch

PACKAGES = (
    "torch", "transformers", "accelerate", "deepspeed", "trl", "peft", "bitsandbytes", "datasets", "evaluate",
    "tokenizers", "safetensors", "numpy", "scikit-learn", "pydantic", "matplotlib",
)  # fmt: skip


def start() -> PartialState:
    """Joins the processes that the launcher started. Raises SetupError when the world is not the one asked for."""
    on_cpu = not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true")
    if on_cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed looks for a GPU, and complains
    asked = int(os.environ.get("WORLD_SIZE", "1") or 1)
    # Without an explicit backend each of several CPU processes would believe itself alone.
    state = PartialState(cpu=True, backend="gloo" if asked > 1 else None) if on_cpu else PartialState()
    if state.num_processes != asked:
        raise SetupError(f"{asked} processes were asked for, but {state.num_processes} came about")
    return state


def precision() -> str:
    """Mixed precision as the launcher set it: "no", "bf16" or "fp16"."""
    chosen = os.environ.get("ACCELERATE_MIXED_PRECISION", "no") or "no"
    if chosen not in ("no", "bf16", "fp16"):
        raise SetupError(f"mixed_precision is {chosen!r}; this harness supports no, bf16 and fp16")
    return chosen


def describe(state: PartialState, budget: Budget | None, global_batch: int) -> Launch:
    """What is really in force."""
    backend = torch.distributed.get_backend() if torch.distributed.is_initialized() else None
    per_machine = int(os.environ.get("LOCAL_WORLD_SIZE", state.num_processes) or state.num_processes)
    return Launch(
        world_size=state.num_processes,
        num_machines=max(1, state.num_processes // per_machine),
        distributed_type=state.distributed_type.value,
        backend=backend,
        zero_stage=None,
        mixed_precision=precision(),
        device=state.device.type,
        global_batch=global_batch,
        per_device_batch=budget.per_device_batch if budget else global_batch,
        accumulation=budget.accumulation if budget else 1,
    )


def same_everywhere(value: Any) -> Any:
    """Rank zero's value, on every process."""
    return broadcast_object_list([value])[0]


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
    root = Path(__file__).resolve().parent.parent
    commit = _output(["git", "rev-parse", "HEAD"], root)
    if not commit:
        return None
    return {"commit": commit, "dirty": bool(_output(["git", "status", "--porcelain", "--untracked-files=no"], root))}


def _output(command: list[str], folder: Path) -> str:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
