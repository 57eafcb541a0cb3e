"""Rules of `evaluation.temperature`: it is fitted on a split that is not scored, and changes probabilities alone."""

from collections.abc import Iterator

from bench.config import registry
from bench.config.layers import Layers
from bench.config.recipe import Recipe
from bench.errors import did_you_mean


def problems(recipe: Recipe, metric_names: tuple[str, ...], layers: Layers) -> Iterator[str]:
    """Yield a fitted temperature without a split to fit it on, or without a metric that it changes."""
    evaluation = recipe.evaluation
    if evaluation.temperature is None:
        return
    place, splits = layers.place(("evaluation", "temperature")), recipe.dataset.split_names
    known = registry.names("metrics")
    reads = {registry.literals("metrics", name)["reads"] for name in metric_names if name in known}
    if evaluation.validation not in splits:
        missing = f"no split {evaluation.validation!r}.{did_you_mean(evaluation.validation, splits)}"
        yield f"{place}: is fitted on evaluation.validation, but the data set has {missing}"
    if evaluation.validation in evaluation.splits and not evaluation.allow_selection_on_test:
        yield (
            f"{place}: {evaluation.validation!r} is scored too, and would be fitted to; name another "
            "evaluation.validation, or set evaluation.allow_selection_on_test: true, which marks the scores"
        )
    if "scores" not in reads:
        yield f"{place}: changes probabilities alone, and no metric reads them; name one, e.g. ece, brier or loss"
