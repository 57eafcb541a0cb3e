"""Read from the command line of `accelerate launch` what it was asked for: its environment does not tell all of it.

`use_cpu` does not reach the processes of a launch of several, and of `MULTI_CPU` just one process comes about.
"""

import functools
import os
from dataclasses import dataclass
from pathlib import Path

from bench.errors import SetupError

# Between the launcher and its processes there may be a profiler, or a program that binds processors.
GENERATIONS = 3
# What `finetune-bench run` becomes, which takes the same options.
OWN_LAUNCHER = ("bench", "launch.py")
WITH_GPUS = ("MULTI_GPU", "DEEPSPEED", "FSDP")


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """A launch as it was asked for: by a config file, and by options that go before it. processes: None if not told."""

    processes: int | None
    distributed_type: str
    use_cpu: bool


@functools.cache
def launch_config() -> LaunchConfig | None:
    """Return what the launcher above this process was asked for; None without one, or where the system does not say."""
    found = _launcher_above()
    return None if found is None else _understood(found[1])


def launcher_process() -> int | None:
    """Return the process id of the launcher above this process; None without one, or where the system can't tell."""
    found = _launcher_above()
    return None if found is None else found[0]


def _launcher_above() -> tuple[int, list[str]] | None:
    """Return the launcher's process id and what follows `accelerate launch` on its command line."""
    process = os.getppid()
    for _ in range(GENERATIONS):
        try:
            words = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
            status = Path(f"/proc/{process}/stat").read_text()
        except OSError:
            return None
        arguments = launch_arguments(words)
        if arguments is not None:
            return process, arguments
        process = int(status.rpartition(")")[2].split()[1])  # its parent
    return None


def check(world_size: int, *, gpus: int, on_cpu: bool) -> None:
    """Raise SetupError where the launch can't give what it was asked for, and would not say so.

    gpus: of this machine. on_cpu: whether environment or config say that they are not to be used.
    """
    wanted, local = launch_config(), int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    if wanted is not None and wanted.distributed_type in WITH_GPUS and not gpus and not on_cpu:
        raise SetupError(
            f"the accelerate config asks for GPUs (distributed_type {wanted.distributed_type}), and this machine has "
            "none; use accelerate_configs/cpu.yaml, or ddp_cpu2.yaml for two processes"
        )
    if gpus and not on_cpu and local > gpus:
        raise SetupError(f"{local} processes were started on a machine of {gpus} GPUs; give --num-processes {gpus}")
    processes = None if wanted is None else wanted.processes
    if processes is not None and processes > 0 and processes != world_size:
        why = " (MULTI_CPU starts just one; MULTI_GPU with use_cpu: true starts all)" if world_size == 1 else ""
        raise SetupError(f"{processes} processes were asked for, but {world_size} came about{why}")


def device_fallback(device: str) -> str | None:
    """Return a sentence for the record where a launch that did not ask for a CPU has got one."""
    wanted = launch_config()
    if wanted is None or wanted.use_cpu or device != "cpu":
        return None
    return "no GPU was found, and the accelerate config does not say use_cpu: everything ran on the CPU"


def launch_arguments(words: list[str]) -> list[str] | None:
    """Return what follows `accelerate launch`, in any of the ways to write it; None for another command line."""
    for place, word in enumerate(words):
        name = Path(word).name
        if name in ("accelerate-launch", "accelerate.commands.launch") or Path(word).parts[-2:] == OWN_LAUNCHER:
            return words[place + 1 :]
        if name in ("accelerate", "accelerate.commands.accelerate_cli") and words[place + 1 : place + 2] == ["launch"]:
            return words[place + 2 :]
    return None


def _understood(arguments: list[str]) -> LaunchConfig:
    from accelerate.commands.config import default_config_file, load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    given = launch_command_parser().parse_args(arguments)
    config = None
    if given.config_file is not None or (Path(default_config_file).is_file() and not given.cpu):
        config = load_config_from_file(given.config_file)
    kind = "NO" if config is None else str(getattr(config.distributed_type, "value", config.distributed_type))
    for flag, meant in (("multi_gpu", "MULTI_GPU"), ("use_deepspeed", "DEEPSPEED"), ("use_fsdp", "FSDP")):
        kind = meant if getattr(given, flag) else kind
    return LaunchConfig(
        processes=given.num_processes or (None if config is None else config.num_processes),
        distributed_type=kind,
        use_cpu=bool(given.cpu or getattr(given, "use_cpu", False) or (config is not None and config.use_cpu)),
    )
