"""Sizes of a training run, the order of its examples, and the seed of every step."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from bench.config.training import Training
from bench.errors import SetupError


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Sizes of a training run: the recipe's global batch split over the processes that there really are."""

    examples: int
    steps: int
    global_batch: int
    per_device_batch: int
    accumulation: int
    evaluate_every: int | Literal["epoch"] | None

    @classmethod
    def plan(
        cls,
        training: Training,
        examples: int,
        world_size: int,
        max_rows: int | None = None,
        auto_rows: int | None = None,
    ) -> "Budget":
        """Split the global batch over processes and micro-batches. Raises SetupError when that leaves a remainder.

        max_rows: the most rows of a micro-batch, where the recipe leaves its size open. auto_rows: the rows of one that
        were found to fit, for a recipe that says `auto`; until then they are the whole share of a process.
        """
        batch = training.global_batch
        share = batch // world_size
        rows = auto_rows if training.per_device_batch == "auto" else training.per_device_batch
        per_device = min(rows or share, share)
        if training.per_device_batch is None and max_rows is not None and share:
            per_device = max(size for size in range(1, min(max_rows, share) + 1) if share % size == 0)
        if batch % world_size or share % per_device:
            with_rows = f" with per_device_batch {rows}" if rows else ""
            raise SetupError(
                f"training.global_batch {batch} can't be split over {world_size} processes{with_rows}; choose a "
                f"multiple of {world_size * (rows or 1)}"
            )
        per_epoch = examples / batch
        steps = training.steps or math.ceil((training.epochs or 3.0) * per_epoch - 1e-9)
        steps = max(steps, training.min_steps or 0)
        if training.warmup >= max(1, steps):
            raise SetupError(
                f"training.warmup: {training.warmup:g} warm-up steps of {steps} in all: the full learning rate is "
                "never reached; write fewer, or a share below 1"
            )
        return cls(
            examples=examples,
            steps=steps,
            global_batch=batch,
            per_device_batch=per_device,
            accumulation=share // per_device,
            evaluate_every=training.evaluate_every,
        )

    def warmup_steps(self, training: Training) -> int:
        """Return the number of warmup steps: `warmup` below 1 is a share of all steps, from 1 on a number of them."""
        return int(training.warmup) if training.warmup >= 1 else math.ceil(training.warmup * self.steps)

    def notes(self, training: Training) -> list[str]:
        """Return a sentence for each key of `training` that these sizes turn into something else than it says."""
        notes = []
        asked, done = training.epochs or 3.0, self.epochs(self.steps)
        if self.steps == training.min_steps and done > 1.05 * asked:
            notes.append(
                f"training.min_steps: {self.steps} steps of {self.global_batch} examples are {done:.4g} epochs of the "
                f"{self.examples}, where training.epochs asks for {asked:g}"
            )
        elif training.steps is None and done > 1.05 * asked:
            notes.append(
                f"training.epochs: {asked:g} asked for, {done:.4g} done: a step takes {self.global_batch} examples, "
                f"and there are {self.examples}; lower training.global_batch to come closer"
            )
        if 0 < training.warmup < 1 and self.warmup_steps(training) >= self.steps:
            notes.append(
                f"training.warmup: {training.warmup:g} of {self.steps} steps is all of them; the full learning rate is "
                "never reached"
            )
        if training.schedule_per == "epoch" and training.schedule != "constant" and self.num_epochs == 1:
            notes.append(
                f"training.schedule: {training.schedule} has no effect: by epochs the learning rate changes when one "
                f"has ended, and training ends with the first ({self.steps} steps)"
            )
        validations = sum(self.validates(step) for step in range(1, self.steps + 1))
        if training.early_stopping is not None and validations <= training.early_stopping.patience:
            notes.append(
                f"training.early_stopping has no effect: patience {training.early_stopping.patience} can't run out in "
                f"{validations} validations"
            )
        if isinstance(self.evaluate_every, int) and self.evaluate_every > self.steps:
            notes.append(
                f"training.evaluate_every: {self.evaluate_every} is more than the {self.steps} steps: validated only "
                "after the last"
            )
        return notes

    def validates(self, step: int) -> bool:
        """Return whether a step is followed by a validation: each `evaluate_every`-th, or each that ends an epoch.

        The last step is, if any is. A step ends an epoch with which some example was seen once more than before it.
        """
        if self.evaluate_every is None:
            return False
        if self.evaluate_every == "epoch":
            return step == self.steps or self.epochs_ended(step) > self.epochs_ended(step - 1)
        return step == self.steps or step % self.evaluate_every == 0

    def epochs(self, steps: int) -> float:
        """Return how often each example was seen after so many steps."""
        return steps * self.global_batch / self.examples

    def epochs_ended(self, steps: int) -> int:
        """Return how many epochs have ended after so many steps."""
        return steps * self.global_batch // self.examples

    @property
    def num_epochs(self) -> int:
        """Return the number of epochs that are begun."""
        return self.epochs_ended(self.steps - 1) + 1

    def order(self, seed: int, lengths: Sequence[int] | None = None) -> list[int]:
        """Return the row numbers of all steps: shuffled epochs one after another, so that no example is ever dropped.

        Step s trains on order[s * global_batch : (s + 1) * global_batch], whatever the number of processes. lengths:
        the rows' numbers of tokens, where texts of similar length are to share a step (`training.group_by_length`).
        """
        num_rows = self.steps * self.global_batch
        order: list[int] = []
        while len(order) < num_rows:
            epoch = len(order) // self.examples
            random = np.random.default_rng([seed, epoch])
            if lengths is None:
                order += random.permutation(self.examples).tolist()
            else:
                order += grouped_by_length(lengths, self.global_batch, int(random.integers(2**63)))
        return order[:num_rows]


