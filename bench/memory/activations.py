"""Activations of a training step, measured by running it on the meta device, which has no memory.

    usage = probe(model, Batch(rows=4, length=512), precision="bf16")
    usage.kept  # bytes that the forward pass leaves for the backward pass

The model itself is run, forward and backward, and a ledger keeps account of every storage that is alive: so adapters,
recomputation and 4-bit layers count as what they really do. A stack of like blocks is run with two and three of them
and extended to all. Attention is run as the fused kernels hold it: no scores, one float32 number for each query.
"""

import itertools
import math
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface

from bench.data.batching import IGNORED
from bench.errors import SetupError
from bench.memory import reductions, without_numbers
from bench.memory.meta_device import TYPES, Autocast, OnCuda, attention
from bench.memory.state_sizes import held_by
from bench.models.heads import (
    head_names,
    is_generative,
    looks_into_mask,
    reads_last_token,
    transformer_blocks,
    unwrapped,
)
from bench.models.kernels import answer_only_loss, patch
from bench.models.library_internals import torch_internals, transformers_internals
from bench.models.losses import summed_loss
from bench.training import memory_saving

ATTENTION = "bench_outline"
# CUDA's allocator hands out multiples of this (c10/cuda/CUDACachingAllocator.h, kMinBlockSize).
ALLOCATED = 512
# Parts of a step, in their order: the pass forward; the head, with its loss, there and back; the last block's way
# back, and the first one's; what lies before the blocks. All others lie between the last and the first.
SECTIONS = ("forward", "head", "last", "first", "tail")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A micro-batch of full rows. answers: labels of all rows together, of a language model that learns to write.

    on_answers_alone: whether only these get logits. An encoder-decoder's answers are as long as each other.
    precision: "no", "bf16" or "fp16", as of autocast on CUDA. sharded: whether weights are gathered for each layer, as
    under ZeRO-3, and no 16-bit copy of them is kept. keeps_copies: whether autocast keeps its 16-bit copies of trained
    weights until the forward pass is over. on_cuda: count dropout and attention as CUDA does them, not as a CPU.
    padded: whether pads are computed, so that attention gets a mask. packed: whether the body leaves them out, as
    padding_free has it, and puts them back behind its last layer.
    """

    rows: int
    length: int
    answers: int = 0
    on_answers_alone: bool = True
    precision: str = "no"
    sharded: bool = False
    keeps_copies: bool = True
    on_cuda: bool = False
    padded: bool = False
    packed: bool = False


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Bytes of a step, without weights, gradients and optimiser. kept: alive between forward and backward pass.

    copies: of weights, in 16 bits, that autocast keeps until the forward pass is over, whatever is recomputed.
    on_host: of what is kept, moved there until the backward pass.
    peaks: section -> the most that was alive. with_gradients: the same with the gradients that there were by then.
    """

    kept: float
    copies: float
    on_host: float
    peaks: dict[str, float]
    with_gradients: dict[str, float]

    @classmethod
    def combined(cls, parts: "Sequence[tuple[float, Usage]]") -> "Usage":
        """Return the sum of factor * usage, number by number."""

        def _added(values: Iterable[float]) -> float:
            return sum(factor * value for (factor, _), value in zip(parts, values, strict=True))

        usages = [one for _, one in parts]
        return cls(
            kept=_added(one.kept for one in usages),
            copies=_added(one.copies for one in usages),
            on_host=_added(one.on_host for one in usages),
            peaks={name: _added([one.peaks[name] for one in usages]) for name in SECTIONS},
            with_gradients={name: _added([one.with_gradients[name] for one in usages]) for name in SECTIONS},
        )


def probe(model: Any, batch: Batch) -> Usage:
    """Return the usage of one step of `model`, wrapped or not, on the meta device and in training mode.

    Raises SetupError for a model that can't be run on that device.
    """
    with ExitStack() as stack:
        if transformers_internals.attention_name(unwrapped(model).config) != "eager":
            AttentionInterface.register(ATTENTION, attention)
            stack.enter_context(patch.attention_function(patch.configs_of(unwrapped(model)), ATTENTION))
        runs = _runs(model)
        few = [min(len(run), 2) for run in runs]
        base = _with_blocks(model, runs, few, batch)
        parts = [(1.0, base)]
        for place, run in enumerate(runs):
            if len(run) > 2:
                more = [count + (other == place) for other, count in enumerate(few)]
                grown = _with_blocks(model, runs, more, batch)
                parts += [(len(run) - 2.0, grown), (2.0 - len(run), base)]
    return Usage.combined(parts)


