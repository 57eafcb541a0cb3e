"""Result of scoring some examples again by the plain path, shared by the readers that have a fast one."""

from dataclasses import dataclass

# In float32 the fast path and the plain one differ by rounding only.
TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What came of scoring some examples again by the plain path. largest: difference of a log-likelihood."""

    examples: int
    largest: float | None
    changed: int

    @property
    def sentence(self) -> str:
        """For the record."""
        differ = "" if self.largest is None else f"largest difference of a log-likelihood {self.largest:.2g}, "
        return f"{self.examples} examples again, one by one by the plain path: {differ}{self.changed} answers changed"
