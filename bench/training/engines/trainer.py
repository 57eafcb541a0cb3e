"""The default engine: transformers' Trainer, fed with the same batches, seeds and losses as the plain loop.

It trains classifiers and encoder-decoders; decoders that learn to write are trained by its child in `engine_sft`.
"""

import os
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from bench.distributed import sharding
from bench.models.heads import unwrapped
from bench.training import autocast, checkpointing
from bench.training.answer_only import while_training
from bench.training.memory_saving import drop_copies
from bench.training.schedule import seed_step
from bench.training.state import Fit


@while_training
def run(fit: Fit, arguments: TrainingArguments) -> Any:
    """Trains `fit.model` and returns it, without the wrappers of DDP or DeepSpeed."""
    # Models take **kwargs, from which the Trainer concludes that they normalise by the number of items; classifiers
    # do not, and their loss would grow with the number of processes. `compute_loss_func` does it here instead.
    unwrapped(fit.model).accepts_loss_kwargs = False
    trainer = WatchedTrainer(
        fit,
        model=fit.model,
        args=arguments,
        data_collator=fit.collate,
        train_dataset=_InOrder(fit.train.features, fit.order),
        compute_loss_func=lambda outputs, labels, num_items_in_batch: fit.loss(
            outputs.logits, labels, num_items_in_batch
        ),
    )
    return train(trainer)


def train(trainer: Any) -> Any:
    """Runs a WatchedTrainer to its end, from a checkpoint where there is one, and returns the plain model."""
    trainer.remove_callback(PrinterCallback)
    if trainer.fit.drops_copies:
        drop_copies(trainer.accelerator)
    sharding.choose_units(trainer)
    trainer.train(resume_from_checkpoint=checkpointing.folder_for_trainer(trainer.fit))
    return sharding.gathered(trainer, trainer.fit.twin)


class _InOrder(Dataset):  # type: ignore[type-arg]
    """Features in the run's order: one long epoch, read from front to back."""

    def __init__(self, features: list[dict[str, Any]], order: list[int]) -> None:
        self.features, self.order = features, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> dict[str, Any]:
        return self.features[self.order[place]]


class WatchedTrainer(Trainer):
    """Adds seeds per step, counters, and our own validation; the training step itself is the Trainer's."""

    def __init__(self, fit: Fit, **options: Any) -> None:
        if "tensorboard" in fit.trackers:
            # By default the events would lie among the checkpoints, and go with them.
            os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(fit.folder / "tensorboard"))
        super().__init__(callbacks=[_Watch(fit)], **options)
        self.fit = fit
        self._micro_batch = 0
        self._since_log: torch.Tensor | None = None

    def get_batch_samples(self, *args: Any, **options: Any) -> Any:
        self._micro_batch = 0
        if self._since_log is not None:
            # Taken up only now: at its start, the Trainer sets both to those of a run that has logged its last step.
            self._tr_loss += self._since_log
            self._since_log, self._globalstep_last_logged = None, self.fit.logged_step
        self.fit.steps.start()
        return super().get_batch_samples(*args, **options)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        if self.fit.on_start is not None:
            self.fit.on_start(sharding.in_force(self.accelerator, self.model_wrapped))
            self.fit.on_start = None
        seed_step(self.fit.seed, self.state.global_step, self._micro_batch, self.fit.rank)
        self._micro_batch += 1
        self.fit.steps.add(inputs)
        return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The Trainer's own, or TRL's, but where the model gives the loss on its answers alone, or the task its own."""
        with autocast.autocast(self.fit.scoring):
            if not (self.fit.on_answers_alone or self.fit.by_task):
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            loss = self.fit.batch_loss(model, inputs, num_items_in_batch)
        # As in the Trainer: the items are those of all processes, and DDP averages what each of them gives.
        averaged = self.args.average_tokens_across_devices
        return loss * (self.accelerator.num_processes // self.get_tp_size()) if averaged else loss

    control: Any

    def evaluate(self, *args: Any, **options: Any) -> dict[str, float]:
        """Validation by the harness's own scorer: exact ids, own metrics. Names get the Trainer's prefix `eval_`."""
        values = self.fit.run_validation(self.accelerator.unwrap_model(self.model_wrapped))
        logs = {f"eval_{name}": value for name, value in values.items()}
        self.log(dict(logs))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, logs)
        return logs

    def _live(self) -> checkpointing.Live:
        return checkpointing.Live(self.accelerator, self.model_wrapped, self.optimizer, self.lr_scheduler)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        checkpointing.save(self.fit, self._live(), self._tr_loss)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """The weights too: the Trainer calls this when everything is prepared, and has read what DeepSpeed wrote."""
        if checkpoint is not None:
            self._since_log = checkpointing.restore(self.fit, self._live(), loaded=True)

    def _load_from_checkpoint(self, *_: Any, **__: Any) -> None:
        """See `_load_optimizer_and_scheduler`."""

    def _load_scaler(self, checkpoint: str | None) -> None:
        """See `_load_optimizer_and_scheduler`."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Nothing to do: what is drawn follows from the step (seed_step)."""


class _Watch(TrainerCallback):
    """Carries the Trainer's events into the run's log, selection and progress."""

    def __init__(self, fit: Fit) -> None:
        self.fit = fit

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """The first gradients are looked at, once."""
        self.fit.check_gradients(model)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Ends the step's measurement; decides what follows it."""
        fit = self.fit
        fit.steps.stop()
        fit.step = state.global_step
        control.should_log = fit.due_for_log(fit.step)
        control.should_evaluate = fit.due_for_validation(fit.step)
        losses = fit.log.losses
        fit.progress.advance(loss=losses[-1] if losses else None)
        return control if control.should_evaluate else self._decide(control)

    def _decide(self, control: Any) -> Any:
        self.fit.decide()
        control.should_training_stop = self.fit.ends
        control.should_save = self.fit.saves
        return control

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Training losses go into the run's own log; the Trainer's summary at the end does not."""
        if logs and "loss" in logs:
            self.fit.log_step(state.global_step, logs["loss"], logs["learning_rate"], logs.get("grad_norm"))

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> Any:
        """Decides after a validation, by the same rules as the plain loop."""
        return self._decide(control)
