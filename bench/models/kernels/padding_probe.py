"""Show that a body without pads gives what it gives with them: hidden states, gradients, and no text sees another.

A few made-up texts are run both ways, forward and backward, without dropout. Sliding windows are shortened meanwhile,
so that texts are longer and shorter than the window, and all of them together longer, at the cost of a few tokens. A
leak between neighbours can't hide behind a tolerance: the gradient of one text's output by another text's embeddings
must be exactly zero. Modules that move information along a row are looked for on the live model besides.
"""

import contextlib
import inspect
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from bench.models import positions, shards
from bench.models.heads import transformer_blocks
from bench.models.kernels import patch
from bench.models.kernels.packed_attention import ACTIVE
from bench.records.failures import is_out_of_memory

# Tokens of each text: runs of equal length, and neighbours of very different ones. One has its pads on the left.
LENGTHS, LEFT = (12, 1, 7, 2, 12, 3, 9), 2
# Of the first token: beyond special and reserved ids, some of which were never trained, and before those at the end.
FIRST_ID = 1000
# Tokens that a layer with a sliding window sees meanwhile, as its config has it: fewer than half of the texts have.
WINDOW = 4
# Largest differences that are mere rounding, as shares of the padded path's own: of a text's hidden states by norm, and
# of a parameter's gradient by norm. float32 has 24 bits, and deep models lose a few; bfloat16 has 8, and what a router
# or a softmax makes of the last of them may move a hidden state by some percent, its gradient by more.
EXACT, ROUNDED = (1e-4, 1e-3), (0.1, 0.25)
# In 16 bits a router may choose another expert for its last bit. So what a change of the embeddings' last bits does to
# the padded path itself is measured, and so many times that is rounding as well, up to a limit far below a real error.
TIMES_OWN, MOST = 2.0, (0.3, 0.5)
# Gradients below this share of the largest one are compared with that: those of keys' biases are nothing but rounding.
FLOOR_EXACT, FLOOR_ROUNDED = 1e-3, 0.1
# Elements of all gradients that are compared, 256 MiB in float32. First and last layers come first.
ELEMENTS = 2**26
# Modules that look along a row, or normalise over it. A convolution one token wide is a linear layer.
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d)
MIXERS = (*CONVOLUTIONS, nn.RNNBase, nn.RNNCellBase, nn.BatchNorm1d, nn.SyncBatchNorm)
# Attributes of modules that carry a state along a row, whose experts take so many tokens of a batch and no more, or
# that tell distances apart by buckets or slopes of their own.
MARKS = {
    "A_log": "a recurrent state",
    "ssm_state_size": "a recurrent state",
    "conv_kernel_size": "a convolution along the text",
    "expert_capacity": "experts of limited capacity",
    "capacity_factor": "experts of limited capacity",
    "relative_attention_bias": "distances in buckets",
}


@dataclass(kw_only=True)
class Proof:
    """Result of both paths. reason: against leaving out pads, a sentence's part that follows "the model", or None.

    hidden_states, gradients: largest differences, as shares; between_texts: largest gradient of a text's output by the
    embeddings of another one, without pads; None where the comparison did not come so far. own: what a change of the
    embeddings' last bits does to hidden states and gradients of the padded path; zeros in float32.
    """

    reason: str | None = None
    exact: bool = True
    texts: tuple[int, ...] = LENGTHS
    windows: dict[int, int] = field(default_factory=dict)
    hidden_states: float | None = None
    gradients: float | None = None
    between_texts: float | None = None
    own: tuple[float, float] = (0.0, 0.0)
    parameters: int = 0
    seconds: float = 0.0

    @property
    def allowed(self) -> tuple[float, float]:
        """Return the largest differences of hidden states and of gradients that are rounding."""
        if self.exact:
            return EXACT
        states, gradients = (
            min(most, max(rounded, TIMES_OWN * own)) if own == own else rounded
            for most, rounded, own in zip(MOST, ROUNDED, self.own, strict=True)
        )
        return states, gradients

    @property
    def floor(self) -> float:
        """Return the share of the largest gradient that smaller ones are compared with."""
        return FLOOR_EXACT if self.exact else FLOOR_ROUNDED

    def figures(self) -> dict[str, Any]:
        """Return what a record says of it; empty where nothing was run."""
        if self.hidden_states is None:
            return {}
        of_states, of_gradients = self.allowed
        return {
            "examples": f"{len(self.texts)} made-up texts of {', '.join(map(str, sorted(self.texts)))} tokens",
            **({"windows_shortened": {str(own): short for own, short in self.windows.items()}} if self.windows else {}),
            "tolerance": "float32" if self.exact else "16 or 4 bits, or twice the padded path's own rounding",
            "hidden_states": {"difference": finite(self.hidden_states), "allowed": of_states},
            "gradients": {"difference": finite(self.gradients), "allowed": of_gradients, "parameters": self.parameters},
            "between_texts": {"gradient": finite(self.between_texts), "allowed": 0.0},
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, kw_only=True)
class _Run:
    """hidden: of each text. gradients: of each text's embeddings, then of the parameters. leak: see between_texts."""

    hidden: list[torch.Tensor]
    gradients: list[torch.Tensor]
    leak: float
    packed: bool


