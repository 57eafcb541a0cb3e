"""`bench export`: writes a run's model as a folder that transformers and peft load by its path alone."""

import argparse
from pathlib import Path
from typing import Any

from bench import console
from bench.cli.options import add_command
from bench.utils import arguments


def add(commands: Any) -> None:
    """Add the command and its options."""
    export = add_command(
        commands, "export", export_command, "write a run's model as a folder that transformers and peft load"
    )
    export.add_argument("run_folder", type=Path, metavar="RUN")
    export.add_argument("--merge", action="store_true", help="merge an adapter into its base model")
    export.add_argument(
        "--out",
        type=arguments.path,
        metavar="FOLDER",
        help="a new folder (default: exported/<name of the run's folder>)",
    )
    export.add_argument(
        "--unfinished", action="store_true", help="also export the model of a run that did not end with status ok"
    )


def export_command(options: argparse.Namespace) -> int:
    """Export, and say how the folder's model compares with the run's own."""
    from bench.evaluation import export

    out = options.out or Path("exported") / options.run_folder.resolve().name
    request = export.ExportRequest(run=options.run_folder, out=out, merge=options.merge, unfinished=options.unfinished)
    for compared in export.export(request):
        (console.complain if compared.difference > export.LARGE else console.say)(compared.sentence)
    console.say(f"exported: {out} (see {out / export.PAGE})")
    return 0
