"""Switches a language model to the loss on its answers alone while an engine trains it."""

import functools
from collections.abc import Callable
from typing import Any

from bench.distributed import sharding
from bench.models.autocast import autocast
from bench.models.heads import unwrapped
from bench.models.kernels.answer_only_loss import attach, detach


def while_training(engine: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Of an engine `run(fit, arguments)`: `fit.model` gives the loss on answers alone from its start to its end.

    Where the model can't, `fit.needs_all_logits` says why.
    """

    @functools.wraps(engine)
    def run(fit: Any, arguments: Any) -> Any:
        """The engine's."""
        if not (fit.answer_logits and fit.objective == "text"):
            return engine(fit, arguments)
        with autocast(fit.scoring.device, fit.scoring.precision):
            fit.needs_all_logits = _divided(fit.model) or attach(fit.model)
        fit.on_answers_alone = fit.needs_all_logits is None
        try:
            return engine(fit, arguments)
        finally:
            fit.on_answers_alone = False
            detach(fit.model)

    return run


def _divided(model: Any) -> str | None:
    """The head is called apart from the model's forward; to train it so ends FSDP's backward in a fault of memory."""
    head = unwrapped(model).get_output_embeddings()
    if sharding.asked() == "fsdp" and head is not None and any(part.requires_grad for part in head.parameters()):
        return "has an output head that is trained, and that FSDP divides"
    return None
