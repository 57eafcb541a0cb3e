"""Cost of a system: peak memory and the GPUs it fits, training time, throughput, process-minutes per point.

Means are over seeds, with their standard deviation; memory is the maximum over seeds. A quantity that was not measured
is None, never 0.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.analysis import accessors, compare, predictions
from bench.analysis.accessors import Located, training_s
from bench.analysis.predictions import Verified
from bench.analysis.stats import paired
from bench.analysis.stats.sums import Tally
from bench.errors import DataError
from bench.records.record import Record
from bench.utils import numbers

# Memory of common consumer GPUs, GiB.
GPU_SIZES_GIB = (12, 16, 24)
# Of a result of another tool, which counted only what the allocator had reserved.
RESERVED = "reserved"
# Bootstrap of a gain; a fixed seed gives the same page.
DRAWS, SEED = 2000, 0
FORMULAS = (
    "Training, s: duration of the training steps and their warm-up, without loading, scoring and saving. Not given for "
    "a resumed run, whose record covers only the last launch.",
    "Process-minutes: training, s × processes / 60. These are minutes of the clock on the wall, in which a process "
    "keeps one GPU, or on CPUs as many cores as it has; they are not processor time.",
    "Steps: optimiser steps. Epochs: passes over the training examples. Budgets may differ between methods.",
    "Minutes per point: process-minutes / (score after − score before training), in points. Before training: the "
    "pretrained model with a newly initialised head. A point is 0.01 of a score between 0 and 1, or 1 BLEU or chrF. "
    "Not given for a loss, or where the gain is not significant in every seed (paired test of the predictions before "
    "and after training: McNemar's exact test at 5 % where each example is right or wrong, else the 95 % BCa bootstrap "
    "interval).",
    "Peak memory, measured: GPU, the highest peak that PyTorch allocated in any phase, maximum over processes; RAM, "
    "the highest resident set size. Predicted: the planned peak of the largest training step, with the CUDA context.",
    f"Fits a GPU of {', '.join(map(str, GPU_SIZES_GIB))} GiB. Measured: yes if all memory reserved or in use on the "
    "device fits; no if the memory allocated by PyTorch does not; otherwise unclear, since the allocator reserves free "
    "memory. Predicted: by the planned peak. Runs on a CPU do not determine this.",
    "Tokens/s: tokens without padding, all processes together, without warm-up steps. Padding share: padding tokens "
    "among all tokens computed in training.",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MemoryNeed:
    """Memory need on one device, GiB. least: lower bound; most: sufficient; kind: measured, reserved or predicted."""

    least: float
    most: float
    kind: str

    def fits(self) -> str:
        """Return which GPU sizes suffice: 12 no, 16 unclear, 24 yes (measured)."""
        fits = {
            size: "yes" if self.most <= size else "no" if self._is_too_large(size) else "unclear"
            for size in GPU_SIZES_GIB
        }
        return f"{', '.join(f'{size} {answer}' for size, answer in fits.items())} ({self.kind})"

    def _is_too_large(self, size_gib: int) -> bool:
        """Return whether it needs more; an allocator reserves what is free, so that this says nothing of a need."""
        return self.least > size_gib and self.kind != RESERVED


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Costs of one system. gpu: None where neither measured nor predicted. device_kind: GPU or CPU.

    process_minutes: of the wall clock, times processes. why_no_price: reason for missing minutes per point. steps,
    epochs: one for each seed trained with an optimiser. stds: name of a mean -> its sample standard deviation over
    seeds, of two or more. gpu_of_seeds, ram_of_seeds: peaks, GiB, of the seeds that have one.
    """

    gpu: MemoryNeed | None
    ram_gib: float | None
    training_s: float | None
    tokens_per_s: float | None
    padding_share: float | None
    seconds_per_100: float | None
    process_minutes: float | None
    device_kind: str
    minutes_per_point: float | None
    why_no_price: str | None
    steps: list[float]
    epochs: list[float]
    trainable_share: float | None
    machine: str
    stds: Mapping[str, float] = field(default_factory=dict)
    gpu_of_seeds: list[float] = field(default_factory=list)
    ram_of_seeds: list[float] = field(default_factory=list)


