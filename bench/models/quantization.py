"""4-bit weights: random ones for tests without a download, and what bitsandbytes can't do with them on a CPU."""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers import AutoHfQuantizer

from bench.errors import SetupError
from bench.models.library_internals import transformers_internals

# Outputs that the kernel for CPUs with AVX512-BF16 packs together.
PACKED_ROWS = 32


def prepare_4bit_for_cpu(model: Any, name: str) -> None:
    """Prepare 4-bit layers that lie on a CPU. Raises SetupError for one that bitsandbytes computes wrongly there.

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
    """Return whether bitsandbytes unpacks 4-bit numbers to the same values as rows and as one row, on this CPU.

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


def quantized(skeleton: Any, settings: Any, device: torch.device) -> Any:
    """Return the model on `device`, as `from_pretrained` gives it with `settings`, a `BitsAndBytesConfig`.

    skeleton: built on the meta device in the type that unquantised weights are to have; it becomes the result.
    """
    quantizer = AutoHfQuantizer.from_config(settings, pre_quantized=False)
    dtype, places = skeleton.dtype, {"": device}
    quantizer.validate_environment(device_map=places)
    quantizer.preprocess_model(model=skeleton, dtype=dtype, device_map=places)
    Builder(skeleton, device, dtype, quantizer).fill()
    skeleton.tie_weights()
    skeleton.hf_quantizer = quantizer
    quantizer.postprocess_model(skeleton)
    return skeleton


class Builder:
    """Filling of a skeleton from front to back with random weights. What two layers share is made once.

    quantizer: of transformers, None to keep the weights as they are drawn. drawn: called with the parameters of each
    block when it is filled, and with all others at the end, when no rule of a module around them draws them again.
    """

    def __init__(
        self,
        model: Any,
        device: torch.device,
        dtype: torch.dtype,
        quantizer: Any = None,
        drawn: Callable[[Iterable[nn.Parameter]], None] = lambda parameters: None,
    ) -> None:
        self.model, self.quantizer, self.device, self.dtype, self._drawn = model, quantizer, device, dtype, drawn
        self._made: dict[int, nn.Parameter] = {}
        self._emptied: list[nn.Parameter] = []  # kept, so that no other one gets the address of one of them
        self._precise = transformers_internals.dtype_plan(model, dtype)
        self._packed: dict[str, Any] = {}

    @torch.no_grad()
    def fill(self) -> None:
        """Fill all of it; modules outside of blocks are quantised last, when rules for their parents were followed."""
        self._visit("", self.model, self.model)
        self._quantize("")
        self._drawn(self.model.parameters())

    def _visit(self, name: str, module: Any, owner: Any) -> None:
        """owner: the model whose rules hold for the module."""
        for part, child in module.named_children():
            inner = child if isinstance(child, PreTrainedModel) else owner
            path = f"{name}.{part}" if name else part
            self._visit(path, child, inner)
            if isinstance(module, nn.ModuleList):
                self._quantize(f"{path}.")
                self._drawn(child.parameters())
        self._materialize(name, module)
        transformers_internals.initialize_weights(owner, module)

    def _materialize(self, name: str, module: Any) -> None:
        """Make numbers for what the module holds itself, not yet drawn."""
        for part, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if parameter.is_meta:
                real = self._real(f"{name}.{part}" if name else part, parameter, module)
                module.register_parameter(part, real)
        for part, buffer in list(module.named_buffers(recurse=False, remove_duplicate=False)):
            if buffer.is_meta:
                setattr(module, part, torch.empty_like(buffer, device=self.device))

    def _real(self, name: str, empty: nn.Parameter, module: Any) -> nn.Parameter:
        if id(empty) in self._made:
            return self._made[id(empty)]
        self._emptied.append(empty)
        packed = self.quantizer is not None and self.quantizer.param_needs_quantization(self.model, name)
        if packed:
            self._packed[name] = empty
        dtype = self.dtype if packed or type(module).__name__ == "Linear4bit" else self._type_of(name, empty)
        # A Conv1D holds its weight the other way round, and is turned when it is quantised.
        turned = packed and type(module).__name__ == "Linear4bit" and module.source_cls is not nn.Linear
        shape = empty.shape[::-1] if turned else empty.shape
        real = nn.Parameter(torch.empty(shape, dtype=dtype, device=self.device), requires_grad=not packed)
        self._made[id(empty)] = real
        return real

    def _type_of(self, name: str, empty: nn.Parameter) -> torch.dtype:
        """Return the type as transformers keeps some layers out of 16 bits: by a part of their name."""
        wide = (kind for part, kind in self._precise.items() if part in name.split("."))
        return next(wide, empty.dtype)

    def _quantize(self, prefix: str) -> None:
        """Quantise whatever below this path is still waiting for it."""
        for name in [name for name in self._packed if name.startswith(prefix)]:
            empty, owner = self._packed.pop(name), self.model.get_submodule(name.rpartition(".")[0])
            value = owner.get_parameter("weight").data
            # The library asks the parameter in place what its successor is to be like.
            owner.register_parameter("weight", empty)
            self._made.pop(id(empty), None)
            converted = self.quantizer.get_quantize_ops().convert({name: value}, full_layer_name=name, model=self.model)
            owner.register_parameter("weight", converted[name])
            transformers_internals.mark_as_initialized(converted[name])
