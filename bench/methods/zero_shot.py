"""The model as it is, asked without examples; nothing is trained."""

from typing import Any, Literal

from bench.config.contracts import NF4, LoadPlan
from bench.config.fields import Strict

OBJECTIVES = ("text",)


class Options(Strict):
    """Form in which the weights are held."""

    quantized: bool = False
    """Holds the weights in 4 bits (NF4), for models that would not fit otherwise. Example: true"""
    compute_dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Type that 4-bit weights are computed in. Example: float16"""


def load_plan(options: Options) -> LoadPlan:
    """Return a plan without gradients: the weights may be held in the card's type, or in 4 bits."""
    quantization = {**NF4, "bnb_4bit_compute_dtype": options.compute_dtype} if options.quantized else None
    return LoadPlan(trains="nothing", frozen_body=True, quantization=quantization)


def adapt(model: Any, options: Options) -> Any:
    """Freeze the model."""
    return model.requires_grad_(False)
