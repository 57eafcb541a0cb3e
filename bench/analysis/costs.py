"""What a system costs, from its runs' records: memory and what it fits, time, speed, device-minutes per point.

Means are over seeds, memory is the highest of any seed. What was not measured is None, never 0.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.analysis import accessors, compare, predictions
from bench.analysis.accessors import Located, training_s
from bench.analysis.stats import paired
from bench.analysis.stats.sums import TOKENIZERS, Tally
from bench.errors import DataError
from bench.records.record import Record
from bench.utils import numbers

# What many have, in GiB of GPU memory.
CARDS_GIB = (12, 16, 24)
# Of the interval of a gain; the same seed gives the same page.
DRAWS, SEED = 2000, 0
FORMULAS = (
    "Training, s: the seconds of the training steps and their warm-up, without loading, scoring and saving. A run that "
    "went on from a checkpoint has none, since its record holds the last launch only.",
    "Device-minutes: training, s × processes / 60; GPU-minutes or CPU-minutes (of one process) by the device.",
    "Steps: of the optimiser; epochs: how often training read its examples. Methods may have had different budgets.",
    "Minutes per point: device-minutes / (points after − points before training, of the untouched model, its new head "
    "included). A point is 0.01 of a score that is a share, 1 of BLEU. None is given where a paired test of the "
    "predictions before and after does not show a gain in every seed (McNemar's exact test at 5 % where each example "
    "is right or wrong, else the 95 % interval of the bootstrap by example, BCa), or for a loss.",
    "Memory, measured: GPU, the highest peak that PyTorch allocated in any phase, of the process with the most; RAM, "
    "the highest resident memory. Predicted: the plan's need of the heaviest training step, with CUDA's context.",
    f"Fits a card of {', '.join(map(str, CARDS_GIB))} GiB. Measured: yes, where all that was reserved or held on the "
    "device fits; no, where what PyTorch allocated does not; unclear between the two, since the allocator takes what "
    "is free. Predicted: by the plan's need. A run on a CPU tells nothing of a GPU.",
    "Tokens/s: real tokens, without pads, of all processes together, warm-up steps left out. Padding share: of all "
    "tokens that were computed in training.",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Of one device, in GiB. least: what is surely needed; most: what surely suffices; kind: how that is known."""

    least: float
    most: float
    kind: str

    def fits(self) -> str:
        """12 no, 16 unclear, 24 yes (measured)."""
        said = {size: "yes" if self.most <= size else "no" if self.least > size else "unclear" for size in CARDS_GIB}
        return f"{', '.join(f'{size} {answer}' for size, answer in said.items())} ({self.kind})"


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Of one system. gpu: None without a GPU and a prediction for one. minutes_of: GPU or CPU.

    unpriced: why there are no minutes per point. steps, epochs: of each seed that was trained by steps.
    """

    gpu: Memory | None
    ram_gib: float | None
    training_s: float | None
    tokens_per_s: float | None
    padding_share: float | None
    seconds_per_100: float | None
    minutes: float | None
    minutes_of: str
    minutes_per_point: float | None
    unpriced: str | None
    steps: list[float]
    epochs: list[float]
    trainable_share: float | None
    machine: str


def of(runs: Sequence[Located], split: str | None, metric: str | None, *, higher_is_better: bool) -> Costs:
    """The costs of one system, from the runs of its seeds. Times of seeds on different machines are not averaged."""
    records = [record for _, record in runs]
    machines = sorted({accessors.machine(record) or "" for record in records})
    timed = records if len(machines) == 1 else []
    minutes = _mean(timed, _device_minutes)
    points = _points(runs, split or "", metric or "", higher_is_better=higher_is_better, timed=minutes is not None)
    stepped = [record.training for record in records if record.training and is_trained_by_steps(record)]
    devices = {record.launch.device for record in records if record.launch}
    return Costs(
        gpu=_highest([memory for record in records if (memory := gpu_memory(record)) is not None]),
        ram_gib=max((value for one in records if (value := _peak(one, "rss_gib")) is not None), default=None),
        training_s=_mean(timed, training_s),
        tokens_per_s=_mean(timed, lambda one: one.throughput.get("train", {}).get("real_tokens_per_s")),
        padding_share=_mean(records, lambda one: one.throughput.get("train", {}).get("padding_share")),
        seconds_per_100=_mean(timed, lambda one: one.throughput.get(split or "", {}).get("seconds_per_100_examples")),
        minutes=minutes,
        minutes_of="CPU" if devices == {"cpu"} else "GPU",
        minutes_per_point=minutes / points if minutes is not None and not isinstance(points, str) else None,
        unpriced=points if isinstance(points, str) else None,
        steps=[training.steps for training in stepped],
        epochs=[training.epochs for training in stepped],
        trainable_share=_mean(records, _trainable_share),
        machine="; ".join(machines),
    )


def _mean(records: Sequence[Record], of_one: Callable[[Record], Any]) -> float | None:
    """Over all seeds; None where one of them does not know it."""
    found = [numbers.finite(of_one(record)) for record in records]
    known = [value for value in found if value is not None]
    return statistics.mean(known) if known and len(known) == len(found) else None


def _peak(record: Record, name: str) -> float | None:
    """The highest of all phases but probes."""
    # A probe looks for the largest micro-batch, and may fill the device.
    found = [numbers.finite(phase.get(name)) for key, phase in record.memory.items() if key != "probe"]
    return max((value for value in found if value is not None), default=None)


def gpu_memory(record: Record) -> Memory | None:
    """Measured where there was a GPU, else predicted for one; None for what is known of neither."""
    allocated = _peak(record, "allocated_gib")
    if allocated is not None:
        held = [value for name in ("reserved_gib", "device_gib") if (value := _peak(record, name)) is not None]
        return Memory(least=allocated, most=max([allocated, *held]) if held else float("inf"), kind="measured")
    return predicted(record)


def predicted(record: Record) -> Memory | None:
    """The plan's need on a GPU, or None."""
    planned = (record.memory_predicted or {}).get("train")
    parts = planned.get("parts") if isinstance(planned, dict) else None
    total = numbers.finite(planned.get("total_gib")) if isinstance(planned, dict) else None
    # The plan of a training on a CPU has no context of CUDA, and other number formats than a GPU would use.
    if total is None or not isinstance(parts, dict) or "CUDA" not in parts:
        return None
    return Memory(least=total, most=total, kind="predicted")


