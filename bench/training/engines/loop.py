"""The plain engine: all of training in one readable loop on accelerate, to compare with and to prove the others."""

import contextlib
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from transformers import BatchEncoding, TrainingArguments
from transformers.trainer_pt_utils import get_parameter_names

from bench.distributed import sharding
from bench.training import in_force, optimizer_registry
from bench.training.checkpointing import EngineState, restore, save
from bench.training.loss import StepLoss, step_loss
from bench.training.memory_saving import drop_copies
from bench.training.schedule import make_scheduler, seed_step
from bench.training.self_check import checked
from bench.training.session import Session


def run(session: Session, arguments: TrainingArguments) -> nn.Module:
    """Train the model and return it; `arguments` give optimiser settings by the same names as for the Trainer."""
    inputs, progress, policy = session.inputs, session.progress, session.policy
    settings, budget = inputs.settings, inputs.budget
    with step_loss(inputs) as wanted:
        loss_of = checked(wanted)
        accelerator = Accelerator()
        if session.drops_copies:
            drop_copies(accelerator)
        optimizer_class, options = optimizer_registry.kind_and_options(arguments, inputs.model)
        groups = _parameter_groups(inputs.model, settings.weight_decay)
        model, optimizer = accelerator.prepare(inputs.model, optimizer_class(groups, **options))
        scheduler = make_scheduler(settings, budget, optimizer.optimizer)
        engine = EngineState(accelerator, model, optimizer, scheduler)
        since_log = restore(inputs, session.resumption, engine)
        inputs.observer.on_start(sharding.in_force(accelerator, model))
        policy.begin(in_force.Live(accelerator, optimizer, scheduler, settings.clip_norm))
        for step in range(progress.step + 1, budget.steps + 1):
            progress.steps.start()
            batches = _micro_batches(loss_of, step, accelerator)
            items = accelerator.reduce(loss_of.divisor(batches), "sum")
            model.train()
            for number, batch in enumerate(batches):
                seed_step(inputs.seed, step - 1, number, inputs.rank)
                progress.steps.add(batch)
                with accelerator.no_sync(model) if number < len(batches) - 1 else contextlib.nullcontext():
                    loss = loss_of.batch_loss(model, batch, items) * accelerator.num_processes
                    accelerator.backward(loss)
                since_log += loss.detach()
                progress.newest_loss.add(loss)
            policy.check_gradients(accelerator.unwrap_model(model))
            norm = accelerator.clip_grad_norm_(model.parameters(), settings.clip_norm) if settings.clip_norm else None
            rate = scheduler.get_last_lr()[0]
            optimizer.step()
            if not policy.skipped_steps.after_update(accelerator, optimizer):
                scheduler.step()
            optimizer.zero_grad()
            policy.end_step(step, accelerator)
            if policy.due_for_log(step):
                _log(session, accelerator, since_log, rate, norm)
            if policy.due_for_validation(step):
                policy.run_validation(accelerator.unwrap_model(model))
            decision = policy.decide()
            if decision.logs:
                _log(session, accelerator, since_log, rate, norm)
            if decision.saves:
                save(inputs, progress, engine, since_log)
            if decision.ends:
                break
        return accelerator.unwrap_model(model)


def _log(session: Session, accelerator: Accelerator, since_log: torch.Tensor, rate: float, norm: Any) -> None:
    """Log the step that is done, with the mean loss since the last one that was."""
    mean = accelerator.reduce(since_log, "mean").item() / (session.progress.step - session.progress.logged_step)
    session.policy.log_step(session.progress.step, mean, rate, None if norm is None else float(norm))
    since_log.zero_()


def _micro_batches(loss_of: StepLoss, step: int, accelerator: Accelerator) -> list[BatchEncoding]:
    """Return this process's micro-batches of one step: the same rows as accelerate's own sharding gives the Trainer."""
    inputs, budget = loss_of.inputs, loss_of.inputs.budget
    size, first = budget.per_device_batch, (step - 1) * budget.global_batch
    own, stride = first + accelerator.process_index * size, size * accelerator.num_processes
    starts = range(own, first + budget.global_batch, stride)
    rows = [[inputs.train.features[number] for number in inputs.order[start : start + size]] for start in starts]
    return [BatchEncoding(loss_of.collate(chosen)).to(accelerator.device) for chosen in rows]


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Group parameters with and without weight decay: none on biases and norms, as in the Trainer."""
    forbidden = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]
    decayed = set(get_parameter_names(model, [nn.LayerNorm], forbidden))
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for name, p in trained if name in decayed], "weight_decay": weight_decay},
        {"params": [p for name, p in trained if name not in decayed], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
