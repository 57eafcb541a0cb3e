"""`bench gate`: compares runs with a committed baseline."""

import argparse
from pathlib import Path
from typing import Any

from bench.cli.options import add_command, at_least_one, refuse_outputs, share
from bench.errors import BenchError
from bench.utils import arguments


def add(commands: Any) -> None:
    """Add the command and its options."""
    gate = add_command(commands, "gate", gate_command, "fail where scores, losses or speed are worse than a baseline's")
    gate.epilog = (
        "With the baseline's versions and processor, or with --against, two points less on all seeds of one recipe are "
        "caught in at least 95 of 100 gates, and a clean gate fails in at most 1 of 100 (simulated by "
        "scripts/benchmarks/gate_power.py). On another processor without --against only large damage is caught: scores "
        "are held to the spread between seeds, losses and gradient norms to their first 20 steps."
    )
    gate.add_argument("recipes", nargs="+", type=Path, metavar="RECIPE|FOLDER")
    gate.add_argument("--baseline", type=arguments.path, required=True, help="folder of baselines, one file per recipe")
    gate.add_argument("--write", action="store_true", help="write new baselines instead of comparing with them")
    gate.add_argument(
        "--num-seeds", "--seeds", dest="seeds", type=at_least_one, metavar="N", help="of a new baseline (default: 5)"
    )
    gate.add_argument(
        "--against",
        metavar="COMMIT",
        help="compare speed with this commit, in alternating runs on this machine; where versions or the processor are "
        "not the baseline's, compare everything else with its runs too",
    )
    gate.add_argument("--speed", action="append", default=[], type=Path, metavar="RECIPE", help="recipe to time")
    gate.add_argument("--rounds", type=at_least_one, metavar="N", help="timed runs per commit")
    gate.add_argument(
        "--alpha", type=share, default=0.01, help="family-wise error rate of the whole gate (default: 0.01)"
    )
    gate.add_argument("--set", action="append", default=[], metavar="key=value", help="override a key of every run")
    gate.add_argument("--out", type=arguments.path, help="folder of the runs (default: a temporary one)")
    gate.add_argument("--config", help="accelerate config, by name or path")
    gate.add_argument(
        "--jobs", type=at_least_one, metavar="N", help="number of parallel runs; timed runs never share the machine"
    )
    gate.add_argument("-o", "--output", type=arguments.path, metavar="FILE.md", help="write the result in Markdown too")


def gate_command(options: argparse.Namespace) -> int:
    """Compare the code as it is with a baseline; returns 1 where a check failed."""
    import tempfile

    from bench.config import recipe_names
    from bench.sweeps import jobs
    from bench.sweeps.gate import runs

    refuse_outputs(options.output)
    if options.seeds is not None and not options.write:
        raise BenchError("--num-seeds goes with --write; a gate runs the seeds of its baselines")
    if options.output is not None and options.write:
        raise BenchError("-o is where the comment of a gate goes; --write writes into --baseline")
    scratch = None if options.out is not None else Path(tempfile.mkdtemp(prefix="gate-"))
    code = 1
    try:
        request = runs.GateRequest(
            recipes=runs.recipes([recipe_names.find(path) for path in options.recipes]),
            baseline=options.baseline,
            out=scratch or options.out,
            machine=jobs.Machine.from_config(options.config, options.jobs, None),
            overrides=tuple(options.set),
            against=options.against,
            speed=tuple(runs.recipes([recipe_names.find(path) for path in options.speed]) if options.speed else ()),
            rounds=options.rounds,
            alpha=options.alpha,
        )
        code = runs.run_gate(request, write_baselines=options.write, seeds=options.seeds or 5, output=options.output)
    finally:
        if scratch is not None:
            runs.discard(scratch, failed=code != 0)
    return code
