"""What runs without pads is shown to give the same for each model by itself; what is not the same stays padded."""

import copy

import peft
import pytest
import torch
from torch import nn
from torch.nn import functional

from bench.models.kernels import fused, packed_attention, padding_free, padding_probe
from bench.models.kernels.packed_attention import PackedAttention
from bench.training import memory_saving
from scripts import padding_free_table
from tests.helpers.cases import together

# More threads than free cores make a tiny model a hundred times slower.
torch.set_num_threads(1)

OWN_ATTENTION, OTHER_LAYERS = "has an attention of its own that can't be replaced", "has layers of another kind"
# family -> the beginning of the reason.
PADDED = {
    **dict.fromkeys(["mpnet", "deberta-v2", "bloom", "jamba", "mamba", "qwen3_5_text", "qwen3_next"], OWN_ATTENTION),
    **dict.fromkeys(["lfm2", "llama4_text", "minimax", "recurrent_gemma"], OTHER_LAYERS),
    "t5": "is an encoder-decoder",
    # Scales embeddings by the share of masked tokens; counts positions by the mask; says nothing of windows.
    **dict.fromkeys(["esm", "opt", "phimoe"], "gets other hidden states without pads (by "),
    # Attention sinks.
    "gpt_oss": "adds something to its attention (s_aux)",
}
# Each batch is longer than the sliding windows together, and has texts longer and shorter than these.
LENGTHS = ((12, 3, 30, 3, 7, 1), (1, 24, 2, 9, 9, 5))


def batches():
    generator = torch.Generator().manual_seed(5)
    for lengths in LENGTHS:
        mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        ids = torch.randint(3, 300, mask.shape, generator=generator)
        yield {"input_ids": ids.masked_fill(~mask, 0), "attention_mask": mask.long()}


def trained(body):
    """(loss, gradients) of each of two optimiser steps; every token's hidden state counts in the loss."""
    steps, optimizer = [], torch.optim.SGD(body.parameters(), lr=0.05)
    body.train()
    for batch in batches():
        optimizer.zero_grad()
        states = body(**batch).last_hidden_state[batch["attention_mask"].bool()]
        target = torch.arange(len(states)) % states.shape[-1]
        loss = functional.cross_entropy(states, target)
        loss.backward()
        gradients = [torch.zeros(1) if part.grad is None else part.grad.clone() for part in body.parameters()]
        steps.append((float(loss.detach()), gradients))
        optimizer.step()
    return steps


@together("family", padding_free_table.FAMILIES)
def test_each_family_trains_the_same_or_stays_padded(family):
    body = padding_free_table.tiny_body(family)
    plain = copy.deepcopy(body)
    reason = padding_free.attach(body)
    assert padding_free.is_attached(body) is (reason is None)
    if family in PADDED:
        assert reason is not None
        assert reason.startswith(PADDED[family])
        return
    assert reason is None
    shown = padding_free.figures(body)
    assert shown["hidden_states"]["difference"] <= 5e-6
    assert shown["gradients"]["difference"] <= 1e-4
    assert shown["gradients"]["parameters"] >= 10
    assert shown["between_texts"] == {"gradient": 0.0, "allowed": 0.0}
    assert_same(trained(plain), trained(body))


def assert_same(steps, others):
    for (loss, gradients), (loss_too, gradients_too) in zip(steps, others, strict=True):
        assert loss_too == pytest.approx(loss, rel=1e-5)
        assert padding_probe.largest_difference(gradients, gradients_too, 1e-2) <= 1e-3


@pytest.mark.parametrize("family", ["gemma3_text", "qwen3_moe", "eurobert"])
def test_adapters_and_recomputed_activations_train_the_same(family):
    bodies = []
    for _ in range(2):
        torch.manual_seed(3)
        adapter = peft.LoraConfig(target_modules=["q_proj", "v_proj"], lora_dropout=0.0, init_lora_weights=False)
        bodies.append(peft.get_peft_model(padding_free_table.tiny_body(family), adapter))
        memory_saving.checkpoint_activations(bodies[-1])
    plain, body = bodies
    assert padding_free.attach(body) is None
    assert_same(trained(plain), trained(body))


