"""Uses of DeepSpeed beyond its public interface: ZeRO-3's hooks, and its sharding of parameters."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def forget_order(engine: Any) -> None:
    """Let ZeRO-3 gather the parameters of each module when that is run, and none ahead.

    It remembers in which order modules were run, and takes another order for an error where it has gathered ahead. By
    that order it also keeps a cache of what each module may give up, and never clears it: in a forward alone it would
    keep the layers that the backward pass of training was to begin with.
    """
    coordinator = engine.optimizer.parameter_offload.get_param_coordinator()
    if not coordinator.is_invalid_trace():
        coordinator._invalidate_trace()
    _cached(type(coordinator)._PartitionedParameterCoordinator__params_to_release).cache_clear()


def _cached(method: Any) -> Any:
    """Return the `lru_cache` inside a wrapper that knows it by a variable alone (`instrument_w_nvtx`)."""
    return inspect.getclosurevars(method).nonlocals["func"]


def release(engine: Any) -> None:
    """Give up all that ZeRO-3 has gathered, as after a whole step."""
    forget_order(engine)
    coordinator = engine.optimizer.parameter_offload.get_param_coordinator()
    coordinator.release_and_reset_all(engine.module)


def set_in_forward(model: Any, value: bool) -> None:
    """Let ZeRO-3 gather a parameter that is read outside of its own module, as its engine's forward does."""
    for module in model.modules():
        if hasattr(module._parameters, "_in_forward"):
            module._parameters._in_forward = value


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
