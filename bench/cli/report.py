"""`bench report`: makes pages from records."""

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import console
from bench.cli.options import add_command, add_costs, refuse_outputs
from bench.errors import BenchError
from bench.utils import arguments

if TYPE_CHECKING:  # it loads NumPy
    from bench.analysis.disagreements import TextSource


def add(commands: Any) -> None:
    """Add the command and its options."""
    report = add_command(commands, "report", report_command, "write a report of many records, or one short table")
    report.add_argument("runs", nargs="+", type=Path, help="run folders, or folders that hold them")
    report.add_argument(
        "-o",
        "--output",
        type=arguments.path,
        metavar="FOLDER|FILE.md",
        help="write a report with figures, or a short table",
    )
    report.add_argument(
        "--metric", metavar="NAME", help="metric that ranks and compares (default: the first of the usual ones)"
    )
    report.add_argument(
        "--html", type=arguments.path, metavar="FILE", help="write the report as one HTML page with its figures"
    )
    report.add_argument("--overwrite", action="store_true", help="replace a report.md that this tool did not write")
    add_costs(report)
    report.add_argument(
        "--to-score",
        type=_score,
        metavar="SCORE",
        help="say what each system needed to reach this score in validation: time, energy and money",
    )
    texts = report.add_mutually_exclusive_group()
    texts.add_argument("--hub-texts", action="store_true", help="may download texts on which systems disagree")
    texts.add_argument(
        "--no-texts",
        action="store_true",
        help="show no texts of examples, which may not be yours to publish",
    )


def _score(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text:.100} is not a score; write a number, as in 0.85")
    return number


def report_command(options: argparse.Namespace) -> int:
    """Write a report of all records found: a folder, an HTML page, or a short table."""
    from bench.analysis import accessors
    from bench.reporting import run_warnings, short_table

    if options.output is None and options.html is None:
        raise BenchError("say where the report goes: -o FOLDER, -o FILE.md for a short table, or --html FILE")
    short = options.output is not None and options.output.suffix == ".md" and not options.output.is_dir()
    if short and options.html is None and (options.to_score is not None or options.costs is not None):
        raise BenchError("--to-score and --costs belong to the report in a folder or --html, not to a short table")
    refuse_outputs(options.html, options.output if short else None)
    written = [short_table.write_table_report(options.runs, options.output, options.metric)] if short else []
    folder = None if short else options.output
    if folder is not None or options.html is not None:
        from bench.analysis.spending import Asked
        from bench.config import prices
        from bench.reporting import study_page

        source: TextSource = "hub" if options.hub_texts else "nowhere" if options.no_texts else "files"
        if folder is not None and not options.overwrite:
            study_page.refuse_foreign(folder)
        asked = Asked(prices=prices.load(options.costs), to_score=options.to_score)
        written += study_page.write(
            options.runs, folder, options.html, metric=options.metric, texts_from=source, asked=asked
        )
    for path in written:
        console.say(f"report: {path}")
    for line in run_warnings.lines([record for _, record in accessors.read_all(options.runs)[0]]):
        console.complain(line)
    return 0