def test_the_table_says_yes_or_why_not(capsys):
    assert padding_free_table.main(["--family", "gpt2", "lfm2", "--dtype", "bfloat16"]) == 0
    *_, header, _, accepted, refused, _, last = capsys.readouterr().out.splitlines()
    assert header.count("|") == accepted.count("|") == refused.count("|")
    assert accepted.startswith("| gpt2 | yes | ")
    assert refused.startswith("| lfm2 | no | ")
    assert refused.endswith("has layers of another kind (conv) |")
    assert last == "1 of 2 families run without pads"


# Defects


class Scaled(torch.autograd.Function):
    """The same forward, another gradient."""

    @staticmethod
    def forward(context, values):
        return values.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient * 1.01


def leaking(share):
    """A row's tokens get a share of the token before them, whatever text that is of."""
    return lambda out: out + share * functional.pad(out, (0, 0, 0, 0, 1, 0))[:, :-1]


def planted(monkeypatch, change):
    """Let the packed attention's output [1, tokens, heads, width] go through a function."""
    true = PackedAttention.by_runs
    monkeypatch.setattr(PackedAttention, "by_runs", lambda *given: change(true(*given)))


@pytest.mark.parametrize(
    ("family", "dtype", "change", "reason"),
    [
        ("llama", "float32", leaking(0.1), "lets texts of a row without pads see one another"),
        # Far below any tolerance, and in bfloat16 below its rounding.
        ("llama", "float32", leaking(1e-6), "lets texts of a row without pads see one another"),
        ("llama", "bfloat16", leaking(1e-6), "lets texts of a row without pads see one another"),
        ("bert", "bfloat16", leaking(1e-6), "lets texts of a row without pads see one another"),
        ("qwen3", "float32", Scaled.apply, "gets other gradients without pads (by 0.0"),
        ("modernbert", "float32", lambda out: out * 1.001, "gets other hidden states without pads"),
    ],
)
def test_an_attention_that_is_wrong_is_refused(family, dtype, change, reason, monkeypatch):
    planted(monkeypatch, change)
    body = padding_free_table.tiny_body(family, getattr(torch, dtype))
    assert padding_free.attach(body).startswith(reason)
    assert not padding_free.is_attached(body)


def test_wrong_gradients_in_16_bits_are_refused(monkeypatch):
    monkeypatch.setattr(Scaled, "backward", staticmethod(lambda context, gradient: gradient * 3))
    planted(monkeypatch, Scaled.apply)
    reason = padding_free.attach(padding_free_table.tiny_body("qwen3", torch.bfloat16))
    assert reason.startswith("gets other gradients without pads")


def test_positions_that_do_not_restart_are_refused(monkeypatch):
    """Learned positions; rotated ones are relative, and a text moved as a whole stays the same."""
    true = padding_free._row

    def row(body, given, packing):
        made = true(body, given, packing)
        return {**made, "position_ids": torch.arange(made["position_ids"].shape[1])[None]}

    monkeypatch.setattr(padding_free, "_row", row)
    assert padding_free.attach(padding_free_table.tiny_body("gpt2")).startswith("gets other hidden states")


@pytest.mark.parametrize("family", ["gpt2", "llama", "modernbert"])
def test_positions_in_another_order_are_refused(family, monkeypatch):
    monkeypatch.setattr(
        padding_free, "_positions", lambda body, given, packing: torch.arange(packing.shape[1]).flip(0)[None] // 2
    )
    assert padding_free.attach(padding_free_table.tiny_body(family)).startswith("gets other")


@pytest.mark.parametrize("family", ["gemma3_text", "modernbert", "mistral"])
@pytest.mark.parametrize("off", [-1, 1, 100])
def test_another_window_is_refused_however_wide_the_models_own(family, off, monkeypatch):
    true = padding_free.attention

    def attention(*given, sliding_window=None, **others):
        return true(*given, sliding_window=None if sliding_window is None else sliding_window + off, **others)

    monkeypatch.setattr(padding_free, "attention", attention)
    body = padding_free_table.tiny_body(family, sliding_window=4096, max_position_embeddings=8192)
    before = body.config.to_dict()
    assert padding_free.attach(body).startswith("gets other hidden states without pads")
    assert body.config.sliding_window == 4096
    assert body.config.to_dict() == before


