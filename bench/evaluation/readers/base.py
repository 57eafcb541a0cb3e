"""Comparison of a fast path with the plain one on some examples, shared by the readers that have a fast path."""

from dataclasses import dataclass

# In float32 the fast path and the plain one differ by rounding only.
TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Result of scoring some examples again by the plain path. largest: difference of a log-likelihood, in nats."""

    examples: int
    largest: float | None
    changed: int

    @property
    def sentence(self) -> str:
        """Return a sentence for the record."""
        differ = "" if self.largest is None else f"largest difference of a log-likelihood {self.largest:.2g}, "
        return f"{self.examples} examples again, one by one by the plain path: {differ}{self.changed} answers changed"
