"""The plain engine: all of training in one readable loop on accelerate, to compare with and to prove the other."""

import contextlib
from typing import Any

import torch
from accelerate import Accelerator
from transformers import Trainer, TrainingArguments, get_scheduler

from bench.distributed.sharding import in_force
from bench.training.answer_only import while_training
from bench.training.checkpointing import Live, restore, save
from bench.training.memory_saving import drop_copies
from bench.training.schedule import seed_step
from bench.training.state import Fit


@while_training
def run(fit: Fit, arguments: TrainingArguments) -> Any:
    """Trains `fit.model` and returns it; `arguments` give optimiser settings by the same names as for the Trainer."""
    accelerator = Accelerator()
    if fit.drops_copies:
        drop_copies(accelerator)
    settings, budget = fit.settings, fit.budget
    kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments, fit.model)
    groups = [group for group in _groups(fit.model, settings.weight_decay) if group["params"]]
    model, optimizer = accelerator.prepare(fit.model, kind(groups, **options))
    scheduler = get_scheduler(settings.schedule, optimizer.optimizer, budget.warmup_steps(settings), budget.steps)
    order = fit.order
    live = Live(accelerator, model, optimizer, scheduler)
    since_log = restore(fit, live)
    if fit.on_start is not None:
        fit.on_start(in_force(accelerator, model))
    for step in range(fit.step + 1, budget.steps + 1):
        fit.steps.start()
        batches = [b.to(accelerator.device) for b in _micro_batches(fit, order, step, accelerator)]
        items = accelerator.reduce(sum((b["labels"] != -100).sum() for b in batches), "sum")  # type: ignore[call-overload]
        model.train()
        for number, batch in enumerate(batches):
            seed_step(fit.seed, step - 1, number, fit.rank)
            fit.steps.add(batch)
            last = number == len(batches) - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(model):
                loss = fit.batch_loss(model, batch, items) * accelerator.num_processes
                accelerator.backward(loss)
            since_log += loss.detach()
        fit.check_gradients(accelerator.unwrap_model(model))
        norm = accelerator.clip_grad_norm_(model.parameters(), settings.clip_norm) if settings.clip_norm else None
        rate = scheduler.get_last_lr()[0]
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        fit.steps.stop()
        fit.step = step
        if fit.due_for_log(step):
            mean = accelerator.reduce(since_log, "mean").item() / (step - fit.logged_step)
            fit.log_step(step, mean, rate, None if norm is None else float(norm))
            since_log.zero_()
        fit.progress.advance(loss=fit.log.losses[-1])
        if fit.due_for_validation(step):
            fit.run_validation(accelerator.unwrap_model(model))
        fit.decide()
        if fit.saves:
            save(fit, live, since_log)
        if fit.ends:
            break
    return accelerator.unwrap_model(model)


def _micro_batches(fit: Fit, order: list[int], step: int, accelerator: Accelerator) -> list[Any]:
    """This process's micro-batches of one step: the same rows as accelerate's own sharding gives the Trainer."""
    from transformers import BatchEncoding

    size, first = fit.budget.per_device_batch, (step - 1) * fit.budget.global_batch
    starts = range(
        first + accelerator.process_index * size, first + fit.budget.global_batch, size * accelerator.num_processes
    )
    rows = [[fit.train.features[number] for number in order[start : start + size]] for start in starts]
    return [BatchEncoding(fit.collate(chosen)) for chosen in rows]


def _groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """No weight decay on biases and norms, as the Trainer does it."""
    from transformers.trainer_pt_utils import get_parameter_names

    forbidden = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]
    decayed = set(get_parameter_names(model, [torch.nn.LayerNorm], forbidden))
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return [
        {"params": [p for name, p in named if name in decayed], "weight_decay": weight_decay},
        {"params": [p for name, p in named if name not in decayed], "weight_decay": 0.0},
    ]
