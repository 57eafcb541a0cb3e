"""Only the task head is trained; the body keeps its weights."""

from typing import Any

from bench.config.contracts import LoadPlan
from bench.config.fields import Strict

OBJECTIVES = ("head",)


class Options(Strict):
    """No options."""


def load_plan(options: Options) -> LoadPlan:
    """The body may be held in 16 bits: it gets no gradients."""
    return LoadPlan(frozen_body=True)


def adapt(model: Any, options: Options) -> Any:
    """Freezes everything but the head and what the checkpoint did not contain."""
    from bench.models.heads import freeze_body

    freeze_body(model)
    return model
