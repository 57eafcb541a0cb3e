"""models/flops.py against torch's counter on the model itself at another length, and by hand."""

import peft
import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from bench.models import flops
from bench.models.heads import unwrapped
from bench.models.kernels import padding_free
from bench.training.memory_saving import checkpoint_activations
from tests.helpers import families
from tests.helpers import models as tiny
from tests.helpers.cases import cover

pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
# Some of the projections, as each family names them.
SOME = {
    **{name: ["query", "value"] for name in ("bert", "roberta", "albert", "minilm")},
    "distilbert": ["q_lin", "v_lin"],
    "t5": ["q", "v"],
    "gpt2": ["c_attn"],
}
METHODS = {
    "full": ("full", {}),
    "head": ("head", {}),
    "last_layers": ("last_layers", {"blocks": 1}),
    "lora": ("lora", {}),
    "lora of some": ("lora", {}),
}
LENGTH = 96


def settings(name, method):
    """A method's name, and its options for a family."""
    chosen, options = METHODS[method]
    some = {"config": {"target_modules": SOME.get(name, ["q_proj", "v_proj"])}}
    return chosen, some if method == "lora of some" else options


def measured(model):
    """Operations of one forward and backward pass on one text, by torch. Matrix products only, none left out."""
    ids = torch.randint(5, 90, (1, LENGTH), generator=torch.Generator().manual_seed(0))
    ids[0, -1] = 3
    with FlopCounterMode(display=False) as counter:
        model.train()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.sum().backward()
    return counter.get_total_flops()


def charged_in_full(model):
    """Without the discount: plain matrix products compute both halves of a causal score matrix."""
    marked = [module for module in model.modules() if getattr(module, "is_causal", False)]
    for module in marked:
        module.is_causal = False
    total = flops.step_flops(model, [LENGTH])
    for module in marked:
        module.is_causal = True
    return total


@pytest.mark.parametrize(("name", "method"), cover(tiny.FAMILIES, METHODS, tiny.KINDS))
def test_equals_torchs_count(name, method, tmp_path):
    model = tiny.adapted(tiny.card(name, attention="eager"), tmp_path, *settings(name, method))
    assert charged_in_full(model) == pytest.approx(measured(model), rel=1e-9)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("gemma", {"head_dim": 48}),
        ("llama", {"num_key_value_heads": 1, "num_hidden_layers": 3}),
        ("t5", {"num_layers": 3, "num_decoder_layers": 1, "d_kv": 40}),
        ("t5", {"feed_forward_proj": "relu"}),
        ("albert", {"num_hidden_layers": 6}),
    ],
)
def test_unusual_shapes(name, changes, tmp_path):
    for method in ("full", "head", "lora"):
        known = tiny.narrow(name, **changes).model_copy(update={"attention": "eager"})
        model = tiny.adapted(known, tmp_path, method)
        assert charged_in_full(model) == pytest.approx(measured(model), rel=1e-9)


def test_a_causal_stack_by_hand(tmp_path):
    model = tiny.adapted(tiny.card("llama"), tmp_path, "full")
    weights = 2 * (64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 128) + 64 * 3
    tokens, pairs = 5 + 9, 25 + 81
    # Forward, and twice that backward; 4 operations per pair and unit, two layers, half of the pairs.
    assert flops.step_flops(model, [5, 9]) == 3 * (2 * weights * tokens + 4 * 64 * pairs * 2 / 2)


def test_an_encoders_head_by_hand(tmp_path):
    model = tiny.adapted(tiny.card("bert"), tmp_path, "head")
    block = 4 * 64 * 64 + 2 * 64 * 128
    forward = 2 * (2 * block * 14) + 4 * 64 * 106 * 2 + 2 * (64 * 64 + 64 * 3) * 2
    # Backward: only the gradient of the head's own weights, on one token of each of the two texts.
    assert flops.step_flops(model, [5, 9]) == forward + 2 * (64 * 3) * 2


