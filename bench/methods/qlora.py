"""LoRA on a body quantised to 4 bits by bitsandbytes: NF4 with double quantisation (Dettmers et al. 2023)."""

from typing import Any, Literal

from bench.config.contracts import LoadPlan
from bench.models.adapters import AdapterOptions, prepare_quantized, wrap

OBJECTIVES = ("head", "text")


class Options(AdapterOptions):
    """quant_type, double_quant, compute_dtype, storage: bitsandbytes' settings. The others: as in method `lora`."""

    quant_type: Literal["nf4", "fp4"] = "nf4"
    double_quant: bool = True
    compute_dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    storage: Literal["uint8", "bfloat16", "float16", "float32"] = "uint8"


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
