"""Attention on GPUs of every generation: always by a fused kernel that takes it, and the same result."""

from typing import Any

import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from bench.models.kernels import attention, fused, packed_attention, padding_free
from bench.models.library_internals import torch_internals

T4, A100, RTX_3090, L40S, RTX_5090 = (7, 5), (8, 0), (8, 6), (8, 9), (12, 0)
HALF, BFLOAT, FULL = torch.float16, torch.bfloat16, torch.float32
FLASH, EFFICIENT, PLAIN = fused.FLASH, fused.EFFICIENT, fused.PLAIN


# What torch 2.13's own functions (`can_use_flash_attention` and its like) said under a stub of the CUDA driver.
@pytest.mark.parametrize(
    ("capability", "dtype", "options", "kernel"),
    [
        ((7, 0), HALF, {}, EFFICIENT),
        (T4, HALF, {}, EFFICIENT),
        (T4, HALF, {"grouped": True}, None),
        (T4, HALF, {"width": 36}, None),
        (T4, HALF, {"masked": True, "width": 288}, EFFICIENT),
        (T4, BFLOAT, {}, None),
        (T4, BFLOAT, {"masked": True}, None),
        (T4, FULL, {"width": 36}, EFFICIENT),
        (A100, HALF, {"grouped": True}, FLASH),
        (A100, BFLOAT, {"width": 36}, FLASH),
        (A100, BFLOAT, {"width": 224}, FLASH),
        (A100, BFLOAT, {"masked": True}, EFFICIENT),
        (A100, BFLOAT, {"masked": True, "grouped": True}, None),
        (A100, BFLOAT, {"masked": True, "width": 36}, None),
        (A100, BFLOAT, {"width": 288}, EFFICIENT),
        (A100, HALF, {"width": 288, "grouped": True}, None),
        (A100, FULL, {"width": 36}, EFFICIENT),
        (A100, FULL, {"grouped": True}, None),
        (A100, HALF, {"width": 256, "dropout": True}, FLASH),
        (RTX_3090, HALF, {"width": 256, "dropout": True}, EFFICIENT),
        (RTX_3090, HALF, {"width": 224}, EFFICIENT),
        (RTX_3090, HALF, {"width": 224, "trains": False}, FLASH),
        (RTX_3090, HALF, {"width": 256}, FLASH),
        (RTX_5090, BFLOAT, {"width": 224}, EFFICIENT),
        (RTX_5090, BFLOAT, {"width": 128, "grouped": True}, FLASH),
    ],
)
def test_the_rules_are_torchs_own(capability, dtype, options, kernel):
    assert fused.rule(capability, dtype, **{"width": 64, "grouped": False, **options}) == kernel


def test_what_a_forecast_is_told():
    def said(*arguments: Any, **options: Any) -> str:
        return fused.expected(*arguments, **{"width": 128, "grouped": True, **options}).described()

    assert said(L40S, BFLOAT) == "flash"
    assert said(L40S, FULL) == said(T4, HALF) == "memory-efficient, keys and values repeated"
    assert said(L40S, BFLOAT, masked=True) == "memory-efficient, keys and values repeated"
    assert said(T4, BFLOAT) == "memory-efficient, keys and values repeated, in float32"
    assert said(T4, BFLOAT, grouped=False) == "memory-efficient, in float32"


