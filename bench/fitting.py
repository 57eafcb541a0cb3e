"""What both training engines share: the order of examples, the seeds of steps, the log, and best-model selection."""

import functools
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import resuming, sharding
from bench.ballot import Ballot
from bench.collating import IGNORED, answer_loss_sum, collate_answers
from bench.console import Phase
from bench.errors import DivergedError, SetupError
from bench.heads import unwrapped
from bench.measure import Clock, Steps
from bench.score import Encoded, Scoring, collate
from bench.training_settings import Checkpoints, EarlyStopping, Training


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Sizes of a training run: the recipe's global batch spread over the processes that there really are."""

    examples: int
    steps: int
    global_batch: int
    per_device_batch: int
    accumulation: int
    evaluate_every: int | None

    @classmethod
    def plan(
        cls,
        training: Training,
        examples: int,
        world_size: int,
        most: int | None = None,
        found: int | None = None,
    ) -> "Budget":
        """Raises SetupError when the global batch does not divide evenly; it is never changed silently.

        most: rows of a micro-batch, at most, where the recipe leaves it open and they divide evenly. found: rows that
        were found for a recipe that says `auto`; until then they are the whole share of a process.
        """
        batch = training.global_batch
        share = batch // world_size
        asked = found if training.per_device_batch == "auto" else training.per_device_batch
        per_device = min(asked or share, share)
        if training.per_device_batch is None and most is not None and share:
            per_device = max(rows for rows in range(1, min(most, share) + 1) if share % rows == 0)
        if batch % world_size or per_device == 0 or share % per_device:
            raise SetupError(
                f"training.global_batch {batch} can't be split over {world_size} processes with "
                f"per_device_batch {asked or share}; choose a multiple of their product"
            )
        per_epoch = examples / batch
        steps = training.steps or math.ceil((training.epochs or 3.0) * per_epoch - 1e-9)
        every = training.evaluate_every
        return cls(
            examples=examples,
            steps=steps,
            global_batch=batch,
            per_device_batch=per_device,
            accumulation=share // per_device,
            evaluate_every=max(1, round(per_epoch)) if every == "epoch" else every,
        )

    def warmup_steps(self, training: Training) -> int:
        """`warmup` below 1 is a share of all steps, from 1 on a number of them."""
        return int(training.warmup) if training.warmup >= 1 else math.ceil(training.warmup * self.steps)

    def epochs(self, steps: int) -> float:
        """How often each example was seen after so many steps."""
        return steps * self.global_batch / self.examples

    def order(self, seed: int) -> list[int]:
        """Row numbers of all steps: shuffled epochs one after another, so that no example is ever dropped.

        Step s trains on order[s * global_batch : (s + 1) * global_batch], whatever the number of processes.
        """
        wanted = self.steps * self.global_batch
        found: list[int] = []
        while len(found) < wanted:
            epoch = len(found) // self.examples
            found += np.random.default_rng([seed, epoch]).permutation(self.examples).tolist()
        return found[:wanted]


def sorted_in_steps(rows: list[int], lengths: list[int], size: int) -> list[int]:
    """The order of a run whose steps are `size` rows each, the longest first in every step."""
    steps = (rows[start : start + size] for start in range(0, len(rows), size))
    return [row for step in steps for row in sorted(step, key=lambda row: -lengths[row])]


def seed_step(seed: int, step: int, micro_batch: int, rank: int) -> None:
    """Seeds dropout by its place in the run: nothing that happens between steps can move it, nor can a resumption."""
    state = np.random.SeedSequence([seed, step, micro_batch, rank]).generate_state(1, np.uint64)[0]
    torch.manual_seed(int(state) >> 1)


@dataclass
class Selection:
    """Follows one validation metric: best step so far, and whether patience has run out."""

    metric: str
    higher_is_better: bool
    early_stopping: EarlyStopping | None = None
    best_value: float | None = None
    best_step: int | None = None
    waited: int = 0

    def update(self, step: int, value: float) -> bool:
        """Takes a new value; True if it is the best so far. NaN, a value that is not defined, never is."""
        sign = 1 if self.higher_is_better else -1
        gain = math.inf if self.best_value is None else sign * (value - self.best_value)
        if math.isnan(value):
            gain = -math.inf
        threshold = self.early_stopping.threshold if self.early_stopping else 0.0
        self.waited = 0 if gain > threshold else self.waited + 1
        if gain > 0:
            self.best_value, self.best_step = value, step
        return gain > 0

    @property
    def exhausted(self) -> bool:
        """Whether early stopping is due."""
        return self.early_stopping is not None and self.waited >= self.early_stopping.patience


class TrainLog:
    """`train_log.jsonl`: one line per logged step, written as training proceeds. Rank zero writes, all remember."""

    def __init__(self, path: Path | None) -> None:
        self.rows: list[dict[str, Any]] = []
        self._path = path
        self.restore([], 0.0)

    def restore(self, rows: list[dict[str, Any]], seconds: float) -> None:
        """Begins with these rows, after so many seconds; whatever else the file held is gone."""
        self.rows[:], self._started_s = rows, time.perf_counter() - seconds
        if self._path is not None:
            self._path.write_text("".join(map(_line, self.rows)), encoding="utf-8")

    def write(self, **values: Any) -> None:
        """Adds a line. Raises DivergedError when a loss or gradient norm in it is not finite."""
        row = {**values, "seconds": round(time.perf_counter() - self._started_s, 3)}
        self.rows.append(row)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(_line(row))
        for name in ("loss", "grad_norm"):
            value = values.get(name)
            if _is_undefined(value):
                raise DivergedError(
                    f"the {name} is {value} at step {values['step']}; lower training.learning_rate, "
                    "use warmup or clip_norm, or check the data"
                )

    @property
    def losses(self) -> list[float]:
        """Training losses in order of steps."""
        return [row["loss"] for row in self.rows if "loss" in row]


def _over_all_ranks(count: int, device: torch.device) -> int:
    if not torch.distributed.is_initialized():
        return count
    total = torch.tensor(count, device=device)
    torch.distributed.all_reduce(total)
    return int(total)


def _line(row: dict[str, Any]) -> str:
    return json.dumps({name: None if _is_undefined(item) else item for name, item in row.items()}) + "\n"


def _is_undefined(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


@dataclass
class Fit:
    """One training run's inputs and, as it proceeds, its results. Both engines read and fill the same object.

    objective: "head" for a classifier, "text" for a language model that learns to write the answers.
    answer_logits: whether such a model is to compute logits for its answers only; while it trains, on_answers_alone
    is set where it does, and needs_all_logits says why where it can't.
    twin: the plain model's shape (sharding.Twin), where its parameters are divided over processes while it trains.
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
    def ballot(self) -> Ballot:
        """Of all processes; made when every one of them has done its first step."""
        return Ballot()

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
                resuming.keep_best(self, plain)
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
