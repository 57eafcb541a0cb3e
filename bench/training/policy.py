"""Decides what follows a training step: a line in the log, a validation, a checkpoint, the end."""

import functools
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bench.distributed import sharding
from bench.distributed.live_model import LiveModel
from bench.distributed.vote import AsyncFlagVote
from bench.records.clock import synchronize
from bench.records.energy import KINDS
from bench.training import checkpointing, in_force, loss_scale
from bench.training.state import FitInputs, Progress


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The decision after a step, the same on every process: end training, save a checkpoint, log the step before that.

    A step that ends training is logged, if it was not; one after which a stopped run goes on later is like any other.
    """

    ends: bool
    saves: bool
    logs: bool


class Policy:
    """Validates, logs and decides, by the same rules for every engine.

    full_model: the shape of the plain model, where its parameters are sharded while it trains.
    gradients: watches the first gradients, where the engine takes them away.
    live: the sharded model, where it is scored as it is; set by the engine.
    """

    live: LiveModel | None = None

    def __init__(
        self,
        inputs: FitInputs,
        progress: Progress,
        *,
        full_model: sharding.FullModelShell | None = None,
        gradients: sharding.FirstGradients | None = None,
    ) -> None:
        self.inputs, self.progress = inputs, progress
        self._full_model, self._gradients = full_model, gradients
        self.skipped_steps = loss_scale.SkippedSteps()

    @functools.cached_property
    def _ballot(self) -> AsyncFlagVote:
        """Return the vote of all processes; made when every one of them has done its first step."""
        return AsyncFlagVote()

    def due_for_log(self, step: int) -> bool:
        """Return whether a step is logged: the first, every `log_every`-th, and the last.

        So is one whose validation may end training; an engine also logs a step after which `decide` ends it.
        """
        settings = self.inputs.settings
        if step == 1 or step % settings.log_every == 0 or step == self.inputs.budget.steps:
            return True
        may_end = settings.early_stopping is not None or settings.minutes is not None
        return may_end and self.due_for_validation(step)

    def due_for_validation(self, step: int) -> bool:
        """Return whether a step is followed by a validation; the last one always is, if there are any."""
        return self.inputs.validate is not None and self.inputs.budget.validates(step)

    def decide(self) -> Decision:
        """Decide after a step and its validation whether training ends here, and whether a checkpoint is written.

        Every process decides the same: rank zero's clock counts for all, and so does a signal to any of them.
        """
        inputs, progress = self.inputs, self.progress
        last, every = progress.step == inputs.budget.steps, inputs.checkpoints.every_steps
        exhausted = progress.selection is not None and progress.selection.exhausted
        flags = [inputs.asked_to_stop(), self._is_out_of_time(), self._is_checkpoint_due()]
        stop, late, due = self._ballot.vote(flags, last=last or exhausted)
        if exhausted:
            progress.stop("early_stopping")
        elif not last and (stop or late):
            progress.stop("interrupted" if stop else "minutes")
        if stop:
            progress.heed_signal()
        ends = last or progress.stopped_by != "steps"
        due = due or (every is not None and progress.step % every == 0)
        # A run that is told to stop is not scored any more: what it has trained is kept, also where that is finished.
        logs = ends and progress.stopped_by != "interrupted" and progress.logged_step != progress.step
        return Decision(ends=ends, saves=stop or (due and not ends), logs=logs)

    def _is_out_of_time(self) -> bool:
        minutes = self.inputs.settings.minutes
        elapsed_s = time.perf_counter() - self.progress.started_s
        return self.inputs.rank == 0 and minutes is not None and elapsed_s > minutes * 60

    def _is_checkpoint_due(self) -> bool:
        minutes = self.inputs.checkpoints.every_minutes
        elapsed_s = time.perf_counter() - self.progress.last_checkpoint_s
        due = self.inputs.rank == 0 and minutes is not None and elapsed_s > minutes * 60
        if due:
            self.progress.restart_checkpoint_timer()  # asked for once, though the answer comes a step later
        return due

    def log_step(self, step: int, loss: float, learning_rate: float, grad_norm: float | None) -> None:
        """Write one line of the log. loss: the mean since the last one; `step_loss` is that of the step itself."""
        inputs, progress = self.inputs, self.progress
        progress.logged(step, learning_rate)
        tokens = _over_all_ranks(progress.steps.totals()[2], inputs.scoring.device)
        inputs.display.logged(loss, step)
        progress.log.write(
            step=step,
            epoch=round(inputs.budget.epochs(step), 6),
            loss=loss,
            step_loss=progress.newest_loss.over_all_ranks(),
            learning_rate=learning_rate,
            # Infinite where the loss scaler skipped the step, as it should be.
            grad_norm=None if step in progress.skipped else grad_norm,
            tokens=tokens,
            **({"skipped_steps": len(progress.skipped)} if progress.skipped else {}),
        )

    def log_validation(self, step: int, values: dict[str, float]) -> None:
        """Write a step's validation metrics, under names that begin with `validation_`."""
        named = {f"validation_{name}": value for name, value in values.items()}
        self.progress.log.write(step=step, **named, **self._joules())

    def _joules(self) -> dict[str, float]:
        """Return the energy of training until this validation, over all processes; nothing where none is counted."""
        meter, device = self.inputs.clock.energy, self.inputs.scoring.device
        if meter is None:
            return {}
        mine = meter.so_far("train")
        sums = {kind: _sum_over_ranks(mine.get(kind, 0.0), device) for kind in KINDS}
        return {f"{kind}_joules": joules for kind, joules in sums.items() if joules}

    def run_validation(self, model: nn.Module) -> dict[str, float]:
        """Score the validation split by the harness's own scorer; the best weights so far are kept.

        model: without the engine's wrappers. Every process must call it.
        """
        synchronize()  # as the validation's own clock does: the steps before it end in their own time
        with self.inputs.display.paused(recurs=True):
            if self.live is not None and "validate" in self.inputs.sharded:
                return self._validate_sharded(self.live)
            return self._validate(model)

    def _validate(self, model: nn.Module) -> dict[str, float]:
        assert self.inputs.validate is not None
        step, selection = self.progress.step, self.progress.selection
        with sharding.whole(model, self._full_model) as plain:
            values = self.inputs.validate(plain)
            self.log_validation(step, values)
            if selection is not None and selection.update(step, values[selection.metric]):
                checkpointing.keep_best(self.inputs, plain)
        return values

    def _validate_sharded(self, live: LiveModel) -> dict[str, float]:
        assert self.inputs.validate is not None
        step, selection = self.progress.step, self.progress.selection
        with live.in_step():
            values = self.inputs.validate(live.model)
        self.log_validation(step, values)
        if selection is not None and selection.update(step, values[selection.metric]):
            checkpointing.keep_best_of(self.inputs, live)
        return values

    def prepared(self) -> None:
        """Hand on a sharded model that is to be scored before its first step; that is no part of training's time."""
        if self.live is not None and self.inputs.on_prepared is not None:
            started_s = time.perf_counter()
            with self.inputs.display.paused():
                self.inputs.on_prepared(self.live)
            self.progress.leave_out(time.perf_counter() - started_s)

    def check_gradients(self, model: nn.Module) -> None:
        """Note after the first backward, whose step is not skipped, which trainable parameters have no finite gradient.

        A layer whose adapter is left out at random (PEFT's module_dropout) may have none yet.
        """
        if self.progress.without_gradient is not None:
            return
        if self._gradients is not None:
            self.progress.gradients_checked(self._gradients.missing())
            return
        trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        at_random = tuple(f"{name}." for name, module in model.named_modules() if _is_left_out_at_random(module))
        missing = [
            name
            for name, one in trained
            if not (name.startswith(at_random) if one.grad is None else bool(one.grad.isfinite().all()))
        ]
        self.progress.gradients_checked(missing)

    def begin(self, live: in_force.Live) -> None:
        """Read back what training is really run with, now that an engine has set up all of it."""
        in_force.tell(self.inputs, live)
        self.skipped_steps.begin(live.accelerator)

    def end_step(self, step: int, accelerator: Any) -> None:
        """End a step; one whose update the loss scaler skipped is counted, and its gradients are not judged.

        Raises DivergedError where no smaller scale could have saved it.
        """
        skipped = loss_scale.step_was_skipped(accelerator)
        self.progress.finish_step(step, skipped=skipped)
        # A line of a step that is logged shows the loss that is.
        self.inputs.display.advance(tokens=self.inputs.tokens_of(step), report=not self.due_for_log(step))
        if not skipped:
            if self._gradients is not None:
                self._gradients.close()
            return
        self.progress.loss_scale = loss_scale.value(accelerator)
        loss_scale.refuse_collapse(step, self.progress.loss_scale)
        if self.progress.none_updated:
            self.progress.gradients_checked(None)
            if self._gradients is not None:
                self._gradients.restart()

    def close(self) -> None:
        """Leave the vote of the processes."""
        self._ballot.close()


def _is_left_out_at_random(module: nn.Module) -> bool:
    shares = getattr(module, "module_dropout", None)  # adapter -> share of the forward passes without it
    return isinstance(shares, dict) and any(shares.values())


def _sum_over_ranks(amount: float, device: torch.device) -> float:
    if torch.distributed.is_initialized():
        total = torch.tensor(amount, device=device, dtype=torch.float32)
        torch.distributed.all_reduce(total)
        return float(total)
    return amount


def _over_all_ranks(count: int, device: torch.device) -> int:
    if not torch.distributed.is_initialized():
        return count
    total = torch.tensor(count, device=device)
    torch.distributed.all_reduce(total)
    return int(total)
