"""Option types and helpers that several commands share."""

import argparse
from pathlib import Path
from typing import Any

from bench import console
from bench.config import foreign_code
from bench.errors import BenchError
from bench.runner import run_folder
from bench.utils import arguments

# Of numbers below 2**31.
DIGITS = 10


def is_count(text: str) -> bool:
    """Return whether a text is a whole number that fits into 31 bits."""
    return text.isdecimal() and len(text) <= DIGITS and int(text) < 2**31


def at_least_one(text: str) -> int:
    """Return an option's whole number, at least 1; argparse shows the error."""
    if not is_count(text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text:.100} is not a whole number from 1 on, or too large")
    return int(text)


def add_costs(command: argparse.ArgumentParser) -> None:
    """Add the file of prices."""
    command.add_argument(
        "--costs",
        type=arguments.path,
        metavar="FILE",
        help="your prices of an hour of each GPU, in the form of recipes/costs.yaml (or BENCH_COSTS=FILE)",
    )


def add_seeds(command: argparse.ArgumentParser) -> None:
    """Add the two ways to say over which seeds each recipe is run."""
    command.add_argument(
        "--num-seeds", type=_num_seeds, metavar="N", help="how many seeds, counted from the recipe's own"
    )
    command.add_argument("--seeds", type=_seeds, metavar="A,B,...", help="these seeds; a single number is that seed")


def _num_seeds(text: str) -> int:
    from bench.sweeps.study import MOST_SEEDS

    if (count := at_least_one(text)) > MOST_SEEDS:
        raise argparse.ArgumentTypeError(f"{text} would be that many runs; for this one seed write --seeds {text}")
    return count


def _seeds(text: str) -> tuple[int, ...]:
    numbers = [part.strip() for part in text.split(",") if part.strip()]
    if not numbers or not all(map(is_count, numbers)):
        raise argparse.ArgumentTypeError(f"{text:.100} is no list of seeds, like 13,14,15; --num-seeds counts them")
    if len(set(map(int, numbers))) < len(numbers):
        raise argparse.ArgumentTypeError(f"{text}: a seed stands twice")
    return tuple(map(int, numbers))


def chosen_seeds(options: argparse.Namespace) -> int | tuple[int, ...] | None:
    """Return the number of seeds, or a list of them, or None; say once what a single number means."""
    listed: tuple[int, ...] | None = options.seeds
    if listed is not None and options.num_seeds is not None:
        raise BenchError("--seeds lists seeds, and --num-seeds counts them: give one of the two")
    if listed is not None and len(listed) == 1:
        console.say(f"--seeds {listed[0]}: one seed, {listed[0]}; --num-seeds {listed[0]} would run that many")
    return options.num_seeds if listed is None else listed


def refuse_outputs(*paths: Path | None) -> None:
    """Raise BenchError where something else than an ordinary file would be replaced; before the work, not after it.

    Folders, devices and FIFOs (a file is written beside its path and renamed), and what a run wrote of itself.
    """
    for path in paths:
        if path is None:
            continue
        if path.is_dir():
            raise BenchError(f"{path} is a folder; give the name of a file")
        if path.absolute().parent in (Path("/dev"), Path("/dev/fd")) or (path.exists() and not path.is_file()):
            raise BenchError(f"{path} is not a regular file, and would be replaced by one; give the name of a file")
        if (run := run_folder.run_of(path)) is not None:
            raise BenchError(f"{path} is a file of the run in {run}, and would be overwritten; give another path")


def share(text: str) -> float:
    """Return an option's number between 0 and 1, both excluded; argparse shows the error."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return number


def add_command(commands: Any, name: str, run: Any, help_text: str) -> argparse.ArgumentParser:
    """Add a command that calls `run`; returns its parser, for its options."""
    command: argparse.ArgumentParser = commands.add_parser(name, help=help_text, description=help_text)
    command.set_defaults(run=run)
    # After the command too; SUPPRESS keeps a flag that was given before it.
    command.add_argument("--traceback", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    command.add_argument(
        "--include", action="append", default=[], metavar="DIR", help="find drop-ins and cards there too"
    )
    command.add_argument(
        foreign_code.FLAG, action="store_true", help="confirm a card's trust_remote_code: true, or an evaluate: metric"
    )
    return command
