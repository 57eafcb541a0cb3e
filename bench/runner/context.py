"""The typed context of a run, which its stages fill in and hand on. Packages below `runner` never see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.config.contracts import LoadPlan, Method, Task
from bench.config.resolve import Resolved
from bench.distributed.signals import StopHandler
from bench.distributed.watchdog import ProcessWatchdog
from bench.memory.limits import MemoryBaseline
from bench.records.record import Record
from bench.runner.resume import PreviousRun
from bench.runner.run_folder import FolderLock
from bench.tracking.fan_out import Trackers

if TYPE_CHECKING:  # they load torch, and a bad recipe is refused before that
    from accelerate import PartialState
    from torch import nn

    from bench.data.dataset import Corpus
    from bench.data.examples import Encoded
    from bench.distributed.live_model import LiveModel
    from bench.evaluation.metric_set import Predictions
    from bench.evaluation.reader import Scoring
    from bench.models.initial_values import InitialValues
    from bench.records.clock import Clock
    from bench.runner.backend import InUse
    from bench.runner.memory_prediction import PredictedMemory
    from bench.runner.retention import AlsoScored
    from bench.training.fit import FitResult
    from bench.training.schedule import Budget
    from bench.training.state import FitInputs, Progress


@dataclass(frozen=True, kw_only=True)
class RunInputs:
    """Data, tokenizer, method and task of a run. splits: to score. train: to learn from; None where nothing is.

    tokenizer: None for a method without a model.
    """

    corpus: Corpus
    plan: LoadPlan
    method: Method
    task: Task
    tokenizer: Any
    splits: dict[str, Encoded]
    train: Encoded | None
    scoring: Scoring

    @property
    def encoded(self) -> dict[str, Encoded]:
        """Return every encoded split by its name; "train" as it is learned from, if it is."""
        return {**({"train": self.train} if self.train is not None else {}), **self.splits}


@dataclass(kw_only=True)
class RunContext:
    """One run. The second part is filled in by its stages, in this order; until then a part is None, or not there."""

    resolved: Resolved
    record: Record
    folder: Path
    check: bool = False
    timeout_s: float = 600.0
    stopper: StopHandler = field(default_factory=StopHandler)
    previous: PreviousRun = field(default_factory=PreviousRun)
    lock: FolderLock | None = None
    trackers: Trackers = field(init=False, repr=False)

    clock: Clock = field(init=False, repr=False)
    watchdog: ProcessWatchdog | None = None
    state: PartialState = field(init=False, repr=False)
    inputs: RunInputs = field(init=False, repr=False)
    scored: dict[str, Predictions] = field(default_factory=dict)
    also: list[AlsoScored] = field(default_factory=list)
    backend: InUse | None = None
    memory_baseline: MemoryBaseline | None = None
    budget: Budget | None = None
    model: nn.Module | None = None
    initial: InitialValues | None = None
    shards_held: bool = False
    score_sharded: frozenset[str] = frozenset()
    live: LiveModel | None = None
    prediction: PredictedMemory | None = None
    fit_inputs: FitInputs | None = None
    progress: Progress | None = None
    fit_result: FitResult | None = None
    in_force: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Send what trackers could not take into the record."""
        self.trackers = Trackers(self.record.note)

    @property
    def has_clock(self) -> bool:
        """Return whether the libraries are loaded, so that phases are timed."""
        return "clock" in vars(self)

    @property
    def has_inputs(self) -> bool:
        """Return whether the data are loaded."""
        return "inputs" in vars(self)

    @property
    def phase(self) -> str:
        """Return what this process is doing; the watchdog's thread asks."""
        if not self.has_clock:
            return "set-up"
        between = f"the step after {self.clock.last}" if self.clock.last else "set-up"
        return (list(self.clock.open) or [between])[-1]

    @property
    def failed_in(self) -> str:
        """Return the innermost phase that an exception left."""
        return (self.clock.failed_in if self.has_clock else None) or self.phase

    def release_model(self) -> None:
        """Give up the model, and whatever holds its tensors."""
        self.live = None
        self.model = self.fit_inputs = self.fit_result = None
