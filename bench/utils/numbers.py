"""Numbers: finite ones, sizes as people read them, integers of JSON."""

import sys
from typing import Any

from bench.utils.hardware import GIB

# Of a whole number: what 64 bits hold, with a sign.
MOST_DIGITS = 20


def finite(value: Any) -> float | None:
    """Return the number, or None for what is not a finite number: None, NaN, infinity, a boolean, text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) <= sys.float_info.max else None


def whole_number(digits: str) -> int:
    """Return an integer of JSON. Raises ValueError for one of more digits than any run writes."""
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return int(digits)


def format_bytes(size: int) -> str:
    """Return a size in bytes as people read it: 20 MiB, 12.5 GiB."""
    unit, name = (GIB, "GiB") if size >= GIB else (2**20, "MiB")
    return f"{size / unit:,.2f}".rstrip("0").rstrip(".") + f" {name}"