def compare(model: Any, body: nn.Module, install: Callable[[], None]) -> Proof:
    """Run the texts padded, then, after `install`, without pads; return what that showed.

    model: around the body, unwrapped. The random-number stream, weights and buffers stay as they are.
    """
    started_s, proof = time.perf_counter(), Proof(exact=patch.in_float32(body))
    was_training = {module: module.training for module in body.modules()}
    device = model.get_input_embeddings().weight.device
    try:
        body.eval()
        with (
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            torch.enable_grad(),
            _shortened_windows(body, proof),
        ):
            _compare(model, body, install, proof)
    finally:
        positions.forget_longer_texts(model)
        for module, training in was_training.items():
            module.training = training
    proof.seconds = time.perf_counter() - started_s
    return proof


def _compare(model: Any, body: nn.Module, install: Callable[[], None], proof: Proof) -> None:
    texts = _Texts.of(body, model.get_input_embeddings())
    proof.texts = tuple(texts.mask.sum(1).tolist())
    chosen = _chosen(body)
    proof.parameters = len(chosen)
    with _mixers(body) as ran:
        plain = _tried(lambda: _run(model, body, texts, chosen))
    if isinstance(plain, str) or ran:
        proof.reason = f"has {ran[0]}" if ran else f"can't be compared: {plain}"
        return
    if not proof.exact:
        shaken = _run(model, body, texts, chosen, shaken=True)
        proof.own = (
            largest_difference(plain.hidden, shaken.hidden),
            largest_difference(plain.gradients, shaken.gradients, proof.floor),
        )
    fast = _tried(lambda: _installed(model, body, texts, chosen, install))
    if isinstance(fast, str):
        proof.reason = fast
        return
    if not fast.packed:
        proof.reason = "is set to return hidden states, attentions or router logits of its layers"
        return
    _judge(proof, plain, fast)


def _installed(
    model: Any, body: nn.Module, texts: "_Texts", chosen: list[nn.Parameter], install: Callable[[], None]
) -> _Run:
    install()
    return _run(model, body, texts, chosen)


def _judge(proof: Proof, plain: _Run, fast: _Run) -> None:
    """Fill in the figures, and the reason against it if there is one."""
    of_states, of_gradients = proof.allowed
    proof.hidden_states = largest_difference(plain.hidden, fast.hidden)
    proof.gradients = largest_difference(plain.gradients, fast.gradients, proof.floor)
    proof.between_texts = fast.leak
    if fast.leak != 0:  # NaN is refused, too
        proof.reason = f"lets texts of a row without pads see one another (gradient {fast.leak:.2g}, not 0)"
    elif not proof.hidden_states <= of_states:
        proof.reason = f"gets other hidden states without pads (by {proof.hidden_states:.2g}, allowed {of_states:g})"
    elif not proof.gradients <= of_gradients:
        proof.reason = f"gets other gradients without pads (by {proof.gradients:.2g}, allowed {of_gradients:g})"


def largest_difference(plain: Sequence[torch.Tensor], fast: Sequence[torch.Tensor], floor: float = 0.0) -> float:
    """Return the largest difference of two tensors' norm, as a share of the plain one's; NaN where there is one.

    floor: share of the largest plain norm that smaller ones are raised to.
    """
    if not plain:
        return 0.0
    norms = torch.stack([part.float().norm() for part in plain])
    gaps = torch.stack([(one.float() - other.float()).norm() for one, other in zip(plain, fast, strict=True)])
    allowed = norms.clamp(min=floor * float(norms.max()))
    # 0 / 0: a part that neither path reaches.
    shares = torch.where((gaps == 0) & (allowed == 0), torch.zeros_like(gaps), gaps / allowed)
    return float("nan") if bool(shares.isnan().any()) else float(shares.max())


def finite(value: float | None) -> float | None:
    """Return a number that JSON can hold; None for others."""
    return value if value is not None and math.isfinite(value) else None


def _tried(run: Callable[[], _Run]) -> _Run | str:
    """Return what a path gave, or why it gave nothing. Raises again where memory ran out."""
    try:
        return run()
    except patch.UnsupportedError as error:
        return str(error)
    except (TypeError, ValueError, AttributeError, LookupError, RuntimeError, NotImplementedError) as error:
        if is_out_of_memory(error):
            raise
        # What a family makes of an attention that is not its own can be any error.
        return f"can't be run so ({type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]})"