def forward_peak(model: Any, batch: Batch) -> int:
    """Return the most bytes that are alive beside the weights while the body, without a head, runs without gradients.

    The model is on the meta device. Raises SetupError for one that can't be run there.
    """
    inner, runs = unwrapped(model), _runs(model)
    ledger = _Ledger(model)
    casts = Autocast(TYPES[batch.precision], None, keeps=False) if batch.precision in TYPES else nullcontext()
    ids = torch.empty(batch.rows, batch.length, dtype=torch.long, device="meta")
    inputs: dict[str, Any] = {"input_ids": ids}
    if inner.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids
    elif is_generative(inner) and not looks_into_mask(inner):
        inputs["attention_mask"] = torch.empty_like(ids)
    with ExitStack() as stack:
        if transformers_internals.attention_name(inner.config) != "eager":
            AttentionInterface.register(ATTENTION, attention)
            stack.enter_context(patch.attention_function(patch.configs_of(inner), ATTENTION))
        stack.enter_context(_shortened(model, runs, [min(len(run), 2) for run in runs]))
        for context in (torch.no_grad(), ledger, casts):
            stack.enter_context(context)
        try:
            inner.base_model(**inputs)
        except (NotImplementedError, RuntimeError, ValueError, IndexError, TypeError) as error:
            kind, problem = type(inner).__name__, str(error).splitlines()[0]
            raise SetupError(f"the activations of {kind} can't be planned: {problem}") from error
    return round(ledger.peaks["forward"])


def _runs(model: Any) -> list[list[nn.Module]]:
    """Return the stack of blocks, in runs of neighbours whose parameters have the same shapes, types and training.

    [] where it must be run whole: an encoder-decoder has two, and ALBERT runs one block again and again.
    """
    inner = unwrapped(model)
    blocks = transformer_blocks(inner)
    if inner.config.is_encoder_decoder or len(blocks) != inner.config.num_hidden_layers:
        return []
    return [list(run) for _, run in itertools.groupby(blocks, _signature)]


def _signature(block: nn.Module) -> list[Any]:
    return [(name, item.shape, item.dtype, item.requires_grad) for name, item in block.named_parameters()]


def _with_blocks(model: Any, runs: list[list[nn.Module]], counts: Sequence[int], batch: Batch) -> Usage:
    """Run the step with so many blocks of each run."""
    with _shortened(model, runs, counts):
        try:
            return _step(model, batch)
        except (NotImplementedError, RuntimeError, ValueError, IndexError, TypeError) as error:
            kind, why = type(unwrapped(model)).__name__, (str(error).splitlines() or [type(error).__name__])[0]
            if without_numbers.is_meant(error):
                why = "its forward pass, or its adapter's, reads numbers, and a plan has none"
            raise SetupError(f"the activations of {kind} can't be planned: {why}") from error


@contextmanager
def _shortened(model: Any, runs: list[list[nn.Module]], counts: Sequence[int]) -> Iterator[None]:
    config, stack = unwrapped(model).config.get_text_config(), None
    kinds = getattr(config, "layer_types", None)
    if runs:
        first = runs[0][0]
        stack = next(m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) and m[0] is first)
        whole, depth = list(stack), config.num_hidden_layers
        kept = [block for run, count in zip(runs, counts, strict=True) for block in run[:count]]
        _refill(stack, kept)
        config.num_hidden_layers = len(kept)
        if kinds is not None:  # by which a body gives each block its mask
            config.layer_types = [kinds[whole.index(block)] for block in kept]
    try:
        yield
    finally:
        if stack is not None:
            _refill(stack, whole)
            config.num_hidden_layers = depth
            if kinds is not None:
                config.layer_types = kinds


