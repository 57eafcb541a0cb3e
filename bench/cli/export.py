"""`bench export`: a run's model as a folder that transformers and peft load, or scores of runs in another format."""

import argparse
from pathlib import Path
from typing import Any

from bench import console
from bench.cli.options import add_command
from bench.errors import BenchError
from bench.exchange import formats
from bench.utils import arguments


def add(commands: Any) -> None:
    """Add the command and its options."""
    export = add_command(
        commands,
        "export",
        export_command,
        "write a run's model as a folder that transformers and peft load, or the scores of runs in another format",
    )
    export.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    kinds = "; ".join(f"{name}: {what}" for name, what in formats.FORMATS.items())
    export.add_argument("--format", choices=list(formats.FORMATS), help=f"write scores instead of a model: {kinds}")
    export.add_argument("--stage", choices=formats.STAGES, help="with --format: whose scores (default: after)")
    export.add_argument("--organization", metavar="NAME", help="with --format every-eval-ever: who evaluated")
    export.add_argument("--merge", action="store_true", help="merge an adapter into its base model")
    export.add_argument(
        "--out",
        type=arguments.path,
        metavar="PATH",
        help="a new folder, or file of a table (default: exported/<name of the run's folder, or of the format>)",
    )
    export.add_argument(
        "--unfinished", action="store_true", help="also export the model of a run that did not end with status ok"
    )


def export_command(options: argparse.Namespace) -> int:
    """Export; of a model, say how the folder's compares with the run's own."""
    if options.format is not None:
        return _export_scores(options)
    if options.stage or options.organization:
        raise BenchError("--stage and --organization go with --format")
    if len(options.runs) > 1:
        raise BenchError("a model is exported from one run; give one, or --format for the scores of several")
    from bench.evaluation import export

    (run,) = options.runs
    out = options.out or Path("exported") / run.resolve().name
    request = export.ExportRequest(run=run, out=out, merge=options.merge, unfinished=options.unfinished)
    for compared in export.export(request):
        (console.complain if compared.difference > export.LARGE else console.say)(compared.sentence)
    console.say(f"exported: {out} (see {out / export.PAGE})")
    return 0


def _export_scores(options: argparse.Namespace) -> int:
    from bench.exchange import written

    if options.merge or options.unfinished:
        raise BenchError("--merge and --unfinished are for a model, without --format")
    if options.organization and options.format != "every-eval-ever":
        raise BenchError("--organization goes with --format every-eval-ever")
    if options.stage and options.format in (*formats.TABLES, "hub"):
        raise BenchError(f"--stage does not go with --format {options.format}, which has its own stages")
    ending = f".{options.format}" if options.format in formats.TABLES else ""
    out = options.out or Path("exported") / f"{options.format if not ending else 'scores'}{ending}"
    stage, organization = options.stage or "after", options.organization
    console.say(f"exported: {written.write(options.runs, options.format, out, stage=stage, organization=organization)}")
    return 0
