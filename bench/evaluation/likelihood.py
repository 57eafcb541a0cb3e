"""Log-likelihoods of a few continuations (labels, say) of many contexts, at a fraction of the usual cost.

    scorer = Scorer(model, items, pad_token_id=0)
    for numbers in scorer.batches:
        answers = scorer.run(numbers)

An item is one row: its context, and behind it the tree of its continuations, in which shared first tokens stand once
and last tokens not at all, for they are predicted and never read. Tokens that all contexts begin with are run once (see
shared_prefix). The output head is applied only where something is read. `plain` is the reference for all of it: each
scorer first compares a few of its items with it, and goes on in a plainer way where they differ.
"""

import bisect
import contextlib
import functools
import itertools
import math
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutput

from bench.data.batching import grouped, pad_inputs
from bench.data.prompts.shared_affixes import common_prefix_length
from bench.distributed import in_step
from bench.evaluation import continuation_tree, self_check
from bench.evaluation.self_check import Agree
from bench.models import positions
from bench.models.batch_budget import default_budget, device_of
from bench.models.heads import unwrapped
from bench.models.kernels import patch, shared_prefix
from bench.records.failures import is_out_of_memory

Autocast = Callable[[], contextlib.AbstractContextManager[Any]]
# Logits held at once, in elements: 64 MiB in float32.
LOGITS = 2**24
# A prefix costs each row's attention a merge; it pays off from this share of the rows' own tokens.
PREFIX_SHARE = 0.05
# How labels are scored where the fast path can't be used.
IN_ROWS = "each label is scored in a row of its own, without a shared prefix"
ALONE = "each label is scored alone"


@dataclass(frozen=True, kw_only=True)
class Item:
    """One example: the tokens of its context, and the continuations to score; none of them empty."""

    context: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if not self.context or not self.continuations or not all(self.continuations):
            raise ValueError("an item needs a context and continuations of at least one token each")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """sums: the continuations' log-likelihoods given the context, in nats. greedy: each token is the likeliest one."""

    sums: tuple[float, ...]
    greedy: tuple[bool, ...]


