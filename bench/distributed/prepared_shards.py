"""Hands the shards that each process holds of a model (`models.shards`) to ZeRO-3 or FSDP2, and takes them back.

    prepared_shards.give_to_fsdp(accelerator, model)       # before the optimiser is made
    with prepared_shards.given_to_zero(): ...              # around DeepSpeed's start
    parameter = prepared_shards.taken_over(parameter)      # after training, of either library

One parameter after another: no process ever holds more than its shards and one whole parameter.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from bench.models import shards
from bench.models.library_internals import deepspeed_internals, torch_internals


def give_to_fsdp(accelerator: Any, model: nn.Module) -> None:
    """Shard a model by FSDP2 as accelerate does, from the shards that this process holds; nothing is gathered."""
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model
    from torch.distributed.tensor import DTensor

    own = dict(model.named_parameters())
    _onto_meta(model)
    fsdp2_prepare_model(accelerator, model)
    made: dict[int, nn.Parameter] = {}
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        if id(parameter) not in made:
            local = shards.of(own[name])
            if local is None:
                local = _cut_as(own[name], parameter)
            given = DTensor.from_local(
                local,
                parameter.device_mesh,
                parameter.placements,
                run_check=False,
                shape=parameter.size(),
                stride=parameter.stride(),
            )
            made[id(parameter)] = nn.Parameter(given, requires_grad=parameter.requires_grad)
            torch_internals.give_address(made[id(parameter)])
        owner, _, last = name.rpartition(".")
        model.get_submodule(owner).register_parameter(last, made[id(parameter)])


def _onto_meta(model: nn.Module) -> None:
    """Put parameters without values into the places of a model's own."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if id(parameter) not in made:
                empty = torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
                made[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
            module.register_parameter(name, made[id(parameter)])


def _cut_as(value: torch.Tensor, sharded: Any) -> torch.Tensor:
    """Return this process's rows of a whole value, as FSDP2 has cut its parameter."""
    rank, processes = sharded.device_mesh.get_local_rank(), sharded.device_mesh.size()
    first, last = shards.rows_of(value.shape[0], rank, processes)
    return value[first:last].detach().clone(memory_format=torch.contiguous_format)


@contextmanager
def given_to_zero() -> Iterator[None]:
    """Let DeepSpeed gather each parameter of which this process holds a shard when it comes to partition it."""

    def _whole(parameter: nn.Parameter) -> None:
        if shards.of(parameter) is not None:
            parameter.data = shards.release(parameter)

    with deepspeed_internals.before_each_partition(_whole):
        yield


def whole_of(parameter: Any) -> torch.Tensor:
    """Return a copy of the whole values of a parameter that a library shards; every process must call it."""
    from torch.distributed.tensor import DTensor

    if isinstance(parameter, DTensor):
        return parameter.detach().full_tensor().clone()
    if hasattr(parameter, "ds_id"):
        from deepspeed.runtime.zero.partition_parameters import GatheredParameters

        with GatheredParameters([parameter]):
            return parameter.detach().clone()
    return parameter.detach().clone()


def taken_over(parameter: Any) -> nn.Parameter:
    """Return a plain parameter of which this process holds its shard, of one that a library shards.

    The library's parameter gives up its own. Every process must call it.
    """
    from torch.distributed.tensor import DTensor, Shard

    if isinstance(parameter, DTensor) and shards.is_cut(parameter) and parameter.placements == (Shard(0),):
        local = parameter.to_local().detach()
        made = nn.Parameter(torch.empty((), dtype=parameter.dtype, device=local.device).expand(parameter.shape))
        shards.put(made, local)
        return made
    made = nn.Parameter(whole_of(parameter))
    shards.hold_parameter(made)
    if hasattr(parameter, "ds_tensor"):
        parameter.ds_tensor.data = parameter.ds_tensor.new_empty(0)
    return made
