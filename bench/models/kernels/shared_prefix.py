"""Attention to a prefix that all rows of a batch have in common: run once, and never copied for a row.

    prefix = run_prefix(model, token_ids)
    with attending(model, prefix):
        model(input_ids=rows, position_ids=positions, use_cache=False)

`rows` holds only what follows the prefix. Attention to the prefix (all rows' queries in one long row) and attention
inside of each row are computed apart and merged by their log-sum-exp; so the prefix's keys and values stay [1, heads,
tokens, width]. It is an attention function of transformers' interface: any model that uses it can be run, unchanged.
No dense causal mask is made, since transformers makes no mask for a function that has no mask function registered.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AttentionInterface

from bench.models.heads import unwrapped
from bench.models.kernels import patch
from bench.models.kernels.attention import AttentionWithLse, merge
from bench.models.kernels.fused import same_type

NAME = "bench_shared_prefix"


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """Keys and values [1, key heads, tokens, width] of each layer, by `layer_idx`, as attention functions get them.

    windows: the sliding window of each layer, None for none.
    """

    length: int
    layers: Mapping[int, tuple[torch.Tensor, torch.Tensor]]
    windows: Mapping[int, int | None]


@dataclass(kw_only=True)
class Rows:
    """Rows behind a prefix. The last queries are the last keys: key j of a row is token j behind the prefix.

    mask: None for plain causal rows, padded on the right; otherwise bool [rows or 1, n, keys], which own keys the last
        n queries see (True: seen), while the queries before them are causal. Each query must see itself.
    positions: [rows or 1, keys], places in the text, the prefix included; may be left out for causal rows, and where
        no layer has a sliding window.
    places: None, or the model is run on one packed row without pads: where its tokens stand in the flattened grid
        [rows x keys] of `positions`, [rows, keys] then.
    """

    prefix: Prefix | None = None
    mask: torch.Tensor | None = None
    positions: torch.Tensor | None = None
    places: torch.Tensor | None = None
    _memo: dict[Any, Any] = field(default_factory=dict)
    _recorded: "_Recorded | None" = None

    def see(self, mask: torch.Tensor | None, positions: torch.Tensor | None = None) -> None:
        """Set both for the next forward, e.g. of the next token when generating."""
        self.mask, self.positions, self._memo = mask, positions, {}


@dataclass(frozen=True)
class _Recorded:
    layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    windows: dict[int, int | None] = field(default_factory=dict)


_ACTIVE: ContextVar[Rows | None] = ContextVar("bench_shared_attention", default=None)


@contextlib.contextmanager
def attending(
    model: Any,
    prefix: Prefix | None,
    *,
    mask: torch.Tensor | None = None,
    positions: torch.Tensor | None = None,
    places: torch.Tensor | None = None,
) -> Iterator[Rows]:
    """Let every forward of the model, wrapped or not, inside of the `with` see the prefix before each of its rows.

    mask, positions, places: see Rows; `rows.see(...)` changes the first two between forwards. The model needs explicit
    `position_ids` (they begin at `prefix.length`), and no attention mask. A cache may be used for the rows' own tokens,
    if it keeps all of them: `DynamicCache()` without a config. The model's own attention comes back at the end, also on
    an error.
    """
    rows = Rows(prefix=prefix, mask=mask, positions=positions, places=places)
    with _active(model, rows):
        yield rows


@contextlib.contextmanager
def _active(model: Any, rows: Rows) -> Iterator[None]:
    AttentionInterface.register(NAME, _attention)
    token = _ACTIVE.set(rows)
    try:
        with patch.attention_function(patch.configs_of(unwrapped(model)), NAME):
            yield
    finally:
        _ACTIVE.reset(token)


def run_prefix(model: Any, token_ids: Sequence[int]) -> Prefix:
    """Run one forward over the tokens, of which only the layers' keys and values are kept.

    Raises UnsupportedError where `supports` would say why.
    """
    device = unwrapped(model).get_input_embeddings().weight.device
    rows = Rows(_recorded=_Recorded())
    assert rows._recorded is not None
    with torch.no_grad(), _active(model, rows):
        ids = torch.tensor([list(token_ids)], device=device)
        # Without the output head, and through the wrapper's own modules: adapters replace them in place.
        body(model)(input_ids=ids, position_ids=torch.arange(len(token_ids), device=device)[None], use_cache=False)
    return Prefix(length=len(token_ids), layers=rows._recorded.layers, windows=rows._recorded.windows)


def body(model: Any) -> Any:
    """Return the model without its output head. Its forward gives `.last_hidden_state` [rows, tokens, hidden]."""
    return unwrapped(model).get_decoder()


def supports(model: Any, run: Callable[..., torch.Tensor] | None = None) -> str | None:
    """Return None, or why the model can't be run here: a sentence's part that follows "the model", e.g. "is an ...".

    What the model declares is asked first; then a few tokens are run both ways and must get the same logits.
    run: how the caller gets logits of rows behind a prefix, from `input_ids` and `position_ids`; by default the model's
    own forward. It is called inside of `attending`.
    """
    return _undeclared(model) or _differs(model, run or (lambda **rows: model(**rows, use_cache=False).logits))


def _undeclared(model: Any) -> str | None:
    inner = unwrapped(model)
    config = inner.config.get_text_config()
    return patch.attention_is_fixed(model, inner) or patch.places_are_fixed(body(model), config)


def _differs(model: Any, run: Callable[..., torch.Tensor]) -> str | None:
    inner = unwrapped(model)
    device, config = inner.get_input_embeddings().weight.device, inner.config.get_text_config()
    # Any eight tokens: three for the prefix, and twice the other five as rows.
    ids = (torch.arange(8, device=device) * 7 + 3) % config.vocab_size
    positions = torch.arange(8, device=device)[None]

    def _plain() -> list[torch.Tensor]:
        return [model(input_ids=ids[None], position_ids=positions, use_cache=False).logits[0, 3:]]

    def _fast() -> list[torch.Tensor]:
        prefix = run_prefix(model, ids[:3].tolist())
        with attending(model, prefix):
            logits = run(input_ids=ids[None, 3:].repeat(2, 1), position_ids=positions[:, 3:].repeat(2, 1))
        for number, kind in enumerate(getattr(config, "layer_types", None) or []):
            if (kind == "sliding_attention") != (prefix.windows.get(number) is not None):
                raise patch.UnsupportedError("does not tell its attention about its sliding windows")
        return [logits]

    difference = "gets other logits when its parts are run apart"
    return patch.probe(inner, plain=_plain, fast=_fast, difference=difference)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """The registered function. query: [rows, heads, tokens, width]; returns [rows, tokens, heads, width]."""
    rows = _ACTIVE.get()
    if rows is None:
        raise RuntimeError(f"attention {NAME!r} is used outside of `attending`")
    layer = checked(module, attention_mask, is_causal, others)
    query, key, value = same_type(query, key, value)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if rows._recorded is not None:
        rows._recorded.layers[layer] = key.contiguous(), value.contiguous()
        rows._recorded.windows[layer] = sliding_window
    kernel = AttentionWithLse(scale=scale, softcap=softcap)
    if rows.places is None:
        out, lse = _own(rows, kernel, query, key, value, sliding_window)
    else:
        grids = [_unpacked(heads, rows) for heads in (query, key, value)]
        out, lse = _own(rows, kernel, grids[0], grids[1], grids[2], sliding_window)
        out, lse = _packed(out, rows.places), _packed(lse, rows.places)
    if rows.prefix is not None:
        before = _before(rows, kernel, query, rows.prefix.layers[layer], sliding_window)
        out = merge(out, lse, *before) if before is not None else out
    return out.transpose(1, 2).contiguous(), None


def checked(module: Any, attention_mask: Any, is_causal: bool | None, others: dict[str, Any]) -> int:
    """Return the number of an attention layer. Raises UnsupportedError for what plain causal attention is not."""
    layer = getattr(module, "layer_idx", None)
    if layer is None:
        raise patch.UnsupportedError("does not number its attention layers")
    if attention_mask is not None:
        raise patch.UnsupportedError("makes an attention mask of its own")
    if not (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        raise patch.UnsupportedError("has attention that looks ahead")
    patch.refuse_unknown(others)
    return int(layer)


def _own(
    rows: Rows,
    kernel: AttentionWithLse,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    window: int | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return attention to tokens of the same row."""
    num_queries, num_keys = query.shape[2], key.shape[2]
    num_masked = rows.mask.shape[1] if rows.mask is not None else 0
    num_causal = num_queries - num_masked
    parts = []
    if num_causal:
        if num_keys != num_queries:
            raise ValueError(f"{num_queries} queries and {num_keys} keys: rows with a cache need a mask")
        band = None
        if window is not None and window < num_causal:
            band = _kept(rows, ("band", window), lambda: _band(num_causal, window, query.device))
        heads = query[:, :, :num_causal], key[:, :, :num_causal], value[:, :, :num_causal]
        parts.append(kernel(*heads, seen=band, causal=True))
    if rows.mask is not None:
        seen = _kept(rows, ("own", window), lambda: _seen(rows, num_masked, window))
        parts.append(kernel(query[:, :, num_causal:], key, value, seen=seen))
    if len(parts) == 1:
        return parts[0]
    return torch.cat([part[0] for part in parts], 2), torch.cat([part[1] for part in parts], 2)


