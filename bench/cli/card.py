"""`bench card`: prints the card of a model or data set, made from what it is where there is none, to be kept."""

import argparse
from pathlib import Path
from typing import Any

from bench import console
from bench.cli.options import add_command
from bench.config import named_cards, resolve, yaml_loader
from bench.config.cards import DatasetCard, ModelCard
from bench.errors import BenchError, RecipeError


def add(commands: Any) -> None:
    """Add the command and its options."""
    card = add_command(
        commands, "card", card_command, "print the card of a model or data set, made from what it is, to be kept"
    )
    card.add_argument("name", help="a card, a path, a name on the Hub, or {path: ..., ...}")
    card.add_argument("overrides", nargs="*", metavar="key=value", help="what the card shall say")
    card.add_argument(
        "--as", dest="kind", choices=[*resolve.CARD_FOLDERS], help="which of both it is, if it is not plain"
    )


def card_command(options: argparse.Namespace) -> int:
    """Print a card in YAML."""
    from bench.config import card_text
    from bench.utils.system import utc_now

    day = utc_now()[:10]
    kinds = [options.kind] if options.kind else _kinds(options.name)
    refused = []
    for kind in kinds:
        try:
            console.write(card_text.text_of(kind, options.name, options.overrides, day))
            return 0
        except RecipeError as error:
            refused += [f"as a {kind}: {line}" if len(kinds) > 1 else line for line in str(error).splitlines()]
    raise BenchError("\n".join(refused))


def _kinds(name: str) -> list[str]:
    """Return what a name may be, the likelier first. Raises BenchError for a card of both kinds."""
    known = [kind for kind in resolve.CARD_FOLDERS if name in {path.stem for path in resolve.find_cards(kind)}]
    if len(known) > 1:
        raise BenchError(
            f"there are a model card and a dataset card {name!r}; say which with --as model or --as dataset"
        )
    if known:
        return known
    if name.startswith("{"):
        return _kinds_of_mapping(yaml_loader.override(("card",), name, "command line").data)
    path = Path(name).expanduser()
    if "\0" not in name and path.exists():
        holds_model = path.is_dir() and any((path / file).exists() for file in ("config.json", "adapter_config.json"))
        return ["model" if holds_model else "dataset"]
    if name.endswith(named_cards.DATA_SUFFIXES) or name.partition(":")[0] in named_cards.SCHEMES["dataset"]:
        return ["dataset"]
    return ["model", "dataset"]


def _kinds_of_mapping(given: Any) -> list[str]:
    """Return what an inline mapping may be, by keys that one of both alone has, or else by its path."""
    keys = set(given) if isinstance(given, dict) else set()
    of_model, of_data = set(ModelCard.model_fields), set(DatasetCard.model_fields)
    model = keys & ({*of_model, *named_cards.found_by("model")} - {*of_data, *named_cards.found_by("dataset")})
    data = keys & ({*of_data, *named_cards.found_by("dataset")} - {*of_model, *named_cards.found_by("model")})
    if bool(model) != bool(data):
        return ["model" if model else "dataset"]
    if keys and isinstance(given.get("path"), str):
        return _kinds(given["path"])
    return [*resolve.CARD_FOLDERS]
