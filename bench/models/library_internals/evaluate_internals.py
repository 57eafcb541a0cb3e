"""Uses of the evaluate library beyond its public interface."""

import inspect
from collections.abc import Mapping
from typing import Any


def parameters(metric: Any) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a metric's own computation; the public `compute` takes any keyword."""
    return inspect.signature(metric._compute).parameters
