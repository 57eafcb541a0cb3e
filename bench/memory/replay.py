"""Runs a job's training steps on the meta device, and gives each tensor to a simulated allocator of CUDA.

    forecast = replay(job)
    forecast.reserved  # bytes that torch holds of the device at its fullest moment

Model, adapter, loss, autograd and torch's optimizer are the real ones, all layers of them; so what is alive is what the
job keeps alive. Attention and dropout are counted as CUDA's kernels hold them (`meta_device`). Only the allocator is a
model of its own (`allocator`): with it goes what segments and fragmentation add, in this very order of tensors.
"""

import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface

from bench.data.batching import IGNORED
from bench.errors import SetupError
from bench.memory import job_model, litgpt_model, reductions, state_sizes, without_numbers
from bench.memory.activations import ATTENTION
from bench.memory.allocator import Block, CachingAllocator
from bench.memory.job import Job
from bench.memory.job_shards import Shards
from bench.memory.meta_device import TYPES, Autocast, OnCuda, attention
from bench.models.heads import transformer_blocks, unwrapped
from bench.models.kernels import answer_only_loss, patch
from bench.models.library_internals import torch_internals
from bench.training import memory_saving
from bench.utils import hardware
from bench.utils.hardware import CONTEXT

WEIGHTS, FORWARD, BACKWARD, STEP = "loading", "the forward pass", "the backward pass", "the optimiser's step"


@dataclass(frozen=True, kw_only=True)
class JobForecast:
    """Bytes on the GPU. allocated, reserved: by torch, at most. moment: when most was allocated.

    steps: reserved after each of them.
    weights, trained: of all parameters and buffers, and of the trained ones. optimizer: its state. paged: of it, in
    memory that moves to the host. num_trainable: trained parameters.
    """

    allocated: int
    reserved: int
    moment: str
    steps: tuple[int, ...]
    weights: int
    trained: int
    optimizer: int
    paged: int
    num_trainable: int

    @property
    def needed(self) -> int:
        """Return the bytes that the job needs of a GPU: what torch reserves, and CUDA's context."""
        return self.reserved + CONTEXT


class _Tape(torch_internals.TorchDispatchMode):
    """Gives storages to the allocator as operations make them, and takes them back as they go."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = CachingAllocator()
        self.moment, self.fullest = WEIGHTS, WEIGHTS
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and allocate what it has made."""
        out = func(*args, **(kwargs or {}))
        for tensor in torch_internals.tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and tensor.is_meta:
                self.see(tensor)
        if buffer := reductions.workspace(func, args, out):
            self.pool.free(self.take(buffer))
        return out

    def leave_out(self, tensor: torch.Tensor) -> None:
        """Leave a tensor out, which others account for."""
        self._known[id(tensor.untyped_storage())] = tensor

    def see(self, tensor: torch.Tensor) -> None:
        """Allocate the storage of a tensor, unless it is known."""
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._known or not storage.nbytes():
            return
        block = self.take(storage.nbytes())

        def _gone(_: Any) -> None:
            del self._known[key]
            self.pool.free(block)

        self._known[key] = weakref.ref(storage, _gone)

    def take(self, size: int) -> Block:
        """Allocate bytes that no tensor of the meta device holds."""
        before = self.pool.most_allocated
        block = self.pool.allocate(size)
        if self.pool.most_allocated > before:
            self.fullest = self.moment
        return block


def replay(job: Job, capability: tuple[int, int] | None = None) -> JobForecast:
    """Return the forecast of a job. capability: of the GPU, which sets the size of cuBLAS's workspaces.

    Raises SetupError for what can't be built, or run, without numbers.
    """
    return replay_model(job, job_model.build_model(job), capability)


def replay_model(job: Job, model: nn.Module, capability: tuple[int, int] | None = None) -> JobForecast:
    """Return the forecast of a job whose model is there already, on the meta device and in training mode."""
    trained = trained_by(model)
    states = [state_sizes.optimizer_bytes(parameter, job.optimizer) for parameter in trained]
    tape = _Tape()
    shards = None if job.gpus == 1 else Shards(model, _blocks(model), job.gpus, tape.take, tape.pool.free)
    for item in (*model.parameters(), *model.buffers()):
        for tensor in state_sizes.held_by(item):
            if shards is None or not isinstance(item, nn.Parameter):
                tape.see(tensor)
            else:
                tape.leave_out(tensor)
    weights = tape.pool.allocated
    for _ in range(2):  # of the two threads that multiply matrices
        tape.take(hardware.cublas_workspace(capability))
    reserved = []
    with ExitStack() as stack:
        if job.code == "transformers" and job.attention != "eager":
            AttentionInterface.register(ATTENTION, attention)
            stack.enter_context(patch.attention_function(patch.configs_of(unwrapped(model)), ATTENTION))
        stack.enter_context(memory_saving.counting())
        stack.enter_context(tape)
        masked = job.padded and job.micro_batch > 1 and job.attention != "flash_attention_2"
        stack.enter_context(OnCuda(padded=masked and job.code == "transformers"))
        try:
            for _ in _steps(job, model, trained, tape, shards):
                reserved.append(tape.pool.reserved)
        except (NotImplementedError, RuntimeError, ValueError, IndexError, TypeError, AttributeError) as error:
            why = (str(error).splitlines() or [type(error).__name__])[0]
            if without_numbers.is_meant(error):
                why = "its forward pass, or its adapter's, reads numbers, and a plan has none"
            raise SetupError(f"the job can't be run without numbers: {why}") from error
    return JobForecast(
        allocated=tape.pool.most_allocated,
        reserved=tape.pool.most_reserved,
        moment=tape.fullest,
        steps=tuple(reserved),
        weights=weights,
        trained=sum(parameter.numel() * parameter.element_size() for parameter in trained),
        optimizer=sum(size for size, _ in states) // job.gpus,
        paged=sum(size for _, size in states),
        num_trainable=sum(parameter.numel() for parameter in trained),
    )


