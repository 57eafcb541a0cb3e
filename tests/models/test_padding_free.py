"""Bodies that leave out pads get the losses, gradients and logits of the padded batch."""

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch.nn import functional

from bench.models import heads
from bench.models.kernels import packed_attention, padding_free
from bench.training import memory_saving
from tests.helpers import models as tiny
from tests.helpers.cases import cover

BASE = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {**BASE, "num_key_value_heads": 2}
# Windows shorter than the longest text, and dropout of 0, without which no two ways could agree.
ARCHITECTURES = {
    "albert": {**BASE, "embedding_size": 16},
    "bert": BASE,
    "camembert": {**BASE, "pad_token_id": 1},
    "distilbert": {"vocab_size": 300, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4},
    "electra": {**BASE, "embedding_size": 16},
    "gemma": {**GROUPED, "head_dim": 8},
    "gemma2": {**GROUPED, "head_dim": 8, "sliding_window": 5, "attn_logit_softcapping": 2.0},
    "gpt2": {"vocab_size": 300, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "pad_token_id": 0},
    "gpt_neox": BASE,
    "llama": GROUPED,
    "mistral": {**GROUPED, "sliding_window": 5},
    "modernbert": {**BASE, "local_attention": 6, "global_attn_every_n_layers": 2, "cls_token_id": 1, "sep_token_id": 2},
    "phi3": {**GROUPED, "sliding_window": 5},
    "qwen2": {**GROUPED, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    "qwen3": {**GROUPED, "head_dim": 8},
    "roberta": {**BASE, "pad_token_id": 1},
    "xlm-roberta": {**BASE, "pad_token_id": 1},
}
LENGTHS = (9, 3, 12, 3, 7, 1)
DROPOUTS = ("dropout", "pdrop", "dropout_prob")


def dropouts(config):
    return [name for name in config.to_dict() if name.endswith(DROPOUTS) and getattr(config, name) is not None]


def make(name, auto=transformers.AutoModelForSequenceClassification, dropout=0.0, attention=None):
    config = transformers.AutoConfig.for_model(name, **ARCHITECTURES[name], num_labels=3)
    for item in dropouts(config):
        setattr(config, item, dropout)
    config.use_cache = False
    torch.manual_seed(13)
    model = auto.from_config(config, attn_implementation=attention or ("eager" if name == "gemma2" else "sdpa"))
    return tiny.liven(model)


def batch(model, lengths=LENGTHS):
    generator = torch.Generator().manual_seed(1)
    pad = model.config.pad_token_id or 0
    ids = torch.randint(3, 300, (len(lengths), max(lengths)), generator=generator)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": ids.masked_fill(mask == 0, pad), "attention_mask": mask}


def with_lora(model):
    names = {name.rpartition(".")[2] for name, module in model.base_model.named_modules() if isinstance(module, LINEAR)}
    wanted = sorted(name for name in names if name not in ("pooler", "dense_pooler"))
    model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", target_modules=wanted, r=2, lora_dropout=0.0))
    for part, parameter in model.named_parameters():
        if "lora_B" in part:
            parameter.data.normal_(0.0, 0.1, generator=torch.Generator().manual_seed(3))
    return model


LINEAR = (torch.nn.Linear, transformers.pytorch_utils.Conv1D)


def step(model, inputs, labels):
    """(logits, loss, gradients) of a training step."""
    model.train()
    model.zero_grad()
    logits = model(**inputs).logits
    loss = functional.cross_entropy(logits, labels)
    loss.backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    return logits.detach(), loss.detach(), found


def assert_same(one, other):
    (logits, loss, gradients), (others, loss_too, gradients_too) = one, other
    torch.testing.assert_close(others, logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss_too, loss, rtol=1e-5, atol=1e-6)
    assert gradients.keys() == gradients_too.keys()
    for name, gradient in gradients.items():
        size = float(gradient.abs().max())
        torch.testing.assert_close(gradients_too[name], gradient, rtol=1e-4, atol=1e-5 * max(size, 1e-3), msg=name)


@pytest.fixture
def ran(monkeypatch):
    """Shapes of what the packed attention was given."""
    shapes = []
    kernel = packed_attention.PackedAttention.by_runs

    def by_runs(self, query, key, value, packing):
        shapes.append(tuple(query.shape))
        return kernel(self, query, key, value, packing)

    monkeypatch.setattr(packed_attention.PackedAttention, "by_runs", by_runs)
    return shapes


# transformers' ALBERT can't recompute activations.
STEPS = [(name, recomputed) for name in sorted(ARCHITECTURES) for recomputed in (False, True)[: 1 + (name != "albert")]]


@pytest.mark.parametrize(
    ("name", "checkpointing", "lora"),
    [(*way, lora) for way, lora in cover(STEPS, [False, True], [(name, True) for name in ("bert", "gpt2", "llama")])],
)
def test_losses_and_gradients_of_a_classifier(name, lora, checkpointing, ran):
    model = make(name)
    inputs, labels = batch(model), torch.arange(len(LENGTHS)) % 3
    if lora:
        model = with_lora(model)
    if checkpointing:
        memory_saving.checkpoint_activations(model)
    plain = step(model, inputs, labels)
    assert ran == []
    assert padding_free.attach(model) is None
    ran.clear()
    assert_same(plain, step(model, inputs, labels))
    layers = 2
    assert len(ran) == layers * (2 if checkpointing else 1)
    assert all(shape[0] == 1 and shape[2] == sum(LENGTHS) for shape in ran)
    padding_free.detach(model)
    ran.clear()
    assert_same(plain, step(model, inputs, labels))
    assert ran == []


DECODERS = sorted(
    set(ARCHITECTURES) & {"gemma", "gemma2", "gpt2", "gpt_neox", "llama", "mistral", "phi3", "qwen2", "qwen3"}
)


@pytest.mark.parametrize("name", DECODERS)
def test_losses_and_gradients_of_a_language_model(name, ran):
    model = make(name, transformers.AutoModelForCausalLM)
    inputs = batch(model)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)

    def run():
        model.zero_grad()
        outputs = model(**inputs, labels=labels)
        outputs.loss.backward()
        found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        return outputs.logits[inputs["attention_mask"].bool()].detach(), outputs.loss.detach(), found

    plain = run()
    assert padding_free.attach(model) is None
    ran.clear()
    assert_same(plain, run())
    assert len(ran) == 2


