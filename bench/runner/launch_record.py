"""Reads back how a run is really parallelised, for its record."""

import os

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType

from bench.distributed import sharding
from bench.distributed.setup import memory_cap, precision
from bench.records.record import Launch
from bench.runner import started_by
from bench.training.schedule import Budget
from bench.utils import hardware


def describe(state: PartialState, budget: Budget | None, global_batch: int) -> Launch:
    """Return what is really in force, read from the live processes."""
    backend = torch.distributed.get_backend() if torch.distributed.is_initialized() else None
    per_machine = int(os.environ.get("LOCAL_WORLD_SIZE") or state.num_processes)
    return Launch(
        world_size=state.num_processes,
        num_machines=int(os.environ.get("GROUP_WORLD_SIZE") or max(1, state.num_processes // per_machine)),
        distributed_type=_distributed_type(state),
        backend=backend,
        mixed_precision=precision(),
        device=state.device.type,
        global_batch=global_batch,
        per_device_batch=budget.per_device_batch if budget else global_batch,
        accumulation=budget.accumulation if budget else 1,
        command=started_by.command(),
        memory_cap_gib=None if (cap := memory_cap()) is None else cap / hardware.GIB,
    )


def _distributed_type(state: PartialState) -> str:
    """Return the type before a model is sharded. For FSDP on a CPU, accelerate is told that its processes are GPUs."""
    if sharding.requested_backend() is None or state.device.type != "cpu":
        return str(state.distributed_type.value)
    return str(DistributedType.MULTI_CPU.value)