def test_texts_add_up(tmp_path):
    for name in tiny.FAMILIES:
        model = tiny.adapted(tiny.card(name), tmp_path, "lora")
        cost = flops.cost(model, 50, 50)
        apart = cost.total([3], [3], 1) + cost.total([50], [50], 1)
        assert cost.total([3, 50], [3, 50], 2) == pytest.approx(apart, rel=1e-12)
        assert cost.call == 0


def test_adapters_cost_less_than_training_everything(tmp_path):
    costs = [
        flops.step_flops(tiny.adapted(tiny.card("llama"), tmp_path, *METHODS[method]), [LENGTH])
        for method in ("head", "last_layers", "lora", "full")
    ]
    assert costs == sorted(costs)
    assert costs[0] < 0.4 * costs[-1]


def test_four_bits_cost_as_much_as_lora(tmp_path):
    for name in ("bert", "gpt2", "llama"):
        lora = flops.step_flops(tiny.adapted(tiny.card(name), tmp_path, "lora"), [LENGTH])
        assert flops.step_flops(tiny.adapted(tiny.card(name), tmp_path, "qlora"), [LENGTH]) == lora


def test_vectors_without_a_matrix_still_pass_gradients(tmp_path):
    ia3 = tiny.adapted(tiny.card("bert", attention="eager"), tmp_path, "lora", {"peft": "IA3Config"})
    assert charged_in_full(ia3) == pytest.approx(measured(ia3), rel=1e-9)


# PEFT class -> its options; layers share their projections, or the bank of vectors that theirs are made of, or hold
# tensors that are neither parameters nor buffers.
SHARED = {
    "VeraConfig": {"r": 4},
    "RandLoraConfig": {"r": 4},
    "VBLoRAConfig": {"r": 4, "num_vectors": 16, "vector_length": 8},
    "ShiraConfig": {"r": 4},
}


@pytest.mark.parametrize("name", SHARED)
def test_adapters_that_share_modules_are_counted_and_left_as_they_were(name, tmp_path):
    options = {"peft": name, "config": {**SHARED[name], "target_modules": ["query", "value"]}}
    model = tiny.adapted(tiny.card("bert", attention="eager"), tmp_path, "lora", options)
    held = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    counted = charged_in_full(model)
    left = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    assert [(path, id(tensor)) for path, tensor in left] == [(path, id(tensor)) for path, tensor in held]
    assert counted == pytest.approx(measured(model), rel=1e-9)


# ---------------------------------------------------------------- language models

TEXT_METHODS = {name: chosen for name, chosen in METHODS.items() if name != "head"}
ANSWER = 40