def test_a_softcap_that_is_lost_is_refused(monkeypatch):
    true = padding_free.attention
    monkeypatch.setattr(padding_free, "attention", lambda *given, softcap=None, **others: true(*given, **others))
    body = padding_free_table.tiny_body("gemma2", attn_logit_softcapping=0.5)
    assert padding_free.attach(body).startswith("gets other hidden states without pads")


def test_types_of_tokens_that_are_lost_are_refused(monkeypatch):
    true = padding_free._row
    monkeypatch.setattr(padding_free, "_row", lambda *given: {**true(*given), "token_type_ids": None})
    assert padding_free.attach(padding_free_table.tiny_body("bert")).startswith("gets other hidden states")


class Convolution(nn.Module):
    """A causal convolution of three tokens before a layer's own feed-forward part, by a module or by a function."""

    def __init__(self, inner, by_module):
        super().__init__()
        self.inner = inner
        width = next(inner.parameters()).shape[-1]
        made = nn.Conv1d(width, width, 3, groups=width, bias=False)
        if by_module:
            self.convolution = made
        self.by_module, self.weight = by_module, nn.Parameter(made.weight.detach() * 1e-3)

    def forward(self, states):
        shifted = functional.pad(states.transpose(1, 2), (2, 0))
        if self.by_module:
            return self.inner(states + self.convolution(shifted).transpose(1, 2))
        mixed = functional.conv1d(shifted, self.weight, groups=len(self.weight))
        return self.inner(states + mixed.transpose(1, 2))


@pytest.mark.parametrize(
    ("by_module", "reason"),
    [
        (True, "has a module that mixes the tokens of a row (Conv1d)"),
        (False, "lets texts of a row without pads see one another"),
    ],
)
def test_a_convolution_across_texts_is_refused(by_module, reason):
    body = padding_free_table.tiny_body("llama")
    body.layers[2].mlp = Convolution(body.layers[2].mlp, by_module)
    assert padding_free.attach(body).startswith(reason)


def test_a_recurrence_across_texts_is_refused():
    body = padding_free_table.tiny_body("llama")

    class Recurrence(nn.Module):
        def forward(self, states):
            return states.cumsum(1) / torch.arange(1, states.shape[1] + 1)[:, None]

    body.layers[1].mlp = Recurrence()
    assert padding_free.attach(body).startswith("lets texts of a row without pads see one another")
    body.layers[1].mlp = nn.GRU(32, 32, batch_first=True)
    assert padding_free.attach(body) == "has a module that mixes the tokens of a row (GRU)"


def test_what_a_module_says_of_itself_is_heard():
    body = padding_free_table.tiny_body("mixtral")
    body.layers[0].mlp.expert_capacity = 4
    assert padding_free.attach(body).startswith("has experts of limited capacity (")
    # A module that does not run, as the vision part of a model for texts, says nothing.
    unused = padding_free_table.tiny_body("mixtral")
    unused.vision = nn.Sequential(nn.Conv2d(3, 8, 4))
    assert padding_free.attach(unused) is None
    relative = padding_free_table.tiny_body("bert")
    relative.config.position_embedding_type = "relative_key"
    assert padding_free.attach(relative) == "adds something to its attention that depends on distances"


@pytest.mark.parametrize("name", ["output_hidden_states", "output_router_logits"])
def test_what_is_returned_of_each_layer_keeps_its_shape(name):
    body = padding_free_table.tiny_body("mixtral")
    setattr(body.config, name, True)
    assert padding_free.attach(body) == "is set to return hidden states, attentions or router logits of its layers"


def test_a_body_that_fails_padded_is_not_run_otherwise():
    body = padding_free_table.tiny_body("llama")
    body.layers[0].mlp = nn.Linear(5, 5)
    assert padding_free.attach(body).startswith("can't be compared: can't be run so (RuntimeError: ")


def test_types_that_tell_images_from_text_are_not_taken_for_those_of_two_texts():
    body = padding_free_table.tiny_body("gemma3").eval()
    assert padding_free.attach(body) is None
    batch = next(batches())
    text, ran = torch.zeros_like(batch["input_ids"]), []
    body.language_model.layers[0].register_forward_pre_hook(lambda module, given: ran.append(given[0].shape[0]))
    with torch.no_grad():
        body(**batch)
        body(**batch, token_type_ids=text)
        image = text.clone()
        image[0, 2:5] = 1
        body(**batch, token_type_ids=image)
    assert ran == [1, 1, len(text)]