@pytest.mark.parametrize("side", ["left", "between"])
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "roberta"])
def test_pads_on_the_left_and_in_between(name, side):
    """Tokens keep the positions that they have in the padded batch, wherever the pads stand."""
    model = make(name, transformers.AutoModel).eval()
    inputs = batch(model)
    if side == "left":
        inputs = {part: tensor.flip(1) for part, tensor in inputs.items()}
    else:
        inputs["attention_mask"][0, 4] = inputs["attention_mask"][2, 7] = 0
    mask = inputs["attention_mask"].bool()
    with torch.no_grad():
        plain = model(**inputs).last_hidden_state[mask]
        assert padding_free.attach(model) is None
        found = model(**inputs).last_hidden_state
    torch.testing.assert_close(found[mask], plain, rtol=1e-4, atol=1e-5)
    assert float(found[~mask].abs().max()) == 0


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_positions_types_and_embeddings_that_are_given(name, ran):
    model = make(name, transformers.AutoModel).eval()
    inputs = batch(model)
    mask = inputs["attention_mask"].bool()
    positions = torch.arange(mask.shape[1]).flip(0)[None]
    given = [{**inputs, "position_ids": positions}, {**inputs, "position_ids": positions.expand(mask.shape)}]
    given.append({"inputs_embeds": model.get_input_embeddings()(inputs["input_ids"]), "attention_mask": mask})
    if name == "bert":
        given.append({**inputs, "token_type_ids": (inputs["input_ids"] % 2)})
    with torch.no_grad():
        plain = [model(**each).last_hidden_state[mask] for each in given]
        assert padding_free.attach(model) is None
        ran.clear()
        found = [model(**each).last_hidden_state[mask] for each in given]
    assert len(ran) == 2 * len(given)
    for one, other in zip(plain, found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["bert", "llama", "modernbert"])
