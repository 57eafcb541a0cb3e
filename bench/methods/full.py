"""All weights are trained."""

from typing import Any

from bench.config.contracts import LoadPlan
from bench.config.fields import Strict

OBJECTIVES = ("head", "text")


class Options(Strict):
    """No options."""


def load_plan(options: Options) -> LoadPlan:
    """Float32 master weights; mixed precision is the accelerate config's part."""
    return LoadPlan()


def adapt(model: Any, options: Options) -> Any:
    """Leaves the model as it is."""
    return model
