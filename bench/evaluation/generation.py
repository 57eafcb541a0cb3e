"""Greedy generation for many prompts: the texts of transformers' own `generate`, at a fraction of its cost.

    generator = Generator(model, prompts, end_token_ids={2}, max_new_tokens=24, pad_token_id=0)
    for numbers in generator.batches:
        answers = generator.run(numbers)

The tokens that all prompts begin with are run once (see shared_prefix). What is left of each prompt is run without
padding, in one packed row together with the newest token of every answer that is being written; a finished answer's
place goes to a waiting prompt. The output head is applied to the last token of each answer only.
"""

import contextlib
import copy
import inspect
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, GenerationConfig

from bench.data.batching import pad_inputs
from bench.data.prompts.shared_affixes import common_prefix_length
from bench.distributed import in_step
from bench.errors import SetupError
from bench.evaluation import self_check
from bench.evaluation.self_check import Agree
from bench.models import positions
from bench.models.heads import unwrapped
from bench.models.kernels import patch
from bench.models.kernels.attention import AttentionWithLse, merge
from bench.models.kernels.shared_prefix import Prefix, attending, checked, run_prefix, supports
from bench.models.library_internals import transformers_internals
from bench.records.failures import is_out_of_memory

NAME = "bench_generation"
# Tokens of all answers that are written at once, prompts' own parts included: 0.5 GiB of keys and values for a model of
# 1.5 billion parameters with grouped keys, 8 GiB for one of 7 billion without.
DEFAULT_BUDGET = 16_384
# New prompts' tokens in one forward: enough to keep a processor busy, few enough to keep activations small.
PREFILL_TOKENS = 1_024
# New tokens of an answer that is written by the plain path too, to compare them.
COMPARED_TOKENS = 16
# A batch holds so many times the prompts that are run at once, so that places are refilled.
REFILLS = 4

Autocast = Callable[[], contextlib.AbstractContextManager[Any]]
Stop = Callable[[list[int]], bool]
Pair = tuple[Tensor, Tensor]
Heads = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class Generated:
    """An answer: new tokens without the end token, but with the one that made `stop` true.

    stopped: whether it ended by itself, before `max_new_tokens` ran out.
    """

    tokens: tuple[int, ...]
    stopped: bool


@dataclass
class _Row:
    """A prompt whose answer is being written: its tokens behind the common prefix, and the new ones."""

    number: int
    suffix: Sequence[int]
    new: list[int] = field(default_factory=list)

    @property
    def stored(self) -> int:
        """Return the number of tokens whose keys and values were computed: all but the newest."""
        return len(self.suffix) + len(self.new) - 1