def test_under_autocast(name):
    model = make(name)
    inputs, labels = batch(model), torch.arange(len(LENGTHS)) % 3

    def run():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return step(model, inputs, labels)

    logits, loss, gradients = run()
    assert padding_free.attach(model) is None
    others, loss_too, gradients_too = run()
    # Eight bits of a mantissa: both ways round, each at other places.
    torch.testing.assert_close(loss_too, loss, rtol=2e-2, atol=2e-2)
    for part, gradient in gradients.items():
        far = float((gradients_too[part] - gradient).abs().max())
        assert far <= 0.1 * float(gradient.abs().max()) + 1e-3, part
    assert others.dtype == logits.dtype


@pytest.mark.parametrize("name", ["tiny_bert", "tiny_llama"])
def test_quantised_weights_with_adapters(name, tmp_path):
    card = tiny.card(name.removeprefix("tiny_"))
    model = tiny.adapted(card, tmp_path, "qlora", {"compute_dtype": "float32"})
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    inputs = {part: tensor for part, tensor in tiny.batch(tiny.tokenizer(card)).items() if part != "labels"}
    labels = torch.arange(len(tiny.TEXTS)) % 3
    padding_free.detach(model)
    for layer in model.modules():
        if hasattr(layer, "config") and hasattr(layer.config, "attention_probs_dropout_prob"):
            layer.config.attention_probs_dropout_prob = 0.0
    plain = step(model, inputs, labels)
    assert padding_free.attach(model) is None
    assert_same(plain, step(model, inputs, labels))


@pytest.mark.parametrize("name", ["bert", "gpt2", "gemma2"])
def test_attention_drops_as_often_and_scales_as_it_should(name, monkeypatch):
    """With equal weights and values of one, an output is the share of keys that were kept, over the share expected."""
    rate, length, texts = 0.25, 50, 40
    module = torch.nn.Module()
    module.is_causal = False
    query = torch.zeros(1, 4, length * texts, 8)
    value = torch.ones(1, 4, length * texts, 8)
    packing = packed_attention.Packing(
        shape=(texts, length), places=torch.arange(length * texts), runs=((texts, length),), configs=[]
    )
    torch.manual_seed(0)
    with packing.active():
        out, _ = packed_attention.attention(
            module, query, query, value, None, dropout=rate, softcap=2.0 if name == "gemma2" else None
        )
    shares = out[..., 0].flatten()
    assert abs(float(shares.mean()) - 1) < 0.005
    # Of 50 keys each is kept by itself: a binomial's spread.
    expected = (rate / (1 - rate) / length) ** 0.5
    assert abs(float(shares.std()) / expected - 1) < 0.1


def test_dropout_reaches_every_layer_and_not_the_evaluation():
    model = make("bert", dropout=0.3)
    inputs = batch(model)
    assert padding_free.attach(model) is None
    model.train()
    assert not torch.equal(model(**inputs).logits, model(**inputs).logits)
    torch.manual_seed(5)
    one = model(**inputs).logits
    torch.manual_seed(5)
    assert torch.equal(one, model(**inputs).logits)
    model.eval()
    assert torch.equal(model(**inputs).logits, model(**inputs).logits)


def test_what_runs_padded_runs_as_before(ran):
    model = make("llama", transformers.AutoModel).eval()
    inputs = batch(model)
    assert padding_free.attach(model) is None
    ran.clear()
    with torch.no_grad():
        model(input_ids=inputs["input_ids"])
        model(**{**inputs, "attention_mask": torch.ones_like(inputs["attention_mask"])})
        assert len(model(**inputs, output_hidden_states=True).hidden_states) == 3
        assert model(**inputs, use_cache=True).past_key_values is not None
        assert isinstance(model(**inputs, return_dict=False), tuple)
        empty = inputs["attention_mask"].clone()
        empty[1] = 0
        model(input_ids=inputs["input_ids"], attention_mask=empty)
    assert ran == []


