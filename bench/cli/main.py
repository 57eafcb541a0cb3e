"""`finetune-bench <command>`, or `python -m bench <command>`: all commands, and the sentences in which they fail."""

import argparse
import sys
from pathlib import Path

from bench import __version__, console
from bench.cli import (
    card,
    check,
    cloud,
    compare,
    export,
    gate,
    import_,
    listing,
    lm_eval,
    plan,
    predict,
    push,
    report,
    run,
    schema,
    ship,
    sweep,
    try_,
)
from bench.config import foreign_code, registry
from bench.errors import BenchError
from bench.utils import system

# In the order of the help.
COMMANDS = (
    run,
    try_,
    check,
    listing,
    card,
    schema,
    plan,
    sweep,
    cloud,
    report,
    compare,
    predict,
    export,
    ship,
    import_,
    gate,
    push,
    lm_eval,
)
PROGRAM = "finetune-bench"
# The system's own words for these say too little: a folder is made where a file is, or below one.
OF_PATHS: dict[type[OSError], str] = {
    FileExistsError: "this is a file, and a folder is wanted there; give another path",
    NotADirectoryError: "a part of this path is a file, not a folder; give another path",
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code. A problem is one sentence on standard error and code 2."""
    options = _parsed(arguments)
    console.quiet_imports()
    try:
        system.refuse_undecoded(sys.argv[1:] if arguments is None else arguments)
        system.require_working_folder()
        registry.include(options.include)
        foreign_code.confirm(options.trust_remote_code)
        return _output_written(int(options.run(options)))
    except BenchError as error:
        if options.traceback:
            raise
        for line in str(error).split("\n"):  # not at a control character
            console.complain(f"error: {line}")
        return 2
    except KeyboardInterrupt:
        console.complain("interrupted")
        return 130
    except OSError as error:
        if options.traceback:
            raise
        what = OF_PATHS.get(type(error), error.strerror or str(error))
        console.complain(f"error: {error.filename or ''}: {what}".replace("error: :", "error:"))
        return 2


def _output_written(code: int) -> int:
    """Return a command's exit code; 2 where what it printed is lost. A reader like `head` that had enough is none."""
    console.flush()
    lost = console.is_full()
    if lost is not None:
        console.complain(f"error: standard output could not be written: {lost.strerror}")
    return code if lost is None else code or 2


def _parsed(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options. Overrides may also follow an option, which argparse does not see in a command of its own."""
    words = sys.argv[1:] if arguments is None else arguments
    for own in ([lm_eval.COMMAND], ["--traceback", lm_eval.COMMAND]):
        if words[: len(own)] == own:
            return argparse.Namespace(**vars(parser().parse_args(own)), rest=words[len(own) :])
    options, rest = parser().parse_known_args(words)
    if not hasattr(options, "overrides") or any("=" not in item or item.startswith("-") for item in rest):
        return parser().parse_args(words)
    options.overrides += rest
    return options


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands and their options."""
    name = PROGRAM if Path(sys.argv[0]).name == PROGRAM else "python -m bench"
    parser = argparse.ArgumentParser(prog=name, description=__doc__)
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(required=True, metavar="command")
    for command in COMMANDS:
        command.add(commands)
    return parser
