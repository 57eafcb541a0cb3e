"""The last k transformer blocks and the task head are trained; of a language model, the final norm instead."""

from typing import Any

from bench.config.contracts import LoadPlan
from bench.config.fields import PositiveInt, Strict
from bench.errors import SetupError

OBJECTIVES = ("head", "text")


class Options(Strict):
    """blocks: how many blocks, counted from the output."""

    blocks: PositiveInt = 1


def load_plan(options: Options) -> LoadPlan:
    """Float32 weights: blocks of the body are trained."""
    return LoadPlan()


def adapt(model: Any, options: Options) -> Any:
    """Freezes all but the last blocks and the task head. Raises SetupError when the model has fewer blocks.

    A language model's output head stays frozen: it is often the embedding itself, at the other end of the model.
    """
    from bench.models.heads import final_norms, freeze_body, transformer_blocks, writes

    blocks = transformer_blocks(model)
    if options.blocks > len(blocks):
        shared = " (ALBERT's layers share one block)" if model.config.model_type == "albert" else ""
        raise SetupError(f"method.blocks is {options.blocks}, but the model has {len(blocks)} block(s){shared}")
    freeze_body(model)
    for part in [*blocks[-options.blocks :], *(final_norms(model) if writes(model) else [])]:
        part.requires_grad_(True)
    return model
