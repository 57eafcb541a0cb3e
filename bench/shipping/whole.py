"""Forms that transformers loads: the whole model with its adapter merged, in 8 bits, and in 4."""

import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from bench.errors import SetupError
from bench.models import heads
from bench.models.quantization import prepare_4bit_for_cpu
from bench.shipping.form import Loaded, Workshop
from bench.shipping.names import FormName

MODEL = "model.safetensors"
WEIGHT, SCALE, BIAS = ".int8_weight", ".int8_scale", ".int8_bias"


class Merged:
    """The adapter merged into its base model."""

    def why_not(self, work: Workshop, name: FormName) -> str | None:
        """Return that there is nothing to merge."""
        if work.source.is_adapter:
            return None
        return f"method {work.source.record.method} trained the model itself, so there is no adapter to merge"

    def make(self, work: Workshop, name: FormName, folder: Path) -> None:
        """Copy the whole model, which other forms are made from too."""
        shutil.copytree(work.whole(), folder, dirs_exist_ok=True, copy_function=_linked)

    def load(self, work: Workshop, name: FormName, folder: Path) -> Loaded:
        """Load it as anyone would."""
        return Loaded(model=work.load_whole(folder), scoring=work.source.scoring)


def _linked(source: str, target: str) -> None:
    """Give a file a second name: nothing of it is written twice."""
    Path(target).hardlink_to(source)


class Int8:
    """Dynamic quantisation: weights of linear layers in 8 bits, activations in 8 bits by their range in each call."""

    def why_not(self, work: Workshop, name: FormName) -> str | None:
        """Return None: only the model's layers tell."""
        return None

    def make(self, work: Workshop, name: FormName, folder: Path) -> None:
        """Quantise all linear layers, and save the numbers. Raises SetupError where there is none."""
        model = work.load_whole(work.whole(), dtype=torch.float32)
        if not any(type(module) is nn.Linear for module in model.modules()):
            raise SetupError(
                f"{type(model).__name__} has no layer of torch.nn.Linear, of which int8 quantises the weights"
            )
        model.config.save_pretrained(folder)
        save_file(_numbers(_quantised(model)), folder / MODEL)

    def load(self, work: Workshop, name: FormName, folder: Path) -> Loaded:
        """Build the model by its config, and put the numbers back."""
        numbers = load_file(folder / MODEL)
        model = work.build_whole(folder)
        paths = [key.removesuffix(SCALE) for key in numbers if key.endswith(SCALE)]
        layers = {path: [numbers.pop(f"{path}{part}", None) for part in (WEIGHT, SCALE, BIAS)] for path in paths}
        missing, unexpected = model.load_state_dict(numbers, strict=False)
        assert not unexpected, unexpected
        own = model.state_dict()
        known = {own[key].data_ptr() for key in numbers}  # what is tied is there once
        left = [key for key in missing if key.rpartition(".")[0] not in layers and own[key].data_ptr() not in known]
        assert not left, left
        for path, parts in layers.items():
            parent, _, own = path.rpartition(".")
            setattr(model.get_submodule(parent), own, _layer(*parts))
        return Loaded(model=model.eval(), scoring=work.source.scoring)


def _quantised(model: nn.Module) -> nn.Module:
    from torch.ao.quantization import quantize_dynamic

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao is to move to torchao, which is not required here
        quantised: nn.Module = quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    return quantised


def _numbers(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a quantised model's tensors: of its linear layers weights in 8 bits, their scale, and biases."""
    from torch.ao.nn.quantized import dynamic

    layers = {name: module for name, module in model.named_modules() if isinstance(module, dynamic.Linear)}
    inside = tuple(f"{name}." for name in layers)
    others = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(inside)}
    once = {tensor.data_ptr(): name for name, tensor in reversed(others.items())}  # of tied ones, the first name
    found = {name: tensor.contiguous() for name, tensor in others.items() if once[tensor.data_ptr()] == name}
    for name, module in layers.items():
        weight = module.weight()
        found[name + WEIGHT] = weight.int_repr()
        found[name + SCALE] = torch.tensor(weight.q_scale(), dtype=torch.float64)
        if (bias := module.bias()) is not None:
            found[name + BIAS] = bias.detach().contiguous()
    return found


def _layer(weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> nn.Module:
    """Return a layer of these numbers; torch's weights in 8 bits lie around 0."""
    from torch.ao.nn.quantized import dynamic

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = dynamic.Linear(weight.shape[1], weight.shape[0], bias is not None, dtype=torch.qint8)
        whole = torch.quantize_per_tensor(weight * scale.float(), float(scale), 0, torch.qint8)
        layer.set_weight_bias(whole, bias)
    return layer  # type: ignore[no-any-return]


class Nf4:
    """4-bit NormalFloat of bitsandbytes for linear layers, heads left as they are; computed in the model's own type."""

    def why_not(self, work: Workshop, name: FormName) -> str | None:
        """Return that what was trained is in 4 bits already."""
        return None

    def make(self, work: Workshop, name: FormName, folder: Path) -> None:
        """Quantise, and save."""
        whole = work.whole()
        plain = work.load_whole(whole)
        model = work.load_whole(whole, **_settings(plain))
        if not any(map(_is_packed, model.modules())):
            raise SetupError(f"{type(model).__name__} has no linear layer that bitsandbytes quantises")
        del plain
        model.save_pretrained(folder)

    def load(self, work: Workshop, name: FormName, folder: Path) -> Loaded:
        """Load what was written in 4 bits."""
        model = work.load_whole(folder, device_map={"": torch.device("cpu")})
        prepare_4bit_for_cpu(model, str(work.source.description["model_card"].get("id") or "model"))
        return Loaded(model=model, scoring=work.source.scoring)


def _settings(plain: Any) -> dict[str, Any]:
    import transformers

    kind = next(parameter.dtype for parameter in plain.parameters() if parameter.is_floating_point())
    settings = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=kind,
        llm_int8_skip_modules=heads.unwrapped_head_names(plain),
    )
    return {"quantization_config": settings, "device_map": {"": torch.device("cpu")}, "dtype": kind}


def _is_packed(module: nn.Module) -> bool:
    return getattr(getattr(module, "weight", None), "quant_state", None) is not None
