"""Saves the state of training as checkpoints and restores it, for every engine and every parallelism.

    engine = EngineState(accelerator, model, optimizer, scheduler)   # as accelerate prepared them
    save(inputs, progress, engine, since_log)
    since_log = restore(inputs, resumption, engine)                  # zero, where there is nothing to go on from

Whatever an uninterrupted run would know at this place is in a checkpoint, or follows from the seed and the step alone:
the order of examples (Budget.order) and the draws of dropout (seed_step). Weights, and the optimiser's tensors, are
safetensors, written by rank zero and broadcast to the others; under ZeRO-3 and FSDP2 each process writes its part
(`checkpoint_shards`). Only what ZeRO-1 and 2 sharded over the processes, and what lies on an NVMe disk, is written by
DeepSpeed in its own format. It reads that by unpickling, so that only what is signed is read.
"""

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, broadcast_object_list, gather_object
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from bench.distributed.live_model import LiveModel
from bench.errors import SetupError
from bench.models import shards
from bench.records.throughput import PriorSteps
from bench.training import checkpoint_files, checkpoint_shards
from bench.training.checkpoint_shards import LIKE_PARAMETER
from bench.training.state import FitInputs, Progress

# The Trainer wants to read a checkpoint's step from a file of its own.
_TRAINER_STATE = "trainer_state.json"
# Of a state, whatever shards it.
_KEYS = {
    "hash", "seed", "data", "step", "spread", "world_size", "precision", "logged_step", "learning_rate", "seconds",
    "since_log", "selection", "steps", "scheduler", "scaler", "rows", "without_gradient",
}  # fmt: skip
# As safetensors names them.
_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}
_START_ANEW = "give --overwrite to start anew"


@dataclass(frozen=True)
class EngineState:
    """The objects that an engine trains with, as accelerate prepared them."""

    accelerator: Accelerator
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler

    @property
    def sharding(self) -> str:
        """Return what shards the state over the processes: "ZeRO-2", "FSDP" ..., or "whole" where nothing does."""
        kind = self.accelerator.distributed_type
        if kind == DistributedType.DEEPSPEED:
            return f"ZeRO-{self.accelerator.state.deepspeed_plugin.zero_stage}"
        return "FSDP" if kind == DistributedType.FSDP else "whole"


@dataclass(frozen=True)
class Resumption:
    """A checkpoint that all processes go on from. state: as `checkpoint_files.read_state` read it on rank zero."""

    path: Path
    state: dict[str, Any]


def trained_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the trained parameters of a plain and whole model by name, on the CPU."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return {name: parameter.detach().cpu().contiguous() for name, parameter in trained}


# ---------------------------------------------------------------- writing


def save(inputs: FitInputs, progress: Progress, engine: EngineState, since_log: torch.Tensor) -> None:
    """Write a checkpoint of this step; every process must call it. since_log: this process's loss since the last log.

    A checkpoint that can't be written is no reason to lose the run: the observer hears of it, and training goes on.
    """
    with inputs.clock.phase("save"), inputs.display.paused():
        state = _state(inputs, progress, engine, since_log)
        if engine.sharding != "whole":
            written = _write_sharded(inputs, engine, state)
        else:
            written = inputs.rank == 0 and _write_whole(inputs, engine, state)
    if written:
        progress.saved()
    progress.restart_checkpoint_timer()


def _write_whole(inputs: FitInputs, engine: EngineState, state: dict[str, Any]) -> bool:
    folder, step = inputs.checkpoint_folder, state["step"]
    try:
        partial = checkpoint_files.begin(folder, step)
        _write_tensors(engine, partial, state)
        _write_state(inputs, partial, state)
        checkpoint_files.seal(partial)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(checkpoint_files.partial_of(folder, step), ignore_errors=True)  # the next one needs its space
        inputs.observer.on_unsaved(step, str(error))
        return False
    checkpoint_files.discard(folder, step, inputs.checkpoints.keep)
    return True