def make_scheduler(training: Training, budget: Budget, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """Return transformers' schedule of the learning rate, to be stepped once after each step of the optimiser.

    By epochs (`schedule_per`) it is the same function of the epochs that have ended, out of all: what
    torch's `CosineAnnealingLR(optimizer, T_max=epochs)` gives that is stepped after each epoch.
    """
    from transformers import get_scheduler

    if training.schedule_per == "step":
        return get_scheduler(training.schedule, optimizer, budget.warmup_steps(training), budget.steps)
    unused = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=training.learning_rate)
    by_epochs = get_scheduler(training.schedule, unused, 0, budget.num_epochs)
    (factor,) = by_epochs.lr_lambdas
    return LambdaLR(optimizer, partial(_by_epochs, factor, budget))


def _by_epochs(factor: Callable[[int], float], budget: Budget, steps: int) -> float:
    return float(factor(budget.epochs_ended(steps)))


def grouped_by_length(lengths: Sequence[int], size: int, seed: int) -> list[int]:
    """Return all row numbers once: shuffled, then sorted by length inside of each `size` times up to 50 rows.

    transformers' own (`train_sampling_strategy: group_by_length`), whose first row is the longest of all. Where the
    number of rows is no multiple of `size`, a step between two epochs has rows of both.
    """
    from transformers.trainer_pt_utils import get_length_grouped_indices  # takes a second, and plans need none of it

    return list(get_length_grouped_indices(list(lengths), size, generator=torch.Generator().manual_seed(seed)))


def sorted_in_steps(rows: list[int], lengths: list[int], size: int) -> list[int]:
    """Return the order of a run whose steps are `size` rows each, with the longest first in every step."""
    steps = (rows[start : start + size] for start in range(0, len(rows), size))
    return [row for step in steps for row in sorted(step, key=lambda row: -lengths[row])]


def seed_step(seed: int, step: int, micro_batch: int, rank: int) -> None:
    """Seed dropout by its place in the run: neither what happens between steps nor a resumption changes it."""
    state = np.random.SeedSequence([seed, step, micro_batch, rank]).generate_state(1, np.uint64)[0]
    torch.manual_seed(int(state) >> 1)
