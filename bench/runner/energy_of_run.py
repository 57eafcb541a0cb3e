"""Fills in the energy of a run's phases, over all processes; see bench/records/energy.py."""

from accelerate.utils import gather_object

from bench.records import energy
from bench.runner.context import RunContext


def fill_in(run: RunContext) -> None:
    """Fill in the record's energy. Every process must call it."""
    meter = run.clock.energy
    if meter is None:
        return
    meter.stop()
    ranks = gather_object([meter.result(run.clock.apart_s)])
    scored = sum(len(run.inputs.splits[name].ids) for name in run.resolved.recipe.evaluation.splits)
    examples, tokens = {"score_before": scored, "score_after": scored}, dict[str, int]()
    if run.progress is not None:
        trained = gather_object([_trained_now(run)])
        examples["train"], tokens["train"] = (sum(counts) for counts in zip(*trained, strict=True))
    run.record.energy = energy.merged(ranks, examples, tokens)
    if run.record.resumed:
        run.record.energy.missing["earlier launches"] = "a resumed run knows the energy of its last launch alone"


def _trained_now(run: RunContext) -> tuple[int, int]:
    """Return the examples and real tokens of this process's steps in this launch: counters know of no other one."""
    assert run.progress is not None
    steps = run.progress.steps
    examples, _, tokens, _ = (all_ - before for all_, before in zip(steps.totals(), steps.earlier.totals, strict=True))
    return examples, tokens
