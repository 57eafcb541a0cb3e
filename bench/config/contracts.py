"""What drop-ins promise: the contracts of tasks, methods and metrics, and the load plan that a method returns."""

from dataclasses import dataclass, field
from typing import Any

# Keyword arguments of `transformers.BitsAndBytesConfig`: NF4 with double quantisation (Dettmers et al. 2023).
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """What a method needs to know before a model is loaded; plain data, no library's objects.

    weights: None leaves the choice to the recipe and the model card.
    quantization: keyword arguments of `transformers.BitsAndBytesConfig`, or None.
    frozen_body: the body gets no gradients and may be held in the card's 16-bit type.
    adapter: what is saved needs its base model beside it. adapter_dtype: in which its adapters are trained.
    shots: solved examples before each question; draw: "fixed" (the same for all) or "per_example".
    trains: "gradient" (a training loop), "features" (a classifier fitted on frozen features), "nothing".
    """

    weights: str | None = None
    quantization: dict[str, Any] | None = None
    trains: str = "gradient"
    frozen_body: bool = False
    adapter: bool = False
    adapter_dtype: str = "float32"
    features: dict[str, Any] = field(default_factory=dict)
    shots: int = 0
    draw: str = "fixed"
