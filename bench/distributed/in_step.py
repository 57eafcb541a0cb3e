"""Forwards of a sharded model in step over all processes: whenever one of them runs a batch, all gather its layers.

    with in_step.running(model, engine):      # every process
        ... model(**batch) ...                # as often as each one needs
        in_step.settle()                      # returns when no process has a forward left

Under ZeRO-3 and FSDP2 each layer's forward is a collective call. Processes that score different batches need different
numbers of forwards, and of different kinds (a body without its head, a head by itself). So before each forward all
processes agree on a kind that one of them wants, and all run it: those that want another one, or none, repeat a forward
of that kind that was run before, and drop what it gives. Hooks on the model's outermost modules see to it, so that
readers need not know; what calls several forwards as one, or leaves out parts of one, takes a `turn` of its own.

A failed allocation can't be recovered from: the other processes wait in the layer that this one has not come to. It
ends the run (`is_on` tells callers that they may not try again).
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, send_to_device
from torch import nn
from torch.distributed.fsdp import FSDPModule

from bench.models import positions
from bench.models.autocast import evaluating
from bench.models.heads import is_generative, unwrapped
from bench.models.kernels import patch
from bench.models.library_internals import deepspeed_internals, torch_internals, transformers_internals

# Forwards that gather the same parameters in the same order: of the head on given hidden states, of an encoder, of a
# decoder on a given encoder output, of a body without its head, of a model inside of its adapters' wrapper, of the
# model, and a whole `generate`. Where processes want different ones, the first of these is run.
KINDS = ("head", "encoder", "decoder", "body", "inner", "model", "generate")
IDLE = len(KINDS)


@dataclass(frozen=True, kw_only=True)
class _Repeatable:
    """A forward that can be run again, also by another process: it must be picklable. dtype: of autocast, or None."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    dtype: torch.dtype | None

    def on(self, device: torch.device) -> "_Repeatable":
        """Return the same with its tensors on a device."""
        args, kwargs = send_to_device((self.args, self.kwargs), device)
        return replace(self, args=args, kwargs=kwargs)


