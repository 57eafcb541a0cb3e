"""`bench report`: the short table of records on the console, and pages made from them."""

import argparse
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import console
from bench.analysis.accessors import LeftOut, Located
from bench.cli.options import add_command, add_costs, refuse_outputs
from bench.errors import BenchError, DataError
from bench.utils import arguments, files

if TYPE_CHECKING:  # it loads NumPy
    from bench.analysis.disagreements import TextSource
    from bench.analysis.spending import Asked
    from bench.reporting.study_page import Written


def add(commands: Any) -> None:
    """Add the command and its options."""
    report = add_command(
        commands,
        "report",
        report_command,
        "print a table of records (Markdown where the output is not a terminal), or write a report",
    )
    report.add_argument("runs", nargs="+", type=Path, help="run folders, or folders that hold them")
    report.add_argument(
        "-o",
        "--output",
        type=arguments.path,
        metavar="FOLDER",
        help="write a report with figures there; of one run its page, also into its own folder",
    )
    report.add_argument(
        "--metric", metavar="NAME", help="metric that ranks and compares (default: the first of the usual ones)"
    )
    report.add_argument(
        "--html", type=arguments.path, metavar="FILE", help="write the report as one HTML page with its figures"
    )
    report.add_argument(
        "--overwrite", action="store_true", help="replace a report.md or a page that this tool did not write"
    )
    add_costs(report)
    report.add_argument(
        "--to-score",
        type=_score,
        metavar="SCORE",
        help="say what each system needed to reach this score in validation: time, energy and money",
    )
    texts = report.add_mutually_exclusive_group()
    texts.add_argument("--hub-texts", action="store_true", help="may download the texts of the examples that are shown")
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
    """Print the table of all records found, or write their report: a folder, an HTML page, or both.

    Returns 1 where none of the records can be read.
    """
    from bench.analysis import accessors
    from bench.reporting import run_warnings

    output = options.output
    if output is not None and output.suffix == ".md" and not output.is_dir():
        raise BenchError(f"-o {output}: give a folder; for the short table in a file write report RUNS > {output}")
    refuse_outputs(options.html)
    _refuse_html(options)
    records, unreadable = accessors.read_all(options.runs)
    accessors.require_metric(records, options.metric)
    if output is None and options.html is None:
        if options.to_score is not None or options.costs is not None:
            raise BenchError("--to-score and --costs belong to a report that is written: give -o FOLDER or --html FILE")
        _print(records, unreadable, options.metric)
    else:
        written = _write(records, unreadable, options)
        for path in written.files:
            console.say(f"report: {path}")
        for item in written.not_counted:
            console.complain(f"not counted: {item.path}: {item.reason}")
    for item in unreadable:
        console.complain(f"can't be read: {item.path}: {item.reason}")
    for line in run_warnings.lines([record for _, record in records]):
        console.complain(line)
    return 0 if records else 1


def _refuse_html(options: argparse.Namespace) -> None:
    """Raise where --html would replace what -o writes, or a file that is no page of this tool."""
    if options.html is None:
        return
    from bench.reporting import html_page

    own = [] if options.output is None else [options.output / name for name in ("", "report.md", "figures")]
    if options.html.absolute() in [path.absolute() for path in own]:
        raise BenchError(f"--html {options.html} is what -o writes itself; give another name, as report.html")
    if not options.overwrite:
        html_page.refuse_foreign(options.html)


def _print(records: Sequence[Located], unreadable: Sequence[LeftOut], metric: str | None) -> None:
    from bench.reporting import printed_table, short_table

    if console.is_live():
        printed_table.show(records, unreadable, metric)
    else:
        console.write(short_table.table_report(list(records), unreadable, metric))


def _write(records: Sequence[Located], unreadable: Sequence[LeftOut], options: argparse.Namespace) -> "Written":
    """Write what is asked for."""
    from bench.reporting import study_page

    source: TextSource = "hub" if options.hub_texts else "nowhere" if options.no_texts else "files"
    asked_more = options.to_score is not None or options.costs is not None
    if len(records) == 1 and not unreadable and not asked_more and _names_it(options.runs[0], records[0][0]):
        return study_page.Written(files=tuple(_write_one(*records[0], source, options)), not_counted=())
    if options.output is not None and not options.overwrite:
        study_page.refuse_foreign(options.output)
    return study_page.write_records(
        records,
        unreadable,
        options.output,
        options.html,
        metric=options.metric,
        texts_from=source,
        asked=_asked(options),
    )


def _asked(options: argparse.Namespace) -> "Asked":
    from bench.analysis.spending import Asked
    from bench.config import prices

    return Asked(prices=prices.load(options.costs), to_score=options.to_score)


def _names_it(named: Path, record: Path) -> bool:
    """Return whether a run itself is named, not a folder of a study that may have more to tell."""
    return named.resolve() in (record.resolve(), record.parent.resolve())


def _write_one(path: Path, record: Any, source: "TextSource", options: argparse.Namespace) -> list[Path]:
    """Write the page of a single run: into its own folder anew, or with its figures into another, or as HTML.

    Raises DataError where its predictions contradict its scores: one of the two was changed.
    """
    from bench.analysis import predictions
    from bench.reporting import html_page, run_page

    if record.status == "ok" and (why := predictions.find_contradiction(path, record)) is not None:
        raise DataError(f"{why}; no page is written")
    own, folder, written = path.parent, options.output, []
    text = run_page.run_report(record, own, texts_from=source)
    if folder is not None:
        if folder.resolve() != own.resolve():
            run_page.refuse_foreign(folder, overwrite=options.overwrite)
            for figure in sorted(own.glob("figures/*.png")):
                (folder / "figures").mkdir(parents=True, exist_ok=True)
                shutil.copyfile(figure, folder / "figures" / figure.name)
        folder.mkdir(parents=True, exist_ok=True)
        files.write_text(folder / run_page.PAGE, text)
        written.append(folder / run_page.PAGE)
    if options.html is not None:
        options.html.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(options.html, html_page.page(text, own))
        written.append(options.html)
    return written
