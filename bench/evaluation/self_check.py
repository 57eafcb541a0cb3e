"""Compares a fast path with the plain one on a few real examples, before its numbers are used.

What a model declares, and what a few made-up tokens give, can't show everything: an adapter may wake up only at certain
tokens, a rotation only beyond a certain length. So every reader runs a few of the split's own examples both ways.
"""

import time
from collections.abc import Callable, Iterator, Sequence

import torch

from bench.distributed import in_step
from bench.records.failures import is_out_of_memory

# Examples of a stage that are run both ways, the longest and the shortest among them.
EXAMPLES = 8
# Seconds after which no further example is run by the plain path: under 1 % of a run of ten minutes, with all stages.
# The longest and the shortest one always are.
LIMIT_S = 1.0
# Continuations of an example that are scored again, the first, the longest and the last among them.
CONTINUATIONS = 4
# Largest difference that is mere rounding in float32, as a share of the plain value; of small values, in its unit.
EXACT = 1e-4
# The same for the log-likelihood of one token, in nats, where weights or autocast have 16 or 4 bits: logits of 16 to 32
# are an eighth apart in bfloat16.
ROUNDED = 0.5

# Takes this process's reason against a fast path, and returns the one that all processes go by.
Agree = Callable[[str | None], str | None]


def own_reason(reason: str | None) -> str | None:
    """Return this process's own reason: for callers that are no part of a run."""
    return reason


def first_reason(reason: str | None) -> str | None:
    """Return the first process's reason that has one: batches must be the same on all. Every process must call it."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return reason
    in_step.settle()  # some may have had time for more examples than others
    reasons: list[str | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(reasons, reason)
    return next((each for each in reasons if each is not None), None)


def sample(lengths: Sequence[int], count: int = EXAMPLES) -> list[int]:
    """Return the numbers of at most `count` examples: the longest, the shortest, and some of lengths between."""
    order = sorted(range(len(lengths)), key=lambda number: (-lengths[number], number))
    if len(order) <= count:
        chosen = order
    else:
        places = [round(step * (len(order) - 1) / (count - 1)) for step in range(count)] if count > 1 else [0]
        chosen = [order[place] for place in dict.fromkeys(places)]
    # The shortest beside the longest, so that they meet in the first batch.
    return [*chosen[:1], *reversed(chosen[1:])]


def within_time(numbers: Sequence[int]) -> Iterator[int]:
    """Yield the numbers of a sample, the first two in any case, the others as long as there is time."""
    started_s = time.perf_counter()
    for place, number in enumerate(numbers):
        if place >= 2 and time.perf_counter() - started_s > LIMIT_S:
            return
        yield number


def some(lengths: Sequence[int], count: int = CONTINUATIONS) -> list[int]:
    """Return the places of at most `count` continuations: the first, the longest, the last and one between."""
    if len(lengths) <= count:
        return list(range(len(lengths)))
    longest = max(range(len(lengths)), key=lambda place: lengths[place])
    places = dict.fromkeys([0, len(lengths) - 1, longest, len(lengths) // 2, 1])
    return sorted([*places][:count])


def parts(numbers: Sequence[int], lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Return a sample in batches within the budget; the first two, the longest and the shortest, are one batch."""
    batches: list[list[int]] = []
    for number in numbers:
        longest = max((lengths[other] for other in batches[-1]), default=0) if batches else 0
        fits = batches and (len(batches[-1]) + 1) * max(longest, lengths[number]) <= budget
        if batches and (fits or len(batches[-1]) == 1 == len(batches)):
            batches[-1].append(number)
        else:
            batches.append([number])
    return batches


def failure(error: Exception) -> str:
    """Return why a fast path that raised an error can't be used. Raises it again where memory ran out."""
    if is_out_of_memory(error):
        raise error
    return f"can't be run so ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'})"


def is_far(fast: float, plain: float, *, exact: bool, tokens: int = 1) -> bool:
    """Return whether two values differ by more than rounding. NaN by the fast path alone is a difference, too."""
    if plain != plain:  # the run ends as diverged
        return False
    allowed = EXACT * max(1.0, abs(plain)) if exact else ROUNDED * max(1, tokens) ** 0.5
    return not abs(fast - plain) <= allowed
