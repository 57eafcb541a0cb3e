"""Frozen features, at the first token or as the mean over tokens, and scikit-learn's logistic regression on them."""

from typing import Any, Literal

from pydantic import Field

from bench.config.contracts import LoadPlan
from bench.config.fields import PositiveInt, Strict
from bench.errors import SetupError

OBJECTIVES = ("head",)


class Options(Strict):
    """Features, and scikit-learn's LogisticRegression on them, standardised."""

    pooling: Literal["first", "mean"] = "mean"
    """Features: the mean over tokens, or the first token's. Example: first"""
    C: float = Field(default=1.0, gt=0)
    """Inverse of the regularisation's strength. Example: 0.1"""
    max_iter: PositiveInt = 1000
    """Iterations at most. Example: 5000"""


def load_plan(options: Options) -> LoadPlan:
    """Return a plan without gradients: the features are computed once and a classifier is fitted on them."""
    fit = {"pooling": options.pooling, "C": options.C, "max_iter": options.max_iter}
    return LoadPlan(trains="features", features=fit, frozen_body=True)


def adapt(model: Any, options: Options) -> Any:
    """Put a linear layer on the frozen base model of a classifier. Raises SetupError for features without content."""
    from bench.models.heads import ProbeModel, reads_last_token

    if options.pooling == "first" and reads_last_token(model):
        raise SetupError("method.pooling is 'first', but a decoder's first token sees no other one; choose 'mean'")
    return ProbeModel(model.base_model, options.pooling, model.config.num_labels)
