"""Adapters of the PEFT library: LoRA, DoRA, rsLoRA, IA3 and any other, by PEFT's own names."""

from typing import Any

from bench.config.contracts import LoadPlan
from bench.models.adapters import AdapterOptions, prepare_quantized, wrap

OBJECTIVES = ("head", "text")


class Options(AdapterOptions):
    """Those of any adapter."""


def load_plan(options: Options) -> LoadPlan:
    """Return a plan whose body may be held in 16 bits: only adapters and head get gradients."""
    return LoadPlan(frozen_body=True, adapter=True, adapter_dtype=options.dtype)


def adapt(model: Any, options: Options) -> Any:
    """Wrap the model; task head and newly initialised modules are trained and saved beside the adapter."""
    if getattr(model, "is_quantized", False):  # as its checkpoint has it, not by this method
        prepare_quantized(model)
    return wrap(model, options.peft, options.config, options.dtype)