def measured_text(model):
    """As `measured`, of a language model; an encoder-decoder writes an answer of another length."""
    ids = torch.randint(5, 90, (1, LENGTH), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids[:, :ANSWER]
    with FlopCounterMode(display=False) as counter:
        model.train()(**inputs).logits.sum().backward()
    return counter.get_total_flops()


def charged_text_in_full(model):
    marked = [module for module in model.modules() if getattr(module, "is_causal", False)]
    for module in marked:
        module.is_causal = False
    return flops.step_flops(model, [LENGTH], [ANSWER] if model.config.is_encoder_decoder else None)


@pytest.mark.parametrize(("name", "method"), cover(tiny.WRITERS, TEXT_METHODS, ["gpt2", "t5"]))
def test_equals_torchs_count_for_language_models(name, method, tmp_path):
    model = tiny.text_adapted(tiny.card(name, attention="eager"), tmp_path, *settings(name, method))
    assert charged_text_in_full(model) == pytest.approx(measured_text(model), rel=1e-9)


def test_an_output_head_runs_on_every_token(tmp_path):
    model = tiny.text_adapted(tiny.card("llama"), tmp_path, "last_layers")
    frozen, trained = (64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 128,) * 2
    tokens, pairs = 5 + 9, 25 + 81
    # The head is frozen: forward, and backward to what it is given. Attention: 4 per pair and unit, half of the pairs.
    weights = 2 * tokens * (frozen + 3 * trained + 2 * 64 * 2048)
    assert flops.step_flops(model, [5, 9]) == weights + 4 * 64 * pairs / 2 * (1 + 3)


def test_prompts_cost_in_the_encoder_and_answers_in_the_decoder(tmp_path):
    model = tiny.text_adapted(tiny.card("t5"), tmp_path, "full")
    cost = flops.cost(model, 10, 4)
    base, prompt, answer = (cost.total(*lengths, 1) for lengths in (([9], [3]), ([10], [3]), ([9], [4])))
    # An answer's token also pays for the output head.
    assert answer - base > prompt - base > 0
    assert cost.total([9, 4], [3, 2], 1) == pytest.approx(base + cost.total([4], [2], 0), rel=1e-12)
    assert flops.step_flops(model, [9]) == flops.step_flops(model, [9], [9])


# ---------------------------------------------------------------- families without a card, each with adapters

SMALL = {"vocab_size": 200, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
USUAL = {**SMALL, "intermediate_size": 96, "max_position_embeddings": 128}
EXPERTS = {**USUAL, "num_key_value_heads": 2, "num_experts_per_tok": 2}
# Latent attention: keys and values of other widths than queries.
LATENT = {
    "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 16, "n_routed_experts": 8, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2,
    "moe_intermediate_size": 32, "first_k_dense_replace": 1,
}  # fmt: skip
BART = {
    "vocab_size": 200, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "max_position_embeddings": 128,
}  # fmt: skip
DEBERTA = {**USUAL, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16}
TEXT, LABELS, SPANS = "CausalLM", "SequenceClassification", "QuestionAnswering"
OTHERS = {
    "mixtral": ("mixtral", {**EXPERTS, "num_local_experts": 4}, TEXT, ["q_proj", "v_proj"]),
    "qwen3_moe": ("qwen3_moe", {**EXPERTS, "num_experts": 4, "moe_intermediate_size": 32}, TEXT, ["q_proj", "o_proj"]),
    "deepseek_v3": ("deepseek_v3", {**USUAL, **LATENT}, TEXT, ["q_b_proj", "o_proj"]),
    "gpt_neox": ("gpt_neox", USUAL, TEXT, ["query_key_value"]),
    "opt": ("opt", {**SMALL, "ffn_dim": 96, "word_embed_proj_dim": 64}, TEXT, ["q_proj", "v_proj"]),
    "phi3": ("phi3", {**USUAL, "num_key_value_heads": 2, "pad_token_id": 0}, TEXT, ["qkv_proj"]),
    "falcon": ("falcon", SMALL, TEXT, ["query_key_value"]),
    "bart": ("bart", BART, LABELS, ["q_proj", "v_proj"]),
    "deberta": ("deberta-v2", DEBERTA, LABELS, ["query_proj", "value_proj"]),
    "spans of bert": ("bert", USUAL, SPANS, ["query", "value"]),
    "dynamic rotary": (
        "llama", {**USUAL, "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}}, TEXT,
        ["q_proj", "v_proj"],
    ),
}  # fmt: skip


def foreign(name, *, dora=False, experts=None):
    """A tiny model of a family that has no card, with LoRA."""
    kind, settings, task, targets = OTHERS[name]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **settings)
    model = getattr(transformers, f"AutoModelFor{task}").from_config(config, attn_implementation="eager")
    if experts is not None:
        model.set_experts_implementation(experts)
    return peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=targets, use_dora=dora))


