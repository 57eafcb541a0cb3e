"""Parameters of which each process keeps one shard: a plain model that no process ever holds whole.

    with loading(device):            # each weight that transformers reads is cut down to this process's shard
        model = Family.from_pretrained(...)
    hold(model)                      # ... and so are the weights that are there by now
    with by_layer(model):            # layers are gathered when they run, and given up when they have run
        model(**batch)
    with whole(model): ...           # every process holds the whole model, inside

A shard is a slice of a matrix's rows, the one that FSDP2 makes of it: `torch.chunk` over the processes. Vectors (norms,
biases) are kept by every process. In the place of a parameter's values is one NaN, which its whole shape shows: what
is computed with it, by code that no layer's forward runs, is NaN, and never a wrong number.

Needs no engine: the model's classes, names, dtypes and shapes stay as they are. Whatever gathers is a collective call
of all processes, which must run the same layers in the same order.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from accelerate import PartialState
from torch import nn

from bench.models.heads import head_names, layer_classes, unwrapped
from bench.models.library_internals import transformers_internals

# Attribute of a parameter of which this process keeps a shard: rows of it, on the run's device.
_SHARD = "bench_shard"


def of(parameter: torch.Tensor) -> torch.Tensor | None:
    """Return this process's shard of a parameter [rows here, ...]; None for one that it holds whole."""
    shard: torch.Tensor | None = getattr(parameter, _SHARD, None)
    return shard


def are_held(model: nn.Module) -> bool:
    """Return whether a model's processes hold a shard each."""
    return any(of(parameter) is not None for parameter in model.parameters())


