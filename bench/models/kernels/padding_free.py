"""Never compute a pad: a model's body takes the padded batch and runs its layers on one row of real tokens.

    reason = attach(model)  # None: on; otherwise why the model runs as it did
    model(**padded_batch)   # heads, losses, trainers and adapters see the shapes that they are used to

The last hidden state comes back in the padded shape, with zeros for pads, which no head may read. Inside, attention is
a function of transformers' interface that keeps texts apart: one kernel for texts of any length on a GPU, otherwise
one call for each run of texts of equal length. Adapters, quantised weights, autocast and the wrappers of DDP and
DeepSpeed do not notice. Activations that are recomputed in the backward pass need `recomputing` as `context_fn`.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import AttentionInterface

from bench.models.heads import unwrapped
from bench.models.kernels import padding_probe, patch
from bench.models.kernels.packed_attention import ACTIVE, NAME, Packing, attention, recomputing
from bench.models.kernels.padding_probe import Proof
from bench.models.library_internals import transformers_internals

# What a body may be given for its own row of tokens to stay the same tokens; with anything else it runs padded.
TOKENS = ("input_ids", "inputs_embeds", "token_type_ids")
# Settings by which a model returns something of each layer, which would be of the row and not of the padded batch.
OF_LAYERS = ("output_hidden_states", "output_attentions", "output_router_logits")
# Attributes of a body that remember its own forward, and what the comparison with it gave.
STATE, PROOF = "bench_padding_free", "bench_padding_free_proof"


def attach(model: Any, agree: Callable[[str | None], str | None] = lambda reason: reason) -> str | None:
    """Let the body of a model, wrapped or not, leave out pads from now on, where it is shown to give the same so.

    Returns None, or why the model still runs padded: a sentence's part that follows "the model". What it declares is
    asked first; then a few texts are run both ways, forward and backward (padding_probe), without a change to weights
    or the random-number stream.
    agree: takes this process's reason and returns the one that all processes go by.
    """
    body = unwrapped(model).base_model
    if is_attached(model):
        return None
    found = Proof(reason=_undeclared(model, body))
    if found.reason is None:
        found = padding_probe.compare(unwrapped(model), body, install=lambda: _install(model, body))
    found.reason = agree(found.reason)
    setattr(body, PROOF, found)
    if found.reason is not None:
        detach(model)
    return found.reason


def detach(model: Any) -> None:
    """Give the body its own forward again; nothing where `attach` was not in force."""
    patch.detach(unwrapped(model).base_model, STATE)


def reattach(model: Any) -> None:
    """Leave out pads again after `detach`, as `attach` had allowed for this model, or for the one it is a copy of."""
    if not is_attached(model):
        _install(model, unwrapped(model).base_model)


def is_attached(model: Any) -> bool:
    """Return whether pads are left out."""
    return patch.is_attached(unwrapped(model).base_model, STATE)


def figures(model: Any) -> dict[str, Any]:
    """Return what the last `attach` measured, for a record; empty where it did not come to a comparison."""
    found = getattr(unwrapped(model).base_model, PROOF, None)
    return {} if found is None else found.figures()


def _undeclared(model: Any, body: Any) -> str | None:
    config = body.config.get_text_config()
    return patch.attention_is_fixed(model, body) or patch.places_are_fixed(body, config)


def _install(model: Any, body: Any) -> None:
    AttentionInterface.register(NAME, attention)
    configs = patch.configs_of(unwrapped(model))
    plain = body.forward
    signature = inspect.signature(plain)

    @functools.wraps(plain)
    def forward(*args: Any, **options: Any) -> Any:
        given = signature.bind(*args, **options).arguments
        given |= given.pop("kwargs", {})
        packing = _packing(body, given, configs)
        if packing is None:
            return plain(*args, **options)
        with packing.active():
            outputs = plain(**_row(body, given, packing))
        # Where a pooler follows, the layers' output is padded already.
        if tuple(outputs.last_hidden_state.shape[:2]) != packing.shape:
            outputs.last_hidden_state = packing.padded(outputs.last_hidden_state)
        return outputs

    patch.attach(body, STATE, forward, _pooling_hooks(body))


def _pooling_hooks(body: Any) -> list[Any]:
    """Return the hooks by which a pooler gets the padded shape: it reads the first token of each text."""
    if getattr(body, "pooler", None) is None:
        return []
    if hasattr(body, "encoder"):
        return [body.encoder.register_forward_hook(_pad_output)]
    return [body.pooler.register_forward_pre_hook(_pad_input)]


def _pad_output(module: Any, args: Any, output: Any) -> Any:
    packing = ACTIVE.get()
    if packing is not None:
        output.last_hidden_state = packing.padded(output.last_hidden_state)
    return output


def _pad_input(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    packing = ACTIVE.get()
    return args if packing is None else (packing.padded(args[0]), *args[1:])


def _packing(body: Any, given: dict[str, Any], configs: Sequence[Any]) -> Packing | None:
    """Return None where the batch must run, or may as well run, as it is."""
    mask: Any = given.get("attention_mask")
    if not torch.is_tensor(mask) or mask.dim() != 2 or ACTIVE.get() is not None:
        return None
    if given.get("use_cache") or given.get("return_dict") is False:
        return None
    known = {*TOKENS, "attention_mask", "position_ids", "use_cache", "return_dict"}
    if any(value is not None and value is not False for name, value in given.items() if name not in known):
        return None
    # Without an embedding for them, types tell images from text, whose tokens see one another both ways.
    text: Any = body.config.get_text_config()
    types: Any = given.get("token_type_ids")
    if torch.is_tensor(types) and not getattr(text, "type_vocab_size", None) and bool(types.any()):
        return None
    if any(getattr(config, name, False) for config in (body.config, text) for name in OF_LAYERS):
        return None
    if body.training and torch.is_grad_enabled() and not _recomputes_alike(body):
        return None
    return Packing.of(mask, configs)


def _recomputes_alike(body: Any) -> bool:
    """Return whether layers that are recomputed in the backward pass will find the packing of their forward."""
    for module in body.modules():
        if getattr(module, "gradient_checkpointing", False):
            function = transformers_internals.checkpoint_function(module)
            if function is not None and getattr(function, "keywords", {}).get("context_fn") is not recomputing:
                return False
    return True


def _row(body: Any, given: dict[str, Any], packing: Packing) -> dict[str, Any]:
    """Return the body's arguments, with one row of real tokens at their positions in the padded batch."""
    row = {name: value for name, value in given.items() if name != "attention_mask"}
    for name in TOKENS:
        if row.get(name) is not None:
            row[name] = packing.packed(row[name])
    positions = row.get("position_ids")
    if positions is None:
        positions = _positions(body, given, packing)
    row["position_ids"] = packing.packed(positions.expand(packing.shape))
    return row


def _positions(body: Any, given: dict[str, Any], packing: Packing) -> torch.Tensor:
    """Return positions as the model itself would number the padded batch."""
    embeddings: Any = getattr(body, "embeddings", None)
    if hasattr(embeddings, "create_position_ids_from_input_ids"):  # RoBERTa counts from the pad's id on
        if given.get("input_ids") is not None:
            return embeddings.create_position_ids_from_input_ids(given["input_ids"], embeddings.padding_idx)
        return embeddings.create_position_ids_from_inputs_embeds(given["inputs_embeds"], embeddings.padding_idx)
    return torch.arange(packing.shape[1], device=packing.places.device)[None]
