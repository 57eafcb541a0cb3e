"""`bench lm-eval`: runs lm-evaluation-harness's own command with the harness's label scorer as the model `bench`.

lm_eval knows models by a registry in memory, which no installed package can fill beforehand; hence this command.
"""

import argparse
import sys
from typing import Any

from bench.cli.options import add_command

COMMAND = "lm-eval"


def add(commands: Any) -> None:
    """Add the command. What follows it is lm_eval's: `main` hands it on, unparsed, as `rest`."""
    add_command(commands, COMMAND, lm_eval_command, "run lm-evaluation-harness; `--model bench` is the label scorer")


def lm_eval_command(options: argparse.Namespace) -> int:
    """Run lm_eval's command on the arguments that followed. Raises SetupError where it is not installed."""
    from bench.evaluation import lm_eval_model

    lm_eval_model.register()
    from lm_eval.__main__ import cli_evaluate

    sys.argv = [f"python -m bench {COMMAND}", *options.rest]
    cli_evaluate()
    return 0
