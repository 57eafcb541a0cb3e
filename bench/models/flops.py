"""Model FLOPs of a training step, counted by torch's own counter on the model as it is trained.

The model is run forward and backward at a few lengths on the meta device, where nothing is computed, under
`torch.utils.flop_counter.FlopCounterMode`: matrix products, forward and backward, each with two operations per
multiply-add; so frozen weights, adapters, experts and heads cost what they do. What a text costs is a polynomial of
second degree in its length, whose coefficients follow from those runs, and with linear attention also of its chunks;
another run, at the longest length asked for, must agree with it. A model that can't be counted so has no number, rather
than a wrong one.

Of attention whose tokens see only earlier ones, half of the scores is charged (the counter has all of them). Left out,
as it is no model work: recomputed activations, quantising and dequantising, and the backward pass into the input
embeddings that checkpointing asks for. The output head of a language model is charged for every token.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from transformers import AttentionInterface

from bench.models.heads import head_names, is_generative, looks_into_mask, reads_last_token, unwrapped
from bench.models.kernels import patch
from bench.models.library_internals import transformers_internals

ATTENTION = "bench_counted"
# The lengths of the runs are 1, 2 and 3 times a quarter of this, or of a shorter context.
LONGEST = 48
# Tokens that linear attention (Qwen3.5) works on at once; LONGEST is within the first of them.
CHUNK = 64
# The largest model that is run on its own device where it can't be run on the meta device: a run takes a second.
MOST_PARAMETERS = 200_000_000
# Powers of (prompt or text, answer of an encoder-decoder) of the cost of one text, and where it is run to find them.
ONE_LENGTH = ((0, 0), (1, 0), (2, 0))
TWO_LENGTHS = (*ONE_LENGTH, (0, 1), (0, 2), (1, 1))
ONE_LENGTH_RUNS = ((1, 0), (2, 0), (3, 0))
TWO_LENGTHS_RUNS = ((1, 1), (2, 1), (3, 1), (1, 2), (1, 3), (2, 2))
# What a model may raise that has numbers to look at, where there are none.
_FAILURES = (NotImplementedError, RuntimeError, ValueError, IndexError, TypeError, KeyError, AttributeError)


# How a model's outputs are had, and the device that it is run on.
_Way = tuple[Callable[..., list[torch.Tensor]], str]


class UncountableError(Exception):
    """The model's FLOPs can't be counted. `str(error)` is the reason."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """FLOPs of forward and backward: of each text by its lengths, and of each call of the model whatever it is given.

    text: powers of (length, answer's length) -> coefficient. call: such as the norms of DoRA and relative positions.
    chunks: of linear attention, what is added to a text with more than one chunk of tokens: (by the second one, by each
    that follows).
    """

    text: dict[tuple[int, int], float]
    call: float
    chunks: tuple[float, float] = (0.0, 0.0)

    def total(self, lengths: list[int], answers: list[int], calls: int) -> float:
        """Return the sum over texts, and over so many micro-batches."""
        given, written = np.array(lengths, dtype=float), np.array(answers, dtype=float)
        each = [factor * float((given**one * written**other).sum()) for (one, other), factor in self.text.items()]
        more = np.ceil(given / CHUNK) - 1
        second, later = self.chunks
        return sum(each) + float((second * (more > 0) + later * np.maximum(more - 1, 0)).sum()) + self.call * calls


def step_flops(model: Any, lengths: list[int], answers: list[int] | None = None, calls: int = 1) -> float:
    """Return the FLOPs of forward and backward for sequences of the given real lengths (one entry per example).

    answers: for an encoder-decoder, what its decoder is given: the lengths of the answers that it writes, where
    `lengths` are those of the prompts; None where it classifies, and reads its input in both. A decoder's lengths are
    those of prompt and answer together. calls: of the model, its micro-batches.
    Raises UncountableError for a model whose operations can't be counted.
    """
    written = lengths if answers is None else answers
    return cost(model, max(lengths), max(written)).total(lengths, written, calls)


def cost(model: Any, longest: int, longest_answer: int) -> Cost:
    """Return what texts cost by their lengths, as it agrees with a run at the longest ones.

    Raises UncountableError as `step_flops`.
    """
    counted = _counted_cost(model, longest, longest_answer)
    if _sees_only_earlier(model):
        own = (0, 2) if unwrapped(model).config.is_encoder_decoder else (2, 0)
        counted.text[own] /= 2
    return counted


def _sees_only_earlier(model: Any) -> bool:
    return any(getattr(module, "is_causal", False) is True for module in model.modules())


def _counted_cost(model: Any, longest: int, longest_answer: int) -> Cost:
    """Return what the counter gives, as a polynomial. longest: at which it must agree with a run."""
    both = bool(unwrapped(model).config.is_encoder_decoder)
    powers, runs = (TWO_LENGTHS, TWO_LENGTHS_RUNS) if both else (ONE_LENGTH, ONE_LENGTH_RUNS)
    limit = getattr(unwrapped(model).config.get_text_config(), "max_position_embeddings", None) or LONGEST
    unit = max(2, min(LONGEST, limit - limit // 8) // 4)
    with _counted(model) as count:
        costs = [count(1, one * unit, other * unit) for one, other in runs]
        table = [[float(one**first * other**second) for first, second in powers] for one, other in runs]
        factors = np.linalg.solve(np.array(table), np.array(costs, dtype=float))
        call = 2 * costs[0] - count(2, runs[0][0] * unit, runs[0][1] * unit)
        text = {
            (first, second): float(factor) / unit ** (first + second)
            for (first, second), factor in zip(powers, factors, strict=True)
        }
        text[0, 0] -= call
        found = Cost(text=text, call=float(call))
        if looks_into_mask(model):
            found = _with_chunks(found, count, limit)
        most, most_answer = min(longest, limit), min(longest_answer, limit)
        there = count(1, most, most_answer)
    if abs(found.total([most], [most_answer], 1) - there) > 1e-6 * there:
        raise UncountableError(f"what {most} tokens cost does not follow from what shorter texts do")
    return found


def _with_chunks(cost: Cost, count: Callable[[int, int, int], int], limit: int) -> Cost:
    """Return what texts of several chunks cost, too: transformers fills up the last one of its linear attention.

    cost: as it is within one chunk. limit: tokens that the model reads.
    """
    second = third = 0.0
    if limit > CHUNK:
        second = count(1, CHUNK + 1, 0) - cost.total([CHUNK + 1], [0], 1)
    if limit > 2 * CHUNK:
        third = count(1, 2 * CHUNK + 1, 0) - cost.total([2 * CHUNK + 1], [0], 1)
    return Cost(text=cost.text, call=cost.call, chunks=(second, third - second))


@contextlib.contextmanager
def _counted(model: Any) -> Iterator[Callable[[int, int, int], int]]:
    """Give a function that returns the FLOPs of (rows, tokens, tokens of an answer) in training."""
    inner, training = unwrapped(model), model.training
    with contextlib.ExitStack() as stack:
        stack.callback(model.train, training)
        model.train()
        stack.enter_context(_plain(model))
        if transformers_internals.attention_name(inner.config) != "eager":
            AttentionInterface.register(ATTENTION, _attention)
            stack.enter_context(patch.attention_function(patch.configs_of(inner), ATTENTION))
        stack.enter_context(_experts_by_token(inner))
        ways = _ways(model)
        yield lambda rows, tokens, answer: _count(model, ways, rows, tokens, answer)


def _count(model: Any, ways: list[_Way], rows: int, tokens: int, answer: int) -> int:
    """Return the counter's total of a forward and a backward pass. ways: to run the model, the first of which serves.

    One that fails is taken off, for good. Raises UncountableError where the last one does.
    """
    while True:
        outputs, device = ways[0]
        runner = _Runner(model, outputs, device)
        try:
            with FlopCounterMode(display=False) as counter, _others_kept(model):
                runner.loss(rows, tokens, answer).backward()
            return int(counter.get_total_flops())
        except _FAILURES as error:
            if len(ways) == 1:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                kind = type(unwrapped(model)).__name__
                raise UncountableError(f"{kind} can't be run to count its operations: {reason}") from error
            del ways[0]
        finally:
            runner.drop_gradients()


def _ways(model: Any) -> list[_Way]:
    parameters = list(model.parameters())
    small = sum(parameter.numel() for parameter in parameters) <= MOST_PARAMETERS
    on_own_device = small and all(parameter.device.type != "meta" for parameter in parameters)
    devices = ["meta", *([parameters[0].device.type] if on_own_device else [])]
    inner = unwrapped(model)
    apart = inner.config.is_encoder_decoder and not is_generative(inner)
    return [(outputs, device) for device in devices for outputs in (_outputs, *([_outputs_of_heads] if apart else []))]


class _Runner(nn.Module):
    """Runs a model on the meta device, or on its own. outputs: of the model, for its inputs."""

    def __init__(self, model: Any, outputs: Callable[..., list[torch.Tensor]], device: str) -> None:
        super().__init__()
        self.model, self._outputs, self._device = model, outputs, device

    def forward(self, rows: int, tokens: int, answer: int) -> torch.Tensor:
        """Return the sum of what the model gives, which a backward pass begins from."""
        device = self._device if self._device == "meta" else next(self.model.parameters()).device
        ids = torch.full((rows, tokens), 5, dtype=torch.long, device=device)
        return torch.stack([part.float().sum() for part in self._outputs(self.model, ids, answer)]).sum()

    def loss(self, rows: int, tokens: int, answer: int) -> torch.Tensor:
        """Return the same by weights on the device, of which those of the model that are trained get gradients."""
        if self._device != "meta":
            return self(rows, tokens, answer)
        loss: torch.Tensor = functional_call(self, self._held(), (rows, tokens, answer), tie_weights=False)
        return loss

    def _held(self) -> dict[str, torch.Tensor]:
        """Return the weights on the meta device by name, each place once; tied ones are one tensor there too.

        A module that several layers share, as VeRA's projections, has several names. By all of them, `functional_call`
        would put its weights back from the second name's, and leave the model on the meta device.
        """
        held, made = {}, {}
        for prefix, module in self.named_modules():
            own = [module.named_parameters(recurse=False), module.named_buffers(recurse=False)]
            for name, tensor in itertools.chain(*own):
                if id(tensor) not in made:
                    made[id(tensor)] = _on_meta(tensor)
                held[f"{prefix}.{name}" if prefix else name] = made[id(tensor)]
        return held

    def drop_gradients(self) -> None:
        """Give up gradients that a run on the model's own device has left."""
        if self._device != "meta":
            for parameter in self.model.parameters():
                parameter.grad = None


def _on_meta(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor without content, of one type, as operations are counted alike in all of them."""
    kind = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return torch.empty(tensor.shape, dtype=kind, device="meta", requires_grad=tensor.requires_grad)


def _outputs(model: Any, ids: torch.Tensor, answer: int) -> list[torch.Tensor]:
    inner = unwrapped(model)
    inputs: dict[str, Any] = {"input_ids": ids}
    if inner.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids.new_full((len(ids), answer), 5)
    elif ids.device.type != "meta" or (
        (is_generative(inner) or reads_last_token(inner)) and not looks_into_mask(inner)
    ):
        inputs["attention_mask"] = torch.ones_like(ids)
    if is_generative(inner):
        inputs["use_cache"] = False
    outputs = model(**inputs)
    return [outputs[name] for name in ("logits", "start_logits", "end_logits") if name in outputs]


def _outputs_of_heads(model: Any, ids: torch.Tensor, answer: int) -> list[torch.Tensor]:
    """Give what an encoder-decoder's head says of one token; its own forward looks for the ends of texts."""
    inner = unwrapped(model)
    hidden = inner.base_model(input_ids=ids, decoder_input_ids=ids.new_full((len(ids), answer), 5)).last_hidden_state
    hidden = hidden[:, -1]
    for name in head_names(inner):
        hidden = getattr(inner, name)(hidden)
    return [hidden]


def _attention(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any
) -> tuple[torch.Tensor, None]:
    """Attention's two products, and nothing between them. query: [rows, heads, tokens, width]."""
    groups = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(groups, 1) if groups > 1 else part for part in (key, value))
    return torch.matmul(torch.matmul(query, key.transpose(-1, -2)), value).transpose(1, 2).contiguous(), None


@contextlib.contextmanager
def _plain(model: Any) -> Iterator[None]:
    """Inside, nothing is recomputed or replaced, frozen embeddings give no gradients, and packed weights are whole."""
    with contextlib.ExitStack() as stack:
        for module in model.modules():
            if "forward" in vars(module):
                stack.callback(setattr, module, "forward", vars(module).pop("forward"))
            if getattr(module, "gradient_checkpointing", False) is True:
                stack.callback(setattr, module, "gradient_checkpointing", True)
                module.gradient_checkpointing = False
            if isinstance(module, nn.Linear) and module.weight.shape != (module.out_features, module.in_features):
                stack.enter_context(_unpacked(module))
            if isinstance(module, nn.Embedding) and not module.weight.requires_grad:
                stack.callback(module.register_forward_hook(_without_gradient).remove)
        yield


@contextlib.contextmanager
def _others_kept(model: Any) -> Iterator[None]:
    """Give a model back the tensors that are neither its parameters nor its buffers, wherever a run has moved them.

    SHiRA keeps the indices of its weights in a dictionary, and moves them to the device of the weights: on the meta
    device they would be lost.
    """
    held: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for module in model.modules():
        own = {name: item for name, item in vars(module).items() if name not in ("_parameters", "_buffers")}
        for place in (vars(module), *(item for item in own.values() if isinstance(item, dict))):
            tensors = {name: item for name, item in place.items() if torch.is_tensor(item)}
            if tensors:
                held.append((place, tensors))
    try:
        yield
    finally:
        for place, tensors in held:
            place.update(tensors)


@contextlib.contextmanager
def _experts_by_token(inner: Any) -> Iterator[None]:
    """Inside, a mixture's experts are run for each token that is sent to them, without a look at which those are."""
    own = inner.get_experts_implementation()
    if any(isinstance(module, nn.Module) and "Experts" in type(module).__name__ for module in inner.modules()):
        inner.set_experts_implementation("batched_mm")
    try:
        yield
    finally:
        if inner.get_experts_implementation() != own:
            inner.set_experts_implementation(own)


@contextlib.contextmanager
def _unpacked(layer: nn.Linear) -> Iterator[None]:
    """Let a layer whose weights are packed into fewer numbers multiply as any other one does."""

    def _forward(inputs: torch.Tensor) -> torch.Tensor:
        weight = torch.empty(layer.out_features, layer.in_features, dtype=inputs.dtype, device=inputs.device)
        return functional.linear(inputs, weight)

    layer.forward = _forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        del layer.forward


def _without_gradient(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
    return output.detach()
