"""Decides where a model that ZeRO-3 or FSDP2 shards is scored: as it is, over all processes, or whole on each of them.

Whole is faster, since nothing is gathered in a forward, and is chosen where it fits on every process. The record's
`sharded_phases` says which it was, and why.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from accelerate.utils import gather_object
from torch import nn

from bench.distributed import in_step as steps
from bench.distributed import setup, sharding
from bench.distributed.live_model import LiveModel
from bench.memory import phases
from bench.models import shards
from bench.runner import sharded_load
from bench.runner.context import RunContext
from bench.utils.numbers import format_bytes

ASKED = "evaluation.sharded"


@dataclass(frozen=True, kw_only=True)
class _Room:
    """Bytes of one process. needed: phase -> to score the whole model. left: None where the system does not tell."""

    needed: dict[str, int]
    left: int | None


def decide(run: RunContext) -> None:
    """Choose for each phase, and fill in the record's `sharded_phases`. Every process must call it."""
    asked, trains = run.resolved.recipe.evaluation.sharded, run.inputs.plan.trains
    if not sharding.shards_parameters() or trains == "features":
        if asked is True:
            run.record.note(f"{ASKED}: true is not used: nothing shards the model's parameters in this run")
        return
    if trains == "nothing" and not run.shards_held:
        run.record.sharded_phases["after"] = run.record.sharded_phases["load"]
        return
    assert run.model is not None
    resumed = setup.broadcast_from_rank_zero(run.previous.checkpoint is not None)
    rooms: list[_Room] = gather_object([_room(run, run.model)]) if asked == "auto" else []
    for phase in _phases(run):
        sharded, why = (asked, f"{ASKED}: {str(asked).lower()}") if asked != "auto" else _by_memory(phase, rooms)
        if phase == "before" and sharded and resumed:
            sharded, why = False, "training goes on from a checkpoint, which the sharded model holds from its start on"
        if sharded:
            run.score_sharded |= {phase}
        run.record.sharded_phases[phase] = sharded_load.described(sharded, why)


def _phases(run: RunContext) -> list[str]:
    recipe = run.resolved.recipe
    if run.inputs.plan.trains == "nothing":
        return ["after"]
    scored = {"before": recipe.evaluation.before, "validate": recipe.training.evaluate_every is not None, "after": True}
    return [phase for phase, happens in scored.items() if happens]


def _room(run: RunContext, model: nn.Module) -> _Room:
    """Return what scoring the whole model takes on this process, and what there is, with what the model holds now."""
    scoring, left = run.inputs.scoring, sharded_load.bytes_left(run)
    needed = phases.whole_scoring(model, run.state.num_processes, scoring.batch_tokens, mixed=scoring.precision != "no")
    return _Room(needed=needed, left=None if left is None else left + phases.held_bytes(model))


def _by_memory(phase: str, rooms: list[_Room]) -> tuple[bool, str]:
    known = [room for room in rooms if room.left is not None]
    if not known:
        return False, sharded_load.NOT_TOLD
    tightest = min(known, key=lambda room: (room.left or 0) - room.needed[phase])
    needed, left = tightest.needed[phase], tightest.left or 0
    sizes = f"{format_bytes(needed)} by the forecast, {format_bytes(left)} left on each process"
    return needed > left, f"the whole model takes {sizes}"


@contextlib.contextmanager
def in_step(run: RunContext) -> Iterator[None]:
    """Enter a context in which the run's model can be scored: in step while it is sharded, and else whole.

    A model that nothing is to be trained of has no engine: its layers are gathered from the shards that are held.
    """
    assert run.model is not None
    with contextlib.ExitStack() as stack:
        if run.live is not None:
            stack.enter_context(run.live.in_step())
        elif run.inputs.plan.trains == "nothing" and "after" in run.score_sharded:
            stack.enter_context(shards.by_layer(run.model))
            stack.enter_context(steps.running(run.model))
        else:
            stack.enter_context(shards.whole(run.model))
        yield


@contextlib.contextmanager
def alive(run: RunContext, live: LiveModel) -> Iterator[None]:
    """Let the run's model be the sharded one of a training that goes on."""
    whole = run.model
    run.live, run.model = live, live.model
    try:
        yield
    finally:
        run.live, run.model = None, whole


def make_whole(run: RunContext) -> None:
    """Gather a model that was scored sharded, and take its engine down; nothing where it is whole."""
    if run.live is None:
        return
    with run.clock.phase("gather"):
        live, run.live = run.live, None
        run.model = live.gathered()
