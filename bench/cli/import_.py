"""`bench import`: results of other tools as records, for `report` and `compare`."""

import argparse
from pathlib import Path
from typing import Any

from bench import console
from bench.cli.options import add_command, is_count
from bench.errors import BenchError
from bench.utils import arguments

# Options that say whose predictions these are.
OF_PREDICTIONS = ("name", "method", "seed", "split")


def add(commands: Any) -> None:
    """Add the command and its options."""
    command = add_command(
        commands,
        "import",
        import_command,
        "read results of lm_eval or of PEFT's method comparison, or predictions of any system, as records",
    )
    command.add_argument(
        "results",
        type=Path,
        nargs="+",
        help="files or folders of results; with --like one file of predictions, .csv, .tsv or JSON lines: id (or "
        "text), prediction, and scores for each label where they are known",
    )
    command.add_argument(
        "--like", type=Path, metavar="RUN", help="a run on the same examples, which gives references and metrics"
    )
    command.add_argument("--name", type=_name, help="with --like: of the other system (default: the name of the file)")
    command.add_argument(
        "--method", type=_name, help="with --like: what it does, as reports show it (default: imported)"
    )
    command.add_argument("--seed", type=_seed, help="with --like: of its training, where there are several")
    command.add_argument("--split", help="with --like: of the run, where it has several")
    command.add_argument(
        "--out", type=arguments.path, metavar="FOLDER", default=Path("imported"), help="a new folder (imported)"
    )


def _name(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; leave it out, or give a name")
    return text.strip()


def _seed(text: str) -> int:
    if not is_count(text):
        raise argparse.ArgumentTypeError(f"{text:.100} is no seed: a whole number from 0 on")
    return int(text)


def import_command(options: argparse.Namespace) -> int:
    """Write the records, and say what was left out."""
    if options.like is not None:
        return _import_predictions(options)
    for name in OF_PREDICTIONS:
        if getattr(options, name) is not None:
            raise BenchError(f"--{name} goes with --like")
    from bench.exchange.read_in import read_in

    folders, left_out = read_in(options.results, options.out)
    for sentence in left_out:
        console.complain(f"left out: {sentence}")
    console.say(f"imported: {len(folders):,} results into {options.out}")
    return 0


def _import_predictions(options: argparse.Namespace) -> int:
    if len(options.results) > 1:
        raise BenchError("--like takes one file of predictions")
    if options.out.exists():
        raise BenchError(f"{options.out} is there already; give a new name with --out")
    from bench.exchange import from_predictions

    (file,) = options.results
    given = from_predictions.ForeignPredictions(
        file=file,
        like=options.like,
        name=options.name or file.stem,
        method=options.method or "imported",
        seed=options.seed,
        split=options.split,
    )
    record = from_predictions.write(given, options.out)
    for note in record.notes[1:]:  # the first says where it is from
        console.complain(note)
    (split,) = record.scores["after"]
    console.say(f"imported: {options.out} ({len(record.scores['after'][split])} scores on {split})")
    return 0
