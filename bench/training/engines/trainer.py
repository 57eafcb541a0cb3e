"""The default engine: transformers' Trainer, fed with the same batches, seeds and losses as the plain loop.

It trains classifiers and encoder-decoders; decoders that learn to write are trained by its subclass in `engines/sft`.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from bench.distributed import prepared_shards, sharding
from bench.distributed.live_model import LiveModel
from bench.models import shards
from bench.models.library_internals import transformers_internals
from bench.training import autocast, checkpointing, in_force, loss_scale, optimizer_registry
from bench.training.loss import StepLoss, step_loss
from bench.training.memory_saving import drop_copies
from bench.training.schedule import make_scheduler, seed_step
from bench.training.self_check import checked
from bench.training.session import Session


def run(session: Session, arguments: TrainingArguments) -> nn.Module:
    """Train the model and return it, without the wrappers of DDP or DeepSpeed."""
    inputs = session.inputs
    with step_loss(inputs) as wanted:
        loss_of = checked(wanted)
        trainer = WatchedTrainer(
            session,
            loss_of,
            model=inputs.model,
            args=arguments,
            data_collator=loss_of.collate,
            train_dataset=_InOrder(inputs.train.features, inputs.order),
        )
        return train(trainer)


def train(trainer: "WatchedTrainer") -> nn.Module:
    """Run a WatchedTrainer to its end, from a checkpoint where there is one, and return the model without wrappers.

    It is whole, unless it is to be scored sharded.
    """
    session = trainer.session
    inputs = session.inputs
    # `compute_loss` divides by the items of the whole step; they are counted whatever the model's signature is.
    trainer.model_accepts_loss_kwargs = True
    trainer.remove_callback(PrinterCallback)
    if session.drops_copies:
        drop_copies(trainer.accelerator)
    sharding.choose_units(trainer)
    if inputs.sharded:
        session.policy.live = LiveModel(trainer, session.full_model)
    resumed = session.resumption is not None and checkpointing.has_parts(session.resumption.state)
    held = session.full_model is not None and session.full_model.held
    with prepared_shards.given_to_zero() if held and sharding.requested_stage() == 3 else contextlib.nullcontext():
        with transformers_internals.without_deepspeed_checkpoint() if resumed else contextlib.nullcontext():
            trainer.train(resume_from_checkpoint=checkpointing.folder_for_trainer(inputs, session.resumption))
    if session.policy.live is not None and "after" in inputs.sharded:
        return session.policy.live.model
    # A phase of its own: what the steps need in memory is not what whole weights need.
    with inputs.clock.phase("gather") if sharding.requested_backend() is not None else contextlib.nullcontext():
        plain: nn.Module = sharding.gathered_model(trainer, session.full_model)
    return plain


class _InOrder(Dataset):
    """Features in the run's order: one long epoch, read from front to back."""

    def __init__(self, features: list[dict[str, Any]], order: list[int]) -> None:
        self.features, self.order = features, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> dict[str, Any]:
        return self.features[self.order[place]]