def _refill(stack: nn.ModuleList, blocks: Sequence[nn.Module]) -> None:
    del stack[:]
    stack.extend(blocks)


def _step(model: Any, batch: Batch) -> Usage:
    """Run one forward and backward pass under the ledger."""
    ledger = _Ledger(model, on_cuda=batch.on_cuda)
    casts = None
    if batch.precision in TYPES:
        casts = Autocast(TYPES[batch.precision], ledger.leave_out if batch.sharded else None, batch.keeps_copies)
    device = OnCuda(padded=batch.padded, packed=batch.packed) if batch.on_cuda else nullcontext()
    with (
        memory_saving.counting() as moved, _padded_output(model, batch), ledger.watching(model), ledger, device,
        casts or nullcontext(),
    ):  # fmt: skip
        loss = _loss(model, batch)
        # Accelerate leaves autocast at the end of the model's forward.
        copies = 0 if casts is None else casts.forget()
        kept = ledger.live
        ledger.forward = False
        if ledger.section == "forward":
            ledger.enter("head")
        torch_internals.backward(loss)
    return Usage(
        kept=kept,
        copies=copies,
        on_host=sum(moved),
        peaks=dict(ledger.peaks),
        with_gradients=dict(ledger.with_gradients),
    )


@contextmanager
def _padded_output(model: Any, batch: Batch) -> Iterator[None]:
    """Put pads behind the layers of a body that leaves them out, inside: the last hidden state is there twice."""
    body = unwrapped(model).base_model
    places = torch.empty(batch.rows * batch.length, dtype=torch.long, device="meta")

    def _pad(module: Any, args: Any, output: Any) -> Any:
        hidden = output.last_hidden_state
        grid = hidden.new_zeros(places.shape[0], hidden.shape[-1])
        output.last_hidden_state = grid.index_copy(0, places, hidden.flatten(0, 1)).view_as(hidden)
        return output

    pooled = getattr(body, "pooler", None) is not None and hasattr(body, "encoder")
    hook = (body.encoder if pooled else body).register_forward_hook(_pad) if batch.packed else None
    try:
        yield
    finally:
        if hook is not None:
            hook.remove()


def _loss(model: Any, batch: Batch) -> torch.Tensor:
    inner = unwrapped(model)
    ids = torch.empty(batch.rows, batch.length, dtype=torch.long, device="meta")
    # Where tokens see both ways, models look whether a mask hides anything, in numbers that are not there.
    one_way = (is_generative(inner) or reads_last_token(inner)) and not inner.config.is_encoder_decoder
    mask = torch.empty_like(ids) if (one_way and not looks_into_mask(inner)) or _needs_mask(inner) else None
    if is_generative(inner):
        return _text_loss(model, inner, ids, mask, batch)
    if inner.config.is_encoder_decoder:
        # Its own forward looks for the ends of texts, which have no place here.
        hidden = inner.base_model(input_ids=ids, attention_mask=mask, decoder_input_ids=ids).last_hidden_state[:, -1]
        for name in head_names(inner):
            hidden = getattr(inner, name)(hidden)
        return hidden.float().square().sum()
    outputs = model(input_ids=ids, attention_mask=mask)
    parts = [outputs[name] for name in ("logits", "start_logits", "end_logits") if name in outputs]
    return torch.stack([part.float().square().sum() for part in parts]).sum()


def _needs_mask(inner: Any) -> bool:
    """Return whether a model without a mask looks for pads among its tokens, but never into a mask: DeBERTa."""
    return inner.config.model_type in ("deberta", "deberta-v2")


def _text_loss(model: Any, inner: Any, ids: torch.Tensor, mask: Any, batch: Batch) -> torch.Tensor:
    inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    labels = torch.empty_like(ids)
    if inner.config.is_encoder_decoder:
        labels = torch.empty(batch.rows, math.ceil(batch.answers / batch.rows), dtype=torch.long, device="meta")
        inputs["decoder_input_ids"] = labels
    if not batch.on_answers_alone:
        logits = model(**inputs).logits
        if batch.precision in TYPES:
            logits = logits.float()  # as accelerate gives whatever a model returns
        if not inner.config.is_encoder_decoder:
            logits = logits[:, :-1]
        chosen = torch.empty(batch.answers, dtype=torch.long, device="meta")
        return summed_loss(logits[chosen, chosen], chosen)
    inner.forward = answer_only_loss.forward_on_answers(inner, inner.forward, answer_only_loss.CHUNK_ROWS)
    try:
        return model(**inputs, labels=labels.fill_(IGNORED), num_answers=batch.answers).loss
    finally:
        del inner.forward


