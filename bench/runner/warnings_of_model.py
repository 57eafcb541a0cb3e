"""Warns of what a run starts from: parts of the model that began at random, and a first loss that is odd."""

from bench.evaluation import starting_points
from bench.models import initial_values
from bench.models.initial_values import InitialValues
from bench.runner.context import RunContext
from bench.training.state import FitInputs


def warn_of_build(run: RunContext, initial: InitialValues) -> None:
    """Put into the record which parts of the adapted model began at random though they should not, or stay so."""
    assert run.record.model is not None
    run.initial = initial
    plan, method, weights = run.inputs.plan, run.resolved.recipe.method.name, run.record.model.weights
    body = starting_points.weights_not_loaded(
        weights,
        method=method,
        meant=plan.weights == "random",
        random=initial.body_size,
        total=run.record.model.parameters["before_head"],
        names=initial.body,
    )
    head, known = None, {warning.code for warning in run.record.warnings}
    # Of a model that is random as a whole, the head is the least.
    if "untrained_head" not in known and not (weights == "random" and plan.trains == "nothing"):
        is_trained = initial_values.trains_head(run.model, initial)
        head = starting_points.untrained_head(initial.head, method=method, trains=plan.trains, is_trained=is_trained)
    run.record.warn_of(body, head)


def warn_of_first_loss(run: RunContext, inputs: FitInputs, loss: float) -> None:
    """Put into the record where the loss before the first update is not that of equal probabilities."""
    if inputs.objective != "head" or run.initial is None or inputs.class_loss is not None:
        return  # a weighed or focal loss has other bounds
    first = (inputs.train.features[number] for number in inputs.order[: inputs.budget.global_batch])
    labels = starting_points.first_labels(
        first, len(run.inputs.corpus.labels), multi_label=run.resolved.recipe.dataset.multi_label
    )
    if labels is not None:
        run.record.warn_of(starting_points.first_loss(loss, labels, is_new=bool(run.initial.head)))