def trained_by(model: nn.Module) -> list[torch.Tensor]:
    """Return the parameters that a job's optimizer has."""
    strays = {id(parameter) for parameter in getattr(model, "strays", ())}
    return [item for item in model.parameters() if item.requires_grad and id(item) not in strays]


def _blocks(model: nn.Module) -> list[nn.Module]:
    return list(model.h) if isinstance(model, litgpt_model.GPT) else transformer_blocks(unwrapped(model))


def _steps(
    job: Job, model: nn.Module, trained: list[torch.Tensor], tape: _Tape, shards: Shards | None
) -> Iterator[None]:
    """Run the job's steps as its loop does; yield after each."""
    optimizer = _Optimizer(job, trained, tape)
    kept: list[Any] = []  # by a variable of the loop, until it is set again
    for length in job.steps:
        for parameter in trained:
            parameter.grad = None
        if shards is not None:
            shards.zero()
        for _ in range(job.accumulation):
            tape.moment = FORWARD
            ids = torch.empty(job.micro_batch, length, dtype=torch.long, device="meta")
            with _casting(job) as casts:
                outputs, loss = _forward(job, model, ids)
                if casts is not None:
                    casts.forget()
                kept[:] = [outputs] if job.keeps_outputs else []
                del outputs
                tape.moment = BACKWARD
                if shards is not None:
                    shards.in_backward = True
                torch_internals.backward(loss)
                if shards is not None:
                    shards.end()
            del loss
        tape.moment = STEP
        if job.clip and shards is None:
            # One by one: torch has no lists of tensors on this device. They are scaled in place either way.
            torch.nn.utils.clip_grad_norm_(trained, 1.0, foreach=False)
        optimizer.step()
        yield
        if job.empty_cache:
            tape.pool.empty_cache()


@contextmanager
def _casting(job: Job) -> Iterator[Autocast | None]:
    with nullcontext() if job.autocast is None else Autocast(TYPES[job.autocast], None, keeps=True) as casts:
        yield casts


def _forward(job: Job, model: Any, ids: torch.Tensor) -> tuple[Any, torch.Tensor]:
    """Return (the outputs that a loop holds, the loss)."""
    if job.code == "litgpt":
        logits = model(ids)
        logits[-1] = logits[-1][..., :-1, :]
        return logits, litgpt_model.chunked_loss(logits, ids)
    labels = ids.clone()
    inputs = {"input_ids": ids, "attention_mask": torch.empty_like(ids), "use_cache": job.use_cache}
    if job.loss_tokens is None:
        outputs = model(**inputs, labels=labels)
        return outputs, outputs.loss
    inner = unwrapped(model)
    inner.forward = answer_only_loss.forward_on_answers(inner, inner.forward, answer_only_loss.CHUNK_ROWS)
    answers = job.micro_batch * min(job.loss_tokens, ids.shape[1])
    try:
        outputs = model(**inputs, labels=labels.fill_(IGNORED), num_answers=answers)
    finally:
        del inner.forward
    return outputs, outputs.loss


class _Optimizer:
    """A step of torch's AdamW itself; of the others, and of parts of weights, the bytes that it takes."""

    def __init__(self, job: Job, trained: list[torch.Tensor], tape: _Tape) -> None:
        self._name, self._gpus, self._trained, self._tape = job.optimizer, job.gpus, trained, tape
        self._held: list[Block] = []
        # Lists of tensors are torch's default on CUDA; `fused` makes nothing that is not there after the step.
        in_lists = self._name == "adamw_torch"
        self._torch = torch.optim.AdamW(trained, foreach=True) if in_lists and job.gpus == 1 else None

    def step(self) -> None:
        """Take a step; the first one makes the state."""
        if self._torch is not None:
            self._torch.step()
            return
        if not self._held:
            for parameter in self._trained:
                size = -(-state_sizes.optimizer_bytes(parameter, self._name)[0] // self._gpus)
                self._held += [self._tape.take(part) for part in (size // 2, size - size // 2) if part]
        if self._name == "adamw_torch":  # the root of all second moments, at once
            size = sum(parameter.numel() * parameter.element_size() for parameter in self._trained)
            self._tape.pool.free(self._tape.take(-(-size // self._gpus)))
