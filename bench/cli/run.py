"""`bench run`: launches one recipe: what `accelerate launch bench/run.py` does, with a config chosen by name."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from bench import console
from bench.cli.options import add_command, at_least_one
from bench.config import foreign_code, recipe_names, registry, yaml_loader
from bench.errors import SetupError
from bench.runner import lifecycle
from bench.sweeps import jobs
from bench.utils.files import ROOT

LAUNCHER = ROOT / "bench" / "launch.py"
# The launcher of several processes kills them so many seconds after a stop, which a checkpoint must not exceed.
SHUTDOWN_S = 240


def add(commands: Any) -> None:
    """Add the command and its options."""
    run = add_command(commands, "run", run_command, "run one recipe: launches accelerate, and leaves a record")
    lifecycle.add_options(run)
    run.add_argument(
        "--config",
        metavar="NAME|FILE",
        help="accelerate config, by name or path (default: gpu1, or cpu without a GPU; ddp, or ddp_cpu2, for several)",
    )
    run.add_argument(
        "--num-processes", type=at_least_one, metavar="N", help="number of processes (default: the config's)"
    )


def run_command(options: argparse.Namespace) -> int:
    """Become accelerate's launcher of the recipe, so that signals reach it; its exit code is the run's."""
    options.recipe = recipe_names.find(options.recipe)
    config = jobs.find_config(options.config or _usual_config(options.num_processes))
    _refuse_several_machines(config)
    processes = () if options.num_processes is None else ("--num_processes", str(options.num_processes))
    words = ["-P", str(LAUNCHER), "--config_file", str(config), *processes, str(jobs.PROGRAM), *_arguments(options)]
    console.flush()
    environment = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(SHUTDOWN_S), **os.environ}
    os.execve(sys.executable, [sys.executable, *words], environment)


def _usual_config(processes: int | None) -> str:
    on_gpus = bool(jobs.visible_gpus())
    if processes is not None and processes > 1:
        return "ddp" if on_gpus else "ddp_cpu2"
    return "gpu1" if on_gpus else "cpu"


def _refuse_several_machines(config: Path) -> None:
    machines = yaml_loader.read(config).data.get("num_machines")
    if isinstance(machines, int) and machines > 1:
        raise SetupError(
            f"--config {config.stem} is for {machines} machines, each of which must be told its number and the first "
            f"one's address: accelerate launch --config_file {config} --machine_rank ... {jobs.PROGRAM} RECIPE"
        )


def _arguments(options: argparse.Namespace) -> list[str]:
    """Return the arguments of `bench/run.py`."""
    words = [str(options.recipe), *options.overrides]
    for name in ("seed", "out", "timeout_s"):
        value = getattr(options, name)
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    flags = [name for name in ("overwrite", "resume", "check") if getattr(options, name)]
    flags += ["traceback"] if getattr(options, "traceback", False) else []
    flags += ["no-texts"] if options.no_texts else []
    words += [f"--{name}" for name in flags]
    words += [foreign_code.FLAG] if foreign_code.is_confirmed() else []
    return words + [word for place in registry.included() for word in ("--include", str(place))]
