"""Reads back from the live layers what of an adapter's options is in force, and compares it with what was asked."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from bench.errors import SetupError
from bench.models.adapter_names import hint, is_of

ADAPTER = "default"
# Field of a PEFT class -> the field that it replaces for some layers.
_PATTERNS = {
    "rank_pattern": ("r",),
    "alpha_pattern": ("lora_alpha", "alpha"),
    "lambda_pattern": ("delora_lambda",),
    "block_size_pattern": ("block_size",),
    "n_frequency_pattern": ("n_frequency",),
}
# Methods of a tuner that return a term of the loss; the engines add none.
_LOSS = re.compile(r"_?get_\w+_loss$")


def check_in_force(wrapped: Any, options: dict[str, Any]) -> None:
    """Raise SetupError for an option that is not in force in a wrapped model. options: those that were asked for."""
    tuner = wrapped.base_model
    layers = _layers(wrapped)
    config = wrapped.peft_config[ADAPTER]
    for sentence in _problems(wrapped, tuner, layers, config, options):
        raise SetupError(f"method.config.{sentence}")


def _problems(wrapped: Any, tuner: Any, layers: dict[str, Any], config: Any, options: dict[str, Any]) -> Iterator[str]:
    """Yield the key and a sentence for each option that is not in force."""
    names = list(getattr(tuner, "targeted_module_names", []))
    yield from _targets(names, _trained_inside(wrapped), options)
    yield from _layer_numbers(names, options)
    yield from _patterns(names, options)
    for key, value in options.items():
        if isinstance(value, bool | int | float):
            yield from _values(key, value, layers, config)
    yield from _scales(layers)
    if "modules_to_save" in options:
        yield from _trained_in_full(wrapped, options["modules_to_save"])
    yield from _parameters(tuner, options)
    trained = [name for name, parameter in wrapped.named_parameters() if parameter.requires_grad]
    if options.get("bias", "none") != "none" and not any(name.endswith(".bias") for name in _outside_of_heads(trained)):
        yield f"bias: {options['bias']!r} trains nothing: the adapted layers of this model have no biases"
    for name in dir(type(tuner)):
        if _LOSS.match(name) and torch.is_tensor(getattr(tuner, name)()):
            yield f"peft: this method has a loss term ({name}), which is not added to the loss; it is not supported"


def _outside_of_heads(names: Iterable[str]) -> list[str]:
    return [name for name in names if ".modules_to_save." not in name]


def _layers(wrapped: Any) -> dict[str, Any]:
    """Return the adapted layers by their names in the plain model; {} for virtual tokens."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    prefix = "base_model.model."
    return {
        name.removeprefix(prefix): module
        for name, module in wrapped.named_modules()
        if isinstance(module, BaseTunerLayer)
    }


def _saved(wrapped: Any) -> list[str]:
    """Return the modules that are trained in full, by their names in the plain model."""
    from peft.utils import ModulesToSaveWrapper

    prefix = "base_model.model."
    return [
        name.removeprefix(prefix)
        for name, module in wrapped.named_modules()
        if isinstance(module, ModulesToSaveWrapper)
    ]


def _trained_inside(wrapped: Any) -> list[str]:
    """Return the modules that are trained in full, and those inside of them."""
    saved = tuple(_saved(wrapped))
    paths = (name.removeprefix("base_model.model.") for name, _ in wrapped.named_modules())
    return [*saved, *(path for path in paths if path.startswith(tuple(f"{name}." for name in saved)))]


def _targets(names: list[str], saved: list[str], options: dict[str, Any]) -> Iterator[str]:
    value = options.get("target_modules")
    for target in [] if value is None or isinstance(value, str) else value:
        if not any(is_of(target, name) for name in [*names, *saved]):
            by = [key for key in ("exclude_modules", "layers_to_transform", "modules_to_save") if options.get(key)]
            reason = f" by {' or '.join(by)}" if by else ""
            yield f"target_modules: no adapter is on {target!r}, whose modules are all left out{reason}"


def _layer_numbers(names: list[str], options: dict[str, Any]) -> Iterator[str]:
    asked = options.get("layers_to_transform")
    if asked is None or not names:
        return
    wanted = {asked} if isinstance(asked, int) else set(asked)
    given = {name: _layer_number(name, options.get("layers_pattern")) for name in names}
    missing = sorted(wanted - {number for number in given.values() if number is not None})
    if missing:
        yield f"layers_to_transform: no adapter is on layer {missing[0]}"
    elif wanted and (other := [name for name, number in given.items() if number not in wanted]):
        yield f"layers_to_transform: not in force for {other[0]!r}, which target_modules names whole"


def _layer_number(name: str, patterns: Any) -> int | None:
    """Return the number of a module's layer, by PEFT's own rule (`check_target_module_exists`)."""
    lists = [patterns] if isinstance(patterns, str) else patterns or [r"[^.]*"]
    for pattern in lists:
        if match := re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", name):
            return int(match.group(1))
    return None


