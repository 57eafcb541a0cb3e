"""`bench compare`: tests which systems differ on the same examples."""

import argparse
from pathlib import Path
from typing import Any

from bench import console
from bench.cli.options import add_command, refuse_outputs
from bench.utils import arguments, files


def add(commands: Any) -> None:
    """Add the command and its options."""
    compare = add_command(commands, "compare", compare_command, "test which systems differ, on the same examples")
    compare.add_argument("runs", nargs="+", type=Path, help="run folders, record files, or folders that hold many")
    compare.add_argument(
        "--stage", choices=["after", "before"], default="after", help="scores after or before training (default: after)"
    )
    compare.add_argument("--split", help="split to compare (default: test, else the first one)")
    compare.add_argument(
        "--metric", metavar="NAME", help="metric to compare (default: the one that ranks runs in reports)"
    )
    compare.add_argument(
        "--margin", type=float, metavar="M", help="equivalence margin: smaller differences do not matter"
    )
    compare.add_argument(
        "--common", action="store_true", help="compare on the common examples of runs that scored different ones"
    )
    compare.add_argument(
        "-o", "--output", type=arguments.path, metavar="FILE.md", help="write the comparison in Markdown"
    )
    compare.add_argument(
        "--json", type=arguments.path, metavar="FILE", help="write the comparison as JSON, in full precision"
    )


def compare_command(options: argparse.Namespace) -> int:
    """Print scores, tiers and paired tests of the systems; write them to files where asked."""
    from bench.analysis import compare as analysis_compare
    from bench.analysis import folds, predictions
    from bench.reporting import comparison_page

    refuse_outputs(options.output, options.json)
    asked = predictions.CompareRequest(
        stage=options.stage, split=options.split, metric=options.metric, common=options.common
    )
    over_folds = folds.are_folds(options.runs)
    comparing = folds.compare_folds if over_folds else analysis_compare.compare
    found = comparing(options.runs, asked, options.margin)
    for path, text in ((options.output, comparison_page.as_markdown), (options.json, comparison_page.as_json)):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_text(path, text(found))
    show(found)
    return 0


def show(found: Any) -> None:
    """Print a comparison (`analysis.compare.Comparison`): warnings, the finding, tables, and notes on them."""
    from bench.reporting import comparison_page, findings, run_warnings

    for line in run_warnings.lines(found.compared):
        console.complain(line)
    console.say(comparison_page.headline(found))
    console.say(findings.finding(found))
    for table in comparison_page.as_tables(found):
        console.show(table)
    for note in comparison_page.notes(found):
        console.say(note)
