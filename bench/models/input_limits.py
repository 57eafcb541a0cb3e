"""Numbers of tokens, positions and kinds of text that a model has rows for, read from its own modules."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from bench.models.heads import is_generative, unwrapped

# Of embeddings of positions, as the families call them; relative ones are looked up by distance, and have no end.
POSITIONS, RELATIVE = ("position", "wpe"), ("relative", "rel_")
# Embeddings that say of which text a token is.
TYPES = ("token_type", "type_embedding")


@dataclass(frozen=True, kw_only=True)
class InputLimits:
    """Limits of one side of a model. None where there is no limit that is known.

    tokens: rows of its embedding of tokens. positions: the longest text that it has embeddings of positions for.
    context: the longest text that it was made for, by its config; with rotary positions longer ones can be run.
    types: kinds of text.
    """

    tokens: int
    positions: int | None
    context: int | None
    types: int | None


def of_input(model: Any) -> InputLimits:
    """Return the limits of what a model reads, wrapped or not; of an encoder-decoder, the stricter of both sides."""
    inner = unwrapped(model)
    parts = [inner]
    if inner.config.is_encoder_decoder and is_generative(inner):
        parts = [inner.get_encoder()]  # what a classifier reads goes through its decoder too
    return _limits(inner, parts, inner.get_input_embeddings(), _added(model))


def of_answers(model: Any) -> InputLimits:
    """Return the limits of what a language model writes: its decoder's, and the rows of its output head."""
    inner = unwrapped(model)
    decoder = inner.get_decoder() if inner.config.is_encoder_decoder else inner
    limits = _limits(inner, [decoder], inner.get_output_embeddings() or decoder.get_input_embeddings(), _added(model))
    embedded = decoder.get_input_embeddings()
    rows = limits.tokens if embedded is None else min(limits.tokens, _rows(embedded))
    return InputLimits(tokens=rows, positions=limits.positions, context=limits.context, types=limits.types)


def _limits(inner: Any, parts: list[Any], embedding: Any, added: int) -> InputLimits:
    config = inner.config.get_text_config()
    stated = getattr(config, "max_position_embeddings", None)
    stated = stated if isinstance(stated, int) and stated > 0 else None
    named = [
        (name, module) for part in parts for name, module in part.named_modules() if isinstance(module, nn.Embedding)
    ]
    positions = [_usable(module, stated) for name, module in named if _is_of_positions(name)]
    types = [module.num_embeddings for name, module in named if any(word in _last(name) for word in TYPES)]
    return InputLimits(
        tokens=_rows(embedding),
        positions=min(positions) - added if positions else None,
        context=stated,
        types=min(types, default=None),
    )


def _rows(embedding: Any) -> int:
    """Return the rows of an embedding or an output head; adapters around them show the weights of before."""
    return len(embedding.weight)


def _last(name: str) -> str:
    """Return the name of a module without its parents; of one that an adapter has wrapped, its own."""
    kept = [
        part for part in name.split(".") if part not in ("base_layer", "original_module", "modules_to_save", "default")
    ]
    return kept[-1] if kept else ""


def _is_of_positions(name: str) -> bool:
    last = _last(name)
    return any(word in last for word in POSITIONS) and not any(word in last for word in RELATIVE)


def _usable(module: nn.Embedding, stated: int | None) -> int:
    """Return the longest text whose positions have rows.

    RoBERTa and its kin count from behind the pad's own row, BART and OPT from their `offset`.
    """
    skipped = module.padding_idx + 1 if module.padding_idx is not None else int(getattr(module, "offset", 0))
    usable = module.num_embeddings - skipped
    return usable if stated is None else min(usable, stated)


def _added(model: Any) -> int:
    """Return how many tokens of its own an adapter puts before each text."""
    adapter = getattr(model, "active_peft_config", None)
    return int(adapter.num_virtual_tokens) if adapter is not None and adapter.is_prompt_learning else 0
