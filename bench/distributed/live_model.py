"""The sharded model of a Trainer as long as its engine stands: run in step, gathered one parameter at a time, or whole.

Every process must call each of its methods.
"""

import contextlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from bench.distributed import in_step, sharding


class LiveModel:
    """A model whose parameters the engine of a Trainer holds in parts. shell: its shape, to be filled at the end."""

    def __init__(self, trainer: Any, shell: sharding.FullModelShell | None) -> None:
        self._trainer, self._shell = trainer, shell

    @property
    def model(self) -> nn.Module:
        """Return the model without the engine's wrapper; its parameters are sharded."""
        model: nn.Module = self._trainer.accelerator.unwrap_model(self._trainer.model_wrapped)
        return model

    @property
    def engine(self) -> Any:
        """Return DeepSpeed's engine; None under FSDP2."""
        wrapped = self._trainer.model_wrapped
        return wrapped if hasattr(wrapped, "zero_optimization_stage") else None

    def in_step(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which the model can be run, by each process on its own batches."""
        return in_step.running(self.model, self.engine)

    def trained_on_rank_zero(self) -> dict[str, torch.Tensor]:
        """Return the trained parameters by name on the CPU of rank zero, gathered one at a time; {} elsewhere."""
        trained = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        keeps = torch.distributed.get_rank() == 0
        return {
            name: value.cpu().contiguous()
            for name, value in sharding.whole_parameters(self.model)
            if keeps and name in trained
        }

    def fill(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Put whole values, the same on every process, into parameters of these names, one at a time."""
        from torch.distributed.tensor import DTensor, distribute_tensor

        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, tensor in tensors:
                parameter = parameters[name]
                if isinstance(parameter, DTensor):
                    given = tensor.to(parameter.device, parameter.dtype)
                    parameter.copy_(distribute_tensor(given, parameter.device_mesh, parameter.placements))
                else:
                    from deepspeed.runtime.zero.partition_parameters import GatheredParameters

                    with GatheredParameters([parameter], modifier_rank=0):
                        parameter.copy_(tensor)

    def gathered(self) -> nn.Module:
        """Return the plain model with whole parameters; the engine is taken down."""
        return sharding.gathered_model(self._trainer, self._shell)
