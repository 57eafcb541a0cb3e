"""State of one training run: what it is given, and what changes as it proceeds."""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.config.contracts import Task
from bench.config.training import Checkpoints, Speed, Training
from bench.console import Phase
from bench.data.examples import Encoded, row_lengths
from bench.distributed.live_model import LiveModel
from bench.evaluation.reader import Scoring
from bench.models.heads import unwrapped
from bench.records.clock import Clock
from bench.records.throughput import PriorSteps, Steps
from bench.training import checkpoint_files
from bench.training.class_loss import ClassLoss
from bench.training.log import TrainLog
from bench.training.schedule import Budget, sorted_in_steps
from bench.training.selection import Selection


class Observer:
    """Receives what must be in a run's record even if training fails later. This base class keeps nothing."""

    def on_note(self, sentence: str) -> None:
        """Take a fallback, in words."""

    def on_unsaved(self, step: int, reason: str) -> None:
        """Take that the checkpoint of a step could not be written, and why."""
        self.on_note(f"the checkpoint of step {step} could not be written: {reason}")

    def on_setting(self, name: str, value: bool) -> None:
        """Take a fast path, and whether it is in force."""

    def on_compared(self, figures: dict[str, Any]) -> None:
        """Take how far the fast paths of training were from the plain one, on which examples."""

    def on_compiled(self, figures: dict[str, Any]) -> None:
        """Take what was compiled for the training step, how often anew, and in how many seconds."""

    def on_resume(self, step: int) -> None:
        """Take the step of the checkpoint that training goes on from."""

    def on_start(self, launch: dict[str, Any]) -> None:
        """Take how the model is really parallelised, once it is wrapped: fields of `record.Launch`."""

    def on_in_force(self, asked: dict[str, Any], found: dict[str, Any], differences: list[str]) -> None:
        """Take what training was asked to be run with, what it is run with, and where these differ."""


@dataclass(frozen=True, kw_only=True)
class RunIdentity:
    """Recipe hash, seed and fingerprint of the training data, by which a checkpoint is known as this run's."""

    hash: str = ""
    seed: int = 0
    data: str = ""


@dataclass(frozen=True, kw_only=True)
class FitInputs:
    """Everything that one training run is given; nothing of it changes.

    objective: "head" for a task head, "text" for a language model that learns to write the answers.
    class_loss: with class weights, or focal; None for the task's own.
    by_length: sort the rows inside each global batch by length, for models that compute pads.
    checkpoint: the one to go on from, as rank zero found it. asked_to_stop: whether this process was sent a
    signal; stopped_by: which one, as in a sentence. sharded: the phases ("before", "validate", "after") in which a
    sharded model is scored as it is, and not whole on each process. on_prepared: is given such a model before its first
    step.
    """

    model: nn.Module
    task: Task
    train: Encoded
    scoring: Scoring
    settings: Training
    budget: Budget
    seed: int
    folder: Path
    clock: Clock
    display: Phase
    rank: int = 0
    objective: str = "head"
    class_loss: ClassLoss | None = None
    by_length: bool = False
    speed: Speed = field(default_factory=Speed)
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    validate: Callable[[nn.Module], dict[str, float]] | None = None
    identity: RunIdentity = field(default_factory=RunIdentity)
    checkpoint: checkpoint_files.Checkpoint | None = None
    asked_to_stop: Callable[[], bool] = bool
    stopped_by: Callable[[], str] = str
    observer: Observer = field(default_factory=Observer)
    sharded: frozenset[str] = frozenset()
    on_prepared: Callable[[LiveModel], None] | None = None

    @functools.cached_property
    def order(self) -> list[int]:
        """Return the row numbers of all steps (Budget.order), in each global batch sorted by length where asked for.

        Which rows are in a global batch does not depend on that, but on `training.group_by_length`. Sorted rows are
        dealt out in turns, so that all processes get the same lengths at the same time.
        """
        rows = self.budget.order(self.seed, self.train.lengths if self.settings.group_by_length else None)
        return sorted_in_steps(rows, self.train.lengths, self.budget.global_batch) if self.by_length else rows

    @functools.cached_property
    def _tokens_of_rows(self) -> list[int]:
        return [sum(row_lengths(feature)) for feature in self.train.features]

    def tokens_of(self, step: int) -> int:
        """Return the tokens without pads that all processes together read in a step; asks no device."""
        first = (step - 1) * self.budget.global_batch
        return sum(self._tokens_of_rows[row] for row in self.order[first : first + self.budget.global_batch])

    @property
    def writes_by_encoder_decoder(self) -> bool:
        """Return whether the answers are written by an encoder-decoder."""
        return self.objective == "text" and bool(unwrapped(self.model).config.is_encoder_decoder)

    @property
    def checkpoint_folder(self) -> Path:
        """Return the folder of this run's checkpoints."""
        return self.folder / checkpoint_files.FOLDER