def _unpacked(heads: torch.Tensor, rows: Rows) -> torch.Tensor:
    """Return [rows, heads, keys, width], with zeros for pads, of packed [1, heads, tokens, width]."""
    assert rows.places is not None
    num_rows, num_keys = _positions(rows).shape
    _, num_heads, _, width = heads.shape
    grid = heads.new_zeros(num_rows * num_keys, num_heads, width)
    grid.index_copy_(0, rows.places, heads[0].transpose(0, 1))
    return grid.view(num_rows, num_keys, num_heads, width).transpose(1, 2)


def _packed(part: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return [1, heads, tokens, ...] of [rows, heads, keys, ...]."""
    return part.transpose(1, 2).flatten(0, 1).index_select(0, places).transpose(0, 1)[None]


def _band(num_tokens: int, window: int, device: torch.device) -> torch.Tensor:
    places = torch.arange(num_tokens, device=device)
    far = places[:, None] - places
    return ((far >= 0) & (far < window))[None, None]


def _seen(rows: Rows, num_masked: int, window: int | None) -> torch.Tensor:
    assert rows.mask is not None
    if window is None:
        return rows.mask[:, None]
    places = _positions(rows)
    near = places[:, -num_masked:, None] - places[:, None] < window
    return (rows.mask & near)[:, None]


def _positions(rows: Rows) -> torch.Tensor:
    if rows.positions is None:
        raise ValueError("packed rows, and layers with a sliding window, need `positions`")
    return rows.positions


def _before(
    rows: Rows,
    kernel: AttentionWithLse,
    query: torch.Tensor,
    layer: tuple[torch.Tensor, torch.Tensor],
    window: int | None,
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return attention to the prefix, with the queries of all rows in one row; None when no window reaches it."""
    assert rows.prefix is not None
    num_rows, num_heads, num_queries, _ = query.shape
    key, value = layer
    first, seen = 0, None
    if window is not None:
        first, seen = _kept(
            rows, ("before", window), lambda: _windowed(rows, num_rows, num_queries, window, query.device)
        )
        if first >= rows.prefix.length:
            return None
    flat = query.transpose(0, 1).reshape(1, num_heads, num_rows * num_queries, -1)
    out, lse = kernel(flat, key[:, :, first:], value[:, :, first:], seen=seen)
    out = out.view(num_heads, num_rows, num_queries, -1).transpose(0, 1)
    return out, lse.view(num_heads, num_rows, num_queries).transpose(0, 1)


def _windowed(
    rows: Rows, num_rows: int, num_queries: int, window: int, device: torch.device
) -> tuple[int, torch.Tensor | None]:
    """Return the first token of the prefix that any query sees, and which of [1, 1, rows x queries, tokens] see which.

    None: all see all of it.
    """
    assert rows.prefix is not None
    length = rows.prefix.length
    if rows.mask is None and rows.positions is None:
        places = torch.arange(length, length + num_queries, device=device)[None]
    elif rows.places is not None:
        places = _positions(rows).flatten()[rows.places][None]
    else:
        places = _positions(rows)[:, -num_queries:]
    if int(places.max()) < window:
        return 0, None
    first = min(length, max(0, int(places.min()) - window + 1))
    keys = torch.arange(first, length, device=device)
    near = places.expand(num_rows, num_queries).reshape(-1, 1) - keys < window
    return first, near[None, None]


def _kept(rows: Rows, name: Any, make: Any) -> Any:
    """Return what is the same for all layers of a forward, made once."""
    if name not in rows._memo:
        rows._memo[name] = make()
    return rows._memo[name]
