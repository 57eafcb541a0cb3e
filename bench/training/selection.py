"""Best-model selection and early stopping by one validation metric."""

import math
from dataclasses import dataclass

from bench.config.training import EarlyStopping


@dataclass
class Selection:
    """Follows one validation metric: best step so far, and whether patience has run out."""

    metric: str
    higher_is_better: bool
    early_stopping: EarlyStopping | None = None
    best_value: float | None = None
    best_step: int | None = None
    waited: int = 0

    def update(self, step: int, value: float) -> bool:
        """Take a new value; return whether it is the best so far. NaN, a value that is not defined, never is."""
        sign = 1 if self.higher_is_better else -1
        gain = math.inf if self.best_value is None else sign * (value - self.best_value)
        if math.isnan(value):
            gain = -math.inf
        threshold = self.early_stopping.threshold if self.early_stopping else 0.0
        self.waited = 0 if gain > threshold else self.waited + 1
        if gain > 0:
            self.best_value, self.best_step = value, step
        return gain > 0

    def restore(self, best_value: float | None, best_step: int | None, waited: int) -> None:
        """Go on from what a checkpoint says."""
        self.best_value, self.best_step, self.waited = best_value, best_step, waited

    @property
    def exhausted(self) -> bool:
        """Return whether early stopping is due."""
        return self.early_stopping is not None and self.waited >= self.early_stopping.patience
