"""The state of training, put into checkpoints and taken out of them, for every engine and way to spread a model.

    live = Live(accelerator, model, optimizer, scheduler)   # as accelerate prepared them
    save(fit, live, since_log)
    since_log = restore(fit, live)                          # zero, where there is nothing to go on from

Whatever an uninterrupted run would know at this place is in a checkpoint, or follows from the seed and the step alone:
the order of examples (Budget.order) and the draws of dropout (seed_step). Weights, and the optimiser's tensors, are
safetensors, written by rank zero and told to the others; only what DeepSpeed or FSDP divided over the processes is
written by these libraries, in their own formats.
"""

import dataclasses
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, broadcast_object_list, gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from bench.errors import SetupError
from bench.records.throughput import Earlier
from bench.training import checkpoint_files

Fit = Any  # bench.training.state.Fit, which lies above
# The Trainer wants to read a checkpoint's step from a file of its own.
_TRAINER_STATE = "trainer_state.json"


@dataclass(frozen=True)
class Live:
    """What an engine trains with, as accelerate prepared it."""

    accelerator: Any
    model: Any
    optimizer: Any
    scheduler: Any

    @property
    def spread(self) -> str:
        """How the state is divided: "whole" on every process, "ZeRO-2", "FSDP" ..."""
        kind = self.accelerator.distributed_type
        if kind == DistributedType.DEEPSPEED:
            return f"ZeRO-{self.accelerator.state.deepspeed_plugin.zero_stage}"
        return "FSDP" if kind == DistributedType.FSDP else "whole"