@dataclass(frozen=True)
class _Store:
    """Keys and values of the rows, [places, key heads, capacity, width] per layer, made when a layer is first met."""

    places: int
    capacity: int
    layers: dict[int, Pair] = field(default_factory=dict)

    def layer(self, number: int, key: Tensor, value: Tensor) -> Pair:
        """Return a layer's buffers, for keys and values like these [key heads, tokens, width]."""
        if number not in self.layers:
            sizes = [(self.places, len(part), self.capacity, part.shape[-1]) for part in (key, value)]
            self.layers[number] = key.new_zeros(sizes[0]), value.new_zeros(sizes[1])
        return self.layers[number]

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a row to another place: rows in use are always the first ones, so that no key is copied to read it."""
        for buffers in self.layers.values():
            for buffer in buffers:
                buffer[target, :, :length] = buffer[source, :, :length]


class _Step:
    """One forward of one packed row: the newest token of each row in `writing`, then all tokens of each in `entering`.

    Row i of both together lies in place i of the store. Positions count from the end of the prefix.
    """

    def __init__(self, writing: list[_Row], entering: list[_Row], store: _Store, prefix: Prefix | None, device: Any):
        self.store, self.prefix, self.num_writing = store, prefix, len(writing)
        sizes = [len(row.suffix) for row in entering]
        tokens = [row.new[-1] for row in writing] + [token for row in entering for token in row.suffix]
        positions = [row.stored for row in writing] + [place for size in sizes for place in range(size)]
        self.tokens, self.positions = torch.tensor([tokens, positions], device=device)
        self.furthest, self.longest = max(positions), max(sizes, default=0)
        lengths = torch.tensor(sizes, dtype=torch.long)[:, None]
        ends = torch.tensor([1] * len(writing) + sizes).cumsum(0)
        self.last = (ends - 1).to(device)  # the token of each row whose successor is asked for
        # Entering rows as a rectangle [rows, longest]: only attention inside of rows is padded.
        columns = torch.arange(self.longest)
        self.real = (columns < lengths).to(device)
        self.rectangle = torch.where(columns < lengths, ends[len(writing) :, None] - lengths + columns, 0).to(device)
        self._masks: dict[Any, Tensor] = {}

    def seen(self, part: str, window: int | None, queries: Tensor, num_keys: int) -> Tensor:
        """Return [queries, keys]: causal, and no further back than the window. Made once for all layers."""
        if (part, window) not in self._masks:
            distance = queries[:, None] - torch.arange(num_keys, device=queries.device)
            self._masks[part, window] = (distance >= 0) & (distance < (window or torch.inf))
        return self._masks[part, window]


_STEP: ContextVar[_Step] = ContextVar("bench_generation_step")


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend in one packed row, [1, heads, tokens, width] -> [1, tokens, heads, width]: the registered function."""
    layer = checked(module, attention_mask, is_causal, options)
    step, window = _STEP.get(), sliding_window
    kernel = AttentionWithLse(scale=query.shape[-1] ** -0.5 if scaling is None else scaling, softcap=softcap)
    # Under autocast, rotated queries and keys may be float32 beside values in 16 bits.
    query, key, value = (part[0].to(value.dtype) for part in (query, key, value))
    buffers = step.store.layer(layer, key, value)
    parts = []
    if step.num_writing:
        parts.append(_writing(step, kernel, buffers, (query, key, value), window))
    if step.longest:
        parts.append(_entering(step, kernel, buffers, (query, key, value), window))
    out, lse = (torch.cat(both) for both in zip(*parts, strict=True))  # [tokens, heads, width], [tokens, heads]
    if step.prefix is not None:
        out = merge(out, lse, *_before(step, kernel, step.prefix, layer, query, window))
    return out[None].contiguous(), None  # some families take a view of it


def _writing(step: _Step, kernel: AttentionWithLse, buffers: Pair, heads: Heads, window: int | None) -> Pair:
    """Store each row's newest key and value, and attend to all of the row."""
    query, key, value = (part[:, : step.num_writing].transpose(0, 1) for part in heads)
    positions = step.positions[: step.num_writing]
    for buffer, new in zip(buffers, (key, value), strict=True):
        buffer[torch.arange(step.num_writing, device=buffer.device), :, positions] = new
    keys, values = (buffer[: step.num_writing, :, : step.furthest + 1] for buffer in buffers)
    seen = step.seen("writing", window, positions, step.furthest + 1)[:, None, None]
    # Heads that share a key are queries of one head, so that the key need not be repeated for them.
    out, lse = kernel(query.unflatten(1, (key.shape[1], -1)), keys, values, seen=seen)
    return out.flatten(1, 2), lse.flatten(1, 2)


def _entering(step: _Step, kernel: AttentionWithLse, buffers: Pair, heads: Heads, window: int | None) -> Pair:
    """Store whole rows, and attend inside of them."""
    query, key, value = (part[:, step.rectangle].transpose(0, 1) for part in heads)
    for buffer, new in zip(buffers, (key, value), strict=True):
        # What lies behind a shorter row's end is never seen: it is overwritten as the answer grows.
        buffer[step.num_writing : step.num_writing + len(new), :, : step.longest] = new
    seen = None
    if window is not None and window < step.longest:
        places = torch.arange(step.longest, device=query.device)
        seen = step.seen("entering", window, places, step.longest)[None, None]
    out, lse = kernel(query, key, value, seen=seen, causal=seen is None)
    return out.transpose(1, 2)[step.real], lse.transpose(1, 2)[step.real]


