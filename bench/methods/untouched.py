"""The pretrained model with a new head, of which nothing is trained: what a head that knows nothing scores."""

from typing import Any

from bench.config.contracts import LoadPlan
from bench.config.fields import Strict

OBJECTIVES = ("head",)


class Options(Strict):
    """No options: the seed draws the head's weights."""


def load_plan(options: Options) -> LoadPlan:
    """Return a plan without gradients."""
    return LoadPlan(trains="nothing", frozen_body=True)


def adapt(model: Any, options: Options) -> Any:
    """Freeze the model."""
    return model.requires_grad_(False)