class WatchedTrainer(Trainer):
    """Adds seeds per step, counters, and our own loss and validation; the training step itself is the Trainer's."""

    def __init__(self, session: Session, loss_of: StepLoss, **options: Any) -> None:
        super().__init__(callbacks=[_Watch(session, self._live)], **options)
        self.session, self.loss_of = session, loss_of
        self._started = False
        self._micro_batch = 0
        self._since_log: torch.Tensor | None = None

    def create_optimizer(self, *args: Any, **options: Any) -> torch.optim.Optimizer:
        """Make the optimiser; before it, a model of which this process holds shards is given to FSDP2."""
        if sharding.requested_backend() == "fsdp" and shards.are_held(self.model):
            prepared_shards.give_to_fsdp(self.accelerator, self.model)
        optimizer_registry.forget_overrides()
        return super().create_optimizer(*args, **options)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """Make the recipe's schedule, which may be one of epochs."""
        inputs = self.session.inputs
        if inputs.settings.schedule_per == "epoch" and self.lr_scheduler is None:
            self.lr_scheduler = make_scheduler(inputs.settings, inputs.budget, optimizer or self.optimizer)
        return super().create_scheduler(num_training_steps, optimizer)  # which keeps one that is there

    def get_batch_samples(self, *args: Any, **options: Any) -> Any:
        self._micro_batch = 0
        if self._since_log is not None:
            # Taken up only now: at its start, the Trainer sets both to those of a run that has logged its last step.
            self._tr_loss += self._since_log
            self._since_log, self._globalstep_last_logged = None, self.session.progress.logged_step
        self.session.progress.steps.start()
        batches, items = super().get_batch_samples(*args, **options)
        if batches and self.session.inputs.class_loss is not None:  # weights are what the Trainer does not count
            items = self.accelerator.reduce(self.loss_of.divisor(batches).to(self.args.device), "sum")
        return batches, items

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        fit_inputs = self.session.inputs
        if not self._started:
            fit_inputs.observer.on_start(sharding.in_force(self.accelerator, self.model_wrapped))
            self._started = True
        seed_step(fit_inputs.seed, self.state.global_step, self._micro_batch, fit_inputs.rank)
        self._micro_batch += 1
        self.session.progress.steps.add(inputs)
        with loss_scale.translated(self.state.global_step + 1):
            loss = super().training_step(model, inputs, num_items_in_batch)
        self.session.progress.newest_loss.add(loss)
        return loss

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the harness's loss: the sum over label items, divided by those of the whole step."""
        with autocast.autocast(self.session.inputs.scoring, drops_copies=self.session.drops_copies):
            loss = self.loss_of.batch_loss(model, inputs, num_items_in_batch)
        # As in the Trainer: the items are those of all processes, and DDP averages what each of them gives.
        averaged = self.args.average_tokens_across_devices
        return loss * (self.accelerator.num_processes // self.get_tp_size()) if averaged else loss

    control: Any
    lr_scheduler: Any

    def evaluate(self, *args: Any, **options: Any) -> dict[str, float]:
        """Validate by the harness's own scorer: exact ids, own metrics. Names get the Trainer's prefix `eval_`."""
        values = self.session.policy.run_validation(self.accelerator.unwrap_model(self.model_wrapped))
        logs = {f"eval_{name}": value for name, value in values.items()}
        self.log(dict(logs))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, logs)
        return logs

    def _live(self) -> in_force.Live:
        return in_force.Live(self.accelerator, self.optimizer, self.lr_scheduler, self.args.max_grad_norm)

    def _engine_state(self) -> checkpointing.EngineState:
        return checkpointing.EngineState(self.accelerator, self.model_wrapped, self.optimizer, self.lr_scheduler)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        checkpointing.save(self.session.inputs, self.session.progress, self._engine_state(), self._tr_loss)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load the weights too: the Trainer calls this when all is prepared, after DeepSpeed has read its own."""
        if checkpoint is not None:
            self._since_log = checkpointing.restore(
                self.session.inputs, self.session.resumption, self._engine_state(), loaded=True
            )

    def _load_from_checkpoint(self, *_: Any, **__: Any) -> None:
        """See `_load_optimizer_and_scheduler`."""

    def _load_scaler(self, checkpoint: str | None) -> None:
        """See `_load_optimizer_and_scheduler`."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Do nothing: random numbers follow from the step (seed_step)."""


class _Watch(TrainerCallback):
    """Carries the Trainer's events into the run's log, selection and progress."""

    def __init__(self, session: Session, live: Callable[[], in_force.Live]) -> None:
        self.inputs, self.progress, self.policy = session.inputs, session.progress, session.policy
        self._live = live

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Read back what training is really run with, now that all is prepared."""
        self.policy.begin(self._live())
        self.policy.prepared()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Look at the first gradients, once."""
        self.policy.check_gradients(model)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """See whether the step was skipped, before the Trainer asks that for its schedule."""
        live = self._live()
        self.policy.skipped_steps.after_update(live.accelerator, live.optimizer)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """End the step's measurement; decide what follows it."""
        step = state.global_step
        self.policy.end_step(step, self._live().accelerator)
        control.should_log = self.policy.due_for_log(step)
        control.should_evaluate = self.policy.due_for_validation(step)
        if control.should_evaluate:
            return control  # what follows is decided when that is done
        return self._decide(control)

    def _decide(self, control: Any) -> Any:
        decision = self.policy.decide()
        control.should_training_stop, control.should_save = decision.ends, decision.saves
        control.should_log |= decision.logs
        return control

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Put training losses into the run's own log; the Trainer's summary at the end has none."""
        if logs and "loss" in logs:
            self.policy.log_step(state.global_step, logs["loss"], logs["learning_rate"], logs.get("grad_norm"))

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> Any:
        """Decide after a validation, by the same rules as the plain loop."""
        return self._decide(control)