# ---------------------------------------------------------------- the texts


@dataclass(frozen=True, kw_only=True)
class _Texts:
    """inputs: of the body; mask [texts, columns] of real tokens. odd: [texts], every second one of a row of tokens."""

    inputs: dict[str, torch.Tensor]
    mask: torch.Tensor
    odd: torch.Tensor

    @classmethod
    def of(cls, body: Any, embedding: nn.Embedding) -> "_Texts":
        """Make them up for a body: no token but a pad has the pad's id, and no text more tokens than positions."""
        device, config = embedding.weight.device, body.config.get_text_config()
        longest = _columns(config)
        lengths = torch.tensor([min(length, longest) for length in LENGTHS], device=device)
        columns = torch.arange(longest, device=device)
        mask = columns < lengths[:, None]
        mask[LEFT] = mask[LEFT].flip(0)
        pad = getattr(config, "pad_token_id", None) or 0
        vocabulary = min(embedding.weight.shape[0], getattr(config, "vocab_size", None) or embedding.weight.shape[0])
        ids = (torch.arange(mask.numel(), device=device).view(mask.shape) * 7 + FIRST_ID) % vocabulary
        ids = torch.where(ids == pad, (ids + 1) % vocabulary, ids).masked_fill(~mask, pad)
        inputs = {"input_ids": ids, "attention_mask": mask.long()}
        types = getattr(config, "type_vocab_size", None) or 0
        if types > 1 and "token_type_ids" in inspect.signature(body.forward).parameters:
            inputs["token_type_ids"] = (columns >= 2).long().expand(mask.shape) * mask
        places = lengths.argsort(stable=True).argsort()
        return cls(inputs=inputs, mask=mask, odd=places % 2 == 1)


def _columns(config: Any) -> int:
    """Return the length of the longest text: as planned, or what a very small model has positions for."""
    limit = getattr(config, "max_position_embeddings", None)
    # Families of RoBERTa's kind count from beyond the id of their pad.
    room = limit - 1 - (getattr(config, "pad_token_id", None) or 0) if isinstance(limit, int) and limit < 64 else 64
    return max(2, min(max(LENGTHS), room))


@contextlib.contextmanager
def _shortened_windows(body: Any, proof: Proof) -> Iterator[None]:
    """Let layers with a sliding window see few tokens, inside of the `with`: any difference shows in short texts.

    A module's own number stays as far from that of its config as it was: some count the token itself, some do not.
    """
    configs = [config for config in patch.configs_of(body) if _window(config) > WINDOW]
    before = [(config, _window(config), dict(vars(config))) for config in configs]
    modules = []
    for module in body.modules():
        config = getattr(module, "config", None) or body.config.get_text_config()
        if _window(module) > WINDOW and _window(config) > WINDOW:
            modules.append((module, module.sliding_window, WINDOW + module.sliding_window - _window(config)))
    try:
        for config in configs:
            config.sliding_window = WINDOW
        for module, own, short in modules:
            module.sliding_window = short
            proof.windows[own] = short
        proof.windows |= {own: WINDOW for _, own, _ in before}
        yield
    finally:
        for module, own, _ in modules:
            module.sliding_window = own
        for config, _, own in before:
            vars(config).clear()
            vars(config).update(own)


def _window(part: Any) -> int:
    window = getattr(part, "sliding_window", None)
    return window if isinstance(window, int) and not isinstance(window, bool) else 0


@contextlib.contextmanager
def _mixers(body: nn.Module) -> Iterator[list[str]]:
    """Give what of the body's modules that run moves information along a row; filled in while they run."""
    ran: list[str] = []
    hooks = []
    named = dict(body.named_modules())
    for name, module in named.items():
        sentence = _mixes(module)
        if sentence is None:
            continue

        def _note(*_: Any, sentence: str = sentence) -> None:
            ran.append(sentence)

        # Some pass a convolution's weights to a function, and do not call it.
        for each in {name, name.rpartition(".")[0]}:
            hooks.append(named[each].register_forward_pre_hook(_note))
    try:
        yield ran
    finally:
        for hook in hooks:
            hook.remove()


def _mixes(module: nn.Module) -> str | None:
    kind = type(module).__name__
    if isinstance(module, MIXERS):
        wide = not isinstance(module, CONVOLUTIONS) or max(module.kernel_size) > 1
        return f"a module that mixes the tokens of a row ({kind})" if wide else None
    marks = [what for mark, what in MARKS.items() if _is_set(getattr(module, mark, None))]
    return f"{marks[0]} ({kind})" if marks else None