def _highest(found: list[Memory]) -> Memory | None:
    """Of several seeds; a prediction counts only where nothing was measured."""
    measured = [memory for memory in found if memory.kind == "measured"] or found
    if not measured:
        return None
    least, most = max(memory.least for memory in measured), max(memory.most for memory in measured)
    return Memory(least=least, most=most, kind=measured[0].kind)


def is_trained_by_steps(record: Record) -> bool:
    """Whether an optimiser made steps, which a log tells of; a probe is fitted by scikit-learn."""
    return record.training is not None and record.training.engine != "scikit-learn"


def _device_minutes(record: Record) -> float | None:
    seconds = training_s(record)
    return None if seconds is None or record.launch is None else seconds * record.launch.world_size / 60


def _points(runs: Sequence[Located], split: str, metric: str, *, higher_is_better: bool, timed: bool) -> float | str:
    """Points gained by training, the mean over seeds; where they are not known or may be chance, why."""
    if not timed:
        return "it is not known how long training took, of all seeds and on one machine; see the formulas"
    if not higher_is_better:
        return f"less of {metric} is better, so that nothing counts as a point"
    gains = []
    for path, record in runs:
        try:
            gains.append(_gain(path, record, split, metric))
        except DataError as error:
            return str(error)
    if not all(is_shown for _, is_shown in gains):
        return "a paired test of before and after does not show a gain in every seed"
    return statistics.mean(gain for gain, _ in gains) * (1 if metric in TOKENIZERS else 100)


def _gain(path: Path, record: Record, split: str, metric: str) -> tuple[float, bool]:
    """How much one run gained by training, and whether that is shown on other examples too.

    Raises DataError where its predictions before or after are not at hand or not those of the record.
    """
    scored = [accessors.scalars(record, stage, split).get(metric) for stage in accessors.STAGES]
    if record.data is None or any(item is None or numbers.finite(item.value) is None for item in scored):
        raise DataError("there is no score before and after training")
    before, after = (predictions.scored_by(path, record, stage, split, metric) for stage in accessors.STAGES)
    if set(before.lines) != set(after.lines):
        raise DataError(f"{path}: other examples were scored before training than after it")
    first, last = (scored.on(sorted(before.lines)) for scored in (before, after))
    return last.score - first.score, last.score > first.score and _is_shown(first, last)


def _is_shown(first: Tally, last: Tally) -> bool:
    """Whether a gain between two sets of predictions of the same examples is more than chance, at 5 %."""
    if first.is_binary and last.is_binary:
        return paired.mcnemar(*compare.discordant(last, first)) <= compare.ALPHA
    drawn = paired.bootstrap_values(paired.stack([first.rows, last.rows]), last.value, DRAWS, SEED)
    differences = drawn[:, 1] - drawn[:, 0]
    if np.ptp(differences) <= paired.TIE:
        # All examples agree: the sign test.
        return 2.0 ** (1 - len(last.rows)) <= compare.ALPHA
    left_out = [paired.jackknife_values(item.rows, item.value) for item in (last, first)]
    return paired.bca_interval(differences, last.score - first.score, left_out[0] - left_out[1])[0] > 0


def _trainable_share(record: Record) -> float | None:
    found = record.model.parameters if record.model else {}
    trainable, total = numbers.finite(found.get("trainable")), numbers.finite(found.get("total"))
    return trainable / total if trainable is not None and total else None