class Scorer:
    """Scores items in batches. The model must be in evaluation mode; it may be wrapped by PEFT.

    budget: tokens of a batch, pads included, and at least one row; by default what suits the device.
    autocast: returns the context in which the model runs; default: none.
    checked: how many items are scored by the plain path too before the first batch; 0 for none. agree: how the
    processes of a run agree on what that shows. shared: whether labels may share a row, and prompts their prefix.
    batches: numbers of items, longest first; they depend on items, budget and fallbacks only.
    notes: which fallback was used and why, in sentences. check_s: seconds that the comparison took.
    """

    def __init__(
        self,
        model: Any,
        items: Sequence[Item],
        *,
        pad_token_id: int | None,
        budget: int | None = None,
        autocast: Autocast | None = None,
        checked: int = self_check.EXAMPLES,
        agree: Agree = self_check.own_reason,
        shared: bool = True,
    ) -> None:
        self.autocast, self._shared = autocast or contextlib.nullcontext, shared
        self.notes: list[str] = []
        wanted = default_budget(model) if budget is None else budget
        started_s = time.perf_counter()
        strategy = self._choose(model, list(items), pad_token_id or 0)
        with torch.no_grad(), self.autocast():
            self._strategy = self._compared(strategy, wanted, checked, agree) if checked and items else strategy
        self.check_s = time.perf_counter() - started_s
        self._budget = self._strategy.most_tokens(wanted)
        self.batches = grouped(self._strategy.lengths, self._budget)

    def _choose(self, model: Any, items: list[Item], pad_token_id: int) -> "_Trees | _Rows":
        longest = max((len(item.context) + max(map(len, item.continuations)) - 1 for item in items), default=0)
        limit = positions.rescaled_beyond(model)
        if limit is not None and longest > limit:
            self.notes.append(f"{ALONE}: the model rotates texts of more than {limit} tokens by the longest one")
            return _Alone(model, items, pad_token_id)
        if unwrapped(model).config.is_encoder_decoder:
            self.notes.append("each label is scored in a row of its own: the model is an encoder-decoder")
            return _DecoderRows(model, items, pad_token_id)
        if not self._shared:
            return _Rows(model, items, pad_token_id)
        with torch.no_grad(), self.autocast():
            reason = _why_not(model)
        if reason is None:
            return _Trees(model, items, pad_token_id)
        self.notes.append(f"{IN_ROWS}: the model {reason}")
        return _Rows(model, items, pad_token_id)

    def _compared(self, strategy: "_Trees | _Rows", budget: int, count: int, agree: Agree) -> "_Trees | _Rows":
        """Return the first strategy, from this one to plainer ones, that scores a few items as the plain path does."""
        expected: dict[int, Answer] = {}
        places = {
            number: self_check.some([len(each) for each in strategy.items[number].continuations])
            for number in self_check.sample(strategy.lengths, count)
        }
        while not isinstance(strategy, _Alone):
            try:
                if not expected:
                    for number in self_check.within_time([*places]):
                        expected[number] = plain(strategy.model, _part(strategy.items[number], places[number]))
                reason = _differs(strategy, places, expected, budget)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or in_step.is_on():
                    raise
                self.notes.append("label scores could not be compared with the plain path's: out of memory")
                reason = None
            reason = agree(reason)
            if reason is None:
                break
            strategy, way = strategy.plainer()
            self.notes.append(f"{way}: the model {reason}")
        return strategy

    def run(self, numbers: list[int]) -> list[Answer]:
        """Score the items of these numbers, in their order. Out of memory, it goes on with smaller batches."""
        scored: dict[int, Answer] = {}
        while left := [number for number in numbers if number not in scored]:
            places = grouped([self._strategy.lengths[number] for number in left], self._budget)[0]
            part = [left[place] for place in places]
            try:
                with torch.no_grad(), self.autocast():
                    answers = self._strategy.answers(part, self._budget)
                scored |= zip(part, answers, strict=True)
                continue
            except (RuntimeError, MemoryError) as error:
                if in_step.is_on() or not (is_out_of_memory(error) and self._halve(part)):
                    raise
            # Only here the exception no longer holds the tensors.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        return [scored[number] for number in numbers]

    def _halve(self, part: list[int]) -> bool:
        """Halve the budget; False where a batch is already one row."""
        used = min(self._budget, len(part) * max(self._strategy.lengths[number] for number in part))
        if used <= max(self._strategy.widths[number] for number in part):
            return False
        self._budget = used // 2
        self.notes.append(f"out of memory when scoring labels; went on with batches of {self._budget} tokens")
        return True


def _part(item: Item, places: Sequence[int]) -> Item:
    return Item(context=item.context, continuations=tuple(item.continuations[place] for place in places))


def _differs(
    strategy: "_Trees | _Rows",
    places: dict[int, list[int]],
    expected: dict[int, Answer],
    budget: int,
) -> str | None:
    """Return why a strategy can't be used, by the log-likelihoods of a few items run together; None if it can."""
    exact, largest = patch.in_float32(unwrapped(strategy.model)), 0.0
    within = strategy.most_tokens(budget)
    try:
        scored: dict[int, Answer] = {}
        for numbers in self_check.parts([*expected], strategy.lengths, within):
            scored |= zip(numbers, strategy.answers(numbers, within), strict=True)
    except Exception as error:
        return self_check.failure(error)
    far = False
    for number, answer in expected.items():
        for place, wanted in zip(places[number], answer.sums, strict=True):
            value, tokens = scored[number].sums[place], len(strategy.items[number].continuations[place])
            far |= self_check.is_far(value, wanted, exact=exact, tokens=tokens)
            largest = max(largest, abs(value - wanted))
    if not far:
        return None
    return f"gets other log-likelihoods than by plain forwards (by up to {largest:.2g}, of {len(expected)} examples)"


# Results of probing a model: a probe costs as much as a few short prompts, and a model is scored many times.
_PROBED: weakref.WeakKeyDictionary[Any, dict[Any, str | None]] = weakref.WeakKeyDictionary()


def _why_not(model: Any) -> str | None:
    """Return why a model can't score trees, or None; probed once for each precision and adapter."""
    weight = unwrapped(model).get_input_embeddings().weight
    kind = weight.device.type
    autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    key = (kind, weight.dtype, autocast, str(getattr(model, "active_adapter", None)))
    known = _PROBED.setdefault(model, {})
    if key not in known:
        known[key] = shared_prefix.supports(model, functools.partial(_split_logits, model))
    return known[key]


