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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface

from bench.models.heads import unwrapped
from bench.models.kernels.packed_attention import ACTIVE, NAME, Packing, attention, recomputing
from bench.models.kernels.shared_prefix import LAYER_KINDS, UnsupportedError, configs_of

# Model types for which losses and gradients are tested to be those of the padded batch.
FAMILIES = frozenset(
    {
        *("albert", "bert", "camembert", "distilbert", "electra", "modernbert", "roberta", "xlm-roberta"),
        *("gemma", "gemma2", "gpt2", "gpt_neox", "llama", "mistral", "phi3", "qwen2", "qwen3"),
    }
)
# What a body may be given for its own row of tokens to stay the same tokens; with anything else it runs padded.
TOKENS = ("input_ids", "inputs_embeds", "token_type_ids")
# Attribute of a body that holds its state here.
STATE = "bench_unpad"


@dataclass(kw_only=True)
class _State:
    """What `attach` did to a body."""

    configs: Sequence[Any]
    own: Any
    hook: Any = None


def attach(model: Any) -> str | None:
    """Lets the body of a model, wrapped or not, leave out pads from now on.

    Returns None, or why the model still runs padded: a sentence's part that follows "the model". What it declares is
    asked first; then a few tokens are run both ways and must get the same hidden states.
    """
    body = unwrapped(model).base_model
    if hasattr(body, STATE):
        return None
    reason = _undeclared(model, body)
    if reason is not None:
        return reason
    expected = _probed(model, body)
    _install(model, body)
    try:
        reason = _differs(body, expected, _probed(model, body))
    except UnsupportedError as error:
        reason = str(error)
    if reason is not None:
        detach(model)
    return reason


def detach(model: Any) -> None:
    """The body's own forward again; nothing where `attach` was not in force."""
    body = unwrapped(model).base_model
    state = body.__dict__.pop(STATE, None)
    if state is None:
        return
    body.__dict__.pop("forward", None)
    if state.own is not None:
        body.forward = state.own
    if state.hook is not None:
        state.hook.remove()


def is_attached(model: Any) -> bool:
    """Whether pads are left out."""
    return hasattr(unwrapped(model).base_model, STATE)


def _undeclared(model: Any, body: Any) -> str | None:
    config = body.config.get_text_config()
    adapter = getattr(model, "active_peft_config", None)
    if body.config.is_encoder_decoder:
        return "is an encoder-decoder"
    if adapter is not None and adapter.is_prompt_learning:
        return "has an adapter that adds tokens of its own"
    if not getattr(body, "_supports_attention_backend", False):
        return "has an attention of its own that can't be replaced"
    if config.model_type not in FAMILIES:
        return f"is of a family ({config.model_type}) whose losses were not compared"
    if "position_ids" not in inspect.signature(body.forward).parameters:
        return "takes no position ids"
    kinds = set(getattr(config, "layer_types", None) or []) - LAYER_KINDS
    if kinds or getattr(config, "attention_chunk_size", None):
        return f"has layers of another kind ({', '.join(sorted(kinds)) or 'chunked attention'})"
    return None


def _install(model: Any, body: Any) -> None:
    AttentionInterface.register(NAME, attention)
    state = _State(configs=configs_of(unwrapped(model)), own=body.__dict__.get("forward"))
    plain = body.forward
    signature = inspect.signature(plain)

    @functools.wraps(plain)
    def forward(*args: Any, **options: Any) -> Any:
        given = signature.bind(*args, **options).arguments
        given |= given.pop("kwargs", {})
        packing = _packing(body, given, state.configs)
        if packing is None:
            return plain(*args, **options)
        with packing.active():
            outputs = plain(**_row(body, given, packing))
        # Where a pooler follows, the layers' output is padded already.
        if tuple(outputs.last_hidden_state.shape[:2]) != packing.shape:
            outputs.last_hidden_state = packing.padded(outputs.last_hidden_state)
        return outputs

    body.forward = forward
    if getattr(body, "pooler", None) is not None:
        # Poolers read the first token of each text.
        state.hook = body.encoder.register_forward_hook(_pad_output)
    setattr(body, STATE, state)


def _pad_output(module: Any, args: Any, output: Any) -> Any:
    packing = ACTIVE.get()
    if packing is not None:
        output.last_hidden_state = packing.padded(output.last_hidden_state)
    return output


def _packing(body: Any, given: dict[str, Any], configs: Sequence[Any]) -> Packing | None:
    """None where the batch must run, or may as well run, as it is."""
    mask: Any = given.get("attention_mask")
    if not torch.is_tensor(mask) or mask.dim() != 2 or ACTIVE.get() is not None:
        return None
    if given.get("use_cache") or given.get("return_dict") is False:
        return None
    known = {*TOKENS, "attention_mask", "position_ids", "use_cache", "return_dict"}
    if any(value is not None and value is not False for name, value in given.items() if name not in known):
        return None
    if body.config.output_hidden_states or body.config.output_attentions:
        return None
    if body.training and torch.is_grad_enabled() and not _recomputes_alike(body):
        return None
    return Packing.of(mask, configs)


def _recomputes_alike(body: Any) -> bool:
    """Whether layers that are recomputed in the backward pass will find the packing of their forward."""
    for module in body.modules():
        if getattr(module, "gradient_checkpointing", False):
            function = getattr(module, "_gradient_checkpointing_func", None)
            if function is not None and getattr(function, "keywords", {}).get("context_fn") is not recomputing:
                return False
    return True


def _row(body: Any, given: dict[str, Any], packing: Packing) -> dict[str, Any]:
    """The body's arguments, with one row of real tokens at the positions that they have in the padded batch."""
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
    """As the model itself would number the padded batch."""
    embeddings: Any = getattr(body, "embeddings", None)
    if hasattr(embeddings, "create_position_ids_from_input_ids"):  # RoBERTa counts from the pad's id on
        if given.get("input_ids") is not None:
            return embeddings.create_position_ids_from_input_ids(given["input_ids"], embeddings.padding_idx)
        return embeddings.create_position_ids_from_inputs_embeds(given["inputs_embeds"], embeddings.padding_idx)
    return torch.arange(packing.shape[1], device=packing.places.device)[None]


def _probed(model: Any, body: Any) -> list[torch.Tensor]:
    """Hidden states of a few tokens, in rows of two lengths, and what a pooler makes of them."""
    embedding = unwrapped(model).get_input_embeddings().weight
    pad = getattr(body.config.get_text_config(), "pad_token_id", None) or 0
    ids = (torch.arange(15, device=embedding.device).view(3, 5) * 7 + pad + 1) % embedding.shape[0]
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], device=embedding.device)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            found = body(input_ids=ids.masked_fill(mask == 0, pad), attention_mask=mask)
    finally:
        model.train(training)
    pooled = getattr(found, "pooler_output", None)
    return [found.last_hidden_state[mask.bool()], *([] if pooled is None else [pooled])]


def _differs(body: Any, expected: list[torch.Tensor], found: list[torch.Tensor]) -> str | None:
    # Rounding only, but for 16 and 4 bits; a wrong attention moves hidden states by their own size.
    exact = all(parameter.dtype == torch.float32 for parameter in body.parameters())
    for one, other in zip(expected, found, strict=True):
        far = float((one.float() - other.float()).abs().max())
        if not far <= (1e-3 if exact else 0.1) * float(one.float().std()):
            return f"gets other hidden states without pads (by {far:.2g})"
    return None