@dataclass
class StepLossSum:
    """The loss of one step, summed over its micro-batches on their device; read only where somebody wants to see it."""

    _sum: torch.Tensor | None = None
    _complete: bool = True

    def add(self, loss: torch.Tensor) -> None:
        """Add a micro-batch's part; the first one after `complete` begins a new step."""
        loss = loss.detach().float()
        self._sum, self._complete = loss if self._complete or self._sum is None else self._sum + loss, False

    def complete(self) -> None:
        """End the step."""
        self._complete = True

    def over_all_ranks(self) -> float | None:
        """Return the mean over all processes, each of which must call it."""
        if self._sum is None:
            return None
        total, world = self._sum.clone(), 1
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(total)
            world = torch.distributed.get_world_size()
        return float(total) / world


@dataclass(kw_only=True)
class Progress:
    """The state that changes while a model is trained; after an error it says how far training came.

    logged_step, saved_step: the last ones that are in the log, or of which there is a checkpoint; 0 for none.
    without_gradient: trainable parameters that got no finite gradient in the first step whose update was not skipped;
    None before it. skipped: steps whose update was. loss_scale: after the newest step, of a run that has one.
    told_to_stop: whether a process was sent a signal, as all of them know. newest_loss: of the step done last.
    """

    log: TrainLog = field(default_factory=lambda: TrainLog(None))
    selection: Selection | None = None
    steps: Steps = field(default_factory=Steps)
    step: int = 0
    logged_step: int = 0
    saved_step: int = 0
    learning_rate: float | None = None
    stopped_by: str = "steps"
    told_to_stop: bool = False
    newest_loss: StepLossSum = field(default_factory=StepLossSum)
    without_gradient: list[str] | None = None
    skipped: list[int] = field(default_factory=list)
    loss_scale: float | None = None
    started_s: float = field(default_factory=time.perf_counter)
    last_checkpoint_s: float = field(default_factory=time.perf_counter)

    def restore(self, state: dict[str, Any], steps: PriorSteps | None) -> None:
        """Go on from a checkpoint's state. steps: what was counted before it, on rank zero; None elsewhere."""
        self.step, self.logged_step, self.learning_rate = state["step"], state["logged_step"], state["learning_rate"]
        self.started_s = time.perf_counter() - state["seconds"]
        self.log.restore(state["rows"], state["seconds"])
        self.without_gradient = state["without_gradient"]
        self.skipped = list(state.get("skipped", []))
        if steps is not None:
            self.steps.earlier = steps
        if self.selection is not None:
            self.selection.restore(*state["selection"])

    def finish_step(self, step: int, *, skipped: bool = False) -> None:
        """End the measurement of a step, which is now done. skipped: its update was left out, see loss_scale."""
        self.steps.stop()
        self.newest_loss.complete()
        self.step = step
        if skipped:
            self.skipped.append(step)

    @property
    def none_updated(self) -> bool:
        """Return whether the updates of all steps so far were skipped."""
        return len(self.skipped) == self.step

    def logged(self, step: int, learning_rate: float) -> None:
        """Remember the last step in the log, and its learning rate."""
        self.logged_step, self.learning_rate = step, learning_rate

    def saved(self) -> None:
        """Remember that there is a checkpoint of this step."""
        self.saved_step = self.step

    def stop(self, reason: str) -> None:
        """End training for another reason than its last step: "early_stopping", "interrupted" or "minutes"."""
        self.stopped_by = reason

    def heed_signal(self) -> None:
        """Remember that a process of this run was told to stop."""
        self.told_to_stop = True

    def gradients_checked(self, missing: list[str] | None) -> None:
        """Remember the trainable parameters that got no finite gradient; None where that is to be looked for again."""
        self.without_gradient = missing

    def leave_out(self, seconds: float) -> None:
        """Leave seconds that were spent otherwise out of the minutes of training."""
        self.started_s += seconds
        self.last_checkpoint_s += seconds

    def restart_checkpoint_timer(self) -> None:
        """Count `checkpoints.every_minutes` from now on."""
        self.last_checkpoint_s = time.perf_counter()
