"""`bench plan`: predicts the memory of a run before any download, and says first whether it fits."""

import argparse
import contextlib
import os
import sys
from pathlib import Path
from typing import Any

from bench import console
from bench.cli.options import add_command, add_costs, refuse_outputs
from bench.config import recipe_names, resolve
from bench.errors import BenchError
from bench.utils import arguments, files, process

# The exit code of a plan that does not fit; 2 is a problem of the command or the recipe.
DOES_NOT_FIT = 3


def add(commands: Any) -> None:
    """Add the command and its options."""
    plan = add_command(commands, "plan", plan_command, "predict a run's peak memory and time, before any download")
    plan.add_argument("recipe", nargs="?", type=Path)
    plan.add_argument("overrides", nargs="*", metavar="key=value", help="override keys of the recipe")
    plan.add_argument("--gpu", metavar="SIZE|NAME", help="memory of one GPU, or its name: 12GiB, A10G")
    plan.add_argument("--world", type=int, default=1, metavar="N", help="number of GPUs (default: 1)")
    plan.add_argument(
        "--zero",
        type=int,
        default=0,
        metavar="0-3",
        help="DeepSpeed ZeRO stage (default: 0)",
    )
    plan.add_argument("--fsdp", action="store_true", help="FSDP2, in place of ZeRO")
    plan.add_argument(
        "--offload", default="none", metavar="none|cpu", help="ZeRO offload to host memory (default: none)"
    )
    plan.add_argument("--precision", choices=["bf16", "fp16", "no"], help="mixed precision (default: the device's)")
    plan.add_argument("--per-device-batch", type=int, metavar="B", help="examples per micro-batch")
    plan.add_argument("--length", type=int, metavar="L", help="sequence length in tokens")
    plan.add_argument(
        "--records",
        type=arguments.path,
        metavar="FOLDER",
        help="past runs: on the same device with the same method, the forecast of time rests on them",
    )
    add_costs(plan)
    plan.add_argument(
        "--job",
        type=arguments.path,
        metavar="FILE",
        help="plan a job of another program in place of a recipe: its settings in YAML (keys: docs/memory.md)",
    )
    plan.add_argument("--table", action="store_true", help="print predictions for all shipped recipes, in Markdown")
    plan.add_argument("-o", "--output", type=arguments.path, metavar="FILE.md", help="write the --table to this file")


def plan_command(options: argparse.Namespace) -> int:
    """Print the predicted memory of a run, the verdict first, or the table of all shipped recipes.

    Returns the exit code: 3 where the run does not fit.
    """
    if options.job is not None:
        return _plan_job(options)
    if options.recipe is not None:
        # The config of a model that is named without a card is fetched, a few kilobytes; all else is read offline.
        with contextlib.suppress(BenchError):  # it is raised again, in its place
            resolve.load(options.recipe, tuple(options.overrides))
    import_for_plans()
    from bench.memory import planner, report

    console.quiet_libraries()
    refuse_outputs(options.output)
    if options.table:
        _check_only_table(options)
        text = report.report()
        if options.output is None:
            console.write(text)
        else:
            files.write_text(options.output, text)
        return 0
    if options.output is not None:
        raise BenchError("-o is where the --table goes; the plan of one recipe is printed")
    if options.recipe is None:
        raise BenchError("name a recipe, or ask for the --table of those that are shipped")
    request = report.PlanRequest(
        path=recipe_names.find(options.recipe),
        overrides=tuple(options.overrides),
        gpu=options.gpu,
        parallelism=planner.Parallelism(
            world=options.world, zero=options.zero, offload=options.offload, fsdp=options.fsdp
        ),
        precision=options.precision,
        rows=options.per_device_batch,
        length=options.length,
        records=options.records,
        costs=options.costs,
    )
    answer = report.answer(request)
    for line in answer.lines:
        console.say(line)
    return 0 if answer.fits else DOES_NOT_FIT


def _check_only_table(options: argparse.Namespace) -> None:
    """Raise BenchError for what says something of one plan, beside the table of all shipped recipes."""
    given = {
        "RECIPE": options.recipe, "--gpu": options.gpu, "--world": options.world != 1, "--zero": options.zero,
        "--fsdp": options.fsdp, "--offload": options.offload != "none", "--precision": options.precision,
        "--per-device-batch": options.per_device_batch, "--length": options.length, "--records": options.records,
        "--costs": options.costs,
    }  # fmt: skip
    if others := [name for name, value in given.items() if value]:
        raise BenchError(f"--table is of all shipped recipes as they are, on one GPU; omit {', '.join(others)}")


def _plan_job(options: argparse.Namespace) -> int:
    """Print the plan of a job of another program; the arguments beside it are its settings."""
    import_for_plans()
    from bench.memory import job_report

    console.quiet_libraries()
    job_report.check_only_job(
        {
            "--world": options.world != 1,
            "--zero": options.zero,
            "--fsdp": options.fsdp,
            "--offload": options.offload != "none",
            "--precision": options.precision,
            "--per-device-batch": options.per_device_batch,
            "--length": options.length,
            "--records": options.records,
            "--costs": options.costs,
            "--table": options.table,
            "-o": options.output,
        }
    )
    settings = ([] if options.recipe is None else [str(options.recipe)]) + options.overrides
    fits, lines = job_report.answer(options.job, tuple(settings), options.gpu)
    for line in lines:
        console.say(line)
    return 0 if fits else DOES_NOT_FIT


def import_for_plans() -> None:
    """Import what a plan needs, which is most of its time."""
    if "torch" in sys.modules:
        return
    # What is not on the card or in the cache is not fetched, nor asked for again and again without a network.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with process.imports_without_collection():
        import bench.memory.report  # noqa: F401
