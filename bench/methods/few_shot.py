"""The model as it is, shown solved examples of the training split before each question; nothing is trained."""

from typing import Any, Literal

from bench.config.contracts import NF4, LoadPlan
from bench.config.fields import PositiveInt, Strict

OBJECTIVES = ("text",)


class Options(Strict):
    """shots: how many examples, one-shot is 1. draw: the same for all questions ("fixed"), or others for each.

    Drawn by the run's seed, balanced over the labels. quantized: weights in 4 bits, computed in compute_dtype.
    """

    shots: PositiveInt = 4
    draw: Literal["fixed", "per_example"] = "fixed"
    quantized: bool = False
    compute_dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"


def load_plan(options: Options) -> LoadPlan:
    """Nothing gets gradients, so the weights may be held in the card's type, or in 4 bits."""
    quantization = {**NF4, "bnb_4bit_compute_dtype": options.compute_dtype} if options.quantized else None
    return LoadPlan(
        trains="nothing", frozen_body=True, quantization=quantization, shots=options.shots, draw=options.draw
    )


def adapt(model: Any, options: Options) -> Any:
    """Freezes the model."""
    return model.requires_grad_(False)