class _Trees:
    """One row per item: what follows the shared prefix of all contexts, and the tree of its continuations."""

    def __init__(self, model: Any, items: list[Item], pad_token_id: int) -> None:
        self.model, self.items, self.pad_token_id = model, items, pad_token_id
        self.trees = [continuation_tree.tree(item.continuations) for item in items]
        self.prefix_length = prefix_length([item.context for item in items])
        self.lengths = [
            len(item.context) - self.prefix_length + len(each.tokens)
            for item, each in zip(items, self.trees, strict=True)
        ]
        self.widths = self.lengths

    def plainer(self) -> tuple["_Rows", str]:
        """Return the next plainer strategy, and how it scores."""
        return _Rows(self.model, self.items, self.pad_token_id), IN_ROWS

    def most_tokens(self, budget: int) -> int:
        """Return the whole budget: the output head is applied in parts."""
        return budget

    @functools.cached_property
    def prefix(self) -> shared_prefix.Prefix | None:
        """Run the shared prefix when it is first needed, so at the precision of the rows."""
        if not self.prefix_length:
            return None
        return shared_prefix.run_prefix(self.model, self.items[0].context[: self.prefix_length])

    def answers(self, numbers: list[int], budget: int) -> list[Answer]:
        """Run one forward without the head, then the head where something is read."""
        trees = [self.trees[number] for number in numbers]
        contexts = [self.items[number].context[self.prefix_length :] for number in numbers]
        rows = continuation_tree.batch(contexts, trees, self.prefix_length)
        device = device_of(self.model)
        own, places = rows.positions.to(device), rows.places.to(device)
        mask = None if rows.mask is None else rows.mask.to(device)
        with shared_prefix.attending(self.model, self.prefix, mask=mask, positions=own, places=places):
            body = shared_prefix.body(self.model)
            own_positions = own.flatten()[places][None]
            output = body(input_ids=rows.ids[None].to(device), position_ids=own_positions, use_cache=False)
        hidden = output.last_hidden_state[0, rows.reads.to(device)]
        scored = _score_edges(self.model, type(output), hidden, trees)
        return [
            _answer([[edges[place] for place in path] for path in each.paths])
            for each, edges in zip(trees, scored, strict=True)
        ]


def prefix_length(contexts: Sequence[tuple[int, ...]]) -> int:
    """Return how many tokens to run once for all contexts; each keeps its last one. 0 where it does not pay off."""
    shared = min(common_prefix_length(contexts), min(len(context) for context in contexts) - 1)
    rest = sum(len(context) - shared for context in contexts) / len(contexts)
    return shared if len(contexts) > 1 and shared > PREFIX_SHARE * rest else 0