def measured_once(model, rows=1):
    ids = torch.randint(5, 90, (rows, LENGTH), generator=torch.Generator().manual_seed(0))
    ids[:, -1] = 2
    with FlopCounterMode(display=False) as counter:
        outputs = model.train()(input_ids=ids, attention_mask=torch.ones_like(ids))
        names = [name for name in ("logits", "start_logits", "end_logits") if name in outputs]
        sum(outputs[name].sum() for name in names).backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", OTHERS)
def test_adapters_in_other_families(name):
    # By default, transformers runs experts by an operation that the counter does not know.
    plain = foreign(name, experts="eager" if OTHERS[name][0] in ("mixtral", "qwen3_moe", "deepseek_v3") else None)
    assert charged_in_full(foreign(name)) == pytest.approx(measured_once(plain), rel=1e-9)


@pytest.mark.parametrize("adapted", [False, True], ids=["full", "lora"])
def test_linear_attention_costs_by_its_chunks(adapted):
    """Its tokens are filled up to whole chunks of 64, of which the first costs less than those that follow."""
    settings = {**families.QWEN3_5, "max_position_embeddings": 512}
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model("qwen3_5_text", **settings)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    if adapted:
        model = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj", "in_proj_qkv"]))
    for module in model.modules():
        if getattr(module, "is_causal", False):
            module.is_causal = False  # charged in full, as the counter does
    for lengths in ([7], [64, 65], [130, 200, 3]):
        counted = 0
        for length in lengths:
            with FlopCounterMode(display=False) as counter:
                model.train()(input_ids=torch.full((1, length), 5), use_cache=False).logits.sum().backward()
            counted += counter.get_total_flops()
        assert flops.step_flops(model, lengths) == pytest.approx(counted, rel=1e-9)


def test_what_a_call_costs_whatever_it_is_given():
    """DoRA's norms are of the weights: they cost the same for one text and for many."""
    one, many = flops.step_flops(foreign("gpt_neox", dora=True), [9]), measured_once(foreign("gpt_neox", dora=True), 4)
    model = foreign("gpt_neox", dora=True)
    for module in model.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False
    assert flops.step_flops(model, [LENGTH] * 4) == pytest.approx(many, rel=1e-9)
    assert flops.step_flops(model, [9, 9], calls=2) == 2 * flops.step_flops(model, [9])
    assert flops.step_flops(model, [9, 9], calls=1) < 2 * flops.step_flops(model, [9])
    assert one > 0


def test_recomputation_is_no_model_work_and_nothing_is_left_behind(tmp_path):
    model = tiny.text_adapted(tiny.card("llama"), tmp_path, "lora")
    plain = flops.step_flops(model, [LENGTH])
    checkpoint_activations(model)
    padding_free.attach(model)
    forward, names = unwrapped(model).model.forward, [name for name, _ in model.named_parameters()]
    model.eval()
    assert flops.step_flops(model, [LENGTH]) == plain
    assert unwrapped(model).model.forward == forward
    assert [name for name, _ in model.named_parameters()] == names
    assert all(one.device.type == "cpu" and one.grad is None for one in model.parameters())
    assert not model.training
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def test_a_model_that_can_not_be_counted_has_no_number(tmp_path):
    model = tiny.adapted(tiny.card("bert"), tmp_path, "full")

    def lookup(module, inputs, output):
        raise RuntimeError("this needs the numbers")

    model.bert.encoder.register_forward_hook(lookup)
    with pytest.raises(
        flops.UncountableError, match=r"BertForSequenceClassification can't be run .* needs the numbers"
    ):
        flops.step_flops(model, [5])
    cubic = tiny.adapted(tiny.card("bert"), tmp_path, "full")

    def windows(module, inputs, output):
        return output + 0 * (torch.ones(max(0, output.shape[1] - 40), 9, device=output.device).mm(output[0, :9])).sum()

    cubic.bert.embeddings.register_forward_hook(windows)
    with pytest.raises(flops.UncountableError, match="96 tokens cost does not follow from what shorter texts do"):
        flops.step_flops(cubic, [LENGTH])
