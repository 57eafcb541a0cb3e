"""Readers of answers: the likeliest label as the recipe says, written ones parsed, entailment as in transformers."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, pipeline

from bench.config.cards import Prompt, TokenizerCard
from bench.config.recipe import Prompting
from bench.data import tokenizer as tokenizers
from bench.data.examples import Encoded
from bench.data.prompts.encode import PromptEncoder
from bench.data.prompts.few_shot import ShotSampler
from bench.data.prompts.template import Renderer
from bench.errors import SetupError
from bench.evaluation import likelihood
from bench.evaluation import scoring as score
from bench.evaluation.metric_set import MetricSet
from bench.evaluation.reader import Scoring
from bench.evaluation.readers import base, check, entailment
from bench.evaluation.readers import likelihood as likelihood_reader
from bench.evaluation.text_examples import encode_split, manifest, reader_of, summary
from bench.models import autocast
from bench.models.kernels import patch
from bench.tasks import text_classification as task
from tests.helpers import models as tiny

LABELS = ("bad", "good", "rather mixed")
PROMPT = Prompt(template="Review: {text}\nSentiment:", instruction="Judge.")
ROWS = [
    {"id": f"e{number}", "text": text, "text_pair": None, "label": number % 3} for number, text in enumerate(tiny.TEXTS)
]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    known = tiny.card("llama")
    return language_model(known), tiny.tokenizer(known)


def language_model(known):
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = dict(known.architecture)
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    torch.manual_seed(0)
    return tiny.liven(AutoModelForCausalLM.from_config(config)).eval()


def scoring(tokenizer, multi_label=False, batch_tokens=64):
    metrics = MetricSet(("jaccard",) if multi_label else ("accuracy",), multi_label=multi_label, num_labels=3)
    return Scoring(
        tokenizer=tokenizer,
        metrics=metrics,
        batch_tokens=batch_tokens,
        threshold=0.5,
        device=torch.device("cpu"),
        precision="no",
    )


def asked(tokenizer, prompting, *, rows=ROWS, shots=None, per_example=False, multi_label=False, labels=LABELS):
    prompt_encoder = PromptEncoder(
        tokenizer=tokenizer,
        renderer=Renderer(PROMPT, tokenizer, chat=False, trained=False),
        wording=task.wording(PROMPT, labels, multi_label),
        family="decoder",
        max_length=400,
        shots=shots,
        per_example=per_example,
        max_new_tokens=prompting.max_new_tokens if prompting.answer == "generate" else None,
    )
    split = encode_split(prompt_encoder, "test", rows, prompting, PROMPT)
    return split, reader_of(prompting, PROMPT, task, labels, multi_label, prompt_encoder)


def read(model, tokenizer, prompting, **options):
    split, reader = asked(tokenizer, prompting, **options)
    found = scoring(tokenizer, options.get("multi_label", False))
    with autocast.evaluating(model):
        opened = reader(model, split, found)
        rows = {}
        for numbers in opened.batches:
            rows |= dict(zip(numbers, opened.read(numbers), strict=True))
    return split, [rows[number] for number in range(len(split.ids))]


def log_likelihoods(model, split):
    """[examples, labels], by one plain forward each."""
    with torch.no_grad():
        return np.array([likelihood.plain(model, likelihood_reader._item(feature)).sums for feature in split.features])


def softmax(rows):
    raised = np.exp(rows - rows.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def test_the_likeliest_label(llama):
    model, tokenizer = llama
    split, found = read(model, tokenizer, Prompting())
    sums = log_likelihoods(model, split)
    assert np.allclose([answer.extra["log_likelihoods"] for answer in found], sums, atol=1e-4)
    assert [answer.prediction for answer in found] == sums.argmax(-1).tolist()
    assert np.allclose([answer.scores for answer in found], softmax(sums), atol=1e-4)


@pytest.mark.parametrize("kind", ["tokens", "characters"])
def test_normalization(llama, kind):
    model, tokenizer = llama
    split, found = read(model, tokenizer, Prompting(normalization=kind))
    tokens = np.array([[len(ids) for ids in feature["continuation_ids"]] for feature in split.features])
    lengths = tokens if kind == "tokens" else np.array([[3, 4, 12]])
    assert np.allclose([a.scores for a in found], softmax(log_likelihoods(model, split) / lengths), atol=1e-4)


@pytest.mark.parametrize("per_example", [False, True])
def test_calibration_by_texts_without_content(llama, per_example):
    """By the formula: probabilities over the mean of those of the content-free prompts, divided by their sum."""
    model, tokenizer = llama
    shots = ShotSampler(ROWS, LABELS, 3, seed=0)
    options = {"shots": shots, "per_example": per_example, "rows": [{**row, "id": f"q{row['id']}"} for row in ROWS]}
    split, found = read(model, tokenizer, Prompting(calibration="content_free"), **options)
    plain = softmax(log_likelihoods(model, split))
    for feature, answer, row in zip(split.features, found, plain, strict=True):
        empty = [likelihood.plain(model, likelihood_reader._item(item)).sums for item in feature["content_free"]]
        assert len(empty) == len(PROMPT.content_free)
        ratio = row / softmax(np.array(empty)).mean(0)
        assert np.allclose(answer.scores, ratio / ratio.sum(), atol=1e-4)
    shared = {id(feature["content_free"]) for feature in split.features}
    assert len(shared) == (len(ROWS) if per_example else 1)


def test_a_label_that_begins_another_is_not_always_likelier(llama):
    model, tokenizer = llama
    split, found = read(model, tokenizer, Prompting(), labels=("good", "good film", "bad"))
    assert all(len(set(map(tuple, feature["continuation_ids"]))) == 3 for feature in split.features)
    sums = np.array([answer.extra["log_likelihoods"] for answer in found])
    assert np.allclose(sums, log_likelihoods(model, split), atol=1e-4)


def test_written_answers_are_parsed_and_counted(llama):
    model, tokenizer = llama
    prompting = Prompting(answer="generate", max_new_tokens=3)
    split, found = read(model, tokenizer, prompting)
    for feature, answer in zip(split.features, found, strict=True):
        ids = torch.tensor([feature["input_ids"]])
        with torch.no_grad():
            plain = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False)
        text = tokenizer.decode(plain[0][ids.shape[1] :], skip_special_tokens=True).strip().split("\n")[0].strip()
        assert answer.extra["text"] == text
        assert answer.prediction == task.parse(text, LABELS, "none", False)
        assert answer.scores == [float(answer.prediction == label) for label in range(3)]


def test_an_answer_that_names_no_label_can_count_as_one(llama):
    """`prompting.fallback_label`: the same texts, every one of them a label, and a count of those that named none."""
    model, tokenizer = llama
    prompting = Prompting(answer="generate", max_new_tokens=3)
    _, free = read(model, tokenizer, prompting)
    split, found = read(model, tokenizer, prompting.model_copy(update={"fallback_label": "good"}))
    assert {answer.prediction for answer in free} & {-1}
    for plain, answer in zip(free, found, strict=True):
        assert answer.extra["text"] == plain.extra["text"]
        assert answer.extra["fell_back"] == (plain.prediction == -1)
        assert answer.prediction == (1 if plain.prediction == -1 else plain.prediction)
        assert answer.scores == [float(answer.prediction == label) for label in range(3)]
    predictions = score.Predictions(
        ids=split.ids,
        predictions=np.array([answer.prediction for answer in found]),
        references=np.zeros(len(found)),
        scores=np.zeros((len(found), 3)),
        extra=tuple(answer.extra for answer in found),
    )
    counts = summary(predictions)
    assert (counts["unparsable"], counts["fell_back"]) == (0, sum(answer.prediction == -1 for answer in free))
    with pytest.raises(SetupError, match=r"there is no label 'goood'\. Did you mean 'good'"):
        read(model, tokenizer, prompting.model_copy(update={"fallback_label": "goood"}))


def test_an_answer_ends_at_a_line_break(llama):
    model, tokenizer = llama
    split, reader = asked(tokenizer, Prompting(answer="generate"))
    opened = reader(model, split, scoring(tokenizer))
    ids = {text: tokenizer(text, add_special_tokens=False)["input_ids"] for text in (" good", "\n", "\n good")}
    assert not opened._stops(ids[" good"])
    assert opened._stops([*ids[" good"], *ids["\n"]])
    assert not opened._stops(ids["\n"]), "nothing was said yet"
    assert not opened._stops(ids["\n good"])


def test_written_lists(llama):
    model, tokenizer = llama
    rows = [{**row, "label": [0, 1, 1]} for row in ROWS]
    _, found = read(model, tokenizer, Prompting(answer="generate", max_new_tokens=2), rows=rows, multi_label=True)
    assert all(len(answer.prediction) == 3 for answer in found)


def test_what_was_asked_is_the_same_on_any_number_of_processes(llama, monkeypatch):
    from types import SimpleNamespace

    model, tokenizer = llama
    split, reader = asked(tokenizer, Prompting(), shots=ShotSampler(ROWS, LABELS, 3, seed=0), per_example=True)
    settings = Scoring(**{**vars(scoring(tokenizer)), "reader": reader})
    alone = score.run(model, split, settings, "test").predictions
    gathered = []

    def gather(mine):
        gathered.extend(item for item in mine if isinstance(item, tuple))
        return mine

    with monkeypatch.context() as patch:
        patch.setattr(score, "gather_object", gather)
        patch.setattr(score, "_assembled", lambda found, split: None)
        for rank in range(3):
            patch.setattr(score, "PartialState", lambda r=rank: SimpleNamespace(process_index=r, num_processes=3))
            score.run(model, split, settings, "test")
    together = score._assembled(gathered, split)
    assert manifest(together) == manifest(alone) is not None
    assert np.array_equal(together.scores, alone.scores)


def test_the_summary_counts_what_was_written():
    extra = tuple({"new_tokens": n, "stopped": n < 3, "text": ""} for n in (1, 2, 3, 3))
    found = score.Predictions(
        ids=tuple("abcd"), predictions=np.array([0, -1, 1, -1]), references=np.zeros(4), scores=np.zeros((4, 2)),
        extra=extra,
    )  # fmt: skip
    assert summary(found) == {"unparsable": 2, "stopped_share": 0.5, "mean_new_tokens": 2.25}
    assert manifest(found) is None


@pytest.mark.parametrize("answer", ["label_likelihood", "generate"])
def test_the_check_by_the_plain_path(llama, answer):
    model, tokenizer = llama
    split, reader = asked(tokenizer, Prompting(answer=answer))
    found = check.check(model, split, Scoring(**{**vars(scoring(tokenizer)), "reader": reader}))
    assert found.examples == len(ROWS)
    assert found.changed == 0
    assert (found.largest is None) == (answer == "generate")
    assert (found.largest or 0) < base.TOLERANCE


@pytest.mark.parametrize("answer", ["label_likelihood", "generate"])
def test_the_shared_prefix_can_be_switched_off(llama, answer, monkeypatch):
    """By `speed.shared_prefix: false`: the same answers, and no attention is replaced for them."""
    model, tokenizer = llama
    _, expected = read(model, tokenizer, Prompting(answer=answer))
    split, reader = asked(tokenizer, Prompting(answer=answer))
    replaced = []
    monkeypatch.setattr(patch, "attention_function", lambda *given: replaced.append(given))
    opened = reader(model, split, replace(scoring(tokenizer), shared_prefix=False))
    found = {}
    with autocast.evaluating(model):
        for numbers in opened.batches:
            found |= dict(zip(numbers, opened.read(numbers), strict=True))
    assert [found[number].prediction for number in sorted(found)] == [each.prediction for each in expected]
    assert (replaced, opened.notes) == ([], [])


def test_the_check_sees_a_wrong_scorer(llama, monkeypatch):
    model, tokenizer = llama
    split, reader = asked(tokenizer, Prompting())
    true = likelihood.Scorer.run

    def wrong(self, numbers):
        return [
            likelihood.Answer(sums=tuple(-value for value in answer.sums), greedy=answer.greedy)
            for answer in true(self, numbers)
        ]

    monkeypatch.setattr(likelihood.Scorer, "run", wrong)
    found = check.check(model, split, Scoring(**{**vars(scoring(tokenizer)), "reader": reader}))
    assert found.largest > 1
    assert found.changed > 0


# Entailment

NAMES = ({0: "contradiction", 1: "neutral", 2: "entailment"}, {0: "ENTAILMENT", 1: "NEUTRAL", 2: "CONTRADICTION"})


def nli(names):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(
        vocab_size=600, **sizes, num_labels=len(names), id2label=names, label2id={v: k for k, v in names.items()},
        pad_token_id=0,
    )  # fmt: skip
    return tiny.liven(BertForSequenceClassification(config)).eval()


@pytest.fixture(scope="module")
def nli_tokenizer():
    return tokenizers.train(TokenizerCard(train="wordpiece", vocab_size=600), "encoder", [*tiny.TEXTS, *LABELS])


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("multi_label", [False, True])
# Each pair by itself, the pairs of some examples, and all of them at once.
@pytest.mark.parametrize("batch_tokens", [1, 200, 10_000])
def test_entailment_is_that_of_transformers(names, multi_label, batch_tokens, nli_tokenizer):
    model = nli(names)
    hypotheses = [f"This example is {label}." for label in LABELS]
    features, cut = entailment.encode_pairs(ROWS, hypotheses, nli_tokenizer, 200)
    split = Encoded(name="test", ids=tuple(row["id"] for row in ROWS), features=features, truncated=cut)
    with autocast.evaluating(model):
        reader = entailment.EntailmentReader(model, split, scoring(nli_tokenizer, multi_label, batch_tokens))
        assert len(reader.batches) == {1: len(ROWS), 200: 4, 10_000: 1}[batch_tokens]
        found = {n: a for numbers in reader.batches for n, a in zip(numbers, reader.read(numbers), strict=True)}
    judge = pipeline("zero-shot-classification", model=model, tokenizer=nli_tokenizer, device="cpu")
    for number, row in enumerate(ROWS):
        theirs = judge(row["text"], list(LABELS), hypothesis_template="This example is {}.", multi_label=multi_label)
        ours = dict(zip(LABELS, found[number].scores, strict=True))
        assert ours == pytest.approx(dict(zip(theirs["labels"], theirs["scores"], strict=True)), abs=1e-5)
        if multi_label:
            assert found[number].prediction == [int(value >= 0.5) for value in found[number].scores]
        else:
            assert LABELS[found[number].prediction] == theirs["labels"][0]


def test_an_untrained_head_answers_as_in_transformers_pipeline(llama, caplog):
    """A language model in the zero-shot pipeline: two new outputs, of which the last one is taken for entailment."""
    from transformers import LlamaForSequenceClassification

    language, tokenizer = llama
    config = copy.deepcopy(language.config)
    config.pad_token_id = tokenizer.pad_token_id
    torch.manual_seed(3)
    model = tiny.liven(LlamaForSequenceClassification(config)).eval()
    hypotheses = [f"This example is {label}." for label in LABELS]
    features, _ = entailment.encode_pairs(ROWS, hypotheses, tokenizer, 200)
    split = Encoded(name="test", ids=tuple(row["id"] for row in ROWS), features=features, truncated=0)
    with pytest.raises(SetupError, match=r"takes one, is `prompting\.untrained_head: true`"):
        entailment.EntailmentReader(model, split, scoring(tokenizer))
    with autocast.evaluating(model):
        reader = entailment.EntailmentReader(model, split, scoring(tokenizer), untrained=True)
        found = {n: a for numbers in reader.batches for n, a in zip(numbers, reader.read(numbers), strict=True)}
    judge = pipeline("zero-shot-classification", model=model, tokenizer=tokenizer, device="cpu")
    assert judge.entailment_id == -1
    for number, row in enumerate(ROWS):
        theirs = judge(row["text"], list(LABELS), hypothesis_template="This example is {}.")
        ours = dict(zip(LABELS, found[number].scores, strict=True))
        assert ours == pytest.approx(dict(zip(theirs["labels"], theirs["scores"], strict=True)), abs=1e-5)
        assert LABELS[found[number].prediction] == theirs["labels"][0]
    assert len({answer.prediction for answer in found.values()}) > 1


def test_only_the_text_is_cut_beside_a_hypothesis(nli_tokenizer):
    rows = [{**ROWS[0], "text": "clean " * 100}, ROWS[1]]
    features, cut = entailment.encode_pairs(rows, ["This is good."], nli_tokenizer, 30)
    assert cut == 1
    pair = features[0]["pairs"][0]["input_ids"]
    assert len(pair) == 30
    alone = nli_tokenizer("This is good.", add_special_tokens=False)["input_ids"]
    assert pair[-1 - len(alone) : -1] == alone
    with pytest.raises(SetupError, match="max_length 5 leaves no room for text beside the hypotheses"):
        entailment.encode_pairs(rows, ["This is good."], nli_tokenizer, 5)


def test_a_model_that_knows_no_entailment(nli_tokenizer):
    model = nli({0: "bad", 1: "good", 2: "mixed"})
    with pytest.raises(SetupError, match="the model's labels are bad, good, mixed; it needs one that begins"):
        entailment.EntailmentReader(model, Encoded(name="t", ids=(), features=[], truncated=0), scoring(nli_tokenizer))
