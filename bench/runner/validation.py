"""Scores the validation split during training, by the run's own scorer, and says the values at once."""

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from bench import console
from bench.evaluation import scoring
from bench.reporting import run_end
from bench.runner.context import RunContext


def validator(run: RunContext) -> Callable[[nn.Module], dict[str, float]] | None:
    """Return what scores a model on the validation split; None where a recipe asks for no validation."""
    recipe = run.resolved.recipe
    if recipe.training.evaluate_every is None:
        return None
    # Many validations, of which each is compared with the plain path by its longest and its shortest example.
    split, how = run.inputs.splits[recipe.evaluation.validation], replace(run.inputs.scoring, checked=2)

    def validate(model: nn.Module) -> dict[str, float]:
        with run.clock.phase("validate"):
            scored = scoring.run(model, split, how, f"validate {split.name}", says_end=False)
            values = how.metrics.values(scored.predictions)
        run.clock.move("validate", "self_check", scored.check_s)
        for note in scored.notes:
            run.record.note(note)
        if run.progress is not None:
            step, rows = run.progress.step, run.progress.log.rows
            console.say(run_end.validation_line(split.name, step, values, recipe.training.best, rows))
        return values

    return validate
