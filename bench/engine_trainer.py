"""The default engine: transformers' Trainer, fed with the same batches, seeds and losses as the plain loop.

It trains classifiers and encoder-decoders; decoders that learn to write are trained by its child in `engine_sft`.
"""

import os
import shutil
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from bench.answer_logits import while_training
from bench.fitting import Fit, seed_step
from bench.heads import unwrapped


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
    """Runs a WatchedTrainer to its end, removes its checkpoints, and returns the plain model."""
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    # Not before the slowest process has read the best checkpoint back.
    trainer.accelerator.wait_for_everyone()
    if trainer.accelerator.is_main_process:
        shutil.rmtree(trainer.args.output_dir, ignore_errors=True)
    return trainer.accelerator.unwrap_model(trainer.model)


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

    def get_batch_samples(self, *args: Any, **options: Any) -> Any:
        self._micro_batch = 0
        self.fit.steps.start()
        return super().get_batch_samples(*args, **options)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        seed_step(self.fit.seed, self.state.global_step, self._micro_batch, self.fit.rank)
        self._micro_batch += 1
        self.fit.steps.add(inputs)
        return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The Trainer's own, or TRL's, but where the model gives the loss on its answers alone, or the task its own."""
        if not (self.fit.on_answers_alone or self.fit.by_task):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss = self.fit.batch_loss(model, inputs, num_items_in_batch)
        # As in the Trainer: the items are those of all processes, and DDP averages what each of them gives.
        averaged = self.args.average_tokens_across_devices
        return loss * (self.accelerator.num_processes // self.get_tp_size()) if averaged else loss

    control: Any

    def evaluate(self, *args: Any, **options: Any) -> dict[str, float]:
        """Validation by the harness's own scorer: exact ids, own metrics. Names get the Trainer's prefix `eval_`."""
        assert self.fit.validate is not None
        values = self.fit.validate(self.accelerator.unwrap_model(self.model_wrapped))
        self.fit.log_validation(self.state.global_step, values)
        logs = {f"eval_{name}": value for name, value in values.items()}
        self.log(dict(logs))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, logs)
        return logs

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with self.fit.clock.phase("save"):
            super()._save_checkpoint(model, trial)


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
        if not control.should_evaluate and fit.should_stop():
            control.should_training_stop = True
        losses = fit.log.losses
        fit.progress.advance(loss=losses[-1] if losses else None)
        return control

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Training losses go into the run's own log; the Trainer's summary at the end does not."""
        if logs and "loss" in logs:
            self.fit.log_step(state.global_step, logs["loss"], logs["learning_rate"], logs.get("grad_norm"))

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> Any:
        """Stops after a validation by the same rules as the plain loop."""
        fit = self.fit
        if fit.selection is not None:
            fit.selection.update(state.global_step, metrics[f"eval_{fit.selection.metric}"])
        if fit.should_stop():
            control.should_training_stop = True
        return control
