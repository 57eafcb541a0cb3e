"""Fits a model to the training split: by the Trainer, by the plain loop, or by logistic regression on features."""

from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState

from bench import checkpoints, diet, resuming, sharding
from bench.errors import SetupError, StoppedError
from bench.fitting import Fit
from bench.heads import unwrapped
from bench.likelihood import grouped
from bench.packed_attention import recomputing
from bench.score import Scoring, autocast, batch_tokens, collate, evaluating
from bench.settings import Recipe


def arguments(recipe: Recipe, fit: Fit, on_cpu: bool) -> dict[str, Any]:
    """The recipe as fields of TrainingArguments; every engine takes its optimiser settings from them."""
    training, budget = recipe.training, fit.budget
    return {
        "output_dir": str(fit.folder / checkpoints.FOLDER),
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
    if sharding.divides_parameters():
        fit.twin = sharding.Twin(fit.model)
    if sharding.asked() == "deepspeed":
        fit.first_gradients = sharding.FirstGradients(fit.model)
    _recompute(fit, recipe)
    model = _train(fit, recipe, on_cpu)
    fit.ballot.close()
    if fit.stopped_by == "interrupted":
        raise StoppedError(fit.interruption)
    resuming.load_best(fit, model)
    if fit.rank == 0:
        checkpoints.forget_best(fit.folder / checkpoints.FOLDER)
    return model


def _train(fit: Fit, recipe: Recipe, on_cpu: bool) -> Any:
    from transformers import TrainingArguments

    from bench import engine_loop, engine_trainer

    # An earlier training of this process has left its precision there.
    AcceleratorState._reset_state()
    values = arguments(recipe, fit, on_cpu)
    if recipe.training.engine == "loop":
        return engine_loop.run(fit, TrainingArguments(**values))
    if fit.objective == "text" and not fit.by_encoder_decoder:
        from bench import engine_sft  # TRL takes seconds to import

        told = "no" if sharding.asked() == "deepspeed" else fit.scoring.precision
        return engine_sft.run(fit, sharding.settle(engine_sft.config(values, told)))
    return engine_trainer.run(fit, sharding.settle(TrainingArguments(**values)))


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


def checkpoint_activations(model: Any, *, offload: bool = False) -> None:
    """Recomputes activations in the backward pass, also of a model that leaves out pads.

    offload: what is kept for it waits on the host. Raises SetupError for a model that does not support it.
    """
    # With a frozen embedding the first checkpointed block would see no input that needs a gradient, and pass none on.
    if not model.supports_gradient_checkpointing:
        raise SetupError(f"training.gradient_checkpointing: {type(unwrapped(model)).__name__} does not support it")
    settings = {"use_reentrant": False, "context_fn": recomputing}
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)
    model.enable_input_require_grads()
    if offload:
        diet.move_to_host(model)


def fit_probe(model: Any, features: list[dict[str, Any]], scoring: Scoring, options: dict[str, Any]) -> int:
    """Fits scikit-learn's logistic regression on the frozen features and writes it into the probe's linear layer.

    Every process computes its share of the features and all fit the same classifier. Returns the solver's iterations.
    """
    from accelerate.utils import gather_object

    state = PartialState()
    lengths = [len(feature["input_ids"]) for feature in features]
    found: list[tuple[int, list[float]]] = []
    with evaluating(model), autocast(scoring.device, scoring.precision):
        for numbers in grouped(lengths, batch_tokens(model, scoring))[state.process_index :: state.num_processes]:
            batch = collate([features[number] for number in numbers], scoring.tokenizer)
            inputs = {name: tensor.to(scoring.device) for name, tensor in batch.items() if name != "labels"}
            found += zip(numbers, model.features(**inputs).float().cpu().tolist(), strict=True)
    everything = sorted(gather_object(found) if state.num_processes > 1 else found)
    matrix = np.array([row for _, row in everything])
    labels = np.array([feature["labels"] for feature in features])
    weight, bias, iterations = _regress(matrix, labels, scoring.metrics.num_labels, options)
    model.linear.weight.copy_(torch.tensor(weight))
    model.linear.bias.copy_(torch.tensor(bias))
    return iterations


def _regress(matrix: Any, labels: Any, num_labels: int, options: dict[str, Any]) -> tuple[Any, Any, int]:
    """Logistic regression on standardised features, folded back into weights [labels, hidden] on the raw ones.

    matrix: [examples, hidden]. labels: ids, or rows of 0 and 1, of which each column is fitted by itself.
    """
    from sklearn.linear_model import LogisticRegression

    mean, scale = matrix.mean(0), matrix.std(0)
    scale[scale == 0] = 1.0
    standard = (matrix - mean) / scale
    weight, bias, iterations = np.zeros((num_labels, matrix.shape[1])), np.full(num_labels, -30.0), 0
    settings = {"C": options["C"], "max_iter": options["max_iter"]}
    if labels.ndim == 2:
        for column in range(num_labels):
            if len(set(labels[:, column])) == 2:
                model = LogisticRegression(**settings).fit(standard, labels[:, column])
                weight[column], bias[column] = model.coef_[0], model.intercept_[0]
                iterations = max(iterations, int(model.n_iter_.max()))
            elif labels[0, column] == 1:
                bias[column] = 30.0  # a label that every training text has
    else:
        model = LogisticRegression(**settings).fit(standard, labels)
        iterations = int(model.n_iter_.max())
        if len(model.classes_) == 2:
            # One row of weights for the second class; the first one's logit is 0.
            first, second = model.classes_
            weight[second], bias[second], bias[first] = model.coef_[0], model.intercept_[0], 0.0
        else:
            weight[model.classes_], bias[model.classes_] = model.coef_, model.intercept_
    weight = weight / scale
    return weight, bias - weight @ mean, iterations
