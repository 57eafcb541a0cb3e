"""Random weights in 4 bits, made block by block on the device: no process ever holds the model in 16 or 32 bits.

    model = quantized(skeleton, settings, device)  # skeleton: the same model on torch's meta device

Each block of the model is drawn by transformers' own rules, quantised by bitsandbytes as transformers does it while it
loads a checkpoint, and given up before the next one. Numbers are drawn in the order in which transformers draws them
for a whole model, from torch's global generator for the device: the same seed gives the same weights, on any number of
processes, and those of the same model made in one piece and quantised after.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers import AutoHfQuantizer


def quantized(skeleton: Any, settings: Any, device: torch.device) -> Any:
    """The model on `device`, as `from_pretrained` gives it with `settings`, a `BitsAndBytesConfig`.

    skeleton: built on the meta device in the type that unquantised weights are to have; it becomes the result.
    """
    quantizer = AutoHfQuantizer.from_config(settings, pre_quantized=False)
    dtype, places = skeleton.dtype, {"": device}
    quantizer.validate_environment(device_map=places)
    quantizer.preprocess_model(model=skeleton, dtype=dtype, device_map=places)
    _Builder(skeleton, quantizer, device, dtype).fill()
    skeleton.tie_weights()
    skeleton.hf_quantizer = quantizer
    quantizer.postprocess_model(skeleton)
    return skeleton


class _Builder:
    """Fills a skeleton from front to back. What two layers share is made once."""

    def __init__(self, model: Any, quantizer: Any, device: torch.device, dtype: torch.dtype) -> None:
        self.model, self.quantizer, self.device, self.dtype = model, quantizer, device, dtype
        self._made: dict[int, nn.Parameter] = {}
        self._emptied: list[nn.Parameter] = []  # kept, so that no other one gets the address of one of them
        self._precise = model._get_dtype_plan(dtype)
        self._packed: dict[str, Any] = {}

    @torch.no_grad()
    def fill(self) -> None:
        """All of it; modules outside of blocks are quantised last, when rules for their parents have been followed."""
        self._visit("", self.model, self.model)
        self._quantize("")

    def _visit(self, name: str, module: Any, owner: Any) -> None:
        """owner: the model whose rules hold for the module."""
        for part, child in module.named_children():
            inner = child if isinstance(child, PreTrainedModel) else owner
            path = f"{name}.{part}" if name else part
            self._visit(path, child, inner)
            if isinstance(module, nn.ModuleList):
                self._quantize(f"{path}.")
        self._materialize(name, module)
        owner._initialize_weights(module)

    def _materialize(self, name: str, module: Any) -> None:
        """Numbers for what the module holds itself, not yet drawn."""
        for part, parameter in list(module._parameters.items()):
            if parameter is not None and parameter.is_meta:
                module._parameters[part] = self._real(f"{name}.{part}" if name else part, parameter, module)
        for part, buffer in list(module._buffers.items()):
            if buffer is not None and buffer.is_meta:
                module._buffers[part] = torch.empty_like(buffer, device=self.device)

    def _real(self, name: str, empty: nn.Parameter, module: Any) -> nn.Parameter:
        if id(empty) in self._made:
            return self._made[id(empty)]
        self._emptied.append(empty)
        packed = self.quantizer.param_needs_quantization(self.model, name)
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
        """As transformers keeps some layers out of 16 bits: by a part of their name."""
        wide = (kind for part, kind in self._precise.items() if part in name.split("."))
        return next(wide, empty.dtype)

    def _quantize(self, prefix: str) -> None:
        """Whatever below this path is still waiting for it."""
        for name in [name for name in self._packed if name.startswith(prefix)]:
            empty, owner = self._packed.pop(name), self.model.get_submodule(name.rpartition(".")[0])
            value = owner._parameters["weight"].data
            # The library asks the parameter in place what its successor is to be like.
            owner._parameters["weight"] = empty
            self._made.pop(id(empty), None)
            found = self.quantizer.get_quantize_ops().convert({name: value}, full_layer_name=name, model=self.model)
            owner._parameters["weight"] = found[name]
            found[name]._is_hf_initialized = True