def rows_of(rows: int, rank: int, processes: int) -> tuple[int, int]:
    """Return first and last row (exclusive) of a process's shard, as `torch.chunk` cuts them."""
    size = -(-rows // processes)
    return min(rank * size, rows), min((rank + 1) * size, rows)


def cut(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy of this process's rows of a whole tensor."""
    state = PartialState()
    first, last = rows_of(tensor.shape[0], state.process_index, state.num_processes)
    return tensor[first:last].detach().clone(memory_format=torch.contiguous_format)


def is_cut(parameter: torch.Tensor) -> bool:
    """Return whether a parameter is one that is sharded: a matrix, or more, of floating-point numbers."""
    return parameter.dim() >= 2 and parameter.is_floating_point()


def hold_parameter(parameter: nn.Parameter, device: torch.device | None = None) -> None:
    """Keep this process's shard alone of a parameter that is whole, on a device; nothing where that is so already."""
    if of(parameter) is None and is_cut(parameter):
        put(parameter, cut(parameter.data).to(device or parameter.device))


def put(parameter: nn.Parameter, shard: torch.Tensor) -> None:
    """Give a parameter this process's shard, in the place of its values."""
    setattr(parameter, _SHARD, shard)
    empty(parameter)


def empty(parameter: nn.Parameter) -> None:
    """Let a parameter of which this process holds a shard show that it has no values."""
    device = getattr(parameter, _SHARD).device
    parameter.data = torch.full((), float("nan"), dtype=parameter.dtype, device=device).expand(parameter.shape)


def hold(model: nn.Module, device: torch.device | None = None) -> None:
    """Keep this process's shard of every matrix of a model."""
    for parameter in model.parameters():
        hold_parameter(parameter, device)


def fill(parameter: nn.Parameter, values: torch.Tensor) -> None:
    """Put whole values, the same on every process, into a parameter, or this process's rows into its shard."""
    with torch.no_grad():
        shard = of(parameter)
        if shard is None:
            parameter.copy_(values)
        else:
            state = PartialState()
            first, last = rows_of(parameter.shape[0], state.process_index, state.num_processes)
            shard.copy_(values[first:last])


def release(parameter: nn.Parameter) -> torch.Tensor:
    """Return a parameter's whole values, and forget its shard; collective."""
    values = gathered(parameter)
    if of(parameter) is not None:
        delattr(parameter, _SHARD)
    return values


def gathered(parameter: torch.Tensor) -> torch.Tensor:
    """Return the whole values of a parameter in its dtype, on its device; collective where it is sharded."""
    shard = of(parameter)
    if shard is None:
        return parameter.detach()
    processes, rows = PartialState().num_processes, parameter.shape[0]
    shard = shard.to(parameter.dtype)
    if processes == 1:
        return shard
    size = -(-rows // processes)
    if shard.shape[0] != size:  # the last ones
        shard = torch.cat([shard, shard.new_zeros(size - shard.shape[0], *shard.shape[1:])])
    values = torch.empty(processes * size, *shard.shape[1:], dtype=shard.dtype, device=shard.device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 has another name for it, which torch 2.11 lacks
        # As bytes: not every backend sends every type.
        torch.distributed.all_gather_into_tensor(values.flatten().view(torch.uint8), shard.flatten().view(torch.uint8))
    return values[:rows]


@contextlib.contextmanager
def whole(model: nn.Module) -> Iterator[nn.Module]:
    """Let every process hold the whole model, inside; every process must enter. Changes to weights are lost."""
    held = [parameter for parameter in model.parameters() if of(parameter) is not None]
    for parameter in held:
        parameter.data = gathered(parameter)
    try:
        yield model
    finally:
        for parameter in held:
            empty(parameter)


# ---------------------------------------------------------------- layer by layer


@contextlib.contextmanager
def by_layer(model: nn.Module) -> Iterator[nn.Module]:
    """Gather each layer's parameters while it runs, inside; in a backward pass, one parameter at a time.

    Every process must run the same modules in the same order. A layer is what the model's class says must not be split,
    and whatever has parameters outside of those.
    """
    if not are_held(model):
        yield model
        return
    hooks: list[Any] = []
    gathers = _Gathers()
    for unit in units(model):
        held = [parameter for parameter in unit.parameters() if of(parameter) is not None]
        if held:
            hooks.append(unit.register_forward_pre_hook(gathers.before(held), prepend=True))
            hooks.append(unit.register_forward_hook(gathers.after(held), always_call=True))
    try:
        with torch.autograd.graph.saved_tensors_hooks(gathers.pack, gathers.unpack):
            yield model
    finally:
        for hook in hooks:
            hook.remove()
        gathers.give_up()


def units(model: nn.Module) -> list[nn.Module]:
    """Return the modules that are gathered as one: layers, and modules with parameters of their own outside of them."""
    inner = unwrapped(model)
    names, embedding = layer_classes(inner), inner.get_input_embeddings()
    layers = [
        module
        for module in model.modules()
        if type(module).__name__ in names and not any(part is embedding for part in module.modules())
    ]
    inside = {id(part) for layer in layers for part in layer.modules()}
    outside = [
        module
        for module in model.modules()
        if id(module) not in inside and any(True for _ in module.parameters(recurse=False))
    ]
    return [*layers, *outside]


class _Gathers:
    """Parameters that are gathered now, and by how many modules that run."""

    def __init__(self) -> None:
        self._runs: dict[int, int] = {}
        self._held: dict[int, nn.Parameter] = {}
        self._storages: dict[int, int] = {}  # address of a whole parameter's storage -> the parameter's id

    def before(self, held: list[nn.Parameter]) -> Callable[..., None]:
        """Return a hook for a module that is about to run."""

        def _gather(*_: Any) -> None:
            for parameter in held:
                number = id(parameter)
                if not self._runs.get(number):
                    parameter.data = gathered(parameter)
                    self._held[number] = parameter
                    self._storages[parameter.untyped_storage().data_ptr()] = number
                self._runs[number] = self._runs.get(number, 0) + 1

        return _gather

    def after(self, held: list[nn.Parameter]) -> Callable[..., None]:
        """Return a hook for a module that has run, or failed."""

        def _give_up(*_: Any) -> None:
            for parameter in held:
                number = id(parameter)
                self._runs[number] = max(0, self._runs.get(number, 0) - 1)
                if not self._runs[number]:
                    self._forget(parameter)

        return _give_up

    def _forget(self, parameter: nn.Parameter) -> None:
        self._storages.pop(parameter.untyped_storage().data_ptr(), None)
        empty(parameter)

    def give_up(self) -> None:
        """Give up whatever a module that failed has left."""
        for number, parameter in self._held.items():
            if self._runs.get(number):
                self._forget(parameter)
        self._runs.clear()

    def pack(self, tensor: torch.Tensor) -> Any:
        """Return what autograd keeps of a tensor: of a gathered parameter, only which one it is."""
        number = self._storages.get(tensor.untyped_storage().data_ptr()) if self._storages else None
        if number is None:
            # Itself, an operation's own result would keep its graph, and with it everything that was computed.
            return tensor.detach()
        return number, tensor.size(), tensor.stride(), tensor.storage_offset()

    def unpack(self, kept: Any) -> torch.Tensor:
        """Return the tensor again; collective for a parameter."""
        if torch.is_tensor(kept):
            return kept
        number, *view = kept
        return gathered(self._held[number]).as_strided(*view)


# ---------------------------------------------------------------- loading


@contextlib.contextmanager
def loading(device: torch.device, copied: Sequence[str] = ()) -> Iterator[None]:
    """Cut down each weight that transformers' `from_pretrained` reads, as it is read, one after another.

    Tied weights stay whole for now, since transformers compares them; so do those that `stays_whole` names.
    """

    def _loaded(model: Any, name: str) -> None:
        module, _, last = name.rpartition(".")
        parameter = getattr(model.get_submodule(module), last, None)
        whole_yet = name in transformers_internals.tied_names(model) or stays_whole(model, name, copied)
        # One of another shape than the checkpoint's is left on the meta device, and reported when all are read.
        if isinstance(parameter, nn.Parameter) and not whole_yet and not parameter.is_meta:
            hold_parameter(parameter, device)

    with transformers_internals.one_weight_at_a_time(_loaded):
        yield


def stays_whole(model: Any, name: str, copied: Sequence[str]) -> bool:
    """Return whether a parameter must be whole until the model is adapted: adapters copy its module to train it.

    copied: ends of the names of modules, beside the task head, as PEFT's `modules_to_save` has them. A body that is
    built before the model around it has no head.
    """
    module = name.rpartition(".")[0]
    in_head = model.base_model is not model and name.split(".")[0] in head_names(model)
    return in_head or f".{module}".endswith(tuple(f".{end}" for end in copied))


def moved(model: Any, device: torch.device) -> Any:
    """Return a model that was moved to a device: shards are there already."""
    if not are_held(model):
        return model.to(device)
    for parameter in model.parameters():
        if of(parameter) is None:
            parameter.data = parameter.data.to(device)
    for module in model.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, buffer.to(device))
    return model
