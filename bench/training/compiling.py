"""Compiles the training step where a recipe asks (`speed.compile`), or notes why it runs as it is."""

import contextlib
from collections.abc import Callable, Iterator

from bench.distributed import sharding
from bench.models.kernels import compiled_blocks
from bench.models.library_internals.torch_internals import Compilations
from bench.training.state import FitInputs

# What the recipe's key is called, and this in `record.speed`.
KEY = "compile"
_NAMES = {"deepspeed": "DeepSpeed", "fsdp": "FSDP2"}


def compile_step(inputs: FitInputs, difference: Callable[[], str | None]) -> None:
    """Compile the model's blocks, and leave them so where a step by them is the same.

    difference: runs a step both ways, with dropout and all else that training has, and returns why it is another one.
    It is where most is compiled, so that neither that nor a compiler's failure falls into the first step.
    """
    reason = _not_here(sharding.requested_backend()) or compiled_blocks.attach(inputs.model)
    if reason is None:
        reason = difference()
    if reason is None:
        inputs.observer.on_setting(KEY, True)
        return
    compiled_blocks.detach(inputs.model)
    _note(inputs, reason)


def _note(inputs: FitInputs, reason: str) -> None:
    inputs.observer.on_setting(KEY, False)
    inputs.observer.on_note(f"speed.compile: the training step is not compiled, for the model {reason}")


def _not_here(backend: str | None) -> str | None:
    return None if backend is None else f"is trained under {_NAMES[backend]}, whose hooks are not compiled"


@contextlib.contextmanager
def counted(inputs: FitInputs) -> Iterator[None]:
    """Count what is compiled inside of the `with`, and give the model back as it was at its end."""
    if not inputs.speed.compile:
        yield
        return
    counts = Compilations()
    counts.start()
    try:
        yield
    finally:
        counts.stop()
        if compiled_blocks.is_attached(inputs.model) and not counts.total:
            # As it does where TORCH_COMPILE_DISABLE is set, or a mode sees all operations.
            _note(inputs, "was run as it is by torch, which compiled nothing")
        compiled_blocks.detach(inputs.model)
        inputs.observer.on_compiled({"total": counts.total, "again": counts.again, "seconds": round(counts.seconds, 2)})
