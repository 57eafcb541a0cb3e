"""Notes of a run with published settings in which of them it differs from what was published."""

from bench.distributed import setup
from bench.runner.context import RunContext


def note(run: RunContext) -> None:
    """Note whose settings a run has, and what of them is different here, the precision of its launch included."""
    of_others = run.resolved.recipe.as_published
    if of_others is None:
        return
    changed = list(of_others.but_for)
    mixed = setup.precision()
    here = "float32" if mixed == "no" else mixed
    if of_others.precision not in (None, here):
        place = ", on a CPU" if run.state.device.type == "cpu" else ""
        changed.append(f"precision: {here} for {of_others.precision}{place}")
    swapped = [text for text in of_others.but_for if text.partition(": ")[0] in ("model", "dataset")]
    if swapped:
        run.record.warn(
            "not_as_published",
            f"The settings are as published ({of_others.source}), the rest is not: {'; '.join(swapped)}. Do not "
            "compare the scores of this run with the published ones",
        )
    rest = f"; but for {'; '.join(changed)}" if changed else ""
    run.record.note(f"settings as published: {of_others.source}{rest}")
