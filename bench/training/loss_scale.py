"""The loss scale of a training in fp16, and the optimizer steps that are skipped for its sake.

Small gradients would be 0 in fp16, so the loss is multiplied by a scale before the backward pass, and gradients are
divided by it. The scale begins too high on purpose: where a gradient overflows, the step is skipped and the scale is
halved (Micikevicius et al. 2018, section 3.2). So a few skipped steps, with gradients that are infinite, are normal;
the learning rate stands still meanwhile.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from bench.distributed import sharding
from bench.errors import DivergedError, SetupError
from bench.models.library_internals import accelerate_internals

# At this scale the loss is enlarged no more: what overflows are the gradients themselves. DeepSpeed ends a run there
# too (`min_loss_scale`). From torch's first scale, 2^16, it takes 17 skipped steps without one that is not.
SMALLEST = 1.0
# DeepSpeed's first scale, as a power of two; torch's is the same.
FIRST_POWER = 16
# Of DeepSpeed's own error at the smallest scale.
AT_MINIMUM = "loss scale already at minimum"
# Names of parameters that a refusal holds.
SHOWN = 3


def check_types(model: nn.Module, precision: str, trains: str) -> None:
    """Raise SetupError for parameters in 16 bits under fp16: torch's scaler takes float32, and would fail in a step.

    trains: as a method's load plan has it. DeepSpeed keeps float32 copies, and scales by itself.
    """
    if precision != "fp16" or trains != "gradient" or sharding.requested_backend() == "deepspeed":
        return
    found = {name: part.dtype for name, part in model.named_parameters() if part.requires_grad}
    short = {name: dtype for name, dtype in found.items() if dtype in (torch.bfloat16, torch.float16)}
    if not short:
        return
    names, types = list(short), sorted({str(dtype).removeprefix("torch.") for dtype in short.values()})
    shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    # Adapters are cast by a key of their own; what else is trained is held as the model's card says.
    key = "method.dtype" if all("lora_" in name for name in names) else "model.dtype"
    raise SetupError(
        f"mixed_precision is fp16, whose scaled gradients are for parameters in float32, and {len(names)} that are "
        f"trained are in {' and '.join(types)}: {shown}; set {key}: float32, or launch with mixed_precision: bf16 or no"
    )


class SkippedSteps:
    """Tells accelerate of the steps that are skipped, where it does not see it.

    It takes a step for skipped where the optimizer was not called. A fused one is called always, is told by torch's
    scaler whether gradients overflowed, and leaves its parameters as they are. What is halved then is the scale.
    """

    def __init__(self) -> None:
        self._scale: float | None = None

    def begin(self, accelerator: Any) -> None:
        """Look at the scale before the first step, when all is set up."""
        take_over_from_autocast(accelerator)
        self._scale = None if accelerator.scaler is None else float(accelerator.scaler.get_scale())

    def after_update(self, accelerator: Any, optimizer: Any) -> bool:
        """Return whether the step that the prepared optimizer has just done was skipped, and let accelerate know it."""
        if self._scale is not None:
            before, self._scale = self._scale, float(accelerator.scaler.get_scale())
            accelerate_internals.set_step_skipped(optimizer, self._scale < before)
        return step_was_skipped(accelerator)


def step_was_skipped(accelerator: Any) -> bool:
    """Return whether the newest optimizer step was skipped, as accelerate reads it from torch's scaler or DeepSpeed."""
    return bool(accelerator.optimizer_step_was_skipped)


def value(accelerator: Any) -> float | None:
    """Return the loss scale in force; None where losses are not scaled."""
    if accelerator.scaler is not None:
        return float(accelerator.scaler.get_scale())
    optimizer = _deepspeed_optimizer(accelerator)
    if optimizer is None or not getattr(optimizer, "dynamic_loss_scale", False):
        return None
    return float(optimizer.loss_scale)


def refuse_collapse(step: int, scale: float | None) -> None:
    """Raise DivergedError where a step was skipped that no smaller scale would have saved.

    scale: after that step; None where losses are not scaled, so that no step should ever be skipped.
    """
    if scale is None:
        raise DivergedError(
            f"the gradients are not finite at step {step}; lower training.learning_rate, use warmup or clip_norm, or "
            "check the data"
        )
    if scale < SMALLEST:
        raise at_minimum(step)


def at_minimum(step: int) -> DivergedError:
    """Return the error for gradients that overflow fp16 at any scale."""
    return DivergedError(
        f"the gradients overflow fp16 at step {step} although the loss scale has fallen to {SMALLEST:g}; lower "
        "training.learning_rate, use warmup, check the data, or use bf16 or float32"
    )


@contextlib.contextmanager
def translated(step: int) -> Iterator[None]:
    """Raise DivergedError inside of the `with` for DeepSpeed's own error at the smallest scale."""
    try:
        yield
    except Exception as error:
        if AT_MINIMUM in str(error):
            raise at_minimum(step) from error
        raise


def summary(skipped: Sequence[int], steps: int, scale: float | None) -> str:
    """Return a sentence on the steps that were skipped. skipped: their numbers."""
    shown = ", ".join(map(str, skipped[:5])) + (", ..." if len(skipped) > 5 else "")
    end = "" if scale is None else f"; the loss scale was {scale:g} at the end"
    return (
        f"mixed_precision fp16: {len(skipped)} of {steps} optimizer steps were skipped, for their gradients overflowed "
        f"({'step' if len(skipped) == 1 else 'steps'} {shown}); the learning rate stood still{end}"
    )


def take_over_from_autocast(accelerator: Any) -> None:
    """Let DeepSpeed scale losses by its own scaler where it runs fp16 by autocast; nothing elsewhere.

    There it takes torch's scaler, and neither clips nor looks for overflow by unscaled gradients; after an overflow its
    step ends before that scaler hears of it, so that the scale never falls, and all steps are skipped (DeepSpeed 0.19,
    runtime/zero/stage_1_and_2.py and stage3.py, `step`).
    """
    optimizer = _deepspeed_optimizer(accelerator)
    if getattr(optimizer, "torch_autocast_gradscaler", None) is None:
        return
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

    optimizer.torch_autocast_gradscaler = None
    if hasattr(optimizer, "check_grad_overflow"):  # ZeRO-3 always looks for it
        optimizer.check_grad_overflow = True
    if not optimizer.dynamic_loss_scale:  # after a resumption it has the checkpoint's already
        optimizer.loss_scaler = DynamicLossScaler(
            init_scale=2**FIRST_POWER,
            scale_window=2000,
            min_scale=SMALLEST,
            delayed_shift=1,
            consecutive_hysteresis=False,
        )
        optimizer.dynamic_loss_scale = True


def _deepspeed_optimizer(accelerator: Any) -> Any:
    wrapped = getattr(accelerator, "deepspeed_engine_wrapped", None)
    return None if wrapped is None else wrapped.engine.optimizer
