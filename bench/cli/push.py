"""`bench push`: uploads a saved model or records to the Hub."""

import argparse
from pathlib import Path
from typing import Any

from bench import console
from bench.cli.options import add_command
from bench.errors import BenchError
from bench.utils import arguments


def add(commands: Any) -> None:
    """Add the command and its options."""
    push = add_command(
        commands, "push", push_command, "push a run's model, or records of runs, to the Hugging Face Hub"
    )
    push.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders; a single one for --to")
    push.add_argument("--to", metavar="OWNER/NAME", help="repository for the saved model and its card")
    push.add_argument(
        "--records-to", metavar="OWNER/DATASET", help="dataset repository for records, reports, figures and logs"
    )
    push.add_argument(
        "--with-predictions", action="store_true", help="include predictions, whose texts may be under a licence"
    )
    push.add_argument("--private", action="store_true", help="create the repositories as private")
    push.add_argument("--dry-run", action="store_true", help="write the files into a folder instead of uploading them")
    push.add_argument("--out", type=arguments.path, metavar="FOLDER", help="folder of --dry-run (default: hub)")


def push_command(options: argparse.Namespace) -> int:
    """Push to the Hub, or write into a folder what would be pushed; print where it is."""
    from bench.reporting.hub import push as hub

    request = hub.PushRequest(
        runs=options.runs,
        to=options.to,
        records_to=options.records_to,
        private=options.private,
        with_predictions=options.with_predictions,
    )
    if options.out is not None and not options.dry_run:
        raise BenchError("--out goes with --dry-run")
    if options.dry_run:
        for place in hub.write(hub.gather(request), options.out or Path("hub")):
            console.say(f"would be pushed: {place}")
        return 0
    for address in hub.push(request):
        console.say(f"pushed: {address}")
    return 0