def _patterns(names: list[str], options: dict[str, Any]) -> Iterator[str]:
    for key in _PATTERNS:
        patterns = options.get(key) or {}
        first = Counter(_pattern_of(name, patterns) for name in names)
        for pattern in patterns:
            if not first[pattern]:
                matches = any(_pattern_of(name, {pattern: 0}) for name in names)
                reason = "an earlier pattern matches first" if matches else f"no adapter's layer.{hint(pattern, names)}"
                yield f"{key}: {pattern!r} applies to nothing: {reason}"


def _pattern_of(name: str, patterns: Iterable[str]) -> str | None:
    """Return the first pattern that matches a module's name, by PEFT's own rule (`get_pattern_key`)."""
    return next((pattern for pattern in patterns if re.match(rf"(.*\.)?({pattern})$", name)), None)


def _values(key: str, asked: Any, layers: dict[str, Any], config: Any) -> Iterator[str]:
    """Yield where a layer holds another value than was asked for; a field that layers do not hold is not compared."""
    for name, layer in layers.items():
        value, wanted = _live(layer, key), asked
        for kind, replaced in _PATTERNS.items():
            patterns = getattr(config, kind, None) or {}
            if key in replaced and (pattern := _pattern_of(_adapted(name, layer), patterns)) is not None:
                wanted = patterns[pattern]
        if value is not None and value != wanted:
            yield f"{key}: asked {wanted}, in force {value} (layer {name!r})"
            return


def _adapted(name: str, layer: Any) -> str:
    """Return what PEFT's patterns call a layer: that of a parameter, e.g. of all experts, after the parameter."""
    parameter = getattr(layer, "parameter_name", None)
    return name if parameter is None else f"{re.sub(r'(?:[.]base_layer)+$', '', name)}.{parameter}"


def _live(layer: Any, key: str) -> Any:
    """Return a plain value of a layer's adapter; None where it holds none under this name."""
    # Some classes put their own name before it, as in `hra_r`; modules are not among `vars`.
    held = {**vars(layer), **dict(layer.named_children())}
    names = [key] if hasattr(layer, key) else [name for name in held if name.endswith(f"_{key}")]
    value = getattr(layer, names[0]) if len(names) == 1 else None
    if isinstance(value, dict | nn.ModuleDict):
        value = dict(value).get(ADAPTER)
    if isinstance(value, nn.Dropout):
        return value.p
    if isinstance(value, nn.Identity):
        return 0.0
    return value if isinstance(value, bool | int | float) else None


def _scales(layers: dict[str, Any]) -> Iterator[str]:
    """Yield where LoRA's scale is not alpha / r, or alpha / sqrt(r) with rsLoRA (Kalajdzievski 2023)."""
    for name, layer in layers.items():
        scale, rank, alpha = (_live(layer, key) for key in ("scaling", "r", "lora_alpha"))
        if scale is None or not rank or alpha is None:
            continue
        wanted = alpha / (math.sqrt(rank) if _live(layer, "use_rslora") else rank)
        if not math.isclose(scale, wanted, rel_tol=1e-6):
            yield f"lora_alpha: the scale of layer {name!r} is {scale}, not {wanted}"
            return


def _trained_in_full(wrapped: Any, asked: Iterable[str] | None) -> Iterator[str]:
    saved = _saved(wrapped)
    for name in asked or ():
        if not any(is_of(name, path) for path in saved):
            yield f"modules_to_save: {name!r} is not trained"


def _parameters(tuner: Any, options: dict[str, Any]) -> Iterator[str]:
    names = getattr(tuner, "targeted_parameter_names", [])
    for target in options.get("target_parameters") or ():
        if not any(is_of(target, name) for name in names):
            yield f"target_parameters: no adapter is on {target!r}"


def in_force(wrapped: Any) -> dict[str, Any] | None:
    """Return for the record what is in force of an adapter, read from its layers; None for a model without one.

    Values that differ between layers are lists of all that occur, sorted.
    """
    if not hasattr(wrapped, "peft_config"):
        return None
    config, layers = wrapped.peft_config[ADAPTER], _layers(wrapped)
    part: dict[str, Any] = {"peft": type(config).__name__}
    if config.is_prompt_learning:
        return {**part, "num_virtual_tokens": config.num_virtual_tokens, "trained_in_full": sorted(_saved(wrapped))}
    part["layers"] = len(layers)
    part["modules"] = sorted({name.rpartition(".")[2] for name in layers})
    for key in vars(config):
        values = {value for layer in layers.values() if (value := _live(layer, key)) is not None}
        if values:
            part[key] = values.pop() if len(values) == 1 else sorted(values)
    scales = {value for layer in layers.values() if (value := _live(layer, "scaling")) is not None}
    if scales:
        part["scaling"] = scales.pop() if len(scales) == 1 else sorted(scales)
    init = getattr(config, "init_lora_weights", getattr(config, "init_weights", None))
    return {**part, "init": init, "trained_in_full": sorted(_saved(wrapped))}
