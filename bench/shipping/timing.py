"""Times of a form: loading it, and answering examples one by one, as the median of repeats."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

# So many examples are timed, in passes over all of them.
EXAMPLES, PASSES, LOADS = 100, 5, 3
# No further pass or load is begun after that.
LIMIT_S = 30.0
# A first pass over so many examples is not timed: kernels are chosen, memory is taken.
WARM_UP = 8
# Repeats that differ by more say that something else was running.
NOISY = 0.2


@dataclass(frozen=True, kw_only=True)
class Timed:
    """Seconds: median, least and most of `repeats`."""

    median_s: float
    low_s: float
    high_s: float
    repeats: int

    @property
    def is_noisy(self) -> bool:
        """Return whether repeats differ by more than a fifth of their median."""
        return self.high_s - self.low_s > NOISY * self.median_s

    @classmethod
    def of(cls, seconds: Sequence[float], scale: float = 1.0) -> "Timed":
        """Return those of repeats, times a factor."""
        values = [value * scale for value in seconds]
        return cls(median_s=statistics.median(values), low_s=min(values), high_s=max(values), repeats=len(values))


def loads(load: Callable[[], Any]) -> tuple[Any, Timed]:
    """Load several times where that is quick; return what the last one gave, and the times.

    Files are read from the page cache, for they have just been written, and libraries are imported already.
    """
    seconds: list[float] = []
    loaded = None
    while len(seconds) < LOADS and sum(seconds) < LIMIT_S:
        loaded = None  # never two of them in memory
        started_s = time.perf_counter()
        loaded = load()
        seconds.append(time.perf_counter() - started_s)
    return loaded, Timed.of(seconds)


def per_100(reader: Any, examples: int) -> Timed:
    """Return the seconds of 100 examples, each answered by itself; tokens were made before."""
    numbers = range(min(examples, EXAMPLES))
    seconds: list[float] = []
    with torch.no_grad():
        for number in numbers[:WARM_UP]:
            reader.read([number])
        while len(seconds) < PASSES and sum(seconds) < LIMIT_S:
            started_s = time.perf_counter()
            for number in numbers:
                reader.read([number])
            seconds.append(time.perf_counter() - started_s)
    return Timed.of(seconds, 100 / len(numbers))