class InStep:
    """Keeps the forwards of a sharded model in step; see `running`.

    engine: DeepSpeed's, whose hooks gather the parameters; None under FSDP2.
    """

    def __init__(self, model: nn.Module, engine: Any = None) -> None:
        self.model, self.engine = model, engine
        # Parameters that wait on the host are elsewhere.
        self.device = PartialState().device
        self.rank, self.world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self.modules = _outermost(model)
        self._repeatable: dict[int, _Repeatable] = {}
        self._shared: set[int] = set()
        self._depth = 0
        self._last: int | None = None
        self._attention = [(config, transformers_internals.attention_name(config)) for config in self._configs()]

    def _configs(self) -> list[Any]:
        return patch.configs_of(unwrapped(self.model))

    # ------------------------------------------------------------ hooks

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Put the hooks on the model, and take them off again."""
        handles = []
        for name, module in self.modules.items():
            before = functools.partial(self._before, name)
            handles.append(module.register_forward_pre_hook(before, prepend=True, with_kwargs=True))
            handles.append(module.register_forward_hook(self._after, always_call=True))
        self._prepare()
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._release()

    def _before(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._depth += 1
        if self._depth == 1:
            kind = "decoder" if kwargs.get("encoder_outputs") is not None else name
            self._take(KINDS.index(kind), self._made(functools.partial(_call, name), args, kwargs))

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._end(failed=output is None)

    @contextlib.contextmanager
    def turn(self, kind: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Iterator[None]:
        """Run what is inside as one forward of a kind.

        function: runs one like it, given this object, args and kwargs: on processes that want none of this kind.
        """
        self._depth += 1
        try:
            if self._depth == 1:
                self._take(KINDS.index(kind), self._made(function, args, kwargs))
            yield
        except BaseException:
            self._depth -= 1
            if self._depth == 0:
                self._end(failed=True)
            raise
        self._depth -= 1
        if self._depth == 0:
            self._end(failed=False)

    def _made(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Repeatable:
        kind = self.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        return _Repeatable(function=function, args=args, kwargs=kwargs, dtype=dtype)

    # ------------------------------------------------------------ agreement

    def _take(self, wanted: int, own: _Repeatable) -> None:
        """Run forwards for the others until it is the turn of this kind."""
        while True:
            kind = self._agree(wanted, own)
            self._begin(kind)
            if kind == wanted:
                self._repeatable[kind] = own
                return
            self._repeat(kind)

    def settle(self) -> None:
        """Run forwards for the others until none of them wants any. Every process must call it."""
        while (kind := self._agree(IDLE, None)) != IDLE:
            self._begin(kind)
            self._repeat(kind)

    def _agree(self, wanted: int, own: _Repeatable | None) -> int:
        """Return the first kind that any process wants; the first time, all are sent how to run one."""
        vote = torch.tensor(wanted * self.world + self.rank, device=self.device)
        torch.distributed.all_reduce(vote, torch.distributed.ReduceOp.MIN)
        kind, giver = divmod(int(vote), self.world)
        if kind != IDLE and kind not in self._shared:
            sent = own.on(torch.device("cpu")) if giver == self.rank and own is not None else None
            (taken,) = broadcast_object_list([sent], from_process=giver)
            self._shared.add(kind)
            self._repeatable.setdefault(kind, taken.on(self.device))
        return kind

    def _repeat(self, kind: int) -> None:
        """Run a forward of a kind as it was run before, for the other processes' sake."""
        again = self._repeatable[kind]
        autocast: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if again.dtype is not None:
            autocast = torch.autocast(self.device.type, dtype=again.dtype)
        self._depth += 1
        try:
            with evaluating(self.model), autocast, self._own_attention():
                again.function(self, *again.args, **again.kwargs)
        except BaseException:
            self._depth -= 1
            self._end(failed=True)
            raise
        self._depth -= 1
        self._end(failed=False)
        positions.forget_longer_texts(self.model)  # a forward that waits is to find it as it was

    @contextlib.contextmanager
    def _own_attention(self) -> Iterator[None]:
        """Give the model its own attention: a reader in the midst of its batch may have put in another one."""
        now = [(config, transformers_internals.attention_name(config)) for config, _ in self._attention]
        for config, name in self._attention:
            transformers_internals.set_attention(config, name)
        try:
            yield
        finally:
            for config, name in now:
                transformers_internals.set_attention(config, name)

    # ------------------------------------------------------------ the libraries

    def _prepare(self) -> None:
        if self.engine is not None:
            deepspeed_internals.forget_order(self.engine)
            deepspeed_internals.set_in_forward(self.model, True)
        elif isinstance(self.model, FSDPModule):
            # Else the layer that is called first would take itself for the root.
            torch_internals.initialize_sharded(self.model)

    def _begin(self, kind: int) -> None:
        if self.engine is not None:
            # DeepSpeed gathers ahead by the order of the forward before; only that of the model itself it begins anew.
            # On a CPU it would take memory and save no time: nothing is computed meanwhile.
            if self.device.type == "cpu" or not (kind == self._last == KINDS.index("model")):
                deepspeed_internals.forget_order(self.engine)
        elif isinstance(self.model, FSDPModule):
            # What belongs to no layer, such as an embedding, is gathered in the forward of the model alone.
            self.model.unshard()
        self._last = kind

    def _end(self, *, failed: bool) -> None:
        if failed:
            # All processes that run the same inputs fail in the same place; they may go on in another way.
            self._last = None
            if self.engine is not None:
                deepspeed_internals.release(self.engine)
            else:
                torch_internals.reshard(self.model)

    def _release(self) -> None:
        """Leave the model as its engine expects it."""
        if self.engine is not None:
            deepspeed_internals.release(self.engine)
            deepspeed_internals.set_in_forward(self.model, False)
        else:
            torch_internals.reshard(self.model)


def _outermost(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules that are called from outside, by the kind of their forwards; each once."""
    inner = unwrapped(model)
    modules: dict[str, nn.Module] = {"model": model, "inner": inner}
    if inner.config.is_encoder_decoder:
        modules["encoder"] = inner.get_encoder()
    else:
        modules["body"] = inner.get_decoder() if is_generative(inner) else inner.base_model
    first = {id(module): name for name, module in reversed(modules.items())}
    return {name: module for name, module in modules.items() if first[id(module)] == name}


def _call(name: str, step: InStep, *args: Any, **kwargs: Any) -> Any:
    return step.modules[name](*args, **kwargs)


_CURRENT: ContextVar[InStep | None] = ContextVar("bench_in_step", default=None)


@contextlib.contextmanager
def running(model: nn.Module, engine: Any = None) -> Iterator[None]:
    """Keep all forwards of a sharded model inside in step over all processes, each of which must enter.

    model: without the engine's wrapper. engine: DeepSpeed's, None under FSDP2.
    """
    step = InStep(model, engine)
    token = _CURRENT.set(step)
    try:
        with step.watching():
            yield
            step.settle()
    finally:
        _CURRENT.reset(token)


def is_on() -> bool:
    """Return whether forwards are collective calls, so that one that failed on this process can't be tried again."""
    return _CURRENT.get() is not None


def settle() -> None:
    """Wait until no process has a forward left to run; nothing where the model is whole."""
    step = _CURRENT.get()
    if step is not None:
        step.settle()


def turn(kind: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> contextlib.AbstractContextManager[None]:
    """Return a context whose inside is one forward of a kind; nothing where the model is whole. See InStep.turn."""
    step = _CURRENT.get()
    return contextlib.nullcontext() if step is None else step.turn(kind, function, *args, **kwargs)
