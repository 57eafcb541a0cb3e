"""The one argument of an engine: a training run's inputs, its progress, and the policy that it follows."""

from dataclasses import dataclass

from bench.distributed.sharding import FullModelShell
from bench.training.checkpointing import Resumption
from bench.training.policy import Policy
from bench.training.state import FitInputs, Progress


@dataclass(frozen=True, kw_only=True)
class Session:
    """One training run as an engine sees it.

    full_model: the shape of the plain model, where its parameters are sharded while it trains.
    drops_copies: autocast keeps no 16-bit copies of weights. resumption: the checkpoint to go on from, if any.
    """

    inputs: FitInputs
    progress: Progress
    policy: Policy
    full_model: FullModelShell | None = None
    drops_copies: bool = False
    resumption: Resumption | None = None
