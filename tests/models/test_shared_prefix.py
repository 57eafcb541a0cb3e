"""A prefix that all rows share gives the logits that the whole texts give, for every family and every window."""

import random
from typing import Any

import pytest
import torch
import transformers
from transformers import DynamicCache

from bench.models.kernels import shared_prefix
from bench.models.kernels.attention import AttentionWithLse, merge
from tests.helpers.cases import cover
from tests.helpers.decoders import ALTERNATING, FAMILIES, REFUSED, SMALL, VOCABULARY, build


def texts(num_rows: int, num_tokens: int, shared: int) -> torch.Tensor:
    """[rows, tokens]; the first `shared` tokens are the same in all rows."""
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(0, VOCABULARY, (num_rows, num_tokens), generator=generator)
    ids[:, :shared] = ids[0, :shared]
    return ids


@torch.no_grad()
def logits(model: Any, ids: torch.Tensor, **more: Any) -> torch.Tensor:
    return model(input_ids=ids, **{"use_cache": False, **more}).logits


# How long the prefix is matters to those with a window, and to positions that are learned.
@pytest.mark.parametrize(
    ("family", "shared"),
    cover(FAMILIES, [1, 12, 40], ["gpt2", "mistral-3", "mistral-20", "mistral-60", "gemma2-5", "gemma2-20", "gemma3"]),
)
def test_rows_behind_a_prefix_give_the_logits_of_whole_texts(family, shared):
    model = build(*FAMILIES[family])
    ids = texts(3, shared + 18, shared)
    whole = logits(model, ids)
    assert float(whole[:, shared:].std()) > 0.05
    prefix = shared_prefix.run_prefix(model, ids[0, :shared].tolist())
    positions = torch.arange(shared, shared + 18).expand(3, -1)
    with shared_prefix.attending(model, prefix):
        causal = logits(model, ids[:, shared:], position_ids=positions)
    mask = torch.ones(18, 18, dtype=torch.bool).tril()[None, 10:]
    with shared_prefix.attending(model, prefix, mask=mask, positions=positions):
        masked = logits(model, ids[:, shared:], position_ids=positions)
    assert torch.allclose(causal, whole[:, shared:], atol=2e-5)
    assert torch.allclose(masked, whole[:, shared:], atol=2e-5)
    # The model is as it was.
    assert torch.equal(logits(model, ids), whole)
    assert shared_prefix.supports(model) is None


@pytest.mark.parametrize("family", ["gpt2", "mistral-20", "gemma2-5", "qwen3"])
def test_a_token_at_a_time_with_a_cache_of_the_rows_own_tokens(family):
    model = build(*FAMILIES[family])
    ids, shared = texts(3, 40, 25), 25
    whole = logits(model, ids)[:, shared:]
    prefix = shared_prefix.run_prefix(model, ids[0, :shared].tolist())
    positions = torch.arange(shared, 40).expand(3, -1)
    cache, found = DynamicCache(), []
    with shared_prefix.attending(model, prefix) as rows:
        for start, end in [(0, 9), *((place, place + 1) for place in range(9, 15))]:
            if start:
                rows.see(torch.ones(3, 1, end, dtype=torch.bool), positions[:, :end])
            more = {"position_ids": positions[:, start:end], "past_key_values": cache, "use_cache": True}
            found.append(logits(model, ids[:, shared + start : shared + end], **more))
    assert torch.allclose(torch.cat(found, 1), whole, atol=2e-5)


@pytest.mark.parametrize("family", REFUSED)
def test_unsupported_models_say_why(family):
    kind, settings, reason = REFUSED[family]
    model = build(kind, settings)
    before = model.config._attn_implementation
    assert reason in shared_prefix.supports(model)
    assert model.config._attn_implementation == before


def test_a_wrong_attention_is_found_by_running_it(monkeypatch):
    model = build(*FAMILIES["llama"])
    monkeypatch.setattr(shared_prefix, "merge", lambda left, *_: left)
    assert "other logits" in shared_prefix.supports(model)


def test_sliding_windows_that_are_kept_from_the_attention_are_refused(monkeypatch):
    model = build(*FAMILIES["gemma3"])
    for module in model.modules():
        if hasattr(module, "sliding_window"):
            module.sliding_window = None
    assert "sliding windows" in shared_prefix.supports(model)


def test_an_adapter_that_adds_tokens_is_refused():
    import peft

    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    assert "adds tokens" in shared_prefix.supports(peft.get_peft_model(build(*FAMILIES["llama"]), config).eval())


@pytest.mark.parametrize("family", ["llama", "gemma2-5"])
def test_the_models_own_attention_comes_back_after_an_error(family):
    model = build(*FAMILIES[family])
    before = model.config._attn_implementation
    model.lm_head.register_forward_hook(lambda *_: 1 / 0)
    with shared_prefix.attending(model, None):
        assert model.config._attn_implementation == shared_prefix.NAME
    assert model.config._attn_implementation == before
    with pytest.raises(ZeroDivisionError):
        shared_prefix.supports(model)
    assert model.config._attn_implementation == before
    assert {module.config._attn_implementation for module in model.modules() if hasattr(module, "config")} == {before}


