"""LoRA on a body quantised to 4 bits by bitsandbytes: NF4 with double quantisation (Dettmers et al. 2023)."""

from typing import Any, Literal

from bench.config.contracts import LoadPlan
from bench.models.adapters import AdapterOptions, prepare_quantized, wrap

OBJECTIVES = ("head", "text")


class Options(AdapterOptions):
    """bitsandbytes' settings for 4-bit weights, and those of any adapter."""

    quant_type: Literal["nf4", "fp4"] = "nf4"
    """4-bit type of the weights. Example: fp4"""
    double_quant: bool = True
    """Quantises the quantisation constants too. Example: false"""
    compute_dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Type that 4-bit weights are computed in; float16 on T4, V100 and RTX 20. Example: float16"""
    storage: Literal["uint8", "bfloat16", "float16", "float32"] = "uint8"
    """Type that 4-bit weights are stored in; ZeRO-3 and FSDP2 need the same as `compute_dtype`. Example: bfloat16"""


def load_plan(options: Options) -> LoadPlan:
    """Return a plan with an explicit compute type: by default bitsandbytes computes in float32, and does not say so."""
    return LoadPlan(
        frozen_body=True,
        adapter=True,
        adapter_dtype=options.dtype,
        quantization={
            "load_in_4bit": True,
            "bnb_4bit_quant_type": options.quant_type,
            "bnb_4bit_use_double_quant": options.double_quant,
            "bnb_4bit_compute_dtype": options.compute_dtype,
            "bnb_4bit_quant_storage": options.storage,
        },
    )


def adapt(model: Any, options: Options) -> Any:
    """Freeze the 4-bit body, put its norms into float32, and add adapters."""
    prepare_quantized(model)
    return wrap(model, options.peft, options.config, options.dtype)
