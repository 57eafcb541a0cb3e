"""`bench schema`: prints the JSON Schema of recipes, cards or studies."""

import argparse
from typing import Any

from bench import console
from bench.cli.options import add_command


def add(commands: Any) -> None:
    """Add the command and its options."""
    schema = add_command(commands, "schema", schema_command, "print the JSON Schema of recipes, cards or studies")
    schema.add_argument("kind", nargs="?", choices=["recipe", "dataset", "model", "study"], default="recipe")


def schema_command(options: argparse.Namespace) -> int:
    """Print a JSON Schema."""
    from bench.config import json_schema
    from bench.sweeps import study

    console.write_json(study.schema() if options.kind == "study" else json_schema.of(options.kind), indent=1)
    return 0
