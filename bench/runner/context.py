"""The typed context of a run, which its stages fill in and hand on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.config import contracts
from bench.config.resolve import Resolved
from bench.distributed.signals import Stopper
from bench.distributed.watchdog import ProcessWatchdog
from bench.memory import limits
from bench.records.record import Record
from bench.runner import resume

if TYPE_CHECKING:  # they load torch, and a bad recipe is refused before that
    from bench.data import dataset
    from bench.data.examples import Encoded
    from bench.evaluation.reader import Scoring
    from bench.training.schedule import Budget
    from bench.training.state import Fit


@dataclass
class Material:
    """What the stages hand on: data, tokenizer, model, and how it is scored."""

    corpus: dataset.Corpus
    plan: contracts.LoadPlan
    method: Any
    task: Any
    tokenizer: Any
    splits: dict[str, Encoded]
    train_set: Encoded | None
    scoring: Scoring
    model: Any = None
    budget: Budget | None = None
    fit: Fit | None = None
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass
class Run:
    """What the stages hand on to one another."""

    resolved: Resolved
    record: Record
    folder: Path
    trust_remote_code: bool = False
    check: bool = False
    timeout_s: float = 600.0
    clock: Any = None
    state: Any = None
    peers: ProcessWatchdog | None = None
    stopper: Stopper = field(default_factory=Stopper)
    past: resume.Past = field(default_factory=resume.Past)
    taken: Any = None
    material: Any = None
    before: limits.MemoryBaseline | None = None
    foretold: Any = None
    lengths: dict[str, list[int]] = field(default_factory=dict)
    log_rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def failed_in(self) -> str:
        """The innermost phase that an exception left."""
        return (self.clock.failed_in if self.clock is not None else None) or self.phase

    @property
    def phase(self) -> str:
        """What this process is doing; asked by another thread."""
        if self.clock is None:
            return "set-up"
        between = f"the step after {self.clock.last}" if self.clock.last else "set-up"
        return (list(self.clock.open) or [between])[-1]
