"""Fits a model to the training split: by the Trainer, by the plain loop, or by logistic regression on features."""

from typing import Any

from accelerate import PartialState

from bench.config.recipe import Recipe
from bench.distributed import sharding
from bench.errors import StoppedError
from bench.models.library_internals import accelerate_internals
from bench.training import checkpoint_files, checkpointing
from bench.training.memory_saving import checkpoint_activations
from bench.training.state import Fit


def arguments(recipe: Recipe, fit: Fit, on_cpu: bool) -> dict[str, Any]:
    """The recipe as fields of TrainingArguments; every engine takes its optimiser settings from them."""
    training, budget = recipe.training, fit.budget
    return {
        "output_dir": str(fit.folder / checkpoint_files.FOLDER),
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
        "seed": fit.seed,
        "train_sampling_strategy": "sequential",
        **loading(on_cpu),
        "remove_unused_columns": False,
        "logging_strategy": "no",
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "eval_strategy": "no",
        "save_strategy": "no",
        "report_to": list(fit.trackers) or "none",
        "run_name": fit.folder.name,
    }


def loading(on_cpu: bool) -> dict[str, Any]:
    """How the Trainer gets its batches to the device, as fields of TrainingArguments.

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


def fit(fit: Fit, recipe: Recipe, on_cpu: bool) -> Any:
    """Trains with the recipe's engine; returns the model unwrapped, with its best weights where a recipe asks.

    Raises StoppedError where training was asked to stop, after a checkpoint was written.
    """
    if sharding.shards_parameters():
        fit.twin = sharding.FullModelShell(fit.model)
    if sharding.asked() == "deepspeed":
        fit.first_gradients = sharding.FirstGradients(fit.model)
    _recompute(fit, recipe)
    model = _train(fit, recipe, on_cpu)
    fit.ballot.close()
    if fit.stopped_by == "interrupted":
        raise StoppedError(fit.interruption)
    checkpointing.load_best(fit, model)
    if fit.rank == 0:
        checkpoint_files.forget_best(fit.folder / checkpoint_files.FOLDER)
    return model


def _train(fit: Fit, recipe: Recipe, on_cpu: bool) -> Any:
    from transformers import TrainingArguments

    from bench.training.engines import loop, trainer

    # An earlier training of this process has left its precision there.
    accelerate_internals.reset_state()
    values = arguments(recipe, fit, on_cpu)
    if recipe.training.engine == "loop":
        return loop.run(fit, TrainingArguments(**values))
    if fit.objective == "text" and not fit.by_encoder_decoder:
        from bench.training.engines import sft  # TRL takes seconds to import

        told = "no" if sharding.asked() == "deepspeed" else fit.scoring.precision
        return sft.run(fit, sharding.apply_deepspeed_defaults(sft.config(values, told)))
    return trainer.run(fit, sharding.apply_deepspeed_defaults(TrainingArguments(**values)))


def _recompute(fit: Fit, recipe: Recipe) -> None:
    """Checkpoints activations where a recipe asks, and what goes with it; what is in force is written down."""
    training = recipe.training
    if not training.gradient_checkpointing:
        return
    checkpoint_activations(fit.model, offload=training.activation_offload)
    if training.activation_offload:
        fit.in_force["activation_offload"] = fit.scoring.device.type == "cuda"
        if not fit.in_force["activation_offload"]:
            fit.notes.append("training.activation_offload: activations are on the host already; nothing was moved")
    # DeepSpeed and FSDP enter autocast in their own ways, and gather weights that are used for one layer only.
    fit.drops_copies = recipe.speed.drop_copies and fit.scoring.precision != "no" and sharding.asked() is None
    fit.in_force["drop_copies"] = fit.drops_copies
