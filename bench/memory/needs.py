"""Sums up what a machine must have for a run: memory of each GPU and of each host, and room on a disk."""

from dataclasses import dataclass

from bench.memory import disk, phases
from bench.memory.inference import InferencePlan
from bench.memory.phases import FILE, LIBRARIES
from bench.memory.planner import MemoryPlan, Prediction


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Bytes that a run needs. gpu: of each GPU. host: of each host. disk: for all that is written and downloaded.

    What is no part of the forecast is 0: texts and their tokens in the host's memory, and the data's files.
    """

    gpu_bytes: int = 0
    host_bytes: int = 0
    disk_bytes: int = 0


def of_training(plan: MemoryPlan, prediction: Prediction, per_host: int) -> Needs:
    """Return what a training needs. per_host: GPUs of a host."""
    hosts = [phase.host for phase in phases.forecast(plan, prediction, per_host)]
    return Needs(gpu_bytes=prediction.needed, host_bytes=max(hosts), disk_bytes=disk.total(plan))


def of_scoring(found: InferencePlan, per_host: int) -> Needs:
    """Return what a run needs that trains nothing by gradients: each process reads a file of weights at a time."""
    host = per_host * (LIBRARIES + FILE)
    return Needs(gpu_bytes=found.total, host_bytes=host, disk_bytes=disk.total_of_scoring(found))
