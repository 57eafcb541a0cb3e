"""Describes a training to the console: its epochs and memory, the validations to come, and what the run does then."""

import bisect

from bench import console
from bench.runner.context import RunContext


def course(run: RunContext) -> console.Course:
    """Return what the progress of this run's training shows beside steps."""
    assert run.budget is not None
    budget, clock = run.budget, run.clock
    validated = [step for step in range(1, budget.steps + 1) if budget.validates(step)]

    def _rest() -> tuple[str, float] | None:
        # The same splits are scored after training; before it is over, only that tells how long it takes.
        seconds = clock.seconds.get("score_before")
        return None if seconds is None else ("score", seconds)

    return console.Course(
        epochs=budget.epochs,
        peak_gib=clock.peak_gib,
        pauses="validations",
        pauses_after=lambda step: len(validated) - bisect.bisect_right(validated, step),
        rest=_rest,
    )
