"""Uses of accelerate beyond its public interface."""

from typing import Any

from accelerate.state import AcceleratorState


def reset_state(*, processes: bool = False) -> None:
    """Forget what an earlier training of this process has left: its precision, and its `processes` too.

    accelerate's states are made once in a process, and there is no public way to make them anew.
    """
    AcceleratorState._reset_state(reset_partial_state=processes)


def drop_forward(module: Any) -> None:
    """Give a module its class's forward again.

    accelerate puts autocast around a forward, and keeps what was there as `_original_forward`; it is taken off by
    `extract_model_from_parallel`, which puts back a forward of the instance.
    """
    for name in ("forward", "_original_forward"):
        module.__dict__.pop(name, None)


def set_step_skipped(optimizer: Any, skipped: bool) -> None:
    """Say whether the newest step of a prepared optimizer was skipped: `step_was_skipped`, which has no setter."""
    optimizer._is_overflow = skipped
