"""`bench ship`: makes the forms in which a run's model is shipped, and tests whether each is still the same model."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import console
from bench.cli.options import add_command, at_least_one
from bench.errors import BenchError
from bench.shipping import names
from bench.utils import arguments


def add(commands: Any) -> None:
    """Add the command and its options."""
    ship = add_command(
        commands,
        "ship",
        ship_command,
        "make the forms in which a run's model is shipped (merged, quantised, exported, served), score each on the "
        "run's own examples, and test whether it is still the same model; exit code 0: all are, 1: one is not or it is "
        "undecided, 3: a form could not be made",
    )
    kinds = "; ".join(f"{name}: {what}" for name, what in names.KINDS.items())
    ship.add_argument("run_folder", type=Path, metavar="RUN")
    ship.add_argument(
        "--as", dest="forms", metavar="FORM,...", help=f"{kinds} (default: all that are installed and fit)"
    )
    ship.add_argument(
        "--margin",
        type=_margin,
        metavar="D",
        help="differences of the score that do not matter (default: 0.01 of its range)",
    )
    ship.add_argument(
        "--examples", type=at_least_one, metavar="N", help="at most so many examples, always the same (default: all)"
    )
    ship.add_argument("--split", metavar="NAME", help="the examples of this split (default: the one that ranks runs)")
    ship.add_argument("--metric", metavar="NAME", help="compare by this metric (default: the one that ranks runs)")
    ship.add_argument(
        "-o", "--output", type=arguments.path, metavar="FOLDER", help="ship.json and ship.md (default: RUN/ship)"
    )
    ship.add_argument("--keep", action="store_true", help="keep the files of the forms, in FOLDER/forms")
    ship.add_argument("--server", metavar="URL", help="of the form vllm: where the model is served")
    ship.add_argument(
        "--served-model", metavar="NAME", help="the name under which it is served (default: the only one)"
    )


def _margin(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0, in the metric's unit")
    return number


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for place, name in enumerate(header):
        table.add_column(name, justify="left" if place < 2 else "right")
    for row in rows:
        table.add_row(*row)
    return table


def ship_command(options: argparse.Namespace) -> int:
    """Make, score and compare the forms; print a sentence and a table."""
    forms = None if options.forms is None else names.parse(options.forms)
    if options.served_model and not options.server:
        raise BenchError("--served-model goes with --server")
    if options.server and forms is not None and all(name.kind != names.VLLM for name in forms):
        raise BenchError("--server is for the form vllm; add it to --as")
    from bench.evaluation.engines.completions_api import Server
    from bench.shipping import making, page, results
    from bench.shipping.source import Asked

    out = options.output or options.run_folder / "ship"
    request = making.ShipRequest(
        asked=Asked(run=options.run_folder, split=options.split, metric=options.metric, examples=options.examples),
        out=out,
        forms=forms,
        margin=options.margin,
        keep=options.keep,
        server=None if options.server is None else Server(url=options.server, model=options.served_model),
    )
    shipped = making.ship(request)
    console.say(page.sentence(shipped))
    console.show(_table(*page.short_rows(shipped)))
    for text in page.findings(shipped):
        console.say(text)
    for name, why in shipped.left_out.items():
        console.say(f"left out, {name}: {why}")
    console.say(f"report: {out / results.PAGE}, {out / results.JSON}")
    return shipped.exit_code