def trained_state(model: Any) -> dict[str, torch.Tensor]:
    """Trained parameters of a plain and whole model by name, on the CPU."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return {name: parameter.detach().cpu().contiguous() for name, parameter in trained}


# ---------------------------------------------------------------- writing


def save(fit: Fit, live: Live, since_log: torch.Tensor) -> None:
    """Writes a checkpoint of this step; every process must call it. since_log: this process's loss since the last log.

    A checkpoint that can't be written is no reason to lose the run: `fit.notes` says so, and training goes on.
    """
    folder = fit.folder / checkpoint_files.FOLDER
    with fit.clock.phase("save"):
        state = _state(fit, live, since_log)
        if live.spread == "whole":
            if fit.rank == 0:
                _write(fit, folder, lambda partial: _write_whole(fit, live, partial, state))
        else:
            _write_divided(fit, live, folder, state)
    fit.saved()


def _write(fit: Fit, folder: Path, write: Any) -> None:
    try:
        partial = checkpoint_files.begin(folder, fit.step)
        write(partial)
        checkpoint_files.seal(partial)
    except (OSError, SafetensorError) as error:
        fit.notes.append(f"the checkpoint of step {fit.step} could not be written: {error}")
    else:
        fit.saved_step = fit.step
        checkpoint_files.discard(folder, fit.step, fit.checkpoints.keep)


def _write_whole(fit: Fit, live: Live, partial: Path, state: dict[str, Any]) -> None:
    tensors: dict[str, torch.Tensor] = {}
    state["optimizer"] = take_apart(live.optimizer.state_dict(), "", tensors)
    save_file(tensors, partial / checkpoint_files.OPTIMIZER)
    save_file(trained_state(live.accelerator.unwrap_model(live.model)), partial / checkpoint_files.TRAINED)
    _write_state(fit, partial, state)


def _write_state(fit: Fit, partial: Path, state: dict[str, Any]) -> None:
    (partial / checkpoint_files.STATE).write_text(json.dumps(state), encoding="utf-8")
    _write_trainer_state(fit, partial)
    checkpoint_files.carry_best(partial.parent, partial)


def _write_trainer_state(fit: Fit, folder: Path) -> None:
    known = {"global_step": fit.step, "train_batch_size": fit.budget.per_device_batch}
    (folder / _TRAINER_STATE).write_text(json.dumps(known), encoding="utf-8")


def folder_for_trainer(fit: Fit) -> str | None:
    """What the Trainer is to resume from. Where this machine has no part of the checkpoint, all that it asks for."""
    path = fit.resumes_from
    if path is not None and not (path / _TRAINER_STATE).is_file():
        path.mkdir(parents=True, exist_ok=True)
        _write_trainer_state(fit, path)
    return None if path is None else str(path)


def _write_divided(fit: Fit, live: Live, folder: Path, state: dict[str, Any]) -> None:
    """Each process writes its part. The first process of a machine seals its folder, which may be that of all."""
    wait, first_here = live.accelerator.wait_for_everyone, live.accelerator.is_local_main_process
    if fit.rank == 0:
        checkpoint_files.begin(folder, fit.step)
    wait()
    partial = checkpoint_files.partial_of(folder, fit.step)
    if first_here:
        partial.mkdir(parents=True, exist_ok=True)
    wait()
    problem = None
    try:
        _save_divided(live, partial)
        if fit.rank == 0:
            _write_state(fit, partial, state)
    except (OSError, RuntimeError) as error:  # torch's writer says a full disk in an error of its own
        problem = str(error).splitlines()[0]
    problems = [text for text in gather_object([problem]) if text]
    if problems:
        fit.notes.append(f"the checkpoint of step {fit.step} could not be written: {problems[0]}")
        if first_here:
            shutil.rmtree(partial, ignore_errors=True)
        return
    if fit.rank == 0:
        checkpoint_files.seal(partial)
    wait()
    if first_here and fit.rank != 0 and partial.is_dir():  # a disk of this machine's own
        _write_state(fit, partial, state)
        checkpoint_files.seal(partial)
    fit.saved_step = fit.step
    if first_here:
        checkpoint_files.discard(folder, fit.step, fit.checkpoints.keep)


def _save_divided(live: Live, partial: Path) -> None:
    if live.spread == "FSDP":
        from accelerate.utils import save_fsdp_model, save_fsdp_optimizer

        plugin = live.accelerator.state.fsdp_plugin
        save_fsdp_model(plugin, live.accelerator, live.model, str(partial))
        save_fsdp_optimizer(plugin, live.accelerator, live.optimizer, live.model, str(partial))
    else:
        live.model.save_checkpoint(str(partial), exclude_frozen_parameters=_is_adapted(live))


def _is_adapted(live: Live) -> bool:
    # As the Trainer asks when it reads such a checkpoint.
    return hasattr(live.accelerator.unwrap_model(live.model), "peft_config")


def _state(fit: Fit, live: Live, since_log: torch.Tensor) -> dict[str, Any]:
    """All but tensors; the same on every process but for what only rank zero has."""
    steps = fit.steps.until_now()
    per_rank = gather_object([(float(since_log), steps.totals, steps.measured)])
    steps.totals, steps.measured = (
        [sum(column) for column in zip(*(row[n] for row in per_rank), strict=True)] for n in (1, 2)
    )
    chosen, scaler = fit.selection, getattr(live.accelerator, "scaler", None)
    return {
        **fit.identity,
        "step": fit.step,
        "spread": live.spread,
        "world_size": live.accelerator.num_processes,
        "precision": fit.scoring.precision,
        "logged_step": fit.logged_step,
        "learning_rate": fit.learning_rate,
        "seconds": time.perf_counter() - fit.started_s,
        "since_log": [row[0] for row in per_rank],
        "selection": None if chosen is None else [chosen.best_value, chosen.best_step, chosen.waited],
        "steps": dataclasses.asdict(steps),
        "scheduler": take_apart(live.scheduler.state_dict(), "", {}),
        "scaler": scaler.state_dict() if scaler is not None else None,
        "rows": fit.log.rows,
        "without_gradient": fit.without_gradient,
    }


def take_apart(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """A state dict as JSON that keeps its types; its tensors are added to `tensors`, each under a name."""
    if isinstance(value, torch.Tensor):
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"dict": [[key, take_apart(item, f"{name}.{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        parts = [take_apart(item, f"{name}.{number}", tensors) for number, item in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": parts}
    return {"value": value}


def put_together(value: dict[str, Any], tensors: Mapping[str, torch.Tensor]) -> Any:
    """What `take_apart` took apart."""
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: put_together(item, tensors) for key, item in content}
    if kind == "value":
        return content
    parts = [put_together(item, tensors) for item in content]
    return tuple(parts) if kind == "tuple" else parts


# ---------------------------------------------------------------- reading


def agree(fit: Fit, found: checkpoint_files.Found | None, *, divided: bool) -> dict[str, Any] | None:
    """The state of the checkpoint that all processes go on from, or None; sets `fit.resumes_from`.

    found: rank zero's, which decides. divided: whether each machine must have its own part whole, and checks it.
    Raises SetupError where the training data are not those of the run before.
    """
    folder, first_here = fit.folder / checkpoint_files.FOLDER, PartialState().is_local_main_process
    while True:
        step = broadcast_object_list([found.step if fit.rank == 0 and found else None])[0]
        if step is None:
            return None
        own = checkpoint_files.path_of(folder, step)
        wrong = checkpoint_files.damage(own) if divided and fit.rank != 0 and first_here else None
        everywhere = [item for item in gather_object([wrong]) if item]
        if not everywhere:
            break
        fit.notes.append(f"the checkpoint of step {step} was not used: on another machine, {everywhere[0]}")
        found, damaged = checkpoint_files.newest(folder, below=step) if fit.rank == 0 else (None, [])
        fit.notes += damaged
    state = broadcast_object_list([checkpoint_files.read_state(own) if fit.rank == 0 else None])[0]
    if state["data"] != fit.identity["data"]:
        raise SetupError(f"{folder}: the training data have changed since; give --overwrite to start anew")
    fit.resumes_from = own
    return state


def restore(fit: Fit, live: Live, *, loaded: bool = False) -> torch.Tensor:
    """Takes up the state that was agreed on; every process must call it. Returns the loss since the last log.

    loaded: whether the engine has itself read what DeepSpeed divided. Raises SetupError where this launch can't go on.
    """
    device, state = live.accelerator.device, fit.resumed_state
    if state is None:
        return torch.zeros((), device=device)
    _refuse_another_launch(fit, live, state)
    with fit.clock.phase("load"):
        if live.spread == "whole":
            _load_whole(fit, live, state)
        elif not loaded or live.spread == "FSDP":
            _load_divided(live, fit.resumes_from)
        live.scheduler.load_state_dict(put_together(state["scheduler"], {}))
        if state["scaler"]:
            live.accelerator.scaler.load_state_dict(state["scaler"])
        if fit.rank == 0:
            checkpoint_files.carry_best(fit.resumes_from, fit.resumes_from.parent)
    losses = state["since_log"]
    same = len(losses) == live.accelerator.num_processes
    return torch.tensor(losses[fit.rank] if same else sum(losses) / len(losses), device=device)


def _refuse_another_launch(fit: Fit, live: Live, state: dict[str, Any]) -> None:
    then = {"spread": state["spread"], "precision": state["precision"]}
    now = {"spread": live.spread, "precision": fit.scoring.precision}
    if live.spread != "whole":
        then["processes"], now["processes"] = state["world_size"], live.accelerator.num_processes
    differing = [f"{name} {value}, now {now[name]}" for name, value in then.items() if value != now[name]]
    if differing:
        raise SetupError(
            f"the checkpoint of step {state['step']} was written with {'; '.join(differing)}; launch it as before, "
            "or give --overwrite to start anew"
        )


def _load_whole(fit: Fit, live: Live, state: dict[str, Any]) -> None:
    load_trained(fit, live.accelerator.unwrap_model(live.model), fit.resumes_from / checkpoint_files.TRAINED)
    tensors = dict(_from_rank_zero(fit, fit.resumes_from / checkpoint_files.OPTIMIZER, live.accelerator.device))
    live.optimizer.load_state_dict(put_together(state["optimizer"], tensors))


def _load_divided(live: Live, path: Path) -> None:
    if live.spread == "FSDP":
        from accelerate.utils import load_fsdp_model, load_fsdp_optimizer

        plugin = live.accelerator.state.fsdp_plugin
        load_fsdp_model(plugin, live.accelerator, live.model, str(path))
        load_fsdp_optimizer(plugin, live.accelerator, live.optimizer, live.model, str(path))
    else:
        live.model.load_checkpoint(str(path), load_module_strict=not _is_adapted(live))


def load_trained(fit: Fit, model: Any, path: Path) -> None:
    """Fills a plain model's trained parameters from rank zero's file; every process must call it."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in _from_rank_zero(fit, path, next(iter(parameters.values())).device):
            parameters[name].copy_(tensor)


