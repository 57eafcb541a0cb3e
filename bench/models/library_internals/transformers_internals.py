"""Uses of transformers beyond its public interface."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook
from transformers import PreTrainedModel, core_model_loading, trainer
from transformers.integrations import deepspeed
from transformers.utils import cached_file

from bench.utils import system


def attention_name(config: Any) -> str | None:
    """Return the name of the attention function in force; there is no public way to read it."""
    return getattr(config, "_attn_implementation", None)


def set_attention(config: Any, name: str | None) -> None:
    """Put an attention function into a config, and the configs inside of it.

    `PreTrainedModel.set_attn_implementation` walks all modules and checks what may be installed, in every forward.
    """
    config._attn_implementation = name


def unsplit_layers(model: Any) -> list[str]:
    """Return the classes of layers that FSDP shards as one, as the model names them for accelerate."""
    return list(model._no_split_modules or [])


def tied_weights(kind: Any) -> list[str]:
    """Return the names of the weights that others of a class of models may be tied to, as its embedding's."""
    tied = kind._tied_weights_keys
    return list(tied.values()) if isinstance(tied, dict) else []


def tied_to(names: dict[str, str]) -> dict[str, Any]:
    """Return the attribute by which a class of models says which of its weights are others' too."""
    return {"_tied_weights_keys": names}


def found_in_checkpoint(checkpoint: str, name: str, revision: str | None) -> str | None:
    """Return the path of a checkpoint's file, on the Hub or in a folder; None for one that it does not have.

    `cached_file` by itself raises for a missing file.
    """
    path: str | None = cached_file(
        checkpoint,
        name,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return path


def float32_layers(model: Any) -> list[str]:
    """Return the names of layers that are never quantised, nor held in float16, as T5 has them."""
    return sorted(model._keep_in_fp32_modules or [])


def dtype_plan(model: Any, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """Return part of a name -> the type of such layers in a model that is loaded in `dtype`."""
    plan: dict[str, torch.dtype] = model._get_dtype_plan(dtype)
    return plan


def initialize_weights(model: Any, module: Any) -> None:
    """Draw a module's weights by its model's own rules; `init_weights` draws those of the whole model at once."""
    model._initialize_weights(module)


def mark_as_initialized(parameter: Any) -> None:
    """Keep transformers from drawing a parameter again."""
    parameter._is_hf_initialized = True


def checkpoint_function(module: Any) -> Any:
    """Return the function by which a module's activations are recomputed; None where they are not."""
    return module.__dict__.get("_gradient_checkpointing_func")


def set_checkpoint_function(module: Any, function: Callable[..., Any]) -> None:
    """Recompute a module's activations by another function; the public method takes only torch's, with options."""
    module._gradient_checkpointing_func = function


def keep_names(model: Any) -> None:
    """Let a model that was loaded with a `key_mapping` be saved under its own names, which its class can load."""
    model.__dict__.pop("_weight_conversions", None)


@contextmanager
def without_deepspeed() -> Iterator[None]:
    """Keep transformers from taking each forward for a collective call of all processes, as under ZeRO-3.

    The public functions set such a config and give it up; none gives back the one that is set.
    """
    config = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = config


def tied_names(model: Any) -> set[str]:
    """Return the names of parameters that a model ties, sources and targets, as its config says."""
    tied: dict[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    return {*tied, *tied.values()}


@contextmanager
def one_weight_at_a_time(loaded: Callable[[Any, str], None]) -> Iterator[None]:
    """Let `from_pretrained` read a weight only when the one before it is in its place; call `loaded` after each.

    By default threads read ahead of what the model has taken. There is no public hook between two weights.
    loaded: is given the model and the weight's name in it.
    """
    own = core_model_loading.set_param_for_module

    def _set_and_tell(model: Any, name: str, *args: Any, **options: Any) -> None:
        own(model, name, *args, **options)
        loaded(model, name)

    core_model_loading.set_param_for_module = _set_and_tell
    try:
        with system.variables({"HF_DEACTIVATE_ASYNC_LOAD": "1", "FSDP_CPU_RAM_EFFICIENT_LOADING": "false"}):
            yield
    finally:
        core_model_loading.set_param_for_module = own


@contextmanager
def drawn_by(draw: Callable[[Any], None]) -> Iterator[None]:
    """Let models that are built from a config have their weights drawn by `draw`, whenever their class would draw them.

    draw: is given the model, or the model inside of one, whose parameters are on the meta device: a module gives up its
    values as soon as it is a part of another one. What its constructor has drawn counts for the random-number stream
    alone, as it does for transformers, which draws all weights again.
    """
    own = PreTrainedModel.init_weights

    def _emptied(_: Any, __: str, part: Any) -> None:
        for module in part.modules() if part is not None else ():
            if getattr(module, "_is_hf_initialized", False):
                continue
            for name, parameter in list(module.named_parameters(recurse=False)):
                if not parameter.is_meta:
                    empty = torch.empty_like(parameter, device="meta")
                    module.register_parameter(name, nn.Parameter(empty, requires_grad=parameter.requires_grad))

    def _init_weights(model: Any) -> None:
        draw(model)
        model.tie_weights(recompute_mapping=False)

    hook = register_module_module_registration_hook(_emptied)
    PreTrainedModel.init_weights = _init_weights
    try:
        yield
    finally:
        hook.remove()
        PreTrainedModel.init_weights = own


@contextmanager
def without_deepspeed_checkpoint() -> Iterator[None]:
    """Keep a Trainer that resumes from asking DeepSpeed for a checkpoint in its own layout, which there is none of."""
    own = trainer.deepspeed_load_checkpoint
    trainer.deepspeed_load_checkpoint = lambda *_, **__: None
    try:
        yield
    finally:
        trainer.deepspeed_load_checkpoint = own
