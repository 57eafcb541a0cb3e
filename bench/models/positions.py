"""Positions of tokens: rotations that depend on the length of what is run, and how far a model can count."""

from typing import Any

from torch import nn

from bench.models.heads import unwrapped

# Rotary positions that are rescaled by the longest text of a batch, in transformers' names.
BY_LENGTH = ("dynamic", "longrope")


def rescaled_beyond(model: Any) -> int | None:
    """Return the tokens up to which a text's positions are its own; None where they always are.

    A longer text changes the rotation of every text that is run beside it: dynamic NTK scales by the longest one, and
    longrope takes other factors for all. In transformers 5 dynamic rotations also stay as the longest text of the past
    has left them.
    """
    limits = [limit for config in _configs(unwrapped(model).config) for limit in _limits(config)]
    return min(limits, default=None)


def _configs(config: Any) -> list[Any]:
    inner = [getattr(config, name, None) for name in getattr(config, "sub_configs", ())]
    return [config, *(part for each in inner if each is not None for part in _configs(each))]


def _limits(config: Any) -> list[int]:
    rope = getattr(config, "rope_parameters", None) or {}
    # Families with layers of several kinds have a rotation for each.
    parts = [rope, *(part for part in rope.values() if isinstance(part, dict))]
    rescaled = [part for part in parts if part.get("rope_type") in BY_LENGTH]
    return [int(part.get("original_max_position_embeddings") or config.max_position_embeddings) for part in rescaled]


def forget_longer_texts(model: Any) -> None:
    """Put dynamic rotations back to what a fresh model has, so that a text's result does not depend on earlier ones."""
    for module in unwrapped(model).modules():
        longest = getattr(module, "original_max_seq_len", None)
        if longest is None or not isinstance(module, nn.Module):
            continue
        for name, own in [*module.named_buffers(recurse=False)]:
            if name.endswith("original_inv_freq"):
                prefix = name.removesuffix("original_inv_freq")
                module.register_buffer(f"{prefix}inv_freq", own.clone(), persistent=False)
                setattr(module, f"{prefix}max_seq_len_cached", longest)
