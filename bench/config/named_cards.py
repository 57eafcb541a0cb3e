"""Cards that are made for a name: what the makers of the packages above return."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class MadeCard:
    """A card that was made: `card` as it would stand in a YAML file.

    notes: sentences for the record. sources: key of the card -> where its value is from. model_type: of a model.
    """

    card: dict[str, Any]
    notes: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    model_type: str | None = None
