"""Scores the model before and after training: the run's own splits, and what else its recipe asks for."""

from bench.runner import backend, results, resume, retention, temperature
from bench.runner.context import RunContext


def prepare(run: RunContext) -> None:
    """Load what else the recipe asks to score, before anything is built."""
    retention.prepare(run)
    backend.prepare(run)


def score_before(run: RunContext) -> None:
    """Score the model before training, unless an interrupted run has done so."""
    if not resume.take_over_before(run):
        results.score(run, "before")
        retention.score(run, "before")
        if run.state.is_main_process:
            resume.seal_before(run)
    run.previous.settled = True


def score_after(run: RunContext) -> None:
    """Score the model after training, with a fitted temperature too, and on other data."""
    backend.start(run)
    results.score(run, "after")
    temperature.fit(run)
    retention.score(run, "after")
