"""The model as it is, asked without examples; nothing is trained."""

from typing import Any, Literal

from bench.config.contracts import NF4, LoadPlan
from bench.config.fields import Strict

OBJECTIVES = ("text",)


class Options(Strict):
    """quantized: weights in 4 bits, computed in compute_dtype, for models that would not fit otherwise."""

    quantized: bool = False
    compute_dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"


def load_plan(options: Options) -> LoadPlan:
    """Nothing gets gradients, so the weights may be held in the card's type, or in 4 bits."""
    quantization = {**NF4, "bnb_4bit_compute_dtype": options.compute_dtype} if options.quantized else None
    return LoadPlan(trains="nothing", frozen_body=True, quantization=quantization)


def adapt(model: Any, options: Options) -> Any:
    """Freezes the model."""
    return model.requires_grad_(False)