def test_a_greedy_text_is_the_same():
    model = make("gpt2", transformers.AutoModelForCausalLM).eval()
    inputs = {part: tensor.flip(1) for part, tensor in batch(model).items()}
    settings = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    plain = model.generate(**inputs, **settings)
    assert padding_free.attach(model) is None
    assert torch.equal(model.generate(**inputs, **settings), plain)


def test_layers_that_would_be_recomputed_otherwise_keep_their_pads(ran):
    """Without `recomputing`, a layer of the backward pass would let the texts of the row see one another."""
    model = make("bert")
    inputs, labels = batch(model), torch.arange(len(LENGTHS)) % 3
    plain = step(model, inputs, labels)
    assert padding_free.attach(model) is None
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    ran.clear()
    assert_same(plain, step(model, inputs, labels))
    assert ran == []


@pytest.mark.parametrize(
    ("name", "reason"), [("t5", "is an encoder-decoder"), ("deberta-v2", "has an attention of its own")]
)
def test_who_stays_padded_and_why(name, reason):
    config = transformers.AutoConfig.for_model(name, **({"vocab_size": 300, "num_layers": 1} if name == "t5" else BASE))
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    assert reason in padding_free.attach(model)
    assert not padding_free.is_attached(model)
    padding_free.detach(model)


def test_a_body_whose_texts_see_one_another_stays_padded(monkeypatch):
    """A kernel that forgets the borders between texts is found out by a few tokens."""

    def careless(self, query, key, value, packing):
        return functional.scaled_dot_product_attention(query, key, value, scale=self.scale).transpose(1, 2)

    monkeypatch.setattr(packed_attention.PackedAttention, "by_runs", careless)
    model = make("bert")
    inputs = batch(model)
    assert "lets texts of a row without pads see one another (gradient " in padding_free.attach(model)
    assert "forward" not in heads.unwrapped(model).base_model.__dict__
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(**inputs).logits, make("bert").eval()(**inputs).logits)


def test_a_model_is_saved_as_it_was(tmp_path):
    model, plain = make("mistral"), make("mistral")
    assert padding_free.attach(model) is None
    model(**batch(model))
    model.save_pretrained(tmp_path / "one")
    plain.save_pretrained(tmp_path / "other")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 4])
def test_what_the_kernel_for_any_lengths_is_asked(causal, window, monkeypatch):
    """The GPU's kernel, stood in for by dense attention with the same arguments, gives what runs of lengths give."""

    def varlen_attn(query, key, value, ends, ends_too, longest, longest_too, *, scale, window_size, enable_gqa):
        assert torch.equal(ends, ends_too)
        assert longest == longest_too == 6
        text = torch.bucketize(torch.arange(query.shape[0]), ends[1:], right=True)
        far = torch.arange(len(text))[:, None] - torch.arange(len(text))
        left, right = (len(text) if side < 0 else side for side in window_size)
        seen = (text[:, None] == text) & (far <= left) & (-far <= right)
        heads_first = [part.transpose(0, 1)[None] for part in (query, key, value)]
        out = functional.scaled_dot_product_attention(*heads_first, seen, scale=scale, enable_gqa=enable_gqa)
        return out[0].transpose(0, 1)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    packing = packed_attention.Packing(shape=(4, 6), places=torch.arange(16), runs=((1, 2), (2, 4), (1, 6)), configs=[])
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 4, 16, 8), torch.randn(1, 2, 16, 8), torch.randn(1, 2, 16, 8)
    kernel = packed_attention.PackedAttention(scale=0.3, window=window, causal=causal)
    found = kernel.varlen(query, key, value, packing)
    torch.testing.assert_close(found, kernel.by_runs(query, key, value, packing))
    assert not kernel.takes_any_lengths(query, key, value)
