"""Text classification: the loss is the libraries' own, the cut is counted, the first of equal labels wins."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional
from transformers import BertTokenizer

from bench.config.cards import Prompt, TokenizerCard
from bench.data import tokenizer as tokenizers
from bench.data.batching import collate
from bench.errors import SetupError
from bench.evaluation.readers import head
from bench.tasks import text_classification as task

TEXTS = ["the quick brown fox jumps over the lazy dog", "a good film", "never again", "good"]
FAMILIES = {"wordpiece": "encoder", "bpe": "decoder", "unigram": "encoder_decoder"}


@pytest.fixture(scope="module", params=FAMILIES)
def tokenizer(request):
    return tokenizers.train(TokenizerCard(train=request.param, vocab_size=400), FAMILIES[request.param], TEXTS)


@pytest.fixture(scope="module")
def encoder_tokenizer():
    return tokenizers.train(TokenizerCard(train="wordpiece", vocab_size=400), "encoder", TEXTS)


@pytest.fixture(scope="module")
def bert_tokenizer(tmp_path_factory):
    """BERT's own tokenizer, which tells first and second text apart."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({word for text in TEXTS for word in text.split()})]
    vocabulary = tmp_path_factory.mktemp("bert") / "vocab.txt"
    vocabulary.write_text("\n".join(words) + "\n", encoding="utf-8")
    return BertTokenizer(str(vocabulary))


def rows(texts, pairs=None):
    return [{"text": text, "text_pair": pairs[i] if pairs else None, "label": i} for i, text in enumerate(texts)]


# Encoding


def test_texts_that_fit_are_not_cut(tokenizer):
    features, cut = head.encode_rows(rows(TEXTS), tokenizer, 64)
    assert cut == ()
    assert [feature["input_ids"] for feature in features] == tokenizer(TEXTS)["input_ids"]
    assert [feature["labels"] for feature in features] == [0, 1, 2, 3]
    assert all(set(feature) == {"input_ids", "labels"} for feature in features)


@pytest.mark.parametrize("max_length", [4, 5, 7, 9])
def test_cut_texts_are_named_and_have_the_full_length(tokenizer, max_length):
    lengths = [len(ids) for ids in tokenizer(TEXTS)["input_ids"]]
    features, cut = head.encode_rows(rows(TEXTS), tokenizer, max_length)
    assert cut == tuple(number for number, length in enumerate(lengths) if length > max_length) != ()
    assert [len(feature["input_ids"]) for feature in features] == [min(length, max_length) for length in lengths]
    expected = tokenizer(TEXTS, truncation=True, max_length=max_length)["input_ids"]
    assert [feature["input_ids"] for feature in features] == expected


@pytest.mark.parametrize("max_length", [5, 6, 8, 12])
def test_pairs_lose_tokens_of_the_longer_text_first(encoder_tokenizer, max_length):
    pairs = ["good dog", TEXTS[0], "again", "a film"]
    lengths = [len(ids) for ids in encoder_tokenizer(TEXTS, pairs)["input_ids"]]
    features, cut = head.encode_rows(rows(TEXTS, pairs), encoder_tokenizer, max_length)
    assert cut == tuple(number for number, length in enumerate(lengths) if length > max_length)
    assert [len(feature["input_ids"]) for feature in features] == [min(length, max_length) for length in lengths]
    end = encoder_tokenizer.sep_token_id
    for feature in features:
        ids = feature["input_ids"]
        first, second = ids.index(end) - 1, len(ids) - 2 - ids.index(end)
        assert min(first, second) >= 1
        assert ids.count(end) == 2


def test_a_pair_keeps_which_token_is_of_which_text(bert_tokenizer):
    features, cut = head.encode_rows(rows(["good dog", "fox"], ["the lazy fox", "a film"]), bert_tokenizer, 7)
    assert cut == (0,)
    assert [feature["token_type_ids"] for feature in features] == [[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1]]
    batch = collate(features, bert_tokenizer)
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1, 0]]
    alone, _ = head.encode_rows(rows(["good dog"]), bert_tokenizer, 7)
    assert set(alone[0]) == {"input_ids", "labels"}


@pytest.mark.parametrize("max_length", [0, 1, 2])
def test_no_room_for_a_text(encoder_tokenizer, max_length):
    with pytest.raises(
        SetupError, match=f"max_length {max_length} leaves no room for text: the tokenizer adds 2 tokens"
    ):
        head.encode_rows(rows(TEXTS), encoder_tokenizer, max_length)
    assert len(head.encode_rows(rows(TEXTS), encoder_tokenizer, 3)[1]) > 0


@pytest.mark.parametrize("max_length", [2, 3, 4])
def test_no_room_for_two_texts(encoder_tokenizer, max_length):
    with pytest.raises(SetupError, match="the tokenizer adds 3 tokens of its own"):
        head.encode_rows(rows(TEXTS, TEXTS), encoder_tokenizer, max_length)


def test_nothing_to_encode(encoder_tokenizer):
    assert head.encode_rows([], encoder_tokenizer, 8) == ([], ())


# Loss


def loss_sum(logits, labels, smoothing):
    return task.loss(SimpleNamespace(logits=logits), {"labels": labels}, label_smoothing=smoothing)


@pytest.fixture
def logits():
    return torch.randn(7, 4, generator=torch.Generator().manual_seed(0)) * 5


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_one_label(logits, smoothing):
    from transformers.trainer_pt_utils import LabelSmoother

    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2])
    loss = loss_sum(logits, labels, smoothing)
    parts = [functional.cross_entropy(logits[i], labels[i], label_smoothing=smoothing) for i in range(7)]
    assert torch.allclose(loss, sum(parts))
    mean = LabelSmoother(epsilon=smoothing)({"logits": logits}, labels)
    assert torch.allclose(loss / 7, mean, rtol=1e-5)


