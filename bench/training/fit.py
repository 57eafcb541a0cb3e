"""Fits a model to the training split by gradients: sets a training run up, hands it to its engine, and sums it up."""

from dataclasses import dataclass
from typing import Any

from accelerate import PartialState
from torch import nn

from bench.distributed import sharding
from bench.distributed.live_model import LiveModel
from bench.errors import StoppedError
from bench.models.library_internals import accelerate_internals
from bench.training import checkpoint_files, checkpointing
from bench.training.memory_saving import checkpoint_activations
from bench.training.policy import Policy
from bench.training.session import Session
from bench.training.state import FitInputs, Progress


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """The outcome of a training run.

    model: unwrapped, with its best weights where a recipe asks. live: its engine, where it is still sharded.
    first_loss, final_loss, learning_rate: of the first and the last step alone, however often steps are logged.
    without_gradient: names of trainable parameters without a finite gradient in the first step that was not skipped;
    None where all were. skipped: the steps whose update the loss scaler of fp16 skipped; loss_scale: after the last of
    them.
    """

    model: nn.Module
    steps: int
    stopped_by: str
    logged_step: int
    learning_rate: float | None
    first_loss: float
    final_loss: float
    best_step: int | None
    best_value: float | None
    without_gradient: tuple[str, ...] | None
    skipped: tuple[int, ...] = ()
    loss_scale: float | None = None
    live: LiveModel | None = None


def fit(inputs: FitInputs, progress: Progress) -> FitResult:
    """Train with the recipe's engine, from a checkpoint where there is one. Every process must call it.

    Raises StoppedError where training was asked to stop, after a checkpoint was written; DivergedError for a loss or a
    gradient norm that is not finite; SetupError for a checkpoint that this launch can't go on from.
    """
    from transformers import TrainingArguments

    from bench.training.engines import loop, trainer

    resumption = checkpointing.agree_on_checkpoint(inputs, sharded=sharding.requested_backend() is not None)
    if resumption is not None:
        checkpointing.restore_progress(inputs, progress, resumption)
        inputs.display.begin_at(progress.step)
        inputs.observer.on_resume(progress.step)
        if progress.selection is not None and progress.selection.exhausted:
            return _ended_before(inputs, progress, resumption)
    full_model = sharding.FullModelShell(inputs.model) if sharding.shards_parameters() else None
    gradients = sharding.FirstGradients(inputs.model) if sharding.requested_backend() == "deepspeed" else None
    policy = Policy(inputs, progress, full_model=full_model, gradients=gradients)
    session = Session(
        inputs=inputs,
        progress=progress,
        policy=policy,
        full_model=full_model,
        drops_copies=_recompute(inputs),
        resumption=resumption,
    )
    accelerate_internals.reset_state()  # an earlier training of this process has left its precision there
    values = arguments(inputs)
    if inputs.settings.engine == "loop":
        model = loop.run(session, TrainingArguments(**values))
    elif inputs.objective == "text" and not inputs.writes_by_encoder_decoder:
        from bench.training.engines import sft  # TRL takes seconds to import

        precision = "no" if sharding.requested_backend() == "deepspeed" else inputs.scoring.precision
        model = sft.run(session, sharding.apply_defaults(sft.config(values, precision)))
    else:
        model = trainer.run(session, sharding.apply_defaults(TrainingArguments(**values)))
    policy.close()
    if progress.told_to_stop:
        raise StoppedError(_interruption(inputs, progress))
    live = policy.live if "after" in inputs.sharded else None
    if live is None:
        checkpointing.load_best(inputs, progress, model)
    else:
        checkpointing.load_best_into(inputs, progress, live)
    if inputs.rank == 0:
        checkpoint_files.forget_best(inputs.checkpoint_folder)
    return _result(model, progress, live)


def _ended_before(inputs: FitInputs, progress: Progress, resumption: checkpointing.Resumption) -> FitResult:
    """Return the outcome of a training that ended early in the step in which it was told to stop: nothing is left."""
    progress.stop("early_stopping")
    assert progress.selection is not None
    if progress.selection.best_step is None:  # no validation had a value: the last weights are the only ones
        checkpointing.load_trained(inputs.rank, inputs.model, resumption.path / checkpoint_files.TRAINED)
    elif inputs.rank == 0:
        checkpoint_files.carry_best(resumption.path, resumption.path.parent)
    checkpointing.load_best(inputs, progress, inputs.model)
    if inputs.rank == 0:
        checkpoint_files.forget_best(inputs.checkpoint_folder)
    return _result(inputs.model, progress)


