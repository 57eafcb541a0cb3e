"""Names the key of a recipe by which matrix products are computed in bfloat16, for a device without units for it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.config.contracts import LoadPlan
    from bench.config.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A key that asks for bfloat16, and what to do instead, as a sentence's part, and as an override."""

    key: str
    instead: str
    override: str

    def refused(self, reason: str) -> str:
        """Return the sentence on a device. reason: why it can't, as `hardware.no_bf16_units` gives it."""
        return f"{self.key} is bfloat16, and {reason}; {self.instead}"


def asked(recipe: "Recipe", plan: "LoadPlan", precision: str) -> Asked | None:
    """Return the first key of a recipe by which it multiplies in bfloat16; None where it does not.

    4-bit layers multiply in a type of their own. All others do so in that of autocast (precision "bf16" or "fp16"),
    without which ("no") it is that of the weights.
    """
    if plan.quantization is not None and plan.quantization["bnb_4bit_compute_dtype"] == "bfloat16":
        override = "method.compute_dtype=float16"
        return Asked(key="method.compute_dtype", instead="set method.compute_dtype: float16", override=override)
    if precision != "no":
        return None
    if plan.frozen_body and recipe.model.dtype == "bfloat16":
        instead = "set model.dtype: float16, or launch with mixed_precision: fp16"
        return Asked(key="model.dtype", instead=instead, override="model.dtype=float16")
    if plan.adapter_dtype == "bfloat16":
        return Asked(key="method.dtype", instead="set method.dtype: float32", override="method.dtype=float32")
    return None
