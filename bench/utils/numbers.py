"""Numbers: finite or none, sizes for people, whole numbers of JSON."""

import sys
from typing import Any

from bench.utils.hardware import GIB


def finite(value: Any) -> float | None:
    """The number, or None for anything that is none: None, NaN, infinity, a boolean, text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) <= sys.float_info.max else None


# Of a whole number: what 64 bits hold, with a sign.
MOST_DIGITS = 20


def whole_number(digits: str) -> int:
    """A whole number of JSON. Raises ValueError for one that no run writes, and no float can hold."""
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return int(digits)


def shown(size: int) -> str:
    """Bytes for people: 20.00 MiB, 12 GiB."""
    unit, name = (GIB, "GiB") if size >= GIB else (2**20, "MiB")
    return f"{size / unit:,.2f}".rstrip("0").rstrip(".") + f" {name}"