def _write_tensors(engine: EngineState, partial: Path, state: dict[str, Any]) -> None:
    tensors: dict[str, torch.Tensor] = {}
    state["optimizer"] = flatten_state(engine.optimizer.state_dict(), "", tensors)
    save_file(tensors, partial / checkpoint_files.OPTIMIZER)
    save_file(trained_state(engine.accelerator.unwrap_model(engine.model)), partial / checkpoint_files.TRAINED)


def _write_state(inputs: FitInputs, partial: Path, state: dict[str, Any]) -> None:
    (partial / checkpoint_files.STATE).write_text(json.dumps(state), encoding="utf-8")
    _write_trainer_state(inputs, partial, state["step"])
    checkpoint_files.carry_best(partial.parent, partial)


def _write_trainer_state(inputs: FitInputs, folder: Path, step: int) -> None:
    known = {"global_step": step, "train_batch_size": inputs.budget.per_device_batch}
    (folder / _TRAINER_STATE).write_text(json.dumps(known), encoding="utf-8")


def folder_for_trainer(inputs: FitInputs, resumption: Resumption | None) -> str | None:
    """Return the folder that the Trainer resumes from, if any.

    Where this machine has no part of the checkpoint, the one file that the Trainer reads itself is written there.
    """
    if resumption is None:
        return None
    path = resumption.path
    if not (path / _TRAINER_STATE).is_file():
        path.mkdir(parents=True, exist_ok=True)
        _write_trainer_state(inputs, path, resumption.state["step"])
    return str(path)


def _write_sharded(inputs: FitInputs, engine: EngineState, state: dict[str, Any]) -> bool:
    """Write this process's part. The first process of a machine seals its folder, which may be that of all."""
    wait, first_here = engine.accelerator.wait_for_everyone, engine.accelerator.is_local_main_process
    folder, step = inputs.checkpoint_folder, state["step"]
    partial = checkpoint_files.partial_of(folder, step)
    problem = _try(checkpoint_files.begin, folder, step) if inputs.rank == 0 else None
    wait()
    if first_here:
        problem = problem or _try(partial.mkdir, parents=True, exist_ok=True)
    if _any_unsaved(inputs, step, problem):
        return False
    problem = _try(_save_shards, engine, partial)
    if inputs.rank == 0:
        problem = problem or _try(_write_state, inputs, partial, state)
    if _any_unsaved(inputs, step, problem):
        if first_here:
            shutil.rmtree(partial, ignore_errors=True)
        return False
    problem = _try(checkpoint_files.seal, partial) if inputs.rank == 0 else None
    wait()
    if first_here and inputs.rank != 0 and partial.is_dir():  # a disk of this machine's own
        problem = _try(_write_state, inputs, partial, state) or _try(checkpoint_files.seal, partial)
    if _any_unsaved(inputs, step, problem):
        return False
    if first_here:
        checkpoint_files.discard(folder, step, inputs.checkpoints.keep)
    if inputs.rank == 0 and not checkpoint_files.is_signed(checkpoint_files.path_of(folder, step)):
        inputs.observer.on_unsaved(step, "there is no key to sign it with, and unsigned shards are not read back")
    return True


def _try(act: Callable[..., Any], *arguments: Any, **options: Any) -> str | None:
    """Do something with files; return what went wrong, in one line."""
    try:
        act(*arguments, **options)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch's writer reports a full disk as a RuntimeError
        return (str(error).splitlines() or [type(error).__name__])[0]
    return None


def _any_unsaved(inputs: FitInputs, step: int, problem: str | None) -> bool:
    """Return whether any process met a problem, and report the first one. Every process must call it."""
    problems = [text for text in gather_object([problem]) if text]
    if problems:
        inputs.observer.on_unsaved(step, problems[0])
    return bool(problems)