def test_configs_inside_of_a_config_are_switched_too():
    text = {**SMALL, "layer_types": ALTERNATING, "sliding_window": 5}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Gemma3Config(text_config=text, vision_config={**vision, "image_size": 28, "patch_size": 14})
    config.text_config._attn_implementation = "eager"
    model = transformers.Gemma3ForConditionalGeneration._from_config(config).eval()
    inner = model.config.text_config
    before = model.config._attn_implementation, inner._attn_implementation
    with shared_prefix.attending(model, None):
        assert model.config._attn_implementation == inner._attn_implementation == shared_prefix.NAME
    assert (model.config._attn_implementation, inner._attn_implementation) == before


def test_keys_and_values_of_the_prefix_are_never_copied(monkeypatch):
    model = build(*FAMILIES["mistral-60"])
    ids = texts(5, 30, 20)
    prefix = shared_prefix.run_prefix(model, ids[0, :20].tolist())
    used = []
    called = AttentionWithLse.__call__

    def spy(self: AttentionWithLse, query: Any, key: Any, value: Any, **more: Any) -> Any:
        used.append((key, value))
        return called(self, query, key, value, **more)

    monkeypatch.setattr(AttentionWithLse, "__call__", spy)
    with shared_prefix.attending(model, prefix):
        logits(model, ids[:, 20:], position_ids=torch.arange(20, 30)[None])
    for number, (keys, values) in prefix.layers.items():
        own, shared = used[2 * number], used[2 * number + 1]
        assert own[0].shape[0] == 5
        assert shared[0].shape == keys.shape == (1, 2, 20, 8)
        assert (shared[0].data_ptr(), shared[1].data_ptr()) == (keys.data_ptr(), values.data_ptr())


def test_rows_with_a_cache_need_a_mask_and_windows_need_positions():
    model = build(*FAMILIES["mistral-20"])
    prefix = shared_prefix.run_prefix(model, [1, 2, 3])
    with shared_prefix.attending(model, prefix, mask=torch.ones(1, 1, 1, dtype=torch.bool)):
        with pytest.raises(ValueError, match="positions"):
            logits(model, texts(1, 1, 0))
    with shared_prefix.attending(model, prefix):
        cache = DynamicCache()
        logits(model, texts(1, 2, 0), past_key_values=cache, use_cache=True)
        with pytest.raises(ValueError, match="need a mask"):
            logits(model, texts(1, 1, 0), past_key_values=cache, use_cache=True)


def reference(query: Any, key: Any, value: Any, kernel: AttentionWithLse, seen: Any) -> Any:
    """Attention in float64, by the formula."""
    groups = query.shape[1] // key.shape[1]
    key, value = (heads.double().repeat_interleave(groups, 1) for heads in (key, value))
    scores = query.double() @ key.transpose(-1, -2) * kernel.scale
    if kernel.softcap:
        scores = kernel.softcap * torch.tanh(scores / kernel.softcap)
    scores = scores.masked_fill(~seen, -torch.inf)
    return scores.softmax(-1).nan_to_num() @ value, scores.logsumexp(-1)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("width", [8, 16, 10])
def test_kernels_against_the_formula(softcap, width, monkeypatch):
    # Small parts, so that more than one is made.
    monkeypatch.setattr("bench.models.kernels.attention.SCORES", 60)
    rng = random.Random(0)
    torch.manual_seed(0)
    for _ in range(20):
        rows, groups, key_heads = rng.randint(1, 3), rng.randint(1, 3), rng.randint(1, 2)
        causal = rng.random() < 0.4
        num_queries, num_keys = rng.randint(1, 7), rng.randint(1, 9)
        num_keys = num_queries if causal else num_keys
        query = 3 * torch.randn(rows, groups * key_heads, num_queries, width)
        key, value = (torch.randn(rows, key_heads, num_keys, width) for _ in range(2))
        visible = torch.ones(rows, 1, num_queries, num_keys, dtype=torch.bool)
        visible = visible.tril() if causal else visible
        seen = None
        if rng.random() < 0.5:
            seen = visible = visible & (torch.rand(visible.shape) < 0.6)
        kernel = AttentionWithLse(scale=0.3, softcap=softcap)
        out, lse = reference(query, key, value, kernel, visible)
        options = {"causal": causal, "seen": seen}
        for found, found_lse in (kernel(query, key, value, **options), kernel.plain(query, key, value, **options)):
            assert torch.allclose(found.double(), out, atol=1e-5)
            assert torch.allclose(found_lse.double(), lse, atol=1e-5)
            assert found_lse.dtype == torch.float32


def test_merged_parts_are_the_whole():
    torch.manual_seed(0)
    query, kernel = torch.randn(2, 3, 5, 8), AttentionWithLse(scale=0.5)
    key, value = torch.randn(2, 3, 9, 8), torch.randn(2, 3, 9, 8)
    whole, _ = kernel(query, key, value)
    for cut in range(1, 9):
        left = kernel(query, key[:, :, :cut], value[:, :, :cut])
        right = kernel(query, key[:, :, cut:], value[:, :, cut:])
        assert torch.allclose(merge(*left, *right), whole, atol=1e-6)
        # A side of which nothing is seen weighs nothing; no side at all is no NaN, which would spread.
        nothing = torch.full_like(left[1], -torch.inf)
        assert torch.equal(merge(*left, right[0] * 0, nothing), left[0])
        assert merge(left[0] * 0, nothing, right[0] * 0, nothing).abs().max() == 0
