"""Sizes of what FSDP2 gathers and sends at a time, beside a process's shards: torch's sources, counted on a stub GPU.

    units = Units.of(model)
    units.at("head", usage)  # bytes at that section of a step, with whole weights, gradients and buffers

Each block is a unit of its own, as `distributed.sharding.choose_units` has it; so is an embedding that is not tied.
What is left (the last norm and the head; a tied embedding too) is gathered from the forward pass on until its gradients
are there (accelerate's `fsdp2_prepare_model`). A gathered unit lies in the buffer of its all-gather and in its
parameters for a moment, in the backward pass the next unit is gathered already, and gradients are copied into the
buffer that is sent, which is kept until the next unit's (torch/distributed/fsdp/_fully_shard, `_fsdp_param_group.py`
and `_fsdp_collectives.py`). Weights are gathered in the type in which they are kept, for no policy of FSDP casts them;
autocast's copies in 16 bits are counted with the activations.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from bench.memory.activations import Usage
from bench.memory.state_sizes import held_by
from bench.models.heads import transformer_blocks, unwrapped


@dataclass(frozen=True, kw_only=True)
class Size:
    """Bytes of a unit's weights, and of the gradients of those that are trained."""

    weights: int = 0
    gradients: int = 0


@dataclass(frozen=True, kw_only=True)
class Units:
    """The sizes of units. block: the largest one. embedding: nothing where it is tied. rest: all else."""

    block: Size
    embedding: Size
    rest: Size
    blocks: int

    @classmethod
    def of(cls, model: Any) -> "Units":
        """Return the units of a model, wrapped or not, on whatever device."""
        inner = unwrapped(model)
        blocks = transformer_blocks(inner)
        taken = {id(one) for block in blocks for one in block.parameters()}
        first, last = inner.get_input_embeddings(), inner.get_output_embeddings()
        tied = last is not None and last.weight is first.weight
        alone = [one for one in first.parameters() if not tied and id(one) not in taken]
        taken |= {id(one) for one in alone}
        return cls(
            block=max((_size(block.parameters()) for block in blocks), key=lambda size: size.weights, default=Size()),
            embedding=_size(alone),
            rest=_size(one for one in model.parameters() if id(one) not in taken),
            blocks=len(blocks),
        )

    @property
    def most(self) -> int:
        """Return the bytes that scoring has gathered at a time: the rest, and a block in three places."""
        return max(self.rest.weights + 3 * self.block.weights, 2 * self.embedding.weights)

    def at(self, section: str, usage: Usage) -> float:
        """Return the most bytes at a section of a step, beside a process's shards. usage: of the same step unsharded.

        That has a weight's gradient until it is whole: so a tied embedding's first part is there as long as here.
        """
        block, embedding, rest, alive = self.block, self.embedding, self.rest, usage.peaks[section]
        kept = rest.weights if embedding.weights == 0 else 0  # from the first pass over a tied embedding on
        if section == "forward":
            return alive + max(kept + 3 * block.weights, 2 * embedding.weights)
        if section == "head":
            return max(usage.kept + 2 * rest.weights, alive + rest.weights + block.weights)
        if section == "tail":
            sent = max(rest.gradients if kept else embedding.gradients, block.gradients)
            return alive + kept + embedding.weights + sent
        # Two blocks' weights, one's gradients, and those of the block behind it while they are sent: by then that has
        # given up its activations.
        released = usage.kept / max(1, self.blocks) if section == "last" else 0.0
        return alive + kept + 2 * block.weights + block.gradients + max(0.0, block.gradients - released)


def _size(parameters: Iterable[nn.Parameter]) -> Size:
    weights = gradients = 0
    for one in parameters:
        weights += sum(tensor.numel() * tensor.element_size() for tensor in held_by(one))
        gradients += one.numel() * one.element_size() if one.requires_grad else 0
    return Size(weights=weights, gradients=gradients)
