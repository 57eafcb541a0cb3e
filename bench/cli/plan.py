"""`bench plan`: predicts the memory of a training run before any download."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from bench import console
from bench.cli.options import add_command
from bench.errors import BenchError
from bench.utils import files, process


def add(commands: Any) -> None:
    """Adds the command and its options."""
    plan = add_command(commands, "plan", plan_command, "predict the peak memory of a training run, before any download")
    plan.add_argument("recipe", nargs="?", type=Path)
    plan.add_argument("overrides", nargs="*", metavar="key=value", help="overrides, as for a run")
    plan.add_argument("--gpu", metavar="SIZE|NAME", help="the memory or GPU that it must fit, e.g. 12GiB or A10G")
    plan.add_argument("--world", type=int, default=1, metavar="N", help="number of GPUs")
    plan.add_argument("--zero", type=int, default=0, metavar="0-3", help="ZeRO stage of DeepSpeed; FSDP2 is like 3")
    plan.add_argument("--offload", default="none", metavar="none|cpu", help="offload of ZeRO to the CPU")
    plan.add_argument("--precision", choices=["bf16", "fp16", "no"], help="mixed precision (default: the device's)")
    plan.add_argument("--per-device-batch", type=int, metavar="B", help="micro-batch on each GPU")
    plan.add_argument("--length", type=int, metavar="L", help="tokens of each text")
    plan.add_argument("--table", action="store_true", help="predictions for shipped recipes, in Markdown")
    plan.add_argument("-o", "--output", type=Path, metavar="FILE.md", help="where the table goes")


def plan_command(options: argparse.Namespace) -> int:
    """Print what a training is predicted to need, or the table of all that is shipped."""
    _import_for_plans()
    from bench.memory import planner, report

    console.quiet_libraries()
    if options.table:
        text = report.report()
        if options.output is None:
            print(text, end="")
        else:
            files.write_text(options.output, text)
        return 0
    if options.output is not None:
        raise BenchError("-o is where the --table goes; the plan of one recipe is printed")
    if options.recipe is None:
        raise BenchError("name a recipe, or ask for the --table of those that are shipped")
    request = report.PlanRequest(
        path=options.recipe,
        overrides=tuple(options.overrides),
        gpu=options.gpu,
        parallelism=planner.Parallelism(world=options.world, zero=options.zero, offload=options.offload),
        precision=options.precision,
        rows=options.per_device_batch,
        length=options.length,
    )
    for line in report.lines(request):
        console.say(line)
    return 0


def _import_for_plans() -> None:
    """Most of a plan's time is imports."""
    if "torch" in sys.modules:
        return
    # What is not on the card or in the cache is not fetched, nor asked for again and again without a network.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with process.libraries_apart():
        import bench.memory.report  # noqa: F401