def _from_rank_zero(fit: Fit, path: Path, device: torch.device) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and tensor of a file that only rank zero need have, one after another."""
    tensors = load_file(path) if fit.rank == 0 else {}
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        yield from tensors.items()
        return
    shapes = [(name, tensor.shape, tensor.dtype) for name, tensor in tensors.items()]
    for name, shape, dtype in broadcast_object_list([shapes])[0]:
        tensor = tensors[name].to(device) if fit.rank == 0 else torch.empty(shape, dtype=dtype, device=device)
        # As bytes: not every backend sends every type.
        torch.distributed.broadcast(tensor.flatten().view(torch.uint8), src=0)
        yield name, tensor


def take_up(fit: Fit, state: dict[str, Any]) -> None:
    """Places, counters, log and selection of a checkpoint's state; `restore` does the rest, once there is a model."""
    fit.resumed_state = state
    fit.step, fit.logged_step, fit.learning_rate = state["step"], state["logged_step"], state["learning_rate"]
    fit.started_s = time.perf_counter() - state["seconds"]
    fit.log.restore(state["rows"], state["seconds"])
    fit.without_gradient = state["without_gradient"]
    if fit.rank == 0:
        earlier, then, now = Earlier(**state["steps"]), state["world_size"], PartialState().num_processes
        if then != now:  # rates of the two can't be joined
            fit.notes.append(f"training went on with {now} processes, after {then}: its rates are of the steps since")
            earlier = Earlier(totals=earlier.totals, warmup_s=earlier.warmup_s + sum(earlier.seconds))
        fit.steps.earlier = earlier
    if fit.selection is not None:
        fit.selection.best_value, fit.selection.best_step, fit.selection.waited = state["selection"]


# ---------------------------------------------------------------- the best weights


def keep_best(fit: Fit, model: Any) -> None:
    """Rank zero writes the trained parameters of a plain and whole model as the best so far."""
    with fit.clock.phase("save"):
        if fit.rank == 0:
            weights = trained_state(model)
            checkpoint_files.keep_best(fit.folder / checkpoint_files.FOLDER, lambda path: save_file(weights, path))


def load_best(fit: Fit, model: Any) -> None:
    """Fills a plain model with the best weights, where there are any; every process must call it."""
    if fit.selection is None or fit.selection.best_step is None:
        return
    load_trained(fit, model, fit.folder / checkpoint_files.FOLDER / checkpoint_files.BEST)