def system_costs(
    runs: Sequence[Located],
    split: str | None,
    metric: str | None,
    *,
    higher_is_better: bool,
    verified: Verified | None = None,
) -> Costs:
    """Return the costs of one system from its runs. Times measured on different machines are not averaged.

    verified: statistics of predictions that were already read; others are read from their files.
    """
    records = [record for _, record in runs]
    machines = sorted({accessors.machine(record) or "" for record in records})
    timed = records if len(machines) == 1 else []
    over_seeds = {
        "training_s": _values(timed, training_s),
        "tokens_per_s": _values(timed, lambda one: one.throughput.get("train", {}).get("real_tokens_per_s")),
        "padding_share": _values(records, lambda one: one.throughput.get("train", {}).get("padding_share")),
        "seconds_per_100": _values(
            timed, lambda one: one.throughput.get(split or "", {}).get("seconds_per_100_examples")
        ),
        "process_minutes": _values(timed, _process_minutes),
        "trainable_share": _values(records, _trainable_share),
    }
    means = {name: statistics.mean(values) if values else None for name, values in over_seeds.items()}
    minutes = means["process_minutes"]
    points: float | str = "the training time of all seeds on one machine is not known"
    if minutes is not None:
        points = _points(runs, split or "", metric or "", verified or {}, higher_is_better=higher_is_better)
    stepped = [record.training for record in records if record.training and is_trained_by_steps(record)]
    devices = {record.launch.device for record in records if record.launch}
    needs = [memory for record in records if (memory := gpu_memory(record)) is not None]
    gpu, ram = _highest(needs), [value for one in records if (value := _peak(one, "rss_gib")) is not None]
    return Costs(
        **means,
        gpu=gpu,
        ram_gib=max(ram, default=None),
        device_kind="CPU" if devices == {"cpu"} else "GPU",
        minutes_per_point=minutes / points if minutes is not None and not isinstance(points, str) else None,
        why_no_price=points if isinstance(points, str) else None,
        steps=[training.steps for training in stepped],
        epochs=[training.epochs for training in stepped],
        machine="; ".join(machines),
        stds={name: statistics.stdev(values) for name, values in over_seeds.items() if len(values) > 1},
        gpu_of_seeds=[memory.least for memory in needs if gpu and memory.kind == gpu.kind],
        ram_of_seeds=ram,
    )


def _values(records: Sequence[Record], of_one: Callable[[Record], Any]) -> list[float]:
    """Return the values of all seeds; none where one of them has no value."""
    values = [numbers.finite(of_one(record)) for record in records]
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else []


def _peak(record: Record, name: str) -> float | None:
    """Return the maximum over all phases except probing."""
    # A probe searches the largest micro-batch and may fill the device.
    peaks = [numbers.finite(phase.get(name)) for key, phase in record.memory.items() if key != "probe"]
    return max((value for value in peaks if value is not None), default=None)


def gpu_memory(record: Record) -> MemoryNeed | None:
    """Return the GPU memory need: measured where a GPU was used, else predicted; None without either."""
    allocated = _peak(record, "allocated_gib")
    if allocated is not None:
        held = [value for name in ("reserved_gib", "device_gib") if (value := _peak(record, name)) is not None]
        return MemoryNeed(least=allocated, most=max([allocated, *held]) if held else float("inf"), kind="measured")
    reserved = _peak(record, "reserved_gib") if record.imported is not None else None
    if reserved is not None:
        return MemoryNeed(least=reserved, most=reserved, kind=RESERVED)
    return predicted(record)


