"""Fragmentation: what the caching allocator holds beyond what is allocated, as it was measured; is a plan tight for it?

Free pieces of blocks are of no size that is asked for. The allocator gives back what it can before it fails, so that a
plan's own allowance is smaller than what was held at most.
"""

from bench.memory.planner import Prediction
from bench.memory.verdict import gib

# Reserved at the peak over what is forecast as allocated, less 1, in the trainings of reports/stub_gpu.json that set
# expandable segments, as a run does: torch's own allocator at true sizes, on a stub of the driver. The median, what 19
# of 20 stayed below, and the worst, of a model of 0.14 GiB.
TRAININGS, MEDIAN, NINETEEN_OF_TWENTY, WORST = 169, 0.036, 0.092, 0.325


def allocated(prediction: Prediction) -> int:
    """Return the bytes that torch's allocator is forecast to give out: without CUDA's context and the allowance."""
    return prediction.total - sum(prediction.parts.get(name, 0) for name in ("CUDA", "fragmentation"))


def measured() -> str:
    """Return the sentence on how large fragmentation was measured."""
    return (
        f"held beyond what is allocated in {TRAININGS} trainings on a stub GPU: {MEDIAN:.1%} (median), "
        f"{NINETEEN_OF_TWENTY:.1%} (19 of 20), {WORST:.1%} (worst)"
    )


def tight(prediction: Prediction, usable: int) -> list[str]:
    """Return the line that a plan which fits is tight: one training of 20 held more than what is left; [] where not."""
    left = usable - prediction.total + prediction.parts.get("fragmentation", 0)
    held = round(NINETEEN_OF_TWENTY * allocated(prediction))
    if prediction.needed > usable or left >= held:
        return []
    return [
        f"tight: {gib(left)} are left for fragmentation, and 1 training of 20 on a stub GPU held more than {gib(held)} "
        "of such a size; the allocator gives back what it can before it fails, which takes time. Smaller micro-batches "
        "leave more"
    ]