class _Ledger(torch_internals.TorchDispatchMode):
    """Account of the storages that are alive, but for parameters, buffers and finished gradients.

    on_cuda: count the buffers that operations take while they run, too.
    """

    def __init__(self, model: nn.Module, *, on_cuda: bool = False) -> None:
        super().__init__()
        self._on_cuda = on_cuda
        held = [tensor for one in itertools.chain(model.parameters(), model.buffers()) for tensor in held_by(one)]
        self._outside = [tensor.untyped_storage() for tensor in held]
        self._known: dict[int, Any] = {id(storage): None for storage in self._outside}
        self.section, self.forward = "forward", True
        self.live = self.gradients = 0
        self.peaks = dict.fromkeys(SECTIONS, 0)
        self.with_gradients = dict.fromkeys(SECTIONS, 0)

    def leave_out(self, tensor: torch.Tensor) -> None:
        """Leave a tensor out of the count; the caller counts it."""
        storage = tensor.untyped_storage()
        if self._known.get(id(storage)) is not None:
            self.live -= _rounded(storage)
            self._known[id(storage)] = None
            self._outside.append(storage)  # so that no other one gets its address

    def enter(self, section: str) -> None:
        """Begin a section of the step."""
        self.section = section
        self._note()

    def _note(self, for_a_moment: int = 0) -> None:
        now = self.live + for_a_moment
        for most, alive in ((self.peaks, now), (self.with_gradients, now + self.gradients)):
            most[self.section] = max(most[self.section], alive)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count what it has made."""
        out = func(*args, **(kwargs or {}))
        for tensor in torch_internals.tree_leaves(out):
            # What a sparse one is made of has been seen already.
            if isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided:
                self._see(tensor.untyped_storage())
        if self._on_cuda and (buffer := reductions.workspace(func, args, out)):
            self._note(buffer)
        return out

    def _see(self, storage: Any) -> None:
        key = id(storage)
        if key in self._known:
            return
        size = _rounded(storage)

        def _gone(_: Any) -> None:
            del self._known[key]
            self.live -= size

        self._known[key] = weakref.ref(storage, _gone)
        self.live += size
        self._note()

    @contextmanager
    def watching(self, model: Any) -> Iterator[None]:
        """Let the sections follow the model's blocks, inside; gradients are counted and given up as they are made."""
        blocks = transformer_blocks(unwrapped(model))
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        hooks: list[Any] = [parameter.register_post_accumulate_grad_hook(self._take) for parameter in trained]
        for place, block in enumerate(blocks):
            section = "last" if place == len(blocks) - 1 else "first" if place == 0 else None
            hooks.append(block.register_forward_hook(self._mark(section, last=place == len(blocks) - 1)))
        if blocks:
            hooks.append(blocks[0].register_forward_pre_hook(self._mark_input, with_kwargs=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _take(self, parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        self.gradients += parameter.grad.numel() * parameter.grad.element_size()
        parameter.grad = None
        self._note()

    def _mark(self, section: str | None, *, last: bool) -> Any:
        def _hook(module: nn.Module, args: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            if self.forward and last:
                self.enter("head")
            if self.forward and section is not None and hidden.requires_grad:
                hidden.register_hook(lambda _: self.enter(section))

        return _hook

    def _mark_input(self, module: nn.Module, args: Any, options: Any) -> None:
        hidden = args[0] if args else options.get("hidden_states")
        if self.forward and hidden is not None and hidden.requires_grad:
            hidden.register_hook(lambda _: self.enter("tail"))


def _rounded(storage: Any) -> int:
    return math.ceil(storage.nbytes() / ALLOCATED) * ALLOCATED
