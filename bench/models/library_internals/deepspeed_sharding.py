"""Uses of DeepSpeed's sharding of parameters beyond its public interface."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def before_each_partition(act: Callable[[Any], None]) -> Iterator[None]:
    """Call a function with each parameter that ZeRO-3 is about to partition, inside.

    The public `zero.Init(module=...)` wants all parameters of a module whole at the same time, and the engine sends
    rank zero's to all processes before: here each parameter is sent when it is partitioned.
    """
    from deepspeed.runtime.engine import DeepSpeedEngine
    from deepspeed.runtime.zero.partition_parameters import Init

    own, send = Init._zero_init_param, DeepSpeedEngine._broadcast_model

    def _partition(self: Any, parameter: Any) -> None:
        act(parameter)
        own(self, parameter)

    Init._zero_init_param, DeepSpeedEngine._broadcast_model = _partition, lambda engine: None
    try:
        yield
    finally:
        Init._zero_init_param, DeepSpeedEngine._broadcast_model = own, send
