"""The last k transformer blocks and the task head are trained; of a language model, the final norm instead."""

from typing import Any

from bench.config.contracts import LoadPlan
from bench.config.fields import PositiveInt, Strict
from bench.errors import SetupError

OBJECTIVES = ("head", "text")


class Options(Strict):
    """Layers that are trained beside the task head."""

    blocks: PositiveInt = 1
    """Number of transformer blocks, counted from the output. Example: 2"""
    final_norm: bool = False
    """Trains the norm behind the last block of a classifier too. Example: true"""


def load_plan(options: Options) -> LoadPlan:
    """Return a plan of float32 weights: blocks of the body are trained."""
    return LoadPlan()


def adapt(model: Any, options: Options) -> Any:
    """Freeze all but the last blocks and the task head. Raises SetupError when the model has fewer blocks.

    A language model's output head stays frozen: it is often the embedding itself, at the other end of the model.
    """
    from bench.models.heads import final_norms, freeze_body, is_generative, transformer_blocks

    blocks = transformer_blocks(model)
    if options.blocks > len(blocks):
        shared = " (ALBERT's layers share one block)" if model.config.model_type == "albert" else ""
        raise SetupError(f"method.blocks is {options.blocks}, but the model has {len(blocks)} block(s){shared}")
    freeze_body(model)
    norms = final_norms(model) if is_generative(model) or options.final_norm else []
    if options.final_norm and not norms:
        raise SetupError("method.final_norm is true, but this model has no norm behind its last block")
    for part in [*blocks[-options.blocks :], *norms]:
        part.requires_grad_(True)
    return model