# The comparison itself


def test_the_comparison_leaves_everything_as_it_was():
    body = padding_free_table.tiny_body("gemma3_text", sliding_window=512)
    body.train()
    body.layers[1].eval()
    body.layers[2].mlp.requires_grad_(False)
    weights = {name: tensor.clone() for name, tensor in body.state_dict(keep_vars=False).items()}
    before = (body.config.to_dict(), [module.training for module in body.modules()], torch.random.get_rng_state())
    windows = [layer.self_attn.sliding_window for layer in body.layers]
    assert padding_free.attach(body) is None
    assert padding_free.figures(body)["windows_shortened"] == {"512": padding_probe.WINDOW}
    assert windows == [layer.self_attn.sliding_window for layer in body.layers] == [512] * 4
    padding_free.detach(body)
    after = (body.config.to_dict(), [module.training for module in body.modules()], torch.random.get_rng_state())
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])
    assert all(torch.equal(tensor, weights[name]) for name, tensor in body.state_dict().items())
    assert all(parameter.grad is None for parameter in body.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in body.modules())


def test_all_processes_go_by_one_decision():
    heard = []

    def agree(reason):
        heard.append(reason)
        return "of another process gets other gradients"

    body = padding_free_table.tiny_body("llama")
    assert padding_free.attach(body, agree) == "of another process gets other gradients"
    assert heard == [None]
    assert not padding_free.is_attached(body)
    assert padding_free.attach(padding_free_table.tiny_body("t5"), agree).startswith("of another process")
    assert heard[1] == "is an encoder-decoder"


def test_adapters_frozen_weights_and_models_that_are_only_scored():
    frozen = padding_free_table.tiny_body("qwen3").requires_grad_(False)
    assert padding_free.attach(frozen) is None
    assert padding_free.figures(frozen)["gradients"]["parameters"] == 0
    adapted = peft.get_peft_model(
        padding_free_table.tiny_body("smollm3"), peft.LoraConfig(target_modules=["q_proj", "v_proj"], lora_dropout=0.1)
    )
    assert padding_free.attach(adapted) is None
    # Two matrices in two modules of the first and last layer, and of those between.
    assert padding_free.figures(adapted)["gradients"]["parameters"] == 16
    with torch.no_grad():
        assert padding_free.attach(padding_free_table.tiny_body("olmo3")) is None


def test_pads_are_left_out_again_without_another_comparison(monkeypatch):
    body = padding_free_table.tiny_body("granite")
    assert padding_free.attach(body) is None
    padding_free.detach(body)
    monkeypatch.setattr(padding_probe, "compare", None)
    padding_free.reattach(body)
    padding_free.reattach(body)
    assert padding_free.is_attached(body)


def test_rounding_in_16_bits_is_that_of_the_padded_path_itself():
    """A router's choice hangs on the last bit: what is allowed is twice what that does to the padded path."""
    body = padding_free_table.tiny_body("granitemoe", torch.bfloat16)
    assert padding_free.attach(body) is None
    allowed = [padding_free.figures(body)[name]["allowed"] for name in ("hidden_states", "gradients")]
    assert padding_probe.ROUNDED[0] <= allowed[0] <= padding_probe.MOST[0]
    assert padding_probe.ROUNDED[1] < allowed[1] <= padding_probe.MOST[1]


def test_the_gpu_kernel_takes_keys_and_values_of_one_width(monkeypatch):
    """Latent attention has wider keys than values, which the kernel for any lengths does not."""
    monkeypatch.setattr(fused, "takes", lambda *_, **__: fused.FLASH)
    monkeypatch.setattr(PackedAttention, "varlen", None)
    packing = packed_attention.Packing(shape=(2, 3), places=torch.arange(4), runs=((1, 1), (1, 3)), configs=[])
    query, key, value = torch.randn(1, 2, 4, 8), torch.randn(1, 2, 4, 8), torch.randn(1, 2, 4, 6)
    with packing.active():
        out, _ = packed_attention.attention(nn.Module(), query, key, value)
    assert out.shape == (1, 4, 2, 6)
