"""Makes the loss with class weights, or the focal loss, that a recipe asks for, from the run's training data."""

from bench.runner.context import RunContext
from bench.training import class_loss


def chosen(run: RunContext) -> class_loss.ClassLoss | None:
    """Return the loss to train a task head with; None for the task's own. Notes labels without an example."""
    recipe, labels = run.resolved.recipe, run.inputs.corpus.labels
    assert run.inputs.train is not None
    several = recipe.dataset.multi_label
    weights = class_loss.weights_of(recipe.training, run.inputs.train, labels, multi_label=several)
    if weights is not None and weights.absent:
        named = ", ".join(map(repr, weights.absent))
        run.record.note(f"training.class_weights: no training example has the label {named}, which weighs 1")
    return class_loss.made(recipe.training, weights, multi_label=several)
