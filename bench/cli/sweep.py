"""`bench sweep`: runs many recipes and seeds, each as a launch of its own."""

import argparse
import os
from pathlib import Path
from typing import Any

from bench import console
from bench.cli.options import add_command, add_seeds, at_least_one, chosen_seeds
from bench.errors import BenchError
from bench.utils import arguments


def add(commands: Any) -> None:
    """Add the command and its options."""
    sweep = add_command(commands, "sweep", sweep_command, "run studies, or recipes over seeds and settings")
    sweep.add_argument("paths", nargs="*", metavar="STUDY|RECIPE|FOLDER")
    sweep.add_argument("overrides", nargs="*", metavar="key=value", help="override keys of every run")
    add_seeds(sweep)
    sweep.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="key=v1,v2",
        help="values of a key; several keys give all combinations",
    )
    sweep.add_argument("--mini", action="store_true", help="run the study's small variant, for two CPU cores")
    sweep.add_argument(
        "--variant",
        choices=("own", "as_published", "all"),
        default="own",
        help="the study's own settings, those that others published, or both (default: own)",
    )
    sweep.add_argument(
        "--out", type=arguments.path, default=Path("runs"), help="folder of the runs' folders (default: runs)"
    )
    sweep.add_argument("--config", help="accelerate config, by name or path (default: gpu1; cpu without a GPU)")
    sweep.add_argument(
        "--jobs", type=at_least_one, metavar="N", help="number of parallel runs (default: as many as the GPUs allow)"
    )
    sweep.add_argument(
        "--gpus-per-run",
        type=at_least_one,
        metavar="N",
        help="GPUs of each run (default: the config's number of processes)",
    )
    sweep.add_argument("--slurm", action="store_true", help="submit the runs as a Slurm job array")
    sweep.add_argument(
        "--retry",
        action="store_true",
        help="also repeat runs that failed in a way that is expected to recur: out of memory, diverged, a failed check",
    )
    sweep.add_argument("--dry-run", action="store_true", help="print the commands of the runs, and run nothing")
    sweep.add_argument(
        "--watch", type=arguments.path, metavar="FOLDER", help="show the sweep of this --out folder, and run nothing"
    )


def sweep_command(options: argparse.Namespace) -> int:
    """Run what has no finished record; returns 1 where a run failed."""
    if options.watch is not None:
        return _watch(options)
    if not options.paths:
        raise BenchError("say what to run: a study, recipes or a folder of them; or --watch FOLDER to see a sweep")
    from bench.config import overrides, recipe_names
    from bench.sweeps import jobs, scheduler, study

    # argparse gives all words before an option to the paths.
    words = [word for word in options.paths if "=" in word and not os.path.exists(word)]
    paths = [recipe_names.find(Path(word)) for word in options.paths if word not in words]
    given, options.seeds = (*words, *options.overrides), chosen_seeds(options)
    plans = [
        study.plan(
            paths,
            study.SweepRequest(seeds=options.seeds, sets=(*given, *sets), mini=options.mini, variant=options.variant),
        )
        for sets in overrides.products(options.set)
    ]
    for sentence in dict.fromkeys(sentence for plan in plans for sentence in plan.left_out):
        console.say(sentence)
    if options.slurm and options.gpus_per_run is not None:
        raise BenchError("--gpus-per-run: what a task of an array gets is said in scripts/slurm/study.sbatch")
    config = options.config or ("gpu1" if options.slurm else None)
    dry = options.slurm or options.dry_run
    machine = jobs.Machine.from_config(config, options.jobs, options.gpus_per_run, dry=dry)
    order = scheduler.SweepOptions(
        out=options.out,
        machine=machine,
        retry=options.retry,
        slurm=options.slurm,
        dry_run=options.dry_run,
        at_once=options.jobs,
    )
    return scheduler.run_sweep(plans, order)


def _watch(options: argparse.Namespace) -> int:
    from bench.sweeps import watch

    if options.paths or options.overrides:
        given = " ".join([*options.paths, *options.overrides])
        raise BenchError(f"--watch only shows a sweep, and takes nothing else than its folder: leave out {given}")
    return watch.watch(options.watch)
