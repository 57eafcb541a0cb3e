"""Code that is not the project's runs only where a card or recipe asks for it and the command line confirms it.

A card alone may come from anybody, and a flag alone does not say what for. Included folders (`--include`) have a flag
of their own, and no key can name one.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from bench.config.cards import ModelCard
from bench.errors import SetupError
from bench.utils.files import ROOT

FLAG = "--trust-remote-code"
LIBRARY = "evaluate:"  # begins the name of a metric of the evaluate library
_given = {FLAG: False}


def confirm(given: bool) -> None:
    """Note for this process whether its command line confirms foreign code."""
    _given[FLAG] = given


def is_confirmed() -> bool:
    """Return whether the command line confirms foreign code; what this process starts is told by the flag again."""
    return _given[FLAG]


def trusts(card: ModelCard) -> bool:
    """Return whether libraries may run code from a model's repository. Raises SetupError where it is not confirmed."""
    if card.trust_remote_code and not is_confirmed():
        raise SetupError(
            f"model.trust_remote_code: true: the card runs code from the repository of {card.id or card.package}, "
            f"which is not this project's; confirm it with {FLAG} on the command line, or set the key to false"
        )
    return card.trust_remote_code


def problems(card: ModelCard, metric_names: Iterable[str]) -> Iterator[str]:
    """Yield a sentence for each part of a recipe whose code is not confirmed; nothing of it is loaded."""
    asked: list[partial[Any]] = [partial(trusts, card)]
    asked += [partial(check_metric, name.removeprefix(LIBRARY)) for name in metric_names if name.startswith(LIBRARY)]
    for ask in asked:
        try:
            ask()
        except SetupError as error:
            yield str(error)


def check_metric(name: str) -> None:
    """Raise SetupError for a metric of the evaluate library, a Hub space or a file, whose code is not confirmed."""
    if not is_confirmed() and not Path(name).resolve().is_relative_to(ROOT / "bench" / "metrics"):
        raise SetupError(
            f"evaluation.metrics: 'evaluate:{name}' runs code of a Hub space or a file, which is not this project's; "
            f"confirm it with {FLAG} on the command line, or name a metric of `python -m bench list metrics`"
        )
