"""What bitsandbytes' 4-bit layers can't do on a CPU: seen to, or refused, before any of them computes."""

from functools import cache
from typing import Any

from bench.errors import SetupError

# Outputs that the kernel for CPUs with AVX512-BF16 packs together.
PACKED_ROWS = 32


def fit_cpu(model: Any, name: str) -> None:
    """Readies 4-bit layers that lie on a CPU. Raises SetupError for one that bitsandbytes computes wrongly there.

    Its kernel for AVX512-BF16 refuses, in the middle of a run, layers whose outputs are no multiple of 32; these go
    without it (bitsandbytes 0.50, `_convert_weight_packed_for_cpu`).
    """
    for path, module in model.named_modules():
        weight = getattr(module, "weight", None)
        state = getattr(weight, "quant_state", None)
        if weight is None or state is None or weight.device.type != "cpu":
            continue
        outputs, inputs = state.shape
        if inputs % state.blocksize and not unpacks_rows_of(inputs, state.blocksize):
            raise SetupError(
                f"the model {name!r} can't be held in 4 bits on this CPU: its layer {path} has {inputs} inputs, and "
                f"bitsandbytes computes that wrongly where they are no multiple of {state.blocksize}; use a GPU, or a "
                "method without 4 bits"
            )
        if outputs % PACKED_ROWS:
            module.support_avx512bf16_for_cpu = False


@cache
def unpacks_rows_of(inputs: int, blocksize: int) -> bool:
    """Whether bitsandbytes unpacks the same 4-bit numbers to the same values as rows and as one row, on this CPU.

    Seen with AVX512 in bitsandbytes 0.50: a row of a multiple of 16 numbers that is none of the block of quantisation
    is taken for whole blocks, and multiplied by the scales of other ones, or by what lies behind the last.
    """
    import torch
    from bitsandbytes import functional

    # The scales of neighbouring blocks must differ for it to show.
    weight = torch.arange(1.0, 1 + blocksize * inputs).reshape(blocksize, inputs)
    packed, state = functional.quantize_4bit(weight, blocksize=blocksize, quant_type="nf4")
    rows = functional.dequantize_4bit(packed, state)
    state.shape = torch.Size((1, weight.numel()))
    return bool(torch.allclose(rows.flatten(), functional.dequantize_4bit(packed, state).flatten()))
