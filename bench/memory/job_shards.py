"""The memory of a job under FSDP: a GPU holds its part of each unit, and gathers a unit while it computes.

A unit is a block of the model; all else is the root, which stays gathered from the forward pass to the end of the
backward pass. The next block is gathered while one computes. A unit's gradient is whole until the last of it is there,
copied into one stretch, and reduced to a GPU's part. (torch/distributed/fsdp, FULL_SHARD with backward prefetch.)
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from bench.memory.allocator import Block


@dataclass(eq=False, kw_only=True)
class _Unit:
    """size: in bytes, of all of it. whole, part: what is gathered now, and a GPU's part of the gradient.

    waiting: of its trained parameters, those whose gradient is not there yet.
    """

    size: int
    trained: list[Any]
    whole: Block | None = None
    part: Block | None = None
    waiting: set[int] = field(default_factory=set)


class Shards:
    """The units of a model. take, free: of the allocator. in_backward: to be set while the backward pass runs."""

    def __init__(
        self,
        model: nn.Module,
        blocks: list[nn.Module],
        gpus: int,
        take: Callable[[int], Block],
        free: Callable[[Block], None],
    ) -> None:
        self._gpus, self._take, self._free, self.in_backward = gpus, take, free, False
        inside = {id(parameter) for block in blocks for parameter in block.parameters()}
        self._units = [_unit(list(block.parameters())) for block in blocks]
        self._root = _unit([item for item in model.parameters() if id(item) not in inside])
        for unit in self._all():
            take(-(-unit.size // gpus))
        model.register_forward_pre_hook(lambda *_: self._gather(self._root))
        for place, block in enumerate(blocks):
            block.register_forward_pre_hook(lambda *_, place=place: self._enter(place))
            block.register_forward_hook(lambda _, __, output, place=place: self._leave(place, output))
        for unit in self._all():
            for parameter in unit.trained:
                parameter.register_post_accumulate_grad_hook(lambda item, unit=unit: self._reduce(unit, item))

    def _all(self) -> list[_Unit]:
        return [*self._units, self._root]

    def _gather(self, unit: _Unit) -> None:
        if unit.whole is None:
            unit.whole = self._take(unit.size)
            unit.waiting = {id(parameter) for parameter in unit.trained}

    def _give_back(self, unit: _Unit) -> None:
        if unit.whole is not None:
            self._free(unit.whole)
            unit.whole = None

    def _enter(self, place: int) -> None:
        self._gather(self._units[place])
        following = place - 1 if self.in_backward else place + 1
        if 0 <= following < len(self._units):
            self._gather(self._units[following])

    def _leave(self, place: int, output: Any) -> None:
        if self.in_backward:
            return
        self._give_back(self._units[place])
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.requires_grad:
            hidden.register_hook(lambda _: self._enter(place))

    def _reduce(self, unit: _Unit, parameter: Any) -> None:
        """Reduce a unit's gradient, once all of it is there."""
        unit.waiting.discard(id(parameter))
        if unit.waiting:
            return
        flat = self._take(unit.size)
        for item in unit.trained:
            item.grad = None
        if unit.part is None:
            unit.part = self._take(-(-unit.size // self._gpus))
        self._free(flat)
        self._give_back(unit)

    def end(self) -> None:
        """End a backward pass."""
        for unit in self._all():
            self._give_back(unit)
        self.in_backward = False

    def zero(self) -> None:
        """Give up the gradients."""
        for unit in self._all():
            if unit.part is not None:
                self._free(unit.part)
                unit.part = None


def _unit(parameters: list[Any]) -> _Unit:
    size = sum(item.numel() * item.element_size() for item in parameters)
    return _Unit(size=size, trained=[item for item in parameters if item.requires_grad])
