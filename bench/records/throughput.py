"""Token counters and step times of training, and the rates made from them. Measures; does not decide."""

import time
from dataclasses import dataclass, field
from typing import Any

import torch

from bench.records.clock import synchronize

# Dropped from throughput: the first steps pay for allocation, kernel selection and page faults.
WARMUP_STEPS = 3


def _mark() -> Any:
    """A moment: the wall clock's on a CPU, one in the accelerator's own queue on a GPU, where nobody waits for it."""
    if not torch.cuda.is_initialized():
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between_s(start: Any, end: Any) -> float:
    return float(end - start if isinstance(start, float) else start.elapsed_time(end) / 1000)


@dataclass(frozen=True)
class Counts:
    """Counts of what was processed. on_device: [real tokens, loss items], not yet synchronised."""

    examples: int
    processed: int
    on_device: torch.Tensor

    def __add__(self, other: "Counts") -> "Counts":
        examples, processed = self.examples + other.examples, self.processed + other.processed
        return Counts(examples, processed, self.on_device + other.on_device)

    def read(self) -> list[int]:
        """Return [examples, processed tokens, real tokens, loss items]. Waits for the device."""
        return [self.examples, self.processed, *self.on_device.tolist()]


@dataclass(kw_only=True)
class PriorSteps:
    """Steps of before an interruption, over all ranks: as `Steps` gave them, each of its runs without its own warm-up.

    totals, measured: [examples, processed tokens, real tokens, loss items] of all steps, and of those in `seconds`.
    """

    totals: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    measured: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    seconds: list[float] = field(default_factory=list)
    warmup: int = 0
    warmup_s: float = 0.0


@dataclass
class Steps:
    """Counts and durations of this rank's optimiser steps.

    earlier: what was done before an interruption, on rank zero only; the totals hold it too.
    in_hand: shape of the last micro-batch [rows, tokens].
    """

    counts: list[Counts] = field(default_factory=list)
    earlier: PriorSteps = field(default_factory=PriorSteps)
    in_hand: tuple[int, int] | None = None
    _marks: list[tuple[Any, Any]] = field(default_factory=list)
    _total: Counts | None = None
    _pending: Counts | None = None
    _started: Any = None

    def start(self) -> None:
        """Mark the beginning of a step: before its batches are fetched."""
        self._pending, self._started = None, _mark()

    def add(self, inputs: dict[str, torch.Tensor]) -> None:
        """Count one micro-batch, before it is run, without a transfer to or from the device: both would synchronise."""
        mask, labels = inputs["attention_mask"], inputs["labels"]
        self.in_hand = (mask.shape[0], mask[0].numel())  # with all choices of an example
        counts = Counts(mask.shape[0], mask.numel(), torch.stack([mask.sum(), (labels != -100).sum()]))
        self._pending = counts if self._pending is None else self._pending + counts

    def stop(self) -> None:
        """Mark the end of a step."""
        assert self._pending is not None, "a step without a batch"
        self._marks.append((self._started, _mark()))
        self.counts.append(self._pending)
        self._total = self._pending if self._total is None else self._total + self._pending

    @property
    def seconds(self) -> list[float]:
        """Return the duration of each step of this process. On a GPU this waits for the last one."""
        synchronize()
        return [_between_s(start, end) for start, end in self._marks]

    def totals(self) -> list[int]:
        """Return [examples, processed tokens, real tokens, loss items] over all steps of this rank."""
        return _plus(self.earlier.totals, [0, 0, 0, 0] if self._total is None else self._total.read())

    @property
    def warmup(self) -> int:
        """Return how many of the first steps are left out of rates as warm-up; none where there are too few steps."""
        return WARMUP_STEPS if len(self.counts) > 2 * WARMUP_STEPS else 0

    def measured(self) -> tuple[list[int], list[float], int]:
        """Return totals and step seconds without the warm-up steps, and the number of warm-up steps."""
        found = self.until_now()
        return found.measured, found.seconds, found.warmup

    def until_now(self) -> PriorSteps:
        """All of it, as those will need it who go on from here."""
        seconds, warmup, before = self.seconds, self.warmup, self.earlier
        return PriorSteps(
            totals=self.totals(),
            measured=_plus(before.measured, _summed(self.counts[warmup:])),
            seconds=before.seconds + seconds[warmup:],
            warmup=before.warmup + warmup,
            warmup_s=before.warmup_s + sum(seconds[:warmup]),
        )


def _plus(one: list[int], other: list[int]) -> list[int]:
    return [first + second for first, second in zip(one, other, strict=True)]


def _summed(counts: list[Counts]) -> list[int]:
    if not counts:
        return [0, 0, 0, 0]
    on_device = torch.stack([step.on_device for step in counts]).sum(0)
    return Counts(sum(step.examples for step in counts), sum(step.processed for step in counts), on_device).read()


def train_throughput(
    totals: list[int], seconds: list[float], warmup_steps: int, step_flops: float | None, peak_flops: float | None
) -> dict[str, Any]:
    """Return rates from all-rank totals [examples, processed, real, loss items] and the summed seconds of the steps.

    step_flops: model FLOPs of one step over all ranks. peak_flops: of all devices together, or None if unknown.
    Total units over total seconds, never a mean of rates.
    """
    examples, processed, real, loss_items = totals
    total_s = sum(seconds)
    if not seconds or total_s <= 0:
        return {}
    flops_per_s = step_flops * len(seconds) / total_s if step_flops is not None else None
    return {
        "examples_per_s": examples / total_s,
        "real_tokens_per_s": real / total_s,
        "processed_tokens_per_s": processed / total_s,
        "loss_tokens_per_s": loss_items / total_s,
        "padding_share": 1 - real / processed if processed else None,
        "step_time_s": {f"p{share}": percentile(seconds, share) for share in (10, 50, 90)},
        "model_flops_per_s": flops_per_s,
        "mfu": flops_per_s / peak_flops if flops_per_s is not None and peak_flops is not None else None,
        "warmup_steps": warmup_steps,
    }


def percentile(values: list[float], share: float) -> float:
    """Return a percentile by linear interpolation between order statistics.

    NumPy's default method, whose last digit may differ: it interpolates from the nearer end.
    """
    ordered = sorted(values)
    place = (len(ordered) - 1) * share / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def merge_ranks(per_rank: list[dict[str, dict[str, float | None]]]) -> dict[str, dict[str, Any]]:
    """Return for each phase the largest of each memory figure over the ranks, and the list of all ranks' figures."""
    merged: dict[str, dict[str, Any]] = {}
    for phase in per_rank[0]:
        ranks = [rank.get(phase, {}) for rank in per_rank]
        names = per_rank[0][phase]
        largest = {name: _largest([rank.get(name) for rank in ranks]) for name in names}
        merged[phase] = {**largest, "per_rank": ranks}
    return merged


def _largest(values: list[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
