"""Replace a module's forward and give it back, and test a faster path before it is relied on.

Every kernel of this folder that changes how a model runs asks the same three questions: what does the model declare,
what do a few tokens give on either path, and are these the same. A reason against it is the part of a sentence that
follows "the model", e.g. "is an encoder-decoder".
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bench.models.autocast import evaluating
from bench.models.library_internals import accelerate_internals, transformers_internals
from bench.records.failures import is_out_of_memory

# Layers of other kinds carry a state or see other tokens.
LAYER_KINDS = {"full_attention", "sliding_attention"}
# What models hand to every attention function, and what is in force already through keys, queries and positions.
HARMLESS = {"position_ids", "position_embeddings", "cache_position", "past_key_values", "training", "deterministic"}
# What a forward hands on to all of its parts, and no attention function reads.
HARMLESS |= {"use_cache", "return_dict", "output_attentions", "output_hidden_states", "output_router_logits"}


class UnsupportedError(Exception):
    """The model asks something of its attention that is not known here. `str(error)` continues "the model ..."."""


@dataclass(frozen=True, kw_only=True)
class _Patch:
    """A replaced forward. own_forward: None where the forward was the class's, no attribute of the instance."""

    own_forward: Any
    hooks: tuple[Any, ...]


def attach(module: Any, key: str, forward: Callable[..., Any], hooks: Sequence[Any] = ()) -> None:
    """Replace a module's forward.

    key: the attribute of the module that remembers what it had. hooks: handles that are removed by `detach`.
    """
    setattr(module, key, _Patch(own_forward=module.__dict__.get("forward"), hooks=tuple(hooks)))
    module.forward = forward


def is_attached(module: Any, key: str) -> bool:
    """Return whether a module's forward is replaced."""
    return hasattr(module, key)


def detach(module: Any, key: str) -> None:
    """Give a module its own forward again, without what was wrapped around it since; nothing where `attach` was not."""
    patch = module.__dict__.pop(key, None)
    if patch is None:
        return
    accelerate_internals.drop_forward(module)
    if patch.own_forward is not None:
        module.forward = patch.own_forward
    for hook in patch.hooks:
        hook.remove()


def attention_is_fixed(model: Any, module: Any) -> str | None:
    """Return why no attention function can be put into a module, or None. model: around it, with its adapters."""
    adapter = getattr(model, "active_peft_config", None)
    if module.config.is_encoder_decoder:
        return "is an encoder-decoder"
    if adapter is not None and adapter.is_prompt_learning:
        return "has an adapter that adds tokens of its own"
    if _looks_for_tokens(model):
        return "has an adapter that looks for certain tokens in each text"
    if not module.is_backend_compatible():
        return "has an attention of its own that can't be replaced"
    return None


def _looks_for_tokens(model: Any) -> bool:
    """Return whether an active adapter is one that is activated by tokens (aLoRA, Greenewald et al. 2025).

    PEFT's own forward finds them in each row; a forward of the body alone, or of a packed row, would not.
    """
    configs = getattr(model, "peft_config", None) or {}
    active = getattr(model, "active_adapters", None) if configs else None
    names = [active] if isinstance(active, str) else active or []
    return any(getattr(configs.get(name), "alora_invocation_tokens", None) for name in names)


def places_are_fixed(body: Any, config: Any) -> str | None:
    """Return why a body's tokens can't be moved to other places of a row, or None. config: the text model's."""
    if "position_ids" not in inspect.signature(body.forward).parameters:
        return "takes no position ids"
    kinds = set(getattr(config, "layer_types", None) or []) - LAYER_KINDS
    if kinds or getattr(config, "attention_chunk_size", None):
        return f"has layers of another kind ({', '.join(sorted(kinds)) or 'chunked attention'})"
    if getattr(config, "alibi", None) or str(getattr(config, "position_embedding_type", "")).startswith("relative"):
        return "adds something to its attention that depends on distances"
    return None


def probe(
    module: nn.Module,
    *,
    plain: Callable[[], Sequence[torch.Tensor]],
    fast: Callable[[], Sequence[torch.Tensor]],
    difference: str,
    exact: float = 1e-3,
    rounded: float = 0.1,
) -> str | None:
    """Return None where the faster path of a module gives its own results on a few tokens, or why it can't be used.

    plain, fast: run the tokens, `plain` first, in evaluation mode without gradients; their tensors are compared in
        pairs of shapes that broadcast. `fast` may raise UnsupportedError.
    difference: the reason where results differ. exact, rounded: largest difference that is mere rounding, as a share
        of the std of the plain results: in float32, and where weights or autocast have 16 or 4 bits.
    """
    try:
        with evaluating(module):
            expected = plain()
            try:
                fast_results = fast()
            except (TypeError, ValueError, AttributeError, LookupError, RuntimeError, NotImplementedError) as error:
                if is_out_of_memory(error):
                    raise
                # What a family makes of an attention that is not its own can be any error.
                return f"can't be run so ({type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]})"
    except UnsupportedError as error:
        return str(error)
    allowed = exact if in_float32(module) else rounded
    for one, other in zip(expected, fast_results, strict=True):
        far = float((other.float() - one.float()).abs().max())
        if not far <= allowed * float(one.float().std()):  # NaN is refused, too
            return f"{difference} (by {far:.2g})"
    return None


def in_float32(module: nn.Module) -> bool:
    """Return whether a module computes in float32 throughout: its weights, and without autocast."""
    parameters = list(module.parameters())
    mixed = torch.is_autocast_enabled(parameters[0].device.type)
    return not mixed and all(parameter.dtype == torch.float32 for parameter in parameters)


def configs_of(model: Any) -> list[Any]:
    """Return all configs that the model's modules read, each once, outer ones first."""
    configs = {}
    waiting = [module.config for module in model.modules() if hasattr(getattr(module, "config", None), "sub_configs")]
    for config in waiting:
        if id(config) not in configs:
            configs[id(config)] = config
            inner = [getattr(config, name, None) for name in config.sub_configs]
            waiting += [each for each in inner if each is not None]
    return list(configs.values())


@contextlib.contextmanager
def attention_function(configs: Sequence[Any], name: str) -> Iterator[None]:
    """Put the attention function of that name into all of a model's configs; their own comes back at the end."""
    before = [transformers_internals.attention_name(config) for config in configs]
    try:
        for config in configs:
            transformers_internals.set_attention(config, name)
        yield
    finally:
        # Outer configs come first: setting one also sets those inside of it.
        for config, own in zip(configs, before, strict=True):
            transformers_internals.set_attention(config, own)


def refuse_unknown(arguments: dict[str, Any]) -> None:
    """Raise UnsupportedError for what a model gives to its attention, and is not known here; None or False is nothing.

    A tensor may be a bias or a sink, a number a cap or a window: any of them may change the result.
    """
    unknown = [
        name
        for name, value in arguments.items()
        if (torch.is_tensor(value) or (value is not None and value is not False)) and name not in HARMLESS
    ]
    if unknown:
        raise UnsupportedError(f"adds something to its attention ({unknown[0]})")
