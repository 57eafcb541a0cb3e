"""Heads of numbers and tags: losses, a head for decoders without one, and predictions that no batching changes."""

import copy

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES

from bench.config import registry, resolve
from bench.data import dataset
from bench.data import tokenizer as tokenizers
from bench.data.batching import IGNORED, collate
from bench.data.examples import Encoded
from bench.data.word_windows import make_windows
from bench.errors import SetupError
from bench.evaluation import scoring
from bench.evaluation.metric_set import MetricSet
from bench.evaluation.reader import Scoring
from bench.evaluation.readers import number, tags
from bench.models import build, heads, own_heads, saving
from bench.models.checkpoint_head import findings
from bench.models.kernels import padding_free
from bench.runner import stages
from tests.helpers import every_decoder
from tests.helpers import models as tiny
from tests.helpers.cases import together
from tests.helpers.launching import ROOT

TOKENS = "AutoModelForTokenClassification"
TAGS = ("O", "B-A", "I-A", "B-B", "I-B")
FAMILIES = ("bert", "roberta", "distilbert", "llama", "gpt2", "t5")


def token_model(name, folder, **changes):
    return tiny.liven(tiny.build(tiny.card(name), folder, auto_class=TOKENS, labels=TAGS, **changes))


def sentences(count=24):
    chooser = np.random.default_rng(0)
    words = sorted({word for text in tiny.TEXTS for word in text.split()})
    rows = []
    for place in range(count):
        chosen = [str(word) for word in chooser.choice(words, size=chooser.integers(1, 30))]
        tagged = [str(tag) for tag in chooser.choice(TAGS, size=len(chosen))]
        rows.append({"id": f"{place:03d}", "tokens": chosen, "text": " ".join(chosen), "tags": tagged})
    return rows


def scored(reader, model, split, tokens, batch_tokens):
    how = Scoring(
        tokenizer=tokens, metrics=MetricSet((), multi_label=False, num_labels=5), threshold=0.5, device=tiny.CPU,
        precision="no", batch_tokens=batch_tokens, reader=reader,
    )  # fmt: skip
    found = scoring.run(model, split, how, "test")
    assert not [note for note in found.notes if "alone" in note]
    return found.predictions


@pytest.mark.parametrize("name", FAMILIES)
def test_tags_do_not_depend_on_what_they_are_batched_with(name, tmp_path):
    tokens = tiny.tokenizer(tiny.card(name))
    model, rows = token_model(name, tmp_path).eval(), sentences()
    split = tags.sentences(rows, tokens, 24)

    def reader(model, split, scoring):
        return tags.TagReader(model, split, scoring, TAGS)

    expected = scored(reader, model, split, tokens, 1).predictions.tolist()
    assert len({tag for sentence in expected for tag in sentence}) > 2
    assert [len(tagged) for tagged in expected] == [len(row["tokens"]) for row in rows]
    for budget in (60, 4096):
        assert scored(reader, model, split, tokens, budget).predictions.tolist() == expected
    attached = padding_free.attach(model) is None
    assert attached == (name != "t5")
    assert scored(reader, model, split, tokens, 4096).predictions.tolist() == expected


@together("name", ["bert", "llama"])
def test_numbers_do_not_depend_on_what_they_are_batched_with(name, tmp_path):
    tokens = tiny.tokenizer(tiny.card(name))
    model = tiny.liven(tiny.build(tiny.card(name), tmp_path, labels=("value",))).eval()
    assert (model.config.num_labels, model.config.problem_type) == (1, "regression")
    rows = [{**row, "labels": float(place)} for place, row in enumerate(tiny.features(tokens))]
    ids = tuple(f"{place:03d}" for place in range(len(rows)))
    split = Encoded(name="test", ids=ids, features=rows, truncated=0)
    expected = scored(number.NumberReader, model, split, tokens, 1).predictions
    assert expected.dtype == np.float64
    assert padding_free.attach(model) is None
    assert scored(number.NumberReader, model, split, tokens, 4096).predictions == pytest.approx(expected, abs=1e-5)


