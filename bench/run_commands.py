"""The commands over runs that are there or to come: sweep, report, compare, gate and push, with their options."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import console, record
from bench.errors import BenchError

Add = Callable[[Any, str, Any, str], argparse.ArgumentParser]


def add(commands: Any, add_one: Add) -> None:
    """Adds them to the command line. add_one: as `bench.__main__` adds its own."""
    _add_sweep(commands, add_one)
    _add_report(commands, add_one)
    _add_compare(commands, add_one)
    _add_gate(commands, add_one)
    _add_push(commands, add_one)


def _add_sweep(commands: Any, add_one: Add) -> None:
    sweep = add_one(commands, "sweep", sweep_command, "run studies, or recipes over seeds and settings")
    sweep.add_argument("paths", nargs="+", metavar="STUDY|RECIPE|FOLDER")
    sweep.add_argument("overrides", nargs="*", metavar="key=value", help="overrides of every run, as for a run")
    sweep.add_argument("--seeds", type=_seeds, metavar="N|A,B,...", help="how many, from the recipe's on, or which")
    sweep.add_argument("--set", action="append", default=[], metavar="key=v1,v2", help="values: all combinations")
    sweep.add_argument("--mini", action="store_true", help="a study's small variant, for two CPU cores")
    sweep.add_argument("--out", type=Path, default=Path("runs"), help="where the runs' folders go (default: runs)")
    sweep.add_argument("--config", help="an accelerate config, by name or path (default: gpu1, or cpu without a GPU)")
    sweep.add_argument("--jobs", type=_at_least_one, metavar="N", help="runs at once (default: as many as GPUs allow)")
    sweep.add_argument("--gpus-per-run", type=_at_least_one, metavar="N", help="default: what the config asks for")
    sweep.add_argument("--slurm", action="store_true", help="submit the runs as a job array")
    sweep.add_argument("--retry", action="store_true", help="run again what failed in a way that would come again")
    sweep.add_argument("--dry-run", action="store_true", help="only print the commands of the runs")


# Of numbers below 2**31.
DIGITS = 10


def _fits(text: str) -> bool:
    return text.isdecimal() and len(text) <= DIGITS and int(text) < 2**31


def _at_least_one(text: str) -> int:
    if not _fits(text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text:.100} is not a whole number from 1 on, or too large")
    return int(text)


def _seeds(text: str) -> int | tuple[int, ...]:
    from bench.study import MOST_SEEDS

    numbers = [part.strip() for part in text.split(",") if part.strip()]
    if not numbers or not all(map(_fits, numbers)):
        raise argparse.ArgumentTypeError(f"{text} is neither a number of seeds nor a list of them")
    if "," not in text:
        if (count := _at_least_one(text)) > MOST_SEEDS:
            raise argparse.ArgumentTypeError(f"{text} would be that many runs; for this one seed write {text},")
        return count
    if len(set(map(int, numbers))) < len(numbers):
        raise argparse.ArgumentTypeError(f"{text}: a seed stands twice")
    return tuple(map(int, numbers))


def _add_report(commands: Any, add_one: Add) -> None:
    report = add_one(commands, "report", report_command, "make a report of many records, or one short table")
    report.add_argument("runs", nargs="+", type=Path, help="run folders, or folders that hold them")
    report.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER|FILE.md", help="for the report with figures, or a short table"
    )
    report.add_argument("--metric", metavar="NAME", help="ranks and compares (default: the first of the usual ones)")
    report.add_argument("--html", type=Path, metavar="FILE", help="the report as one page, with figures inside")
    report.add_argument("--hub-texts", action="store_true", help="may ask the Hub for texts on which systems differ")


def _add_compare(commands: Any, add_one: Add) -> None:
    compare = add_one(commands, "compare", compare_command, "test which system is better, on the same examples")
    compare.add_argument("runs", nargs="+", type=Path, help="run folders, record files, or folders that hold many")
    compare.add_argument("--stage", choices=["after", "before"], default="after", help="of the training")
    compare.add_argument("--split", help="default: test, else the first")
    compare.add_argument("--metric", metavar="NAME", help="default: the one that ranks runs in reports")
    compare.add_argument("--margin", type=float, metavar="M", help="differences below it count as none")
    compare.add_argument("--common", action="store_true", help="compare runs that scored other examples too")
    compare.add_argument("-o", "--output", type=Path, metavar="FILE.md", help="the page, in Markdown")
    compare.add_argument("--json", type=Path, metavar="FILE", help="everything, in full precision")


def _add_gate(commands: Any, add_one: Add) -> None:
    gate = add_one(commands, "gate", gate_command, "fail where scores, losses or speed are worse than a baseline's")
    gate.add_argument("recipes", nargs="+", type=Path, metavar="RECIPE|FOLDER")
    gate.add_argument("--baseline", type=Path, required=True, help="folder of the baselines, a file for each recipe")
    gate.add_argument("--write", action="store_true", help="make the baselines, instead of judging by them")
    gate.add_argument("--seeds", type=_at_least_one, metavar="N", help="of a baseline that is made (5)")
    gate.add_argument("--against", metavar="COMMIT", help="compare speed with this commit's, in turns on this machine")
    gate.add_argument("--speed", action="append", default=[], type=Path, metavar="RECIPE", help="what is timed")
    gate.add_argument("--rounds", type=_at_least_one, metavar="N", help="timed runs of each commit")
    gate.add_argument("--alpha", type=_share, default=0.01, help="chance of a false alarm of the whole gate (0.01)")
    gate.add_argument("--set", action="append", default=[], metavar="key=value", help="an override for every run")
    gate.add_argument("--out", type=Path, help="where the runs go (default: a temporary folder)")
    gate.add_argument("--config", help="an accelerate config, by name or path")
    gate.add_argument("--jobs", type=_at_least_one, metavar="N", help="runs at once; timed runs are alone")
    gate.add_argument("-o", "--output", type=Path, metavar="FILE.md", help="the comment, as a file too")


def _add_push(commands: Any, add_one: Add) -> None:
    push = add_one(commands, "push", push_command, "push a run's model, or records of runs, to the Hugging Face Hub")
    push.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders; a single one for --to")
    push.add_argument("--to", metavar="OWNER/NAME", help="repository for the saved model, with its card")
    push.add_argument("--records-to", metavar="OWNER/DATASET", help="data set for records, reports, figures and logs")
    push.add_argument("--with-predictions", action="store_true", help="with texts, which may be licensed")
    push.add_argument("--private", action="store_true", help="make the repositories private")
    push.add_argument("--dry-run", action="store_true", help="upload nothing: write what would be into a folder")
    push.add_argument("--out", type=Path, metavar="FOLDER", help="that folder (default: hub)")


def _refuse_folders(*paths: Path | None) -> None:
    """Raises BenchError where a file is to be written and a folder is there; before the work, not after it."""
    for path in paths:
        if path is not None and path.is_dir():
            raise BenchError(f"{path} is a folder; give the name of a file")


def _share(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return found


def sweep_command(options: argparse.Namespace) -> int:
    """Runs what has no finished record; returns 1 where a run failed."""
    from bench import jobs, overrides, study, sweep

    # argparse gives all words before an option to the paths.
    words = [word for word in options.paths if "=" in word and not os.path.exists(word)]
    paths = [Path(word) for word in options.paths if word not in words]
    given = (*words, *options.overrides)
    plans = [
        study.plan(paths, study.Asked(seeds=options.seeds, sets=(*given, *sets), mini=options.mini))
        for sets in overrides.products(options.set)
    ]
    for sentence in dict.fromkeys(sentence for plan in plans for sentence in plan.left_out):
        console.say(sentence)
    if options.slurm and options.gpus_per_run is not None:
        raise BenchError("--gpus-per-run: what a task of an array gets is said in scripts/slurm/study.sbatch")
    config = options.config or ("gpu1" if options.slurm else None)
    dry = options.slurm or options.dry_run
    machine = sweep.Machine.of(config, options.jobs, options.gpus_per_run, dry=dry)
    order = jobs.Order(
        out=options.out,
        machine=machine,
        retry=options.retry,
        slurm=options.slurm,
        dry_run=options.dry_run,
        at_once=options.jobs,
    )
    return jobs.conduct(plans, order)


def report_command(options: argparse.Namespace) -> int:
    """Writes a report of all records found: a folder, an HTML page, or a short table."""
    from bench import tables

    if options.output is None and options.html is None:
        raise BenchError("say where the report goes: -o FOLDER, -o FILE.md for a short table, or --html FILE")
    _refuse_folders(options.html)
    short = options.output is not None and options.output.suffix == ".md" and not options.output.is_dir()
    written = [tables.write_table_report(options.runs, options.output, options.metric)] if short else []
    folder = None if short else options.output
    if folder is not None or options.html is not None:
        from bench import overview

        written += overview.write(options.runs, folder, options.html, metric=options.metric, from_hub=options.hub_texts)
    for path in written:
        console.say(f"report: {path}")
    return 0


def compare_command(options: argparse.Namespace) -> int:
    """Prints scores, tiers and paired tests of the systems; writes them where asked."""
    from bench import compare, compare_report, contenders

    _refuse_folders(options.output, options.json)
    asked = contenders.Asked(stage=options.stage, split=options.split, metric=options.metric, common=options.common)
    found = compare.compare(options.runs, asked, options.margin)
    for path, text in ((options.output, compare_report.as_markdown), (options.json, compare_report.as_json)):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            record.write_text(path, text(found))
    console.say(compare_report.headline(found))
    for table in compare_report.as_tables(found):
        console.out.print(table)
    for note in compare_report.notes(found):
        console.say(note)
    return 0


def gate_command(options: argparse.Namespace) -> int:
    """Judges the code as it is by a baseline; returns 1 where a check failed."""
    import tempfile

    from bench import gate_runs, sweep

    _refuse_folders(options.output)
    if options.seeds is not None and not options.write:
        raise BenchError("--seeds goes with --write; a gate runs the seeds of its baselines")
    if options.output is not None and options.write:
        raise BenchError("-o is where the comment of a gate goes; --write writes into --baseline")
    scratch = None if options.out is not None else Path(tempfile.mkdtemp(prefix="gate-"))
    code = 1
    try:
        asked = gate_runs.Asked(
            recipes=gate_runs.recipes(options.recipes),
            baseline=options.baseline,
            out=scratch or options.out,
            machine=sweep.Machine.of(options.config, options.jobs, None),
            overrides=tuple(options.set),
            against=options.against,
            speed=tuple(gate_runs.recipes(options.speed) if options.speed else ()),
            rounds=options.rounds,
            alpha=options.alpha,
        )
        code = gate_runs.conduct(asked, renew=options.write, seeds=options.seeds or 5, output=options.output)
    finally:
        if scratch is not None:
            gate_runs.discard(scratch, failed=code != 0)
    return code


def push_command(options: argparse.Namespace) -> int:
    """Pushes to the Hub, or writes into a folder what would be pushed; prints where it is."""
    from bench import hub

    asked = hub.Asked(
        runs=options.runs,
        to=options.to,
        records_to=options.records_to,
        private=options.private,
        with_predictions=options.with_predictions,
    )
    if options.out is not None and not options.dry_run:
        raise BenchError("--out goes with --dry-run")
    if options.dry_run:
        for place in hub.write(hub.gather(asked), options.out or Path("hub")):
            console.say(f"would be pushed: {place}")
        return 0
    for address in hub.push(asked):
        console.say(f"pushed: {address}")
    return 0