def _save_shards(engine: EngineState, partial: Path) -> None:
    if checkpoint_shards.is_written(engine):
        checkpoint_shards.write(engine, partial)
    else:
        engine.model.save_checkpoint(str(partial), exclude_frozen_parameters=_is_adapted(engine))


def _is_adapted(engine: EngineState) -> bool:
    # As the Trainer asks when it reads such a checkpoint.
    return hasattr(engine.accelerator.unwrap_model(engine.model), "peft_config")


def _state(inputs: FitInputs, progress: Progress, engine: EngineState, since_log: torch.Tensor) -> dict[str, Any]:
    """Return all but tensors; the same on every process but for what only rank zero has."""
    steps = progress.steps.until_now()
    per_rank = gather_object([(float(since_log), steps.totals, steps.measured)])
    steps.totals, steps.measured = (
        [sum(column) for column in zip(*(row[n] for row in per_rank), strict=True)] for n in (1, 2)
    )
    chosen, scaler = progress.selection, getattr(engine.accelerator, "scaler", None)
    return {
        **dataclasses.asdict(inputs.identity),
        "step": progress.step,
        "spread": engine.sharding,
        checkpoint_files.PARTS: engine.sharding != "whole" and checkpoint_shards.is_written(engine),
        "world_size": engine.accelerator.num_processes,
        "precision": inputs.scoring.precision,
        "logged_step": progress.logged_step,
        "learning_rate": progress.learning_rate,
        "seconds": time.perf_counter() - progress.started_s,
        "since_log": [row[0] for row in per_rank],
        "selection": None if chosen is None else [chosen.best_value, chosen.best_step, chosen.waited],
        "steps": dataclasses.asdict(steps),
        "scheduler": flatten_state(engine.scheduler.state_dict(), "", {}),
        "scaler": scaler.state_dict() if scaler is not None else None,
        "rows": progress.log.rows,
        "without_gradient": progress.without_gradient,
        "skipped": progress.skipped,
    }