class Gpu:
    """Takes what a GPU of its capability would, on the CPU; computes in float32, and remembers what was called."""

    def __init__(self, capability: tuple[int, int]) -> None:
        self.capability, self.called = capability, list[str]()

    def takes(self, query: Any, key: Any, value: Any, *, mask: Any = None, dropout: float = 0.0, causal: bool = False):
        return fused.rule(
            self.capability,
            query.dtype,
            width=query.shape[-1],
            grouped=query.shape[1] != key.shape[1],
            masked=mask is not None,
            dropout=bool(dropout),
        )

    def sdpa(self, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
        kernel = self.takes(query, key, value, mask=attn_mask, dropout=dropout_p)
        assert enable_gqa or key.shape[1] == query.shape[1]
        assert query.dtype == key.dtype == value.dtype
        self.called.append(f"{kernel or PLAIN} {str(query.dtype).removeprefix('torch.')}")
        if attn_mask is not None and attn_mask.is_floating_point():
            assert attn_mask.dtype == query.dtype
            attn_mask = attn_mask.float()
        parts = query.float(), key.float(), value.float()
        out = CPU_SDPA(*parts, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
        return out.to(query.dtype)

    def with_lse(self, query, key, value, *, flash, causal, scale):
        assert key.shape[1] == query.shape[1]
        assert self.takes(query, key, value) == (FLASH if flash else EFFICIENT)
        self.called.append(f"{FLASH if flash else EFFICIENT} {str(query.dtype).removeprefix('torch.')}")
        kernel = attention.AttentionWithLse(scale=scale)
        out, lse = kernel.plain(query.float(), key.float(), value.float(), causal=causal)
        return out.to(query.dtype), functional.pad(lse, (0, 3))  # the memory-efficient kernel pads it


CPU_SDPA = functional.scaled_dot_product_attention


@pytest.fixture
def gpu(monkeypatch):
    def make(capability):
        made = Gpu(capability)
        monkeypatch.setattr(fused, "takes", made.takes)
        monkeypatch.setattr(functional, "scaled_dot_product_attention", made.sdpa)
        monkeypatch.setattr(torch_internals, "attention_on_gpu", made.with_lse)
        fused.used()
        return made

    return make


def heads(dtype, width=8, groups=2, tokens=16):
    torch.manual_seed(0)
    shapes = [(1, count, tokens, width) for count in (4, 4 // groups, 4 // groups)]
    return tuple(torch.randn(shape).to(dtype) for shape in shapes)


ALLOWED = {FULL: 1e-6, HALF: 2e-3, BFLOAT: 2e-2}
# Capability, type of the tensors -> the calls, each with the type that it is computed in.
CALLS = [
    (T4, HALF, "memory-efficient float16"),
    (T4, BFLOAT, "memory-efficient float32"),
    (T4, FULL, "memory-efficient float32"),
    (L40S, HALF, "flash float16"),
    (L40S, BFLOAT, "flash bfloat16"),
    (L40S, FULL, "memory-efficient float32"),
]


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize(("capability", "dtype", "call"), CALLS)
def test_packed_texts_by_runs(gpu, capability, dtype, call, window):
    packing = packed_attention.Packing(shape=(4, 6), places=torch.arange(16), runs=((1, 2), (2, 4), (1, 6)), configs=[])
    kernel = packed_attention.PackedAttention(scale=0.3, window=window, causal=True)
    parts = heads(dtype)
    expected = kernel.by_runs(*(part.float() for part in parts), packing)
    device = gpu(capability)
    # All texts in one call where FlashAttention is to be had, and for no other GPU or type.
    assert kernel.takes_any_lengths(*parts) == call.startswith("flash")
    found = kernel.by_runs(*parts, packing)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, atol=ALLOWED[dtype], rtol=0)
    masked = call.replace("flash", "memory-efficient")
    # Texts of four and six tokens are longer than the window, and have a mask.
    assert device.called == ([call] * 3 if window is None else [call, masked, masked])
    assert all("not fused" not in kernel for kernel in fused.used())


def test_only_flash_takes_any_lengths(gpu):
    plain = packed_attention.PackedAttention(scale=1.0, causal=True)
    gpu(L40S)
    assert plain.takes_any_lengths(*heads(BFLOAT))
    assert plain.takes_any_lengths(*heads(BFLOAT, width=256))
    for width in (36, 224, 288):
        assert not plain.takes_any_lengths(*heads(BFLOAT, width=width))
    query, key, value = heads(BFLOAT)
    assert not plain.takes_any_lengths(query, key, value[..., :4])
    for options in ({"dropout": 0.1}, {"softcap": 30.0}):
        assert not packed_attention.PackedAttention(scale=1.0, causal=True, **options).takes_any_lengths(
            query, key, value
        )
    gpu((7, 0))
    assert not plain.takes_any_lengths(*heads(HALF))


@pytest.mark.parametrize("mask", ["none", "bool", "added"])
@pytest.mark.parametrize(("capability", "dtype", "call"), CALLS)
def test_models_own_attention(gpu, capability, dtype, call, mask):
    """The function behind transformers' "sdpa": the same, and never by the kernel that holds all scores."""
    module = nn.Module()
    module.num_key_value_groups, module.is_causal = 2, True
    parts = heads(dtype)
    seen = torch.rand(1, 1, 16, 16) < 0.7
    seen |= torch.eye(16, dtype=torch.bool)
    given = {"none": None, "bool": seen, "added": torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)}[mask]
    expected, _ = sdpa_attention_forward(module, *(part.float() for part in parts), given)
    device = gpu(capability)
    found, _ = fused.attention(module, *parts, given if mask == "bool" or given is None else given.to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, atol=ALLOWED[dtype], rtol=0)
    assert device.called == [call if mask == "none" else call.replace("flash", "memory-efficient")]


def test_models_own_attention_under_autocast(gpu):
    """Autocast casts what the public function is given; the choice is made for that type, and float32 stays it."""
    module = nn.Module()
    module.num_key_value_groups, module.is_causal = 2, True
    for capability, call in ((A100, "flash bfloat16"), (T4, "memory-efficient float32")):
        device = gpu(capability)
        with torch.autocast("cpu", torch.bfloat16):
            out, _ = fused.attention(module, *heads(FULL), None)
        assert out.dtype == BFLOAT
        assert device.called == [call]


def test_a_single_query_is_left_to_transformers(gpu):
    module = nn.Module()
    module.num_key_value_groups = 2
    query, key, value = heads(FULL)
    expected, _ = sdpa_attention_forward(module, query[:, :, -1:], key, value, None)
    gpu(L40S)
    found, _ = fused.attention(module, query[:, :, -1:], key, value, None)
    torch.testing.assert_close(found, expected)
    assert fused.used() == []


@pytest.mark.parametrize(("capability", "dtype", "call"), CALLS)
def test_attention_that_tells_its_log_sum_exp(gpu, capability, dtype, call):
    parts = heads(dtype)
    kernel = attention.AttentionWithLse(scale=0.3)
    expected, expected_lse = kernel.plain(*(part.float() for part in parts), causal=True)
    device = gpu(capability)
    out, lse = kernel.on_gpu(*parts, causal=True)
    assert (out.dtype, lse.dtype, lse.shape) == (dtype, FULL, expected_lse.shape)
    torch.testing.assert_close(out.float(), expected, atol=ALLOWED[dtype], rtol=0)
    torch.testing.assert_close(lse, expected_lse, atol=ALLOWED[dtype], rtol=0)
    assert device.called == [call]


def test_without_any_fused_kernel_scores_are_held_and_that_is_said(monkeypatch):
    monkeypatch.setattr(fused, "takes", lambda *_, **__: None)
    fused.used()
    query, key, value = heads(FULL)
    expected = CPU_SDPA(query, key, value, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(fused.scaled_dot_product(query, key, value, causal=True), expected)
    assert fused.used() == [PLAIN]
    assert attention.AttentionWithLse(scale=1.0).on_gpu(query, key, value, causal=True) is None


@pytest.mark.parametrize("capability", [T4, L40S])
def test_a_model_of_grouped_queries_in_float32(gpu, capability):
    """Padded and without pads, forward and backward, no scores of all tokens are held, and results are the same."""
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaModel._from_config(config)
    ids = torch.randint(3, 64, (3, 9))
    mask = (torch.arange(9) < torch.tensor([9, 4, 6])[:, None]).long()
    expected = model(input_ids=ids, attention_mask=mask).last_hidden_state * mask[..., None]
    device = gpu(capability)
    assert padding_free.attach(model) is None
    device.called.clear()
    found = model(input_ids=ids, attention_mask=mask).last_hidden_state * mask[..., None]
    found.square().sum().backward()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert device.called == ["memory-efficient float32"] * 6  # two layers, three lengths
    assert fused.used() == ["memory-efficient, keys and values repeated"]


def test_on_a_cpu_nothing_is_changed_or_noted():
    query, key, value = heads(HALF)
    assert fused.takes(query, key, value) == fused.DEFAULT
    arrangement, *same = fused.arranged(query, key, value)
    assert arrangement == fused.Arrangement(kernel=fused.DEFAULT)
    assert [part.data_ptr() for part in same] == [part.data_ptr() for part in (query, key, value)]
    fused.used()
    fused.scaled_dot_product(query.float(), key.float(), value.float())
    assert fused.used() == []
    before = transformers.AttentionInterface()[fused.SDPA]
    fused.install()
    assert transformers.AttentionInterface()[fused.SDPA] is before