def _score_edges(
    model: Any, kind: type, hidden: torch.Tensor, trees: list[continuation_tree.Tree]
) -> list[list[tuple[float, bool]]]:
    """Return for each tree's edges (log-likelihood of the token, it is the likeliest one). hidden: [reads, hidden]."""
    reads, tokens, first = [], [], 0
    for each in trees:
        reads += [first + parent + 1 for parent, _ in each.edges]
        tokens += [token for _, token in each.edges]
        first += 1 + len(each.tokens)
    step = max(1, LOGITS // _vocabulary(model))
    scored: list[tuple[float, bool]] = []
    for start in range(0, len(hidden), step):
        begin, end = bisect.bisect_left(reads, start), bisect.bisect_left(reads, start + step)
        logits = _logits(model, kind, hidden[start : start + step]).float()
        rows = torch.tensor(reads[begin:end], device=logits.device) - start
        wanted = torch.tensor(tokens[begin:end], device=logits.device)
        scored += _log_likelihoods(logits, rows, wanted)
    left = iter(scored)
    return [list(itertools.islice(left, len(each.edges))) for each in trees]


def _log_likelihoods(logits: torch.Tensor, rows: torch.Tensor, tokens: torch.Tensor) -> list[tuple[float, bool]]:
    """Score `tokens` at `rows` of logits, float32 [positions, vocabulary], which are overwritten."""
    own = logits[rows, tokens]
    highest, likeliest = logits.max(-1)
    totals = logits.sub_(highest[:, None]).exp_().sum(-1).log_().add_(highest)
    return list(zip((own - totals[rows]).tolist(), (likeliest[rows] == tokens).tolist(), strict=True))


def _logits(model: Any, kind: type, hidden: torch.Tensor) -> torch.Tensor:
    """Return logits [positions, vocabulary] of hidden states [positions, hidden].

    By the model's own forward with its body left out, so that hidden states and logits are scaled or capped as the
    family does it. kind: type of the body's output.
    """
    with in_step.turn("head", _logits_again, kind, hidden[:1]):
        return _logits_of_head(model, kind, hidden)


def _logits_again(step: in_step.InStep, kind: type, hidden: torch.Tensor) -> torch.Tensor:
    return _logits_of_head(step.model, kind, hidden)


def _logits_of_head(model: Any, kind: type, hidden: torch.Tensor) -> torch.Tensor:
    body = shared_prefix.body(model)
    replaced = body.__dict__.get("forward")
    body.forward = lambda *_, **__: kind(last_hidden_state=hidden[None])
    try:
        ids = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
        return unwrapped(model)(input_ids=ids, use_cache=False).logits[0]
    finally:
        del body.forward
        if replaced is not None:
            body.forward = replaced


def _split_logits(model: Any, **rows: torch.Tensor) -> torch.Tensor:
    """Return logits [rows, tokens, vocabulary] from the body and then, at each position by itself, the head."""
    output = shared_prefix.body(model)(**rows, use_cache=False)
    flat = _logits(model, type(output), output.last_hidden_state.flatten(0, 1))
    return flat.view(*rows["input_ids"].shape, -1)


class _Rows:
    """One row per item and run tokens, by an ordinary forward with all logits: right for any causal model."""

    def __init__(self, model: Any, items: list[Item], pad_token_id: int) -> None:
        self.model, self.items, self.pad_token_id = model, items, pad_token_id
        # The last token of a continuation is predicted, not read: one row for all that differ in it only.
        self.fed = [list(dict.fromkeys(each[:-1] for each in item.continuations)) for item in items]
        self.widths = [len(item.context) + max(map(len, fed)) for item, fed in zip(items, self.fed, strict=True)]
        self.lengths = [width * len(fed) for width, fed in zip(self.widths, self.fed, strict=True)]

    def plainer(self) -> tuple["_Rows", str]:
        """Return the next plainer strategy, and how it scores."""
        return _Alone(self.model, self.items, self.pad_token_id), ALONE

    def most_tokens(self, budget: int) -> int:
        """Return the budget, or less where the logits of all positions would be too large."""
        return max(1, min(budget, 4 * LOGITS // _vocabulary(self.model)))

    def answers(self, numbers: list[int], budget: int) -> list[Answer]:
        """Run as many forwards as the budget demands."""
        pairs = [(number, fed) for number in numbers for fed in self.fed[number]]
        step = max(1, budget // max(self.widths[number] for number in numbers))
        logits: dict[tuple[int, tuple[int, ...]], torch.Tensor] = {}
        for start in range(0, len(pairs), step):
            part = pairs[start : start + step]
            logits |= zip(part, self.logits(part), strict=True)
        return [
            _answer([_score_tokens(logits[number, each[:-1]], each) for each in self.items[number].continuations])
            for number in numbers
        ]

    def logits(self, pairs: list[tuple[int, tuple[int, ...]]]) -> list[torch.Tensor]:
        """Return for each pair logits [len(fed) + 1, vocabulary] of the tokens behind the context."""
        rows = [[*self.items[number].context, *fed] for number, fed in pairs]
        ids, mask = self.padded(rows)
        # Padded on the right, tokens stand at their own places; a prompt adapter's tokens come before them.
        logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, -ids.shape[1] :]
        return [
            row[len(self.items[number].context) - 1 :][: len(fed) + 1]
            for row, (number, fed) in zip(logits, pairs, strict=True)
        ]

    def padded(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids and attention mask, [rows, tokens], on the model's device."""
        device = device_of(self.model)
        batch = pad_inputs(rows, self.pad_token_id)
        return batch["input_ids"].to(device), batch["attention_mask"].to(device)


class _DecoderRows(_Rows):
    """The same for encoder-decoders: the context is the encoder's input and encoded once, continuations are decoded."""

    def logits(self, pairs: list[tuple[int, tuple[int, ...]]]) -> list[torch.Tensor]:
        """Return for each pair logits [len(fed) + 1, vocabulary] of the decoder's tokens."""
        numbers = list(dict.fromkeys(number for number, _ in pairs))
        ids, mask = self.padded([list(self.items[number].context) for number in numbers])
        places = torch.tensor([numbers.index(number) for number, _ in pairs], device=ids.device)
        start = decoder_start(self.model)
        written, _ = self.padded([[start, *fed] for _, fed in pairs])
        inputs: dict[str, Any] = {"attention_mask": mask[places], "decoder_input_ids": written}
        if _adds_tokens(self.model):
            inputs["input_ids"] = ids[places]
        else:
            encoded = unwrapped(self.model).get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
            inputs["encoder_outputs"] = BaseModelOutput(last_hidden_state=encoded[places])
        logits = self.model(**inputs, use_cache=False).logits[:, -written.shape[1] :]
        return [row[: len(fed) + 1] for row, (_, fed) in zip(logits, pairs, strict=True)]


class _Alone(_Rows):
    """One row at a time, without a pad, as `plain` runs it: right for any model."""

    def logits(self, pairs: list[tuple[int, tuple[int, ...]]]) -> list[torch.Tensor]:
        """Return for each pair logits [len(fed) + 1, vocabulary] of the tokens behind the context."""
        return [_logits_alone(self.model, self.items[number].context, fed) for number, fed in pairs]


def plain(model: Any, item: Item) -> Answer:
    """Score by the reference: an ordinary forward per continuation, all logits, the model's own attention.

    As lm-evaluation-harness does it, a continuation's last token is not fed: where positions depend on the length of a
    text, it would count. Such positions are those of a fresh model, whatever ran before.
    """
    scored = []
    logits: dict[tuple[int, ...], torch.Tensor] = {}
    for continuation in item.continuations:
        fed = continuation[:-1]
        if fed not in logits:
            with torch.no_grad():
                logits[fed] = _logits_alone(model, item.context, fed)
        scored.append(_score_tokens(logits[fed], continuation))
    return _answer(scored)


def _logits_alone(model: Any, context: Sequence[int], fed: Sequence[int]) -> torch.Tensor:
    """Return logits [len(fed) + 1, vocabulary] of the tokens behind a context, by one forward of one row."""
    device = device_of(model)
    positions.forget_longer_texts(model)
    if unwrapped(model).config.is_encoder_decoder:
        written = torch.tensor([[decoder_start(model), *fed]], device=device)
        context_ids = torch.tensor([list(context)], device=device)
        logits = model(input_ids=context_ids, decoder_input_ids=written, use_cache=False).logits[0]
    else:
        logits = model(input_ids=torch.tensor([[*context, *fed]], device=device), use_cache=False).logits[0]
    return logits[-len(fed) - 1 :].clone()  # type: ignore[no-any-return]


def _score_tokens(logits: torch.Tensor, continuation: tuple[int, ...]) -> list[tuple[float, bool]]:
    """Return (log-likelihood, it is the likeliest one) of each token; logits: [tokens, vocabulary]."""
    tokens = torch.tensor(continuation, device=logits.device)
    log_likelihoods = logits.float().log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
    return list(zip(log_likelihoods.tolist(), (logits.argmax(-1) == tokens).tolist(), strict=True))


def _answer(scored: list[list[tuple[float, bool]]]) -> Answer:
    return Answer(
        sums=tuple(math.fsum(value for value, _ in each) for each in scored),
        greedy=tuple(all(likeliest for _, likeliest in each) for each in scored),
    )


def decoder_start(model: Any) -> int:
    """Return the token that an encoder-decoder's decoder begins with."""
    config = unwrapped(model).config
    start = getattr(config, "decoder_start_token_id", None)
    return int(config.pad_token_id if start is None else start)


def _adds_tokens(model: Any) -> bool:
    adapter = getattr(model, "active_peft_config", None)
    return adapter is not None and adapter.is_prompt_learning


def _vocabulary(model: Any) -> int:
    return int(unwrapped(model).config.get_text_config().vocab_size)
