"""`bench sweep`: runs many recipes and seeds, each as a launch of its own."""

import argparse
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import console
from bench.cli.options import add_command, add_seeds, at_least_one, chosen_seeds
from bench.errors import BenchError
from bench.utils import arguments

if TYPE_CHECKING:  # imported when the command is run
    from bench.sweeps.executors import Executor
    from bench.sweeps.jobs import Machine


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
        "--jobs",
        type=at_least_one,
        metavar="N",
        help="number of parallel runs (default: as many as the GPUs allow; on a cluster, as many as it takes)",
    )
    sweep.add_argument(
        "--gpus-per-run",
        type=at_least_one,
        metavar="N",
        help="GPUs of each run (default: the config's number of processes)",
    )
    sweep.add_argument(
        "--on",
        choices=("local", "slurm", "ray"),
        default="local",
        help="where the runs are executed (default: local, on this machine)",
    )
    sweep.add_argument(
        "--address", metavar="HOST:PORT", help="of the Ray cluster (default: RAY_ADDRESS, else this one's)"
    )
    sweep.add_argument(
        "--slurm-cluster",
        choices=("slurm", "local"),
        help="with --on slurm: local runs the same jobs on this machine, to try them before they are queued",
    )
    sweep.add_argument("--slurm", action="store_true", help="submit the runs as a Slurm job array, and end")
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
    from bench.sweeps import scheduler, study

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
    with _placed(options) as (machine, executor):
        order = scheduler.SweepOptions(
            out=options.out,
            machine=machine,
            retry=options.retry,
            slurm=options.slurm,
            dry_run=options.dry_run,
            at_once=options.jobs,
            executor=executor,
            is_elsewhere=options.on != "local",
        )
        return scheduler.run_sweep(plans, order)


@contextlib.contextmanager
def _placed(options: argparse.Namespace) -> Iterator[tuple["Machine", "Executor | None"]]:
    """Yield where the runs are executed: the settings of their launches, and the executor; None for this machine."""
    from bench.sweeps import jobs

    _refuse_options(options)
    config, dry = options.config, options.slurm or options.dry_run
    if options.on == "ray" and not options.dry_run:
        from bench.sweeps import ray_cluster, ray_executor

        with ray_cluster.connected(options.address) as num_gpus:
            elsewhere = _elsewhere(config or ("gpu1" if num_gpus else "cpu"), options)
            yield elsewhere, ray_executor.RayExecutor(elsewhere, options.out, options.jobs)
    elif options.on == "slurm" and not options.dry_run:
        from bench.sweeps import slurm_executor

        cluster = options.slurm_cluster or "slurm"
        here = "gpu1" if cluster == "slurm" or jobs.visible_gpus() else "cpu"
        elsewhere = _elsewhere(config or here, options)
        yield elsewhere, slurm_executor.SlurmExecutor(elsewhere, options.out, options.jobs, cluster)
    else:
        if options.on != "local" and config is None:
            console.say("config gpu1, as --config names none; on a Ray cluster without GPUs it will be cpu")
        config = config or ("gpu1" if options.slurm or options.on != "local" else None)
        yield jobs.Machine.from_config(config, options.jobs, options.gpus_per_run, dry=dry), None


def _elsewhere(config: str, options: argparse.Namespace) -> "Machine":
    """Return the settings of launches on other machines, whose devices are not those of this one."""
    from bench.sweeps import jobs

    return jobs.Machine.from_config(config, options.jobs, options.gpus_per_run, dry=True)


def _refuse_options(options: argparse.Namespace) -> None:
    """Raise BenchError for options that contradict one another."""
    if options.slurm and options.gpus_per_run is not None:
        raise BenchError("--gpus-per-run: what a task of an array gets is said in scripts/slurm/study.sbatch")
    if options.slurm and options.on != "local":
        raise BenchError(
            f"--slurm submits a job array and ends, --on {options.on} runs the sweep there and stays; leave out one"
        )
    if options.address is not None and options.on != "ray":
        raise BenchError("--address is of a Ray cluster: it needs --on ray")
    if options.slurm_cluster is not None and options.on != "slurm":
        raise BenchError("--slurm-cluster needs --on slurm")


def _watch(options: argparse.Namespace) -> int:
    from bench.sweeps import watch

    if options.paths or options.overrides:
        given = " ".join([*options.paths, *options.overrides])
        raise BenchError(f"--watch only shows a sweep, and takes nothing else than its folder: leave out {given}")
    return watch.watch(options.watch)
