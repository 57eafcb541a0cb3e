"""Run a model's blocks as torch.compile makes them, forward and backward, where gradients are asked for.

    reason = attach(model)  # None: on; otherwise why the model runs as it did
    detach(model)

A block is what transformers recomputes as one (`GradientCheckpointingLayer`). All blocks of a class share what was
compiled for one of them. Lengths are symbols (`dynamic=True`): what is compiled anew is a block that differs, such as
one with a sliding window, or a batch without any pad. Attention without pads is left as it is: it asks the host for
lengths. Where activations are recomputed, compiled blocks are. Scoring, which asks for no gradients, is not touched.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.modeling_layers import GradientCheckpointingLayer

from bench.models.heads import unwrapped
from bench.models.kernels import padding_free, patch
from bench.models.kernels.packed_attention import NAME, attention
from bench.models.library_internals import torch_internals, transformers_internals

# Attribute of a block that remembers its own forward, and of the model that has the switch.
STATE, SWITCH = "bench_compiled", "bench_compiled_switch"
BACKEND = "inductor"
# Of torch's own generator, so that dropout is that of the step that is not compiled.
OPTIONS = {"fallback_random": True}
# Variants of one block before torch gives up compiling it: kinds of layers, each with pads and without.
MOST_VARIANTS = 32


@dataclass
class _Switch:
    """Says for all blocks of a model whether they run compiled."""

    on: bool = True

    @property
    def is_wanted(self) -> bool:
        """Return whether it is on, and gradients are asked for."""
        return self.on and torch.is_grad_enabled()


def attach(model: Any) -> str | None:
    """Compile the blocks of a model, wrapped or not, from their next forward on.

    Returns None, or why not: a sentence's part that follows "the model". Nothing is compiled yet: what the compiler
    can't do, it raises in the first forward.
    """
    blocks, switch = [*_blocks(model)], _Switch()
    if not blocks:
        return "has no blocks that transformers declares"
    if padding_free.is_attached(model):
        AttentionInterface.register(NAME, torch.compiler.disable(attention))
    setattr(unwrapped(model), SWITCH, switch)
    for block in blocks:
        recomputed = transformers_internals.checkpoint_function(block)
        if block.gradient_checkpointing and recomputed is not None:
            # Its keywords stay in sight: a body that leaves out pads looks for its `context_fn` there.
            inside = functools.partial(_recomputed, recomputed.func, _Compiled(switch), **recomputed.keywords)
            transformers_internals.set_checkpoint_function(block, inside)
            setattr(block, STATE, recomputed)
        else:
            patch.attach(block, STATE, _where_wanted(block.forward, _compiled(block.forward), switch))
    return None


def detach(model: Any) -> None:
    """Give the blocks back as they were; nothing where `attach` was not in force."""
    if not is_attached(model):
        return
    AttentionInterface.register(NAME, attention)
    del unwrapped(model).__dict__[SWITCH]
    for block in _blocks(model):
        own = getattr(block, STATE, None)
        if isinstance(own, functools.partial):
            transformers_internals.set_checkpoint_function(block, block.__dict__.pop(STATE))
        else:
            patch.detach(block, STATE)


@contextlib.contextmanager
def switched_off(model: Any) -> Iterator[None]:
    """Let the blocks run as they are inside of the `with`; what was compiled stays."""
    switch = getattr(unwrapped(model), SWITCH)
    switch.on = False
    try:
        yield
    finally:
        switch.on = True


def is_attached(model: Any) -> bool:
    """Return whether the blocks are compiled."""
    return SWITCH in unwrapped(model).__dict__


def _blocks(model: Any) -> Iterator[nn.Module]:
    return (module for module in unwrapped(model).modules() if isinstance(module, GradientCheckpointingLayer))


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    options = OPTIONS if BACKEND == "inductor" else None
    return torch_internals.compiled(function, backend=BACKEND, options=options, most_variants=MOST_VARIANTS)


def _where_wanted(own: Callable[..., Any], compiled: Callable[..., Any], switch: _Switch) -> Callable[..., Any]:
    @functools.wraps(own)
    def forward(*args: Any, **options: Any) -> Any:
        return (compiled if switch.is_wanted else own)(*args, **options)

    return forward


class _Compiled:
    """Compiles the function that a block is recomputed by, once."""

    def __init__(self, switch: _Switch) -> None:
        self._switch = switch
        self._made: dict[Any, Callable[..., Any]] = {}

    def of(self, function: functools.partial) -> functools.partial:
        """Return a block's forward, as transformers gives it with its keywords, compiled where that is wanted."""
        if not self._switch.is_wanted:
            return function
        if function.func not in self._made:
            self._made[function.func] = _compiled(function.func)
        return functools.partial(self._made[function.func], *function.args, **function.keywords)


def _recomputed(
    checkpoint: Callable[..., Any], compiled: _Compiled, function: functools.partial, *inputs: Any, **options: Any
) -> Any:
    return checkpoint(compiled.of(function), *inputs, **options)
