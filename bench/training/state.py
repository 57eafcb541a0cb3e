"""State of one training run, shared by the engines: inputs, progress, and what to do after a step."""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench.config.training import Checkpoints, Training
from bench.console import Phase
from bench.data.batching import IGNORED, collate, collate_answers
from bench.data.examples import Encoded
from bench.distributed import sharding
from bench.distributed.vote import AsyncFlagVote
from bench.evaluation.reader import Scoring
from bench.models.heads import unwrapped
from bench.models.losses import answer_loss_sum
from bench.records.clock import Clock
from bench.records.throughput import Steps
from bench.training import checkpointing
from bench.training.log import TrainLog
from bench.training.schedule import Budget, sorted_in_steps
from bench.training.selection import Selection


def _over_all_ranks(count: int, device: torch.device) -> int:
    if not torch.distributed.is_initialized():
        return count
    total = torch.tensor(count, device=device)
    torch.distributed.all_reduce(total)
    return int(total)


@dataclass
class Fit:
    """One training run's inputs and, as it proceeds, its results. Both engines read and fill the same object.

    objective: "head" for a classifier, "text" for a language model that learns to write the answers.
    answer_logits: whether such a model is to compute logits for its answers only; while it trains, on_answers_alone
    is set where it does, and needs_all_logits says why where it can't.
    twin: the plain model's shape (sharding.FullModelShell), where its parameters are sharded while it trains.
    on_start: is told how the model is really spread, once it is.
    identity: {"hash", "seed", "data"}, by which a checkpoint is known as this run's.
    asked_to_stop: whether this process was sent a SIGTERM.
    drops_copies: whether autocast keeps no 16-bit copies of weights. in_force: for the record's `speed`.
    notes: fallbacks, for the record. resumed_state, resumes_from: the checkpoint that training goes on from, if any.
    ends, saves: what `decide` found. saved_step: the last one of which there is a checkpoint.
    """

    model: Any
    train: Encoded
    scoring: Scoring
    settings: Training
    budget: Budget
    seed: int
    rank: int
    folder: Path
    clock: Clock
    log: TrainLog
    progress: Phase
    validate: Callable[[Any], dict[str, float]] | None
    selection: Selection | None
    trackers: tuple[str, ...] = ()
    objective: str = "head"
    by_length: bool = False
    answer_logits: bool = True
    on_answers_alone: bool = False
    needs_all_logits: str | None = None
    steps: Steps = field(default_factory=Steps)
    step: int = 0
    logged_step: int = 0
    stopped_by: str = "steps"
    learning_rate: float | None = None
    without_gradient: list[str] | None = None
    twin: Any = None
    first_gradients: Any = None
    on_start: Callable[[dict[str, Any]], None] | None = None
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    identity: dict[str, Any] = field(default_factory=lambda: {"hash": "", "seed": 0, "data": ""})
    asked_to_stop: Callable[[], bool] = bool
    notes: list[str] = field(default_factory=list)
    drops_copies: bool = False
    in_force: dict[str, Any] = field(default_factory=dict)
    resumed_state: dict[str, Any] | None = None
    resumes_from: Path | None = None
    saved_step: int = 0
    ends: bool = False
    saves: bool = False
    started_s: float = field(default_factory=time.perf_counter)
    due_since_s: float = field(default_factory=time.perf_counter)

    @functools.cached_property
    def order(self) -> list[int]:
        """Row numbers of all steps, see Budget.order; which rows are in a global batch does not depend on `by_length`.

        Sorted rows are dealt out in turns, so that all processes get the same lengths at the same time.
        """
        rows = self.budget.order(self.seed)
        return sorted_in_steps(rows, self.train.lengths, self.budget.global_batch) if self.by_length else rows

    @functools.cached_property
    def ballot(self) -> AsyncFlagVote:
        """Of all processes; made when every one of them has done its first step."""
        return AsyncFlagVote()

    def decide(self) -> None:
        """After a step and its validation: whether training `ends` here, and whether it `saves` a checkpoint.

        Alike on every process: rank zero's clock counts for all, and so does a signal that any of them was sent.
        """
        last, every = self.step == self.budget.steps, self.checkpoints.every_steps
        flags = [self.asked_to_stop(), self._is_out_of_time(), self._is_due()]
        stop, late, due = self.ballot.vote(flags, last=last)
        if self.selection is not None and self.selection.exhausted:
            self.stopped_by = "early_stopping"
        elif stop or late:
            self.stopped_by = "interrupted" if stop else "minutes"
        self.ends = last or self.stopped_by != "steps"
        due = due or (every is not None and self.step % every == 0)
        self.saves = self.stopped_by == "interrupted" or (due and not self.ends)

    def _is_out_of_time(self) -> bool:
        minutes = self.settings.minutes
        return self.rank == 0 and minutes is not None and time.perf_counter() - self.started_s > minutes * 60

    def _is_due(self) -> bool:
        minutes, now_s = self.checkpoints.every_minutes, time.perf_counter()
        due = self.rank == 0 and minutes is not None and now_s - self.due_since_s > minutes * 60
        if due:
            self.due_since_s = now_s  # asked for once, though the answer comes a step later
        return due

    def saved(self) -> None:
        """A checkpoint was written, or could not be: the next one has time."""
        self.due_since_s = time.perf_counter()

    @property
    def interruption(self) -> str:
        """The sentence for a run that was asked to stop, and did so between two steps."""
        done = f"stopped by SIGTERM after step {self.step} of {self.budget.steps}"
        if self.saved_step != self.step:
            return f"{done}; no checkpoint could be written"
        return f"{done}; a checkpoint was written, and the same command goes on from there"

    def log_step(self, step: int, loss: float, learning_rate: float, grad_norm: float | None) -> None:
        """One line of the log: the mean loss since the last one."""
        self.learning_rate, self.logged_step = learning_rate, step
        tokens = _over_all_ranks(self.steps.totals()[2], self.scoring.device)
        self.progress.tokens = tokens - self.steps.earlier.totals[2]
        self.log.write(
            step=step,
            epoch=round(self.budget.epochs(step), 6),
            loss=loss,
            learning_rate=learning_rate,
            grad_norm=grad_norm,
            tokens=tokens,
        )

    def log_validation(self, step: int, values: dict[str, float]) -> None:
        """Validation metrics of a step, under names that begin with `validation_`."""
        self.log.write(step=step, **{f"validation_{name}": value for name, value in values.items()})

    def run_validation(self, model: Any) -> dict[str, float]:
        """Scores the validation split by the harness's own scorer; the best weights so far are kept.

        model: without the engine's wrappers.
        """
        assert self.validate is not None
        with sharding.whole(model, self.twin) as plain:
            values = self.validate(plain)
            self.log_validation(self.step, values)
            if self.selection is not None and self.selection.update(self.step, values[self.selection.metric]):
                checkpointing.keep_best(self, plain)
        return values

    def due_for_validation(self, step: int) -> bool:
        """Whether this step is followed by a validation; the last one always is, if there are any."""
        every = self.budget.evaluate_every
        return every is not None and self.validate is not None and (step % every == 0 or step == self.budget.steps)

    def due_for_log(self, step: int) -> bool:
        """The first step, every `log_every`-th, and the last."""
        return step == 1 or step % self.settings.log_every == 0 or step == self.budget.steps

    @property
    def by_task(self) -> bool:
        """Whether the head's outputs are the task's own, so that only the task can read a loss from them."""
        return self.objective == "head" and hasattr(self.scoring.task, "loss_of")

    @property
    def by_encoder_decoder(self) -> bool:
        """Whether answers are written by an encoder-decoder."""
        return self.objective == "text" and unwrapped(self.model).config.is_encoder_decoder

    def collate(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """A micro-batch of training examples, padded on the right; with num_answers where only their loss is asked."""
        if self.objective == "head":
            return collate(features, self.scoring.tokenizer)
        start = unwrapped(self.model).config.decoder_start_token_id if self.by_encoder_decoder else None
        batch = collate_answers(features, self.scoring.tokenizer.pad_token_id, start)
        if self.on_answers_alone:
            # Counted here, before the labels are on a device that would have to be waited for.
            batch["num_answers"] = int((batch["labels"] != IGNORED).sum())
        return batch

    def batch_loss(self, model: Any, batch: Any, items: Any) -> torch.Tensor:
        """Loss of a micro-batch of `collate`, from the model as the engine wrapped it; scaled as `loss` is."""
        if self.on_answers_alone:
            # No label in any batch of the step: a sum of nothing, not 0 / 0.
            return model(**batch).loss / torch.as_tensor(items).clamp(min=1)
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        outputs = model(**inputs)
        if self.by_task:
            return self.scoring.task.loss_of(outputs, batch) / items
        return self.loss(outputs.logits, batch["labels"], items)

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, items: Any) -> torch.Tensor:
        """Loss of a micro-batch: its sum over label items, over the items of the whole optimiser step.

        A label item is an example, a label of it where several are allowed, or a token of an answer.
        """
        if self.objective == "text":
            return answer_loss_sum(logits, labels, shifted=not self.by_encoder_decoder) / items
        return self.scoring.task.loss_sum(logits, labels, self.settings.label_smoothing) / items

    def check_gradients(self, model: Any) -> None:
        """After the first backward: names of trainable parameters without a finite gradient."""
        if self.without_gradient is None and self.first_gradients is not None:
            self.without_gradient = self.first_gradients.missing()
        elif self.without_gradient is None:
            self.without_gradient = [
                name
                for name, parameter in model.named_parameters()
                if parameter.requires_grad and (parameter.grad is None or not bool(parameter.grad.isfinite().all()))
            ]