def _recompute(inputs: FitInputs) -> bool:
    """Checkpoint activations where a recipe asks; return whether autocast is to keep no copies of weights."""
    settings, on_cpu = inputs.settings, inputs.scoring.device.type == "cpu"
    if not settings.gradient_checkpointing:
        return False
    checkpoint_activations(inputs.model, offload=settings.activation_offload)
    if settings.activation_offload:
        inputs.observer.on_setting("activation_offload", not on_cpu)
        if on_cpu:
            inputs.observer.on_note(
                "training.activation_offload: activations are on the host already; nothing was moved"
            )
    # DeepSpeed enters autocast in its own way, and gathers weights that are used for one layer only.
    drops_copies = (
        inputs.speed.drop_copies and inputs.scoring.precision != "no" and sharding.requested_backend() != "deepspeed"
    )
    inputs.observer.on_setting("drop_copies", drops_copies)
    return drops_copies


def _interruption(inputs: FitInputs, progress: Progress) -> str:
    by = inputs.stopped_by() or "a signal to another process"
    done = f"stopped by {by} after step {progress.step} of {inputs.budget.steps}"
    if progress.stopped_by != "interrupted":
        done += ", with which training had ended" + (" early" if progress.stopped_by == "early_stopping" else "")
    if progress.saved_step != progress.step:
        return f"{done}; no checkpoint could be written"
    return f"{done}; a checkpoint was written, and the same command goes on from there"


def _result(model: nn.Module, progress: Progress, live: LiveModel | None = None) -> FitResult:
    rows, best = [row for row in progress.log.rows if "loss" in row], progress.selection
    return FitResult(
        model=model,
        steps=progress.step,
        stopped_by=progress.stopped_by,
        logged_step=progress.logged_step,
        learning_rate=progress.learning_rate,
        first_loss=rows[0]["loss"],
        final_loss=rows[-1].get("step_loss", rows[-1]["loss"]),
        best_step=best.best_step if best is not None else None,
        best_value=best.best_value if best is not None else None,
        without_gradient=None if progress.without_gradient is None else tuple(progress.without_gradient),
        skipped=tuple(progress.skipped),
        loss_scale=progress.loss_scale,
        live=live,
    )


def arguments(inputs: FitInputs) -> dict[str, Any]:
    """Return the recipe as fields of TrainingArguments; every engine takes its optimiser settings from them."""
    training, budget, on_cpu = inputs.settings, inputs.budget, inputs.scoring.device.type == "cpu"
    return {
        "output_dir": str(inputs.checkpoint_folder),
        "use_cpu": on_cpu,
        "ddp_backend": "gloo" if on_cpu and PartialState().num_processes > 1 else None,
        "ddp_find_unused_parameters": False,
        "per_device_train_batch_size": budget.per_device_batch,
        "gradient_accumulation_steps": budget.accumulation,
        "num_train_epochs": 1,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": training.schedule,
        "warmup_steps": budget.warmup_steps(training),
        "optim": training.optimizer,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.clip_norm,
        "seed": inputs.seed,
        "train_sampling_strategy": "sequential",
        **loading(on_cpu),
        "remove_unused_columns": False,
        "logging_strategy": "no",
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "eval_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "run_name": inputs.folder.name,
    }


def loading(on_cpu: bool) -> dict[str, Any]:
    """Return how the Trainer gets its batches to the device, as fields of TrainingArguments.

    On an accelerator from pinned memory, without waiting for the copy: an ordinary one waits for all work queued before
    it, in every step. No worker processes: to receive a batch from one takes longer than to collate it, and a worker
    would be the fork of a process with threads and a CUDA context.
    """
    return {
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": not on_cpu,
        # The processes joined at the run's start; the Trainer's own way to join them knows of no FSDP on a CPU.
        "accelerator_config": {"non_blocking": not on_cpu, "use_configured_state": True},
    }