def test_the_loss_of_numbers_is_the_squared_error_in_float32():
    task = registry.load_task("regression")
    outputs = transformers.modeling_outputs.SequenceClassifierOutput(
        logits=torch.tensor([[1.0], [2.5]], dtype=torch.bfloat16)
    )
    batch = {"labels": torch.tensor([1.5, -1.0])}
    loss = task.loss(outputs, batch, label_smoothing=0.0)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(0.25 + 12.25)


def test_a_number_that_is_the_ignored_label_by_chance_is_still_a_loss_item():
    tokens = tiny.tokenizer(tiny.card("bert"))
    rows = [{"input_ids": [5, 6], "labels": value} for value in (-100.0, 3.0)]
    labels = collate(rows, tokens)["labels"]
    assert int((labels != IGNORED).sum()) == 2
    assert labels.tolist() == pytest.approx([-100.0, 3.0], abs=1e-4)


def test_the_loss_of_tags_is_that_of_first_tokens_only(tmp_path):
    task = registry.load_task("token_classification")
    tokens = tiny.tokenizer(tiny.card("bert"))
    rows = sentences(3)
    train = tags.train_examples(rows, make_windows(rows, tokens, 64), TAGS)
    batch = collate(train.features, tokens)
    assert batch["labels"].shape == batch["input_ids"].shape
    assert int((batch["labels"] != IGNORED).sum()) == sum(len(row["tokens"]) for row in rows)
    assert (batch["labels"][batch["attention_mask"] == 0] == IGNORED).all()
    model = token_model("bert", tmp_path).eval()
    outputs = model(**{name: value for name, value in batch.items() if name != "labels"})
    expected = nn.functional.cross_entropy(
        outputs.logits.view(-1, 5), batch["labels"].view(-1), ignore_index=IGNORED, reduction="sum"
    )
    assert float(task.loss(outputs, batch, label_smoothing=0.0)) == pytest.approx(float(expected), rel=1e-6)
    # transformers' own loss is its mean.
    own = model(**batch).loss
    assert float(own) * int((batch["labels"] != IGNORED).sum()) == pytest.approx(float(expected), rel=1e-5)


MADE = sorted(
    kind
    for kind in ("cohere", "granite", "olmo", "olmo2", "phi", "smollm3", "gptj", "codegen", "opt", "xglm")
    if kind in every_decoder.kinds() and kind not in MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES
)


def test_some_decoders_have_no_such_class():
    assert len(MADE) >= 4


@together("kind", MADE)
def test_a_decoder_without_such_a_class_gets_one_with_all_of_its_weights(kind, tmp_path):
    writer = every_decoder.make(kind).eval()
    writer.save_pretrained(tmp_path / kind)
    config = transformers.AutoConfig.from_pretrained(tmp_path / kind, num_labels=5)
    assert own_heads.register(TOKENS, config)
    assert own_heads.register(TOKENS, config)  # once more does no harm
    auto = transformers.AutoModelForTokenClassification
    model, loading = auto.from_pretrained(tmp_path / kind, config=config, output_loading_info=True)
    assert sorted(loading["missing_keys"]) == ["score.bias", "score.weight"]
    ids = torch.tensor([[5, 9, 11, 4, 8]])
    with torch.no_grad():
        hidden = writer.base_model(input_ids=ids).last_hidden_state
        logits = model.eval()(input_ids=ids).logits
    assert torch.allclose(logits, model.score(hidden), atol=1e-5)
    model.save_pretrained(tmp_path / f"{kind}-saved")
    again, loading = auto.from_pretrained(tmp_path / f"{kind}-saved", output_loading_info=True)
    assert not loading["missing_keys"]
    with torch.no_grad():
        assert torch.equal(again.eval()(input_ids=ids).logits, logits)


def test_a_checkpoint_s_own_tags_are_put_in_the_order_of_the_data(tmp_path):
    model = token_model("bert", tmp_path)
    other = ["B-B", "O", "I-A", "I-B", "B-A"]
    model.config.id2label, model.config.label2id = dict(enumerate(other)), {name: i for i, name in enumerate(other)}
    model.save_pretrained(tmp_path / "ner")
    card = tiny.card("bert", id=str(tmp_path / "ner"), weights="pretrained")
    built = tiny.build(card, tmp_path, auto_class=TOKENS, labels=TAGS)
    order = [other.index(tag) for tag in TAGS]
    assert torch.equal(built.classifier.weight, model.classifier.weight[order])
    assert any("were put in the order of the labels" in finding.sentence for finding in findings(built))


