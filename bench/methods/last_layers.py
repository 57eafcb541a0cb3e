"""The last k transformer blocks and the task head are trained."""

from typing import Any

from bench.dropin import LoadPlan
from bench.errors import SetupError
from bench.settings import PositiveInt, Strict


class Options(Strict):
    """blocks: how many blocks, counted from the output."""

    blocks: PositiveInt = 1


def load_plan(options: Options) -> LoadPlan:
    """Float32 weights: blocks of the body are trained."""
    return LoadPlan()


def adapt(model: Any, options: Options) -> Any:
    """Freezes all but the last blocks and the head. Raises SetupError when the model has fewer blocks."""
    from bench.heads import freeze_body, transformer_blocks

    blocks = transformer_blocks(model)
    if options.blocks > len(blocks):
        shared = " (ALBERT's layers share one block)" if model.config.model_type == "albert" else ""
        raise SetupError(f"method.blocks is {options.blocks}, but the model has {len(blocks)} block(s){shared}")
    freeze_body(model)
    for block in blocks[-options.blocks :]:
        block.requires_grad_(True)
    return model
