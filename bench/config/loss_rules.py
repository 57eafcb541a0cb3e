"""Rules of `training.loss` and `training.class_weights`: which tasks and objectives have labels that can be weighed."""

from collections.abc import Iterator

from bench.config import registry
from bench.config.layers import Layers
from bench.config.recipe import Recipe
from bench.config.training import Loss
from bench.errors import did_you_mean


def problems(recipe: Recipe, layers: Layers) -> Iterator[str]:
    """Yield a loss over labels where a recipe has none, and weights of labels that the data set does not have."""
    training, task = recipe.training, recipe.dataset.task
    asked = {"class_weights": training.class_weights is not None, "loss": training.loss != Loss()}
    for key in (key for key, is_asked in asked.items() if is_asked):
        place, name = layers.place(("training", key)), "class weights are" if key == "class_weights" else "the loss is"
        if recipe.objective == "text":
            yield f"{place}: {name} of a task head; a language model's loss is over tokens; remove it"
        elif not registry.literals("tasks", task).get("CLASS_LOSS"):
            yield f"{place}: {name} over labels that are the same for all examples; task {task!r} has none; remove it"
    labels = recipe.dataset.kept_labels
    if isinstance(training.class_weights, dict) and labels:
        for name in training.class_weights:
            if name not in labels:
                place = layers.place(("training", "class_weights", name))
                yield f"{place}: there is no label {name!r}.{did_you_mean(name, labels)}"