def _before(
    step: _Step, kernel: AttentionWithLse, prefix: Prefix, layer: int, query: Tensor, window: int | None
) -> Pair:
    """Attend to the prefix from all tokens, with the heads that share a key as queries of one head."""
    key, value = prefix.layers[layer]
    (num_heads, num_tokens, _), num_keys = query.shape, key.shape[1]
    seen = None
    if window is not None and step.furthest + prefix.length >= window:
        seen = step.seen("prefix", window, step.positions + prefix.length, prefix.length)
        seen = seen.repeat(num_heads // num_keys, 1)[None, None]
    out, lse = kernel(query.reshape(1, num_keys, num_heads // num_keys * num_tokens, -1), key, value, seen=seen)
    out, lse = out.reshape(num_heads, num_tokens, -1), lse.reshape(num_heads, num_tokens)
    return out.transpose(0, 1), lse.transpose(0, 1)


class Generator:
    """Greedy answers to many prompts.

    prompts: token ids. end_token_ids end an answer, and so does `stop`, given all new tokens, when it is true.
    budget: tokens that are held at once, those of the common prefix not counted. autocast: makes the context in which
    the model runs. plainly: by transformers' own `generate`, one prompt at a time, whatever the model. checked: how
    many prompts' answers are compared with the plain path's before the first batch; 0 for none. agree: how the
    processes of a run agree on what that shows. batches: numbers of prompts for `run`; they depend on prompts, budget
    and fallbacks only, so that no answer depends on the number of processes. notes: which fallback was used and why.
    check_s: seconds that the comparison took. The model must not change between two runs.

    Raises SetupError for an empty prompt, and for one that leaves no room for `max_new_tokens` positions.
    """

    def __init__(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        *,
        end_token_ids: set[int],
        max_new_tokens: int,
        pad_token_id: int,
        stop: Stop | None = None,
        budget: int | None = None,
        autocast: Autocast | None = None,
        plainly: bool = False,
        checked: int = self_check.EXAMPLES,
        agree: Agree = self_check.own_reason,
    ) -> None:
        self._model, self._inner, self._prompts = model, unwrapped(model), prompts
        self._end_token_ids, self._stop, self._max_new_tokens = end_token_ids, stop, max_new_tokens
        self._pad_token_id, self._autocast = pad_token_id, autocast or contextlib.nullcontext
        self._budget = budget or DEFAULT_BUDGET
        _check_lengths(self._inner.config, prompts, max_new_tokens)
        alone = _must_be_alone(model, max(map(len, prompts), default=0) + max_new_tokens)
        self._alone = plainly or alone is not None
        with _prepared(model):
            reason = None if plainly else alone or _refused(model)
        self._fast = reason is None and not plainly
        self.notes = [f"written by transformers' own generate: the model {reason}"] if reason else []
        self._common = _common_prefix(prompts) if self._fast else 0
        self._prefix: Prefix | None = None
        started_s = time.perf_counter()
        if checked and prompts:
            self._compare(self_check.sample([len(prompt) for prompt in prompts], checked), agree)
        self.check_s = time.perf_counter() - started_s
        self.batches: list[list[int]] = []
        order = self._longest_first(range(len(prompts)))
        while order:
            size = REFILLS * self._places(order[0])
            self.batches.append(order[:size])
            order = order[size:]

    def _compare(self, numbers: list[int], agree: Agree) -> None:
        """Fall back until the first tokens of a few answers, written together, are those of the plain path."""
        limit, self._max_new_tokens = self._max_new_tokens, min(self._max_new_tokens, COMPARED_TOKENS)
        try:
            while not self._alone:
                reason = agree(self._wrong(numbers))
                if reason is None:
                    break
                self._alone, self._fast = not self._fast, False
                self._common, self._prefix = 0, None
                way = "one by one, " if self._alone else ""
                self.notes.append(f"written {way}by transformers' own generate: the model {reason}")
        finally:
            self._max_new_tokens = limit

    def _wrong(self, numbers: list[int]) -> str | None:
        """Return why answers to these prompts, written together, are not those of the plain path; None if they are."""
        try:
            answers = self.run(numbers)
        except Exception as error:
            return self_check.failure(error)
        with _prepared(self._model), self._autocast():
            exact = patch.in_float32(self._inner)
            # One forward of a whole text is cheap; it says which answers are worth writing again.
            given = dict(zip(numbers, answers, strict=True))
            doubtful = [
                (number, given[number])
                for number in self_check.within_time(numbers)
                if not self._is_likeliest(self._prompts[number], given[number], exact)
            ]
            if exact and not doubtful:  # the longest one, for what a cache may change
                doubtful = [(numbers[0], answers[0])]
            changed = sum(self._alone_answer(number) != answer for number, answer in doubtful)
        return f"writes other answers so ({changed} of {len(numbers)} examples)" if changed else None

    def _alone_answer(self, number: int) -> Generated:
        answers: dict[int, Generated] = {}
        self._write_plainly([number], 1, answers)
        return answers[number]

    def _is_likeliest(self, prompt: Sequence[int], answer: Generated, exact: bool) -> bool:
        """Return whether each token of an answer, and its end, is the likeliest one by one plain forward."""
        logits = _logits_alone(self._model, prompt, answer.tokens)
        if not bool(logits.isfinite().all()):
            return True  # the run ends as diverged
        rows = logits.log_softmax(-1).cpu()
        highest = rows.max(-1).values.tolist()
        values = [row[token] for row, token in zip(rows.tolist(), answer.tokens, strict=False)]
        ended = answer.stopped and not (self._stop is not None and answer.tokens and self._stop([*answer.tokens]))
        if ended:
            values.append(max(rows[len(answer.tokens)][token].item() for token in self._end_token_ids))
        return not any(
            self_check.is_far(value, best, exact=exact) for value, best in zip(values, highest, strict=False)
        )

    def run(self, numbers: list[int]) -> list[Generated]:
        """Generate answers to these prompts, in this order. Out of memory, fewer of them are generated at once."""
        answers: dict[int, Generated] = {}
        write = self._write if self._fast else self._write_plainly
        with _prepared(self._model), self._autocast():
            while waiting := self._longest_first(set(numbers) - set(answers)):
                places = min(self._places(waiting[0]), len(waiting))
                try:
                    write(waiting, places, answers)
                except Exception as error:
                    if places == 1 or in_step.is_on() or not is_out_of_memory(error):
                        raise
                    self._budget = places // 2 * self._room(waiting[0])
                    self.notes.append(f"out of memory with {places} answers at once; went on with {places // 2}")
        return [answers[number] for number in numbers]

    def _answer(self, tokens: list[int]) -> Generated | None:
        """Return the answer if the last of its new tokens ends it, else None."""
        if tokens[-1] in self._end_token_ids:
            return Generated(tokens=tuple(tokens[:-1]), stopped=True)
        stopped = self._stop is not None and self._stop(list(tokens))
        ended = stopped or len(tokens) == self._max_new_tokens
        return Generated(tokens=tuple(tokens), stopped=stopped) if ended else None

    def _longest_first(self, numbers: Iterable[int]) -> list[int]:
        return sorted(numbers, key=lambda number: (-len(self._prompts[number]), number))

    def _room(self, number: int) -> int:
        return len(self._prompts[number]) - self._common + self._max_new_tokens

    def _places(self, longest: int) -> int:
        return 1 if self._alone else max(1, self._budget // self._room(longest))

    def _write(self, waiting: list[int], places: int, answers: dict[int, Generated]) -> None:
        if self._common and self._prefix is None:
            self._prefix = run_prefix(self._model, self._prompts[0][: self._common])
        store = _Store(places, self._room(waiting[0]))
        queue = deque(_Row(number, self._prompts[number][self._common :]) for number in waiting)
        rows: list[_Row] = []
        with attending(self._model, None):
            AttentionInterface.register(NAME, _attention)
            # `attending` remembers the model's own attention, and puts it back.
            transformers_internals.set_attention(self._inner.config, NAME)
            while queue or rows:
                entering = _taken(queue, places - len(rows))
                next_tokens = self._forward(_Step(rows, entering, store, self._prefix, self._inner.device))
                rows += entering
                for row, token in zip(rows, next_tokens, strict=True):
                    row.new.append(token)
                self._finish(rows, store, answers)

    def _forward(self, step: _Step) -> list[int]:
        """Return the next token of each row, `writing` first; of equally likely ones the lowest, as `generate` does."""
        token = _STEP.set(step)
        try:
            # The mask is not read; without one some models look for pad tokens, and warn.
            inputs = {"input_ids": step.tokens[None], "attention_mask": torch.ones_like(step.tokens[None])}
            places = step.positions[None] + self._common
            logits = self._inner(**inputs, position_ids=places, use_cache=False, logits_to_keep=step.last).logits
        finally:
            _STEP.reset(token)
        return logits[0].float().argmax(-1).tolist()

    def _finish(self, rows: list[_Row], store: _Store, answers: dict[int, Generated]) -> None:
        """Remove finished rows, in place; the last one in use moves to a place that becomes free."""
        for place in reversed(range(len(rows))):
            answer = self._answer(rows[place].new)
            if answer is not None:
                answers[rows[place].number] = answer
                last = rows.pop()
                if place < len(rows):
                    store.move(len(rows), place, last.stored)
                    rows[place] = last

    def _write_plainly(self, waiting: list[int], places: int, answers: dict[int, Generated]) -> None:
        """Generate by transformers' `generate`, in batches padded on the left, an encoder's on the right."""
        for start in range(0, len(waiting), places):
            numbers = waiting[start : start + places]
            positions.forget_longer_texts(self._model)
            new_tokens = self._generate([self._prompts[number] for number in numbers])
            for number, tokens in zip(numbers, new_tokens, strict=True):
                ends = (self._answer(tokens[:length]) for length in range(1, len(tokens) + 1))
                answers[number] = next(answer for answer in ends if answer is not None)

    def _generate(self, prompts: list[Sequence[int]]) -> list[list[int]]:
        """Return new tokens of each prompt, and behind its end whatever `generate` puts there."""
        longest, encoder = max(map(len, prompts)), self._inner.config.is_encoder_decoder
        batch = pad_inputs(prompts, self._pad_token_id, side="right" if encoder else "left")
        start = 1 if encoder else longest  # an encoder-decoder's answer begins with a start token
        settings = GenerationConfig(
            max_new_tokens=self._max_new_tokens, pad_token_id=self._pad_token_id, do_sample=False
        )
        settings.eos_token_id = sorted(self._end_token_ids) or None
        settings.decoder_start_token_id = getattr(self._inner.config, "decoder_start_token_id", None)
        inputs = {name: tensor.to(self._inner.device) for name, tensor in batch.items()}
        stop = self._stop or (lambda _: False)
        criteria = [lambda ids, _: ids.new_tensor([stop(new) for new in ids[:, start:].tolist()]).bool()]
        with in_step.turn("generate", _generate_again, inputs, settings):
            # In step, those who are done go on until all are.
            ids = self._model.generate(
                **inputs, generation_config=settings, stopping_criteria=criteria, synced_gpus=in_step.is_on()
            )
        return ids[:, start:].tolist()


def _generate_again(step: in_step.InStep, inputs: dict[str, Tensor], settings: GenerationConfig) -> None:
    settings = copy.deepcopy(settings)
    settings.max_new_tokens = 1  # it goes on as long as the others do
    with _prepared(step.model):
        step.model.generate(**inputs, generation_config=settings, synced_gpus=True)


def plain(model: Any, prompt: Sequence[int], **settings: Any) -> Generated:
    """Generate by transformers' own `generate`, one prompt alone: the reference. settings: as Generator's."""
    return Generator(model, [prompt], plainly=True, checked=0, **settings).run([0])[0]


def likeliest(model: Any, prompt: Sequence[int], answer: Generated, count: int) -> list[dict[int, float]]:
    """Return the likeliest tokens at each place of an answer and behind it, with their log-probabilities.

    By one forward of the prompt with the answer.
    """
    with _prepared(model):
        top = _logits_alone(model, prompt, answer.tokens).log_softmax(-1).topk(count)
    rows = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return [dict(zip(tokens, values, strict=True)) for tokens, values in rows]


def _logits_alone(model: Any, prompt: Sequence[int], tokens: Sequence[int]) -> Tensor:
    """Return float32 logits [len(tokens) + 1, vocabulary] of what follows the prompt, by one forward of one row."""
    inner = unwrapped(model)
    positions.forget_longer_texts(model)
    if inner.config.is_encoder_decoder:
        written = torch.tensor([[inner.config.decoder_start_token_id, *tokens]], device=inner.device)
        inputs: dict[str, Any] = {"input_ids": torch.tensor([list(prompt)], device=inner.device)}
        logits = model(**inputs, decoder_input_ids=written, use_cache=False).logits
    else:
        options = {}
        if "logits_to_keep" in inspect.signature(inner.forward).parameters:
            options["logits_to_keep"] = len(tokens) + 1
        ids = torch.tensor([[*prompt, *tokens]], device=inner.device)
        logits = model(input_ids=ids, use_cache=False, **options).logits
    return logits[0, -len(tokens) - 1 :].float()  # type: ignore[no-any-return]


def _must_be_alone(model: Any, tokens: int) -> str | None:
    """Return why texts of up to so many tokens can't even be padded together; None if they can."""
    adapter = getattr(model, "active_peft_config", None)
    if adapter is not None and adapter.is_prompt_learning:
        return "has an adapter that puts tokens of its own before the pads"
    limit = positions.rescaled_beyond(model)
    if limit is not None and tokens > limit:
        return "rotates long texts by the length of the longest one"
    return None


def _refused(model: Any) -> str | None:
    chooses = "logits_to_keep" in inspect.signature(unwrapped(model).forward).parameters
    return supports(model) or (None if chooses else "applies its output head to all tokens")


def _check_lengths(config: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    stated = getattr(config.get_text_config(), "max_position_embeddings", None)
    positions = stated if isinstance(stated, int) and stated > 0 else None  # XLNet says -1: there is no end
    for number, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise SetupError(f"prompt {number} is empty; expected at least one token")
        # An encoder-decoder counts the answer's positions apart from the prompt's.
        needed = max(len(prompt), max_new_tokens) if config.is_encoder_decoder else len(prompt) + max_new_tokens
        if positions is not None and needed > positions:
            raise SetupError(
                f"prompt {number} has {len(prompt)} tokens; with max_new_tokens {max_new_tokens} it needs {needed} "
                f"positions, and the model has {positions}; use fewer or shorter shots, or fewer new tokens"
            )


def _common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Return how many first tokens all prompts share; each keeps one token, whose successor is predicted."""
    if len(prompts) < 2:
        return 0
    shared = common_prefix_length([list(prompt) for prompt in prompts])
    return min(shared, *(len(prompt) - 1 for prompt in prompts))


def _taken(queue: deque[_Row], places: int) -> list[_Row]:
    """Take the next prompts for so many free places: PREFILL_TOKENS at most, or one prompt."""
    taken, tokens = list[_Row](), 0
    while queue and len(taken) < places and (not taken or tokens + len(queue[0].suffix) <= PREFILL_TOKENS):
        taken.append(queue.popleft())
        tokens += len(taken[-1].suffix)
    return taken


@contextlib.contextmanager
def _prepared(model: Any) -> Iterator[None]:
    """Set evaluation mode, no gradients, and default generation settings; everything is restored afterwards."""
    inner = unwrapped(model)
    training, own = model.training, inner.generation_config
    # `generate` fills what its argument leaves open from them: sampling, penalties, minimum lengths.
    inner.generation_config = GenerationConfig()
    try:
        with torch.no_grad():
            yield model.eval()
    finally:
        inner.generation_config = own
        model.train(training)