def flatten_state(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """Return a state dict as JSON that keeps its types; its tensors are added to `tensors`, each under a name."""
    if isinstance(value, torch.Tensor):
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"dict": [[key, flatten_state(item, f"{name}.{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        parts = [flatten_state(item, f"{name}.{number}", tensors) for number, item in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": parts}
    return {"value": value}


def unflatten_state(value: dict[str, Any], tensors: Mapping[str, torch.Tensor]) -> Any:
    """Return the state dict that `take_apart` took apart."""
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: unflatten_state(item, tensors) for key, item in content}
    if kind == "value":
        return content
    parts = [unflatten_state(item, tensors) for item in content]
    return tuple(parts) if kind == "tuple" else parts


# ---------------------------------------------------------------- reading


def agree_on_checkpoint(inputs: FitInputs, *, sharded: bool) -> Resumption | None:
    """Return the checkpoint that all processes go on from, or None; rank zero's decides. Every process must call it.

    sharded: each machine must have its own part undamaged and signed, and checks it. Raises SetupError where it is not
    signed, and where the training data are not those of the run before.
    """
    folder, checkpoint = inputs.checkpoint_folder, inputs.checkpoint
    while True:
        found = checkpoint if inputs.rank == 0 else None
        step = broadcast_object_list([found.step if found else None])[0]
        if step is None:
            return None
        own = checkpoint_files.path_of(folder, step)
        if sharded and broadcast_object_list([found is not None and found.sharded])[0]:
            _refuse_unsigned(inputs.rank, own, found)
        checks = sharded and inputs.rank != 0 and PartialState().is_local_main_process
        damages = [item for item in gather_object([checkpoint_files.find_corruption(own) if checks else None]) if item]
        if not damages:
            break
        inputs.observer.on_note(f"the checkpoint of step {step} was not used: on another machine, {damages[0]}")
        checkpoint, damaged = checkpoint_files.newest(folder, below=step) if inputs.rank == 0 else (None, [])
        for note in damaged:
            inputs.observer.on_note(note)
    state = broadcast_object_list([checkpoint_files.read_state(own) if inputs.rank == 0 else None])[0]
    if sharded and not has_parts(state):
        _refuse_other_shards(state)
    if lacking := sorted(_KEYS - state.keys()):
        raise SetupError(f"{own} lacks {lacking[0]!r} in its {checkpoint_files.STATE}; {_START_ANEW}")
    if state["data"] != inputs.identity.data:
        raise SetupError(f"{folder}: the training data have changed since; give --overwrite to start anew")
    return Resumption(own, state)


def _refuse_unsigned(rank: int, path: Path, found: checkpoint_files.Checkpoint | None) -> None:
    """Raise SetupError for shards without this person's signature. Every process must call it.

    A machine with another home folder, thus another key, reads what rank zero has checked: the same manifest.
    """
    checked = checkpoint_files.manifest_hash(path) if found is not None and found.signed else None
    checked = broadcast_object_list([checked])[0]
    own = checkpoint_files.manifest_hash(path) if PartialState().is_local_main_process else None
    signed = rank == 0 or own is None or own == checked or checkpoint_files.is_signed(path)
    if checked is None or not all(gather_object([signed])):
        raise SetupError(checkpoint_files.unsigned(path))


def _refuse_other_shards(state: dict[str, Any]) -> None:
    """Raise SetupError where DeepSpeed would find no shards, or others; it looks before `restore` does."""
    processes = PartialState().num_processes
    if state.get("spread") == "whole" or state.get("world_size") != processes:
        raise SetupError(
            f"the checkpoint of step {state.get('step')} was written with sharding {_named(state.get('spread'))}, "
            f"processes {state.get('world_size')}, now sharded by {processes}; launch it as before, or {_START_ANEW}"
        )


def has_parts(state: Mapping[str, Any]) -> bool:
    """Return whether a checkpoint of this state was written by each process as `checkpoint_shards` does."""
    return state.get(checkpoint_files.PARTS) is True


def restore(
    inputs: FitInputs, resumption: Resumption | None, engine: EngineState, *, loaded: bool = False
) -> torch.Tensor:
    """Load weights, optimiser and scheduler of the checkpoint that was agreed on; every process must call it.

    Returns this process's loss since the last log, a scalar: zero without a checkpoint. loaded: the engine has itself
    read what DeepSpeed sharded. Raises SetupError where this launch can't go on.
    """
    device = engine.accelerator.device
    if resumption is None:
        return torch.zeros((), device=device)
    path, state = resumption.path, resumption.state
    _refuse_another_launch(inputs, engine, state)
    with inputs.clock.phase("load"):
        if engine.sharding == "whole":
            _load_whole(inputs, engine, resumption)
        elif has_parts(state):
            _load_parts(engine, resumption)
        elif engine.sharding == "FSDP":
            raise SetupError(f"{path} was written in a layout of FSDP's own, by an earlier version; {_START_ANEW}")
        elif not loaded:
            _load_shards(engine, path)
        engine.scheduler.load_state_dict(unflatten_state(state["scheduler"], {}))
        if has_parts(state):  # elsewhere the optimiser's own state has its rates
            for group, rate in zip(engine.optimizer.param_groups, engine.scheduler.get_last_lr(), strict=True):
                group["lr"] = rate
        if state["scaler"]:
            engine.accelerator.scaler.load_state_dict(state["scaler"])
        if inputs.rank == 0:
            checkpoint_files.carry_best(path, path.parent)
    losses = state["since_log"]
    same = len(losses) == engine.accelerator.num_processes
    return torch.tensor(losses[inputs.rank] if same else sum(losses) / len(losses), device=device)


def _refuse_another_launch(inputs: FitInputs, engine: EngineState, state: dict[str, Any]) -> None:
    then = {"sharding": _named(state["spread"]), "precision": state["precision"]}
    now = {"sharding": _named(engine.sharding), "precision": inputs.scoring.precision}
    if engine.sharding != "whole" and not has_parts(state):
        then["processes"], now["processes"] = state["world_size"], engine.accelerator.num_processes
    differing = [f"{name} {value}, now {now[name]}" for name, value in then.items() if value != now[name]]
    if differing:
        raise SetupError(
            f"the checkpoint of step {state['step']} was written with {'; '.join(differing)}; launch it as before, "
            "or give --overwrite to start anew"
        )


def _named(sharding: Any) -> str:
    """Return a launch's sharding as in a sentence."""
    return "none" if sharding == "whole" else str(sharding)


def _load_whole(inputs: FitInputs, engine: EngineState, resumption: Resumption) -> None:
    path, device = resumption.path, engine.accelerator.device
    model = engine.accelerator.unwrap_model(engine.model)
    load_trained(inputs.rank, model, path / checkpoint_files.TRAINED, dtypes=True)
    tensors = dict(_from_rank_zero(inputs.rank, path / checkpoint_files.OPTIMIZER, device))
    try:
        state = unflatten_state(resumption.state["optimizer"], tensors)
        problem = find_other_optimizer(state, engine.optimizer, model, resumption.state["without_gradient"] or ())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
    if problem is not None:
        raise SetupError(f"the optimizer's state of {path} is not that of this training: {problem}; {_START_ANEW}")
    engine.optimizer.load_state_dict(state)


def find_other_optimizer(
    state: dict[str, Any], optimizer: torch.optim.Optimizer, model: nn.Module, without_gradient: Collection[str]
) -> str | None:
    """Return how an optimiser's state differs from what this optimiser would have by now, or None.

    without_gradient: parameters that may have no state.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups, own = state["param_groups"], optimizer.param_groups
    sizes, expected = ([len(group["params"]) for group in each] for each in (groups, own))
    if sizes != expected:
        return f"its groups have {sizes} parameters, these {expected}"
    numbers = [number for group in groups for number in group["params"]]
    parameters = [parameter for group in own for parameter in group["params"]]
    unknown = sorted(set(state["state"]) - set(numbers), key=str)
    if unknown:
        return f"it has a state of parameter {unknown[0]}, which is in no group"
    for number, parameter in zip(numbers, parameters, strict=True):
        name, entry = names.get(id(parameter), str(number)), state["state"].get(number)
        if entry is None and state["state"] and name not in without_gradient:
            return f"it has none for {name}"
        for key, value in (entry or {}).items():
            if key in LIKE_PARAMETER and value.shape != parameter.shape:
                return f"{key} of {name} is of shape {list(value.shape)}, the parameter {list(parameter.shape)}"
    return None


def _load_shards(engine: EngineState, path: Path) -> None:
    engine.model.load_checkpoint(str(path), load_module_strict=not _is_adapted(engine))


def _load_parts(engine: EngineState, resumption: Resumption) -> None:
    """Read this process's parts; a process that can't is an error of all."""
    written = resumption.state["world_size"]
    problem = checkpoint_shards.problem_of(lambda: checkpoint_shards.read(engine, resumption.path, written))
    problems = [text for text in gather_object([problem]) if text]
    if problems:
        raise SetupError(f"the shards of {resumption.path} can't be read: {problems[0]}; {_START_ANEW}")


def load_trained(rank: int, model: nn.Module, path: Path, *, dtypes: bool = False) -> None:
    """Fill a plain model's trained parameters from rank zero's file; every process must call it.

    dtypes: they must be the same, too. Raises SetupError unless the file has exactly the parameters that are trained,
    in their shapes: one that is missing would keep its random weights.
    """
    parameters = dict(model.named_parameters())
    problem = broadcast_object_list([_find_other_weights(path, parameters, dtypes=dtypes) if rank == 0 else None])[0]
    if problem is not None:
        raise SetupError(f"{path} is not of this training: {problem}; {_START_ANEW}")
    with torch.no_grad():
        for name, tensor in _from_rank_zero(rank, path, next(iter(parameters.values())).device):
            shards.fill(parameters[name], tensor)


def _find_other_weights(path: Path, parameters: Mapping[str, nn.Parameter], *, dtypes: bool) -> str | None:
    trained = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
    with safe_open(path, "pt") as stored:
        names = set(stored.keys())
        if names != set(trained):
            lacking, unknown = sorted(set(trained) - names), sorted(names - set(trained))
            return f"it lacks {lacking[0]}" if lacking else f"it has {unknown[0]}, which is not trained"
        for name, parameter in trained.items():
            part = stored.get_slice(name)
            if list(part.get_shape()) != list(parameter.shape):
                return f"{name} is of shape {list(part.get_shape())}, and {list(parameter.shape)} is trained"
            expected = _DTYPES.get(parameter.dtype, part.get_dtype())
            if dtypes and part.get_dtype() != expected:
                return f"{name} is of type {part.get_dtype()}, and {expected} is trained"
    return None


def _from_rank_zero(rank: int, path: Path, device: torch.device) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield name and tensor of a file that only rank zero need have, one after another."""
    tensors = load_file(path) if rank == 0 else {}
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        yield from tensors.items()
        return
    shapes = [(name, tensor.shape, tensor.dtype) for name, tensor in tensors.items()]
    for name, shape, dtype in broadcast_object_list([shapes])[0]:
        tensor = tensors[name].to(device) if rank == 0 else torch.empty(shape, dtype=dtype, device=device)
        # As bytes: not every backend sends every type.
        torch.distributed.broadcast(tensor.flatten().view(torch.uint8), src=0)
        yield name, tensor


def restore_progress(inputs: FitInputs, progress: Progress, resumption: Resumption) -> None:
    """Take over place, counters, log and selection of a checkpoint; `restore` does the rest, once there is a model."""
    state, steps = resumption.state, None
    if inputs.rank == 0:
        steps, before, now = PriorSteps(**state["steps"]), state["world_size"], PartialState().num_processes
        if before != now:  # rates of the two can't be joined
            inputs.observer.on_note(
                f"training went on with {now} processes, after {before}: its rates are of the steps since"
            )
            steps = PriorSteps(totals=steps.totals, warmup_s=steps.warmup_s + sum(steps.seconds))
    progress.restore(state, steps)


# ---------------------------------------------------------------- the best weights


def keep_best(inputs: FitInputs, model: nn.Module) -> None:
    """Write the trained parameters of a plain and whole model as the best so far, on rank zero."""
    with inputs.clock.phase("save"):
        if inputs.rank == 0:
            weights = trained_state(model)
            checkpoint_files.keep_best(inputs.checkpoint_folder, lambda path: save_file(weights, path))


def load_best(inputs: FitInputs, progress: Progress, model: nn.Module) -> None:
    """Fill a plain model with the best weights, where there are any; every process must call it."""
    if progress.selection is not None and progress.selection.best_step is not None:
        load_trained(inputs.rank, model, inputs.checkpoint_folder / checkpoint_files.BEST)


def keep_best_of(inputs: FitInputs, live: LiveModel) -> None:
    """Write the trained parameters of a sharded model as the best so far, on rank zero; every process must call it."""
    with inputs.clock.phase("save"):
        weights = live.trained_on_rank_zero()
        if inputs.rank == 0:
            checkpoint_files.keep_best(inputs.checkpoint_folder, lambda path: save_file(weights, path))


def load_best_into(inputs: FitInputs, progress: Progress, live: LiveModel) -> None:
    """Fill a sharded model with the best weights, where there are any; every process must call it."""
    if progress.selection is not None and progress.selection.best_step is not None:
        path, device = inputs.checkpoint_folder / checkpoint_files.BEST, inputs.scoring.device
        live.fill(_from_rank_zero(inputs.rank, path, device))
