"""Finds dataset cards that a key other than `dataset` names: a card, or one made for a path, Hub id or `lm_eval:`."""

from typing import cast

from bench.config import card_text, named_cards, resolve
from bench.config.cards import DatasetCard


def find(name: str, place: str) -> tuple[str, DatasetCard]:
    """Return a short name of a data set, and its card. Raises RecipeError. place: of the key that names it."""
    cards = {path.stem: path for path in resolve.find_cards("dataset")}
    meant = named_cards.meant(
        "dataset", name, place, starts=named_cards.starts_of(None), cards=cards, is_card=name in cards
    )
    if meant.card is not None:
        return meant.card, cast(DatasetCard, resolve.load_card("dataset", cards[meant.card]))
    _, layers = card_text.made(meant, [], cards)
    return named_cards.short_name(meant.spec), cast(DatasetCard, card_text.checked("dataset", layers))
