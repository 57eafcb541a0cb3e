"""Trained weights and optimiser states of a sharded training: each process writes its own, and any number reads them.

    write(engine, folder)                 # every process: shards-00001-of-00004.safetensors
    read(engine, folder, processes=4)     # every process, of the same number or another one

A process's part of a tensor is a range of its elements, whatever library cut it: rows under FSDP2, a flat piece under
ZeRO-3. So the files hold flat ranges, and say which; a reader takes from each file what overlaps its own. They are
safetensors: nothing is unpickled.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from bench.models import shards

if TYPE_CHECKING:
    from bench.training.checkpointing import EngineState

# States of optimisers that have the shape of their parameter.
LIKE_PARAMETER = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer")
_WEIGHT, _STEP, _RANGES = "weight", "step", "ranges"


@dataclass(frozen=True, kw_only=True)
class Piece:
    """This process's range of one tensor, flat. start: its first element; total: elements of the whole tensor.

    put: takes the values that it is to have.
    """

    key: str
    start: int
    total: int
    values: torch.Tensor
    put: Callable[[torch.Tensor], None]


def is_written(engine: "EngineState") -> bool:
    """Return whether this training's checkpoints are written so: parameters are sharded, and none lies on a disk."""
    if engine.sharding == "FSDP":
        return True
    return engine.sharding == "ZeRO-3" and not any(
        getattr(getattr(offload, "device", None), "value", None) == "nvme"
        for offload in (engine.model.zero_offload_optimizer(), engine.model.zero_offload_param())
    )


def path_of(folder: Path, rank: int, processes: int) -> Path:
    """Return the file of one process."""
    return folder / f"shards-{rank + 1:05d}-of-{processes:05d}.safetensors"


def write(engine: "EngineState", folder: Path) -> None:
    """Write this process's file. Raises OSError or SafetensorError."""
    accelerator, tensors, ranges = engine.accelerator, {}, {}
    for piece in _pieces(engine):
        tensors[piece.key] = piece.values.detach().cpu().contiguous()
        ranges[piece.key] = [piece.start, piece.total]
    for name, step in _steps(engine).items():
        tensors[f"{_STEP}:{name}"] = torch.tensor(float(step))
    path = path_of(folder, accelerator.process_index, accelerator.num_processes)
    save_file(tensors, path, {_RANGES: json.dumps(ranges)})


def read(engine: "EngineState", folder: Path, processes: int) -> None:
    """Fill this process's parts from the files of so many processes.

    Raises ValueError, a sentence's part on the folder, where a file or a part of a tensor is missing.
    """
    with Files(folder, processes, engine.accelerator.process_index, engine.accelerator.num_processes) as files:
        _make_states(engine, files)
        for piece in _pieces(engine):
            piece.put(files.values(piece))
    if engine.sharding == "ZeRO-3":
        _gather_small_ones_again(engine)


class Files:
    """The files of a checkpoint that this process needs: its own, or those of another number of processes."""

    def __init__(self, folder: Path, processes: int, rank: int, now: int) -> None:
        ranks = [rank] if processes == now else range(processes)
        paths = [path_of(folder, number, processes) for number in ranks]
        missing = [path.name for path in paths if not path.is_file()]
        if missing:
            raise ValueError(f"{missing[0]} is not on this machine, and is needed by {now} processes")
        self._open: list[Any] = [safe_open(path, "pt") for path in paths]
        self._ranges = [json.loads(file.metadata()[_RANGES]) for file in self._open]
        self.steps = {
            key.removeprefix(f"{_STEP}:"): float(file.get_tensor(key))
            for file in self._open
            for key in file.keys()  # noqa: SIM118 (no mapping)
            if key.startswith(f"{_STEP}:")
        }
        self.keys = {key for ranges in self._ranges for key in ranges}

    def __enter__(self) -> "Files":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.clear()

    def values(self, piece: Piece) -> torch.Tensor:
        """Return the values of a piece."""
        wanted, found = piece.values.numel(), []
        for file, ranges in zip(self._open, self._ranges, strict=True):
            if piece.key not in ranges:
                continue
            start, total = ranges[piece.key]
            if total != piece.total:
                raise ValueError(f"{piece.key} has {total} elements, and {piece.total} are trained")
            part = file.get_slice(piece.key)
            first, last = max(piece.start, start), min(piece.start + wanted, start + part.get_shape()[0])
            if first < last:
                found.append(part[first - start : last - start])
        if sum(part.numel() for part in found) != wanted:
            raise ValueError(f"it lacks elements of {piece.key}")
        return torch.cat(found) if found else piece.values.new_empty(0)


# ---------------------------------------------------------------- this process's pieces


def _trained(engine: "EngineState") -> list[tuple[str, Any]]:
    model: nn.Module = engine.accelerator.unwrap_model(engine.model)
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def _pieces(engine: "EngineState") -> Iterator[Piece]:
    pieces = _fsdp_pieces if engine.sharding == "FSDP" else _zero_pieces
    for name, parameter in _trained(engine):
        yield from pieces(engine, name, parameter)