def test_a_checkpoint_of_one_output_is_kept_for_numbers_and_warned_of_for_labels(tmp_path):
    model = tiny.liven(tiny.build(tiny.card("bert"), tmp_path, labels=("value",)))
    model.save_pretrained(tmp_path / "stsb")
    card = tiny.card("bert", id=str(tmp_path / "stsb"), weights="pretrained")
    built = tiny.build(card, tmp_path, labels=("value",))
    assert torch.equal(built.classifier.weight, model.classifier.weight)
    assert not [finding for finding in findings(built) if finding.code]


def test_a_model_without_a_head_for_tokens_is_refused(tmp_path):
    config = transformers.BartConfig(
        vocab_size=99, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
    )  # fmt: skip
    card = copy.deepcopy(tiny.card("t5"))
    architecture = {key: value for key, value in config.to_diff_dict().items() if key in ("vocab_size", "d_model")}
    card = card.model_copy(update={"architecture": {"model_type": "bart", **architecture, "vocab_size": 2048}})
    with pytest.raises(SetupError, match="a model of type 'bart' is no model with a head for each token"):
        build.build(
            card, tiny.options("full")[0].load_plan(tiny.options("full")[1]), auto_class=TOKENS,
            labels=TAGS, tokenizer=tiny.tokenizer(tiny.card("t5")), weights="random", device=tiny.CPU,
        )  # fmt: skip


SAVED = [
    ("bert-notices", ["model=tiny_llama", "method={name: qlora, compute_dtype: float32}"]),
    ("bert-notices", ["model=tiny_t5"]),
    ("bert-notices", ["model=tiny_gpt2", "method={name: last_layers, blocks: 1}"]),
    ("bert-notices", ["model=tiny_albert", "head={kind: mlp, hidden: 16}"]),
    ("bert-ratings", ["model=tiny_gemma2", "method=lora"]),
    ("bert-ratings", ["model=tiny_t5", "method=lora"]),
]


@together("recipe, overrides", SAVED)
def test_every_trained_weight_gets_a_gradient_and_comes_back_as_it_was_saved(recipe, overrides, tmp_path):
    resolved = resolve.load(ROOT / "recipes" / "tiny" / f"{recipe}.yaml", tuple(overrides))
    asked, folder = resolved.recipe, tmp_path / str(len(list(tmp_path.iterdir())))
    corpus = dataset.load(asked.dataset, {"train": 20}, {"train"})
    tokens, _ = tokenizers.build(asked.model, None, (row["text"] for row in corpus.splits["train"].rows))
    task, plan = registry.load_task(asked.dataset.task), registry.load_method(asked.method.name)
    examples = task.encode(corpus, tokens, asked).train.features
    model = stages.adapted_model(
        asked, resolved.options, tokenizer=tokens, labels=corpus.labels, device=tiny.CPU, base_folder=folder / "base"
    ).model
    batch = collate(examples[:4], tokens)
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    task.loss(model.train()(**inputs), batch, label_smoothing=0.0).backward()
    trained = [one for one in model.parameters() if one.requires_grad]
    assert trained
    assert all(one.grad is not None and bool(torch.isfinite(one.grad).all()) for one in trained)
    description = {
        "task": asked.dataset.task, "objective": "head", "labels": list(corpus.labels), "multi_label": False,
        "outputs": list(task.head_outputs(corpus.labels)), "pooling": None, "head": asked.head.model_dump(),
        "quantization": plan.load_plan(resolved.options).quantization,
        "unquantized": heads.unwrapped_head_names(model), "pad_token_id": tokens.pad_token_id,
        "model_card": asked.model.model_dump(),
    }  # fmt: skip
    saving.save(model, tokens, folder, description)
    again, _, _ = saving.load(folder)
    with torch.no_grad():
        expected, found = model.eval()(**inputs).logits, again(**inputs).logits
    real = batch["attention_mask"].bool()
    expected, found = (part[real] if part.dim() == 3 else part for part in (expected, found))
    assert torch.allclose(found, expected, atol=1e-5)