def test_smoothing_from_its_definition(logits):
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2])
    target = functional.one_hot(labels, 4) * 0.8 + 0.2 / 4
    expected = -(target * logits.double().log_softmax(-1)).sum()
    assert torch.allclose(loss_sum(logits, labels, 0.2).double(), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_several_labels(logits, smoothing):
    labels = (torch.rand(7, 4, generator=torch.Generator().manual_seed(1)) > 0.5).long()
    share = labels.double() * (1 - smoothing) + smoothing / 2
    chance = logits.double().sigmoid()
    expected = -(share * chance.log() + (1 - share) * (1 - chance).log()).sum()
    assert torch.allclose(loss_sum(logits, labels, smoothing).double(), expected)


@pytest.mark.parametrize("kind", ["single_label_classification", "multi_label_classification"])
def test_equals_the_models_own_mean_loss(kind):
    from transformers import AlbertConfig, AlbertForSequenceClassification

    torch.manual_seed(0)
    sizes = {
        "hidden_size": 16,
        "embedding_size": 8,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 50,
    }
    model = AlbertForSequenceClassification(AlbertConfig(num_labels=3, num_hidden_layers=1, problem_type=kind, **sizes))
    labels = torch.tensor([2, 0]) if kind.startswith("single") else torch.tensor([[1, 0, 1], [0, 0, 0]])
    own = model.eval()(input_ids=torch.arange(10).view(2, 5), labels=labels if labels.dim() == 1 else labels.float())
    items = labels.numel()
    assert torch.allclose(loss_sum(own.logits, labels, 0.0) / items, own.loss)


def test_half_precision_is_summed_in_float32():
    logits = torch.tensor([[10.0, -10.0]] * 5000, dtype=torch.bfloat16)
    loss = loss_sum(logits, torch.ones(5000, dtype=torch.long), 0.0)
    assert loss.dtype == torch.float32
    assert torch.allclose(loss, torch.tensor(100_000.0))


def test_parts_add_up_to_the_whole(logits):
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2])
    parts = loss_sum(logits[:3], labels[:3], 0.1) + loss_sum(logits[3:], labels[3:], 0.1)
    assert torch.allclose(parts, loss_sum(logits, labels, 0.1))


# Prediction


def test_the_first_of_equal_labels_wins():
    answers, scores = head.predict(torch.tensor([[1.0, 1.0, 1.0], [0.0, 2.0, 2.0], [3.0, 0.0, 3.0]]), False, 0.5)
    assert answers.tolist() == [0, 1, 0]
    assert torch.allclose(scores.sum(-1), torch.ones(3, dtype=torch.double))


def test_one_label_whatever_the_threshold():
    answers, scores = head.predict(torch.tensor([[0.1, 0.2]]), False, 0.99)
    assert answers.tolist() == [1]
    assert scores.dtype == torch.double


@pytest.mark.parametrize(
    ("threshold", "expected"), [(0.5, [1, 0, 1]), (0.9, [0, 0, 1]), (0.0, [1, 1, 1]), (1.0, [0, 0, 0])]
)
def test_a_label_is_set_from_the_threshold_on(threshold, expected):
    answers, scores = head.predict(torch.tensor([[0.0, -0.001, 5.0]]), True, threshold)
    assert answers.tolist() == [expected]
    assert scores[0, 0] == 0.5


def test_large_logits_stay_finite():
    for several in (True, False):
        _, scores = head.predict(torch.tensor([[1e4, -1e4]]), several, 0.5)
        assert scores.tolist() == [[1.0, 0.0]]


# Answers in words


WORDS = ("positive", "negative", "very negative", "neither")


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("positive", 0),
        ("  Positive.", 0),
        ('"negative"', 1),
        ("NEGATIVE, because it is long", 1),
        ("very negative", 2),
        ("Very  negative!", 2),
        ("The sentiment is positive.", 0),
        ("neither", 3),
        ("positively", -1),
        ("positive or negative", 0),
        ("It is positive or negative", -1),
        ("nonpositive", -1),
        ("", -1),
        ("...", -1),
        ("1", -1),
    ],
)
def test_a_written_answer(text, label):
    assert task.parse(text, WORDS, "none", False) == label


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("joy", [1, 0, 0]),
        ("joy, love", [1, 1, 0]),
        ("Joy; love and  no hope.", [1, 1, 1]),
        ("love,joy,", [1, 1, 0]),
        ("joy, joy", [1, 0, 0]),
        ("none", [0, 0, 0]),
        ("None.", [0, 0, 0]),
        ("joy, hatred", [-1, -1, -1]),
        ("none, joy", [-1, -1, -1]),
        ("", [-1, -1, -1]),
        (",;", [-1, -1, -1]),
    ],
)
def test_a_written_list(text, flags):
    assert task.parse(text, ("joy", "love", "no hope"), "none", True) == flags


def test_what_is_asked_can_be_read_back():
    prompt = Prompt(template="{text}?", answers={"bad": "so bad", "good": "very good"})
    wording = task.wording(prompt, ("bad", "good"), False)
    assert wording.choices == ("so bad", "very good")
    for label in (0, 1):
        assert task.parse(wording.answer({"label": label}), wording.choices, prompt.none, False) == label
    several = task.wording(prompt, ("bad", "good"), True)
    for flags in ([0, 0], [1, 0], [0, 1], [1, 1]):
        assert task.parse(several.answer({"label": flags}), wording.choices, prompt.none, True) == flags
    assert several.choices == ()