def _fsdp_pieces(engine: "EngineState", name: str, parameter: Any) -> Iterator[Piece]:
    mesh = parameter.device_mesh
    first, _ = shards.rows_of(parameter.shape[0], mesh.get_local_rank(), mesh.size())
    start = first * (parameter.numel() // max(1, parameter.shape[0]))
    states = engine.optimizer.state.get(parameter, {})
    for kind, tensor in {_WEIGHT: parameter, **{key: states[key] for key in LIKE_PARAMETER if key in states}}.items():
        if tensor is None:
            continue
        local = tensor.detach().to_local()

        def _put(values: torch.Tensor, local: torch.Tensor = local) -> None:
            local.copy_(values.view(local.shape))

        yield Piece(key=f"{kind}:{name}", start=start, total=parameter.numel(), values=local.flatten(), put=_put)


def _zero_pieces(engine: "EngineState", name: str, parameter: Any) -> Iterator[Piece]:
    from deepspeed.utils import (
        safe_get_local_fp32_param,
        safe_get_local_optimizer_state,
        safe_set_local_fp32_param,
        safe_set_local_optimizer_state,
    )

    size, total = parameter.ds_tensor.numel(), parameter.ds_numel
    start = min(engine.accelerator.process_index * size, total)
    count = min(size, total - start)  # the last ones are padded

    def _padded(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        whole = torch.zeros(size, dtype=like.dtype, device=like.device)
        whole[:count] = values
        return whole

    def _put_weight(values: torch.Tensor) -> None:
        given = _padded(values, parameter.ds_tensor)
        safe_set_local_fp32_param(parameter, given)
        parameter.ds_tensor.data.copy_(given)

    values = safe_get_local_fp32_param(parameter)[:count]
    yield Piece(key=f"{_WEIGHT}:{name}", start=start, total=total, values=values, put=_put_weight)
    for kind in _zero_kinds(engine):
        state = safe_get_local_optimizer_state(parameter, kind)

        def _put(values: torch.Tensor, kind: str = kind, state: torch.Tensor = state) -> None:
            safe_set_local_optimizer_state(parameter, _padded(values, state), kind)

        yield Piece(key=f"{kind}:{name}", start=start, total=total, values=state[:count], put=_put)


def _zero_kinds(engine: "EngineState") -> list[str]:
    states = next(iter(_zero_states(engine).values()), {})
    return [kind for kind in LIKE_PARAMETER if torch.is_tensor(states.get(kind))]


def _zero_states(engine: "EngineState") -> dict[Any, dict[str, Any]]:
    states: dict[Any, dict[str, Any]] = engine.model.optimizer.optimizer.state
    return states


def _steps(engine: "EngineState") -> dict[str, float]:
    """Return how many steps the optimiser counts, by parameter; {} where it counts none."""
    if engine.sharding == "FSDP":
        states = ((name, engine.optimizer.state.get(parameter, {})) for name, parameter in _trained(engine))
        return {name: float(state[_STEP]) for name, state in states if _STEP in state}
    counted = [float(state[_STEP]) for state in _zero_states(engine).values() if _STEP in state]
    return {name: counted[0] for name, _ in _trained(engine)} if counted else {}


def _make_states(engine: "EngineState", files: Files) -> None:
    """Let the optimiser have the states that the files have, as its first step makes them; values are put in later."""
    if engine.sharding == "ZeRO-3":
        inner = engine.model.optimizer.optimizer
        kinds = [kind for kind in LIKE_PARAMETER if any(key.startswith(f"{kind}:") for key in files.keys)]
        for flat in engine.model.optimizer.fp32_partitioned_groups_flat:
            states: dict[str, Any] = {kind: torch.zeros_like(flat) for kind in kinds}
            if files.steps:
                step = next(iter(files.steps.values()))
                # DeepSpeed's own optimiser for CPUs counts in whole numbers.
                by_torch = isinstance(inner, torch.optim.AdamW | torch.optim.Adam)
                states[_STEP] = _counter(step, flat, inner.defaults) if by_torch else int(step)
            if states:
                inner.state[flat] = states
        return
    for name, parameter in _trained(engine):
        states = {kind: torch.zeros_like(parameter) for kind in LIKE_PARAMETER if f"{kind}:{name}" in files.keys}
        if name in files.steps:
            states[_STEP] = _counter(files.steps[name], parameter, engine.optimizer.defaults)
        if states:
            engine.optimizer.state[parameter] = states


def _counter(step: float, parameter: torch.Tensor, settings: Mapping[str, Any]) -> torch.Tensor:
    """Return a count of steps as torch's optimisers hold it: on the host, unless they are fused or captured."""
    on_device = settings.get("fused") or settings.get("capturable")
    return torch.tensor(step, dtype=torch.float32, device=parameter.device if on_device else "cpu")


def _gather_small_ones_again(engine: "EngineState") -> None:
    """Let DeepSpeed gather again the small parameters that it keeps whole on every process."""
    small = engine.model.optimizer.persistent_parameters
    if small:
        small[0].partition(small)
        small[0].all_gather(small)


def problem_of(act: Callable[[], None]) -> str | None:
    """Do something with the files; return what went wrong, a sentence's part, or None."""
    try:
        act()
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        return str(error)
    return None
