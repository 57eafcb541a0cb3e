"""Reads back from the live objects the settings that a training runs with, and compares them with the recipe."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bench.distributed.sharding import requested_backend
from bench.models import product_types
from bench.models.autocast import AUTOCAST
from bench.training.schedule import make_scheduler
from bench.training.state import FitInputs

# Optimizer of a recipe -> class, and settings of the object, of those that more than one name stands for.
OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "adamw_torch": ("AdamW", {"fused": False}),
    "adamw_torch_fused": ("AdamW", {"fused": True}),
    "adamw_bnb_8bit": ("AdamW", {"optim_bits": 8, "is_paged": False}),
    "paged_adamw_32bit": ("AdamW", {"optim_bits": 32, "is_paged": True}),
    "paged_adamw_8bit": ("AdamW", {"optim_bits": 8, "is_paged": True}),
    "adafactor": ("Adafactor", {}),
    "sgd": ("SGD", {}),
}


@dataclass(frozen=True)
class Live:
    """The objects of an engine, once all is set up. clip_norm: as the engine will clip; 0 or None for not."""

    accelerator: Any
    optimizer: Any
    scheduler: Any
    clip_norm: float | None


def tell(inputs: FitInputs, live: Live) -> None:
    """Tell the observer what is in force, and what was asked for; an engine calls it when all is set up."""
    wanted, found = asked(inputs), read(inputs, live)
    inputs.observer.on_in_force(wanted, found, differences(wanted, found))
    if inputs.settings.optimizer.startswith("paged") and inputs.scoring.device.type == "cpu":
        inputs.observer.on_note(
            "training.optimizer: bitsandbytes pages nothing on a CPU, where all of it is on the host"
        )


def asked(inputs: FitInputs) -> dict[str, Any]:
    """Return what a recipe asks of its training, under the names of `read`."""
    settings, budget = inputs.settings, inputs.budget
    kind, options = OPTIMIZERS[settings.optimizer]
    return {
        "optimizer": {"class": kind, **options},
        "learning_rate": settings.learning_rate,
        "weight_decay": settings.weight_decay,
        # ZeRO-3 leaves each parameter empty, with its size beside it.
        "trained_parameters": sum(
            getattr(one, "ds_numel", one.numel()) for one in inputs.model.parameters() if one.requires_grad
        ),
        "rates": _rates(_schedule(inputs), settings.learning_rate, inputs),
        "clip_norm": settings.clip_norm,
        "precision": inputs.scoring.precision,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "global_batch": budget.global_batch,
    }


def read(inputs: FitInputs, live: Live) -> dict[str, Any]:
    """Return what is in force. weight_decay: of the parameters that have any; rates: step -> learning rate.

    product_types: share of the weights -> the type that they are multiplied in.
    """
    settings, budget, accelerator = inputs.settings, inputs.budget, live.accelerator
    checkpointed = any(getattr(module, "gradient_checkpointing", False) is True for module in inputs.model.modules())
    found: dict[str, Any] = {
        **dict.fromkeys(("optimizer", "learning_rate", "weight_decay", "trained_parameters", "rates"), None),
        **dict.fromkeys(("clip_norm", "precision"), None),
        "gradient_checkpointing": checkpointed,
        "global_batch": budget.per_device_batch * budget.accumulation * accelerator.num_processes,
        "product_types": product_types.shares(inputs.model, inputs.scoring.precision),
    }
    found |= _of_optimizer(_innermost(live.optimizer, "optimizer"), settings.optimizer)
    rate = found["learning_rate"] if isinstance(found["learning_rate"], float) else settings.learning_rate
    found["rates"] = _rates(_innermost(live.scheduler, "scheduler"), rate, inputs)
    found["clip_norm"] = float(live.clip_norm or 0.0)
    if requested_backend() == "deepspeed":
        found |= _of_deepspeed(accelerator)
        # Its own class for processors, which accelerate takes where the optimizer is offloaded, is AdamW in this mode.
        if getattr(_innermost(live.optimizer, "optimizer"), "adam_w_mode", False):
            found["optimizer"] = None
    elif requested_backend() is None:
        found["precision"] = accelerator.mixed_precision if accelerator.native_amp else "no"
    return found


def _of_deepspeed(accelerator: Any) -> dict[str, Any]:
    """Return what DeepSpeed decides by its own configuration, or holds in a form of its own."""
    engine = accelerator.deepspeed_engine_wrapped.engine
    kinds = {"bf16": engine.bfloat16_enabled(), "fp16": engine.fp16_enabled()}
    if engine.torch_autocast_enabled():  # as `sharding.apply_defaults` has it compute in 16 bits
        kinds |= {name: dtype == engine.torch_autocast_dtype() for name, dtype in AUTOCAST.items()}
    return {
        # One flat tensor for each group of parameters.
        "trained_parameters": None,
        "clip_norm": float(engine.gradient_clipping()),
        "precision": next((name for name, is_on in kinds.items() if is_on), "no"),
    }


def _of_optimizer(optimizer: Any, name: str) -> dict[str, Any]:
    """Return an optimizer's class and settings, rate, decay, and how many numbers it trains."""
    groups = optimizer.param_groups
    rates = sorted({float(group.get("initial_lr", group["lr"])) for group in groups})
    decays = sorted({float(group["weight_decay"]) for group in groups if group.get("weight_decay")})
    known = {**optimizer.defaults, **vars(getattr(optimizer, "args", object)), **vars(optimizer)}
    _, options = OPTIMIZERS[name]
    return {
        "optimizer": {"class": type(optimizer).__name__, **{key: known.get(key) or False for key in options}},
        "learning_rate": rates[0] if len(rates) == 1 else rates,
        "weight_decay": decays[0] if len(decays) == 1 else decays or 0.0,
        "trained_parameters": sum(one.numel() for group in groups for one in group["params"]),
    }


def differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Return a sentence for each thing that is in force otherwise than it was asked for; what is None is not known."""
    return [
        f"{name} {found[name]} is in force, where {value} was asked for"
        for name, value in wanted.items()
        if found[name] is not None and not _agree(name, value, found[name])
    ]


def _agree(name: str, value: Any, found: Any) -> bool:
    if name == "weight_decay" and found == 0.0:
        return True  # nothing that is trained has any: norms and biases, and adapters of vectors
    if name == "rates":
        highest = max(value.values())
        return value.keys() == found.keys() and all(
            abs(found[step] - rate) <= 1e-9 * highest for step, rate in value.items()
        )
    return bool(value == found)


def _innermost(wrapped: Any, name: str) -> Any:
    while hasattr(wrapped, name) and not isinstance(wrapped, torch.optim.lr_scheduler.LRScheduler):
        wrapped = getattr(wrapped, name)
    return wrapped


def _schedule(inputs: FitInputs) -> Any:
    settings, budget = inputs.settings, inputs.budget
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=settings.learning_rate)
    return make_scheduler(settings, budget, optimizer)


def _rates(scheduler: Any, learning_rate: float, inputs: FitInputs) -> dict[str, float] | None:
    """Return the rates of the first step, the first after warm-up, the middle one and the last, without a step."""
    lambdas = getattr(scheduler, "lr_lambdas", None)
    if not lambdas:
        return None
    steps = inputs.budget.steps
    chosen = {1, min(steps, inputs.budget.warmup_steps(inputs.settings) + 1), (steps + 1) // 2, steps}
    return {str(step): learning_rate * float(lambdas[0](step - 1)) for step in sorted(chosen)}
