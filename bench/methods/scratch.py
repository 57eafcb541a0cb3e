"""All weights are trained, from random initial values in the architecture of the model card."""

from typing import Any

from bench.config.contracts import LoadPlan
from bench.config.fields import Strict

OBJECTIVES = ("head", "text")


class Options(Strict):
    """No options."""


def load_plan(options: Options) -> LoadPlan:
    """Random weights, whatever the card says."""
    return LoadPlan(weights="random")


def adapt(model: Any, options: Options) -> Any:
    """Leaves the model as it is."""
    return model