def predicted(record: Record) -> MemoryNeed | None:
    """Return the planned GPU memory need, or None."""
    planned = (record.memory_predicted or {}).get("train")
    parts = planned.get("parts") if isinstance(planned, dict) else None
    total = numbers.finite(planned.get("total_gib")) if isinstance(planned, dict) else None
    # A plan for a CPU has no CUDA context, and other dtypes than on a GPU.
    if total is None or not isinstance(parts, dict) or "CUDA" not in parts:
        return None
    return MemoryNeed(least=total, most=total, kind="predicted")


def _highest(needs: list[MemoryNeed]) -> MemoryNeed | None:
    """Return the maximum over seeds; predictions count only where nothing was measured."""
    measured = [memory for memory in needs if memory.kind == "measured"] or needs
    if not measured:
        return None
    least, most = max(memory.least for memory in measured), max(memory.most for memory in measured)
    return MemoryNeed(least=least, most=most, kind=measured[0].kind)


def is_trained_by_steps(record: Record) -> bool:
    """Return whether an optimiser was used (and a log written); a probe is fitted by scikit-learn."""
    return record.training is not None and record.training.engine != "scikit-learn"


def _process_minutes(record: Record) -> float | None:
    seconds = training_s(record)
    return None if seconds is None or record.launch is None else seconds * record.launch.world_size / 60


def _points(
    runs: Sequence[Located], split: str, metric: str, verified: Verified, *, higher_is_better: bool
) -> float | str:
    """Return the points gained by training, mean over seeds; or the reason why none can be given."""
    if not higher_is_better:
        return f"lower {metric} is better"
    scale = accessors.points_of_one(metric) if metric else 1.0
    if scale is None:
        return f"the range of {metric} is not known, and so is not how large a point is"
    gains = []
    for path, record in runs:
        try:
            gains.append(_gain(path, record, split, metric, verified))
        except predictions.MissingPredictions:
            return "the predictions before and after training are not available"
        except DataError as error:
            return str(error)
    if not all(is_significant for _, is_significant in gains):
        return "the gain from before to after training is not significant in every seed"
    return statistics.mean(gain for gain, _ in gains) * scale


def _gain(path: Path, record: Record, split: str, metric: str, verified: Verified) -> tuple[float, bool]:
    """Return how much one run gained by training, and whether the gain is significant.

    Raises DataError where its predictions before or after training are missing or contradict the record.
    """
    scored = [accessors.scalars(record, stage, split).get(metric) for stage in accessors.STAGES]
    if record.data is None or any(item is None or numbers.finite(item.value) is None for item in scored):
        raise DataError("not scored both before and after training")
    before, after = (
        verified.get((path, stage, split, metric))
        or predictions.read_predictions(path, record, stage, split, metric).alone()
        for stage in accessors.STAGES
    )
    if before.ids != after.ids and set(before.ids) != set(after.ids):
        raise DataError(f"{path}: different examples were scored before and after training")
    first, last = before.sorted(), after.sorted()
    return last.score - first.score, last.score > first.score and _is_significant(first, last)


def _is_significant(first: Tally, last: Tally) -> bool:
    """Test at 5 % whether predictions after training are better than those before, on the same examples."""
    if first.is_binary and last.is_binary:
        return paired.mcnemar(*compare.discordant(last, first)) <= compare.ALPHA
    drawn = paired.bootstrap_values(paired.stack([first.rows, last.rows]), last.value, DRAWS, SEED)
    differences = drawn[:, 1] - drawn[:, 0]
    if np.ptp(differences) <= paired.TIE:
        # All examples have the same difference: sign test.
        return 2.0 ** (1 - last.examples) <= compare.ALPHA
    left_out = [paired.jackknife_values(item.rows, item.value) for item in (last, first)]
    return paired.bca_interval(differences, last.score - first.score, left_out[0] - left_out[1])[0] > 0


def _trainable_share(record: Record) -> float | None:
    parameters = record.model.parameters if record.model else {}
    trainable, total = numbers.finite(parameters.get("trainable")), numbers.finite(parameters.get("total"))
    return trainable / total if trainable is not None and total else None
