"""`bench schema`: prints the JSON Schema of recipes or cards."""

import argparse
from typing import Any

from bench import console
from bench.cli.options import add_command


def add(commands: Any) -> None:
    """Add the command and its options."""
    schema = add_command(commands, "schema", schema_command, "print the JSON Schema of recipes or cards, for editors")
    schema.add_argument("kind", nargs="?", choices=["recipe", "dataset", "model"], default="recipe")


def schema_command(options: argparse.Namespace) -> int:
    """Print a JSON Schema."""
    from bench.config import json_schema

    console.write_json(json_schema.of(options.kind), indent=1)
    return 0