def _is_set(value: Any) -> bool:
    return value is not None and value is not False


# ---------------------------------------------------------------- one path


def _chosen(body: nn.Module) -> list[nn.Parameter]:
    """Return the parameters whose gradients are compared: of each name the first layer's, the last one's, and others.

    Names differ by the number of their layer.
    """
    kinds: dict[str, list[nn.Parameter]] = {}
    limit = _limit(body)
    # Beside the text part of a model for images, too, there may be parameters that no text reaches.
    for name, parameter in getattr(body, "language_model", body).named_parameters():
        if parameter.requires_grad and parameter.numel() <= limit // 4:
            kinds.setdefault(re.sub(r"\d+", "*", name), []).append(parameter)
    ends = [kind[0] for kind in kinds.values()] + [kind[-1] for kind in kinds.values() if len(kind) > 1]
    chosen, left = [], limit
    for parameter in [*ends, *(part for kind in kinds.values() for part in kind[1:-1])]:
        if parameter.numel() <= left:
            chosen.append(parameter)
            left -= parameter.numel()
    return chosen


def _limit(body: Any) -> int:
    """Return how many elements of gradients may be compared, which are held three times.

    No process of a model that is loaded in shards is to need much more than its shards and a layer, which is gathered.
    """
    if not shards.are_held(body):
        return ELEMENTS
    blocks = transformer_blocks(body)
    return min(ELEMENTS, max((sum(part.numel() for part in block.parameters()) for block in blocks), default=ELEMENTS))


def _run(model: Any, body: Any, texts: _Texts, chosen: list[nn.Parameter], *, shaken: bool = False) -> _Run:
    """Run the texts forward and backward. shaken: with other last bits of their embeddings, in 16 bits."""
    positions.forget_longer_texts(model)
    taken: list[tuple[torch.Tensor, Any]] = []

    def _take(module: nn.Module, given: Any, output: torch.Tensor) -> torch.Tensor:
        embedded = output if output.requires_grad else output.detach().requires_grad_()
        taken.append((embedded, ACTIVE.get()))
        return _with_other_last_bits(embedded) if shaken else embedded

    hook = model.get_input_embeddings().register_forward_hook(_take)
    try:
        outputs = body(**texts.inputs)
    finally:
        hook.remove()
    pooled = getattr(outputs, "pooler_output", None)
    hidden = [states[seen].float() for states, seen in zip(outputs.last_hidden_state, texts.mask, strict=True)]
    if pooled is not None:
        # A pooler reads the first token, which is a pad where pads are on the left.
        hidden = [
            torch.cat([text, pooled[row, None].float()]) if row != LEFT else text for row, text in enumerate(hidden)
        ]
    (embedded, packing), *_ = taken
    of_embedding: list[torch.Tensor] = []
    totals = [torch.zeros_like(part, dtype=torch.float32) for part in chosen]
    for wanted in (texts.odd, ~texts.odd):
        score = torch.stack(
            [_score(text) for text, counts in zip(hidden, wanted.tolist(), strict=True) if counts]
        ).sum()
        first, *of_parameters = torch.autograd.grad(score, [embedded, *chosen], retain_graph=True, allow_unused=True)
        first = torch.zeros_like(embedded) if first is None else first
        of_embedding.append((first if packing is None else packing.padded(first)).float())
        for total, part in zip(totals, of_parameters, strict=True):
            if part is not None:
                total += part.float()
    others = zip(of_embedding, (~texts.odd, texts.odd), strict=True)
    leak = torch.stack([part[rows][texts.mask[rows]].abs().max() for part, rows in others]).max()
    by_text = [part[seen] for part, seen in zip(of_embedding[0] + of_embedding[1], texts.mask, strict=True)]
    return _Run(
        hidden=[text.detach() for text in hidden],
        gradients=[*by_text, *totals],
        leak=float(leak),
        packed=packing is not None,
    )


def _with_other_last_bits(embedded: torch.Tensor) -> torch.Tensor:
    dtype = torch.bfloat16 if embedded.dtype == torch.float32 else embedded.dtype
    signs = 1 - 2 * (torch.arange(embedded.shape[-1], device=embedded.device) % 2)
    return (embedded.float() * (1 + signs * torch.finfo(dtype).eps / 2)).to(embedded.dtype)


def _score(text: torch.Tensor) -> torch.Tensor:
    """Return a number that every hidden state of a text [tokens, width] counts in, each by another weight."""
    weights = torch.sin(torch.arange(text.numel(), device=text.device, dtype=torch.float32) * 1.7 + 0.3)
    return (text * weights.view_as(text)).sum()
