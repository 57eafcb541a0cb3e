"""`spans.offsets: characters_as_tokens`: a published fault is learned openly, with a warning, and by nobody else."""

import math
from types import SimpleNamespace

import pytest
import torch

from bench.config import resolve
from bench.config.cards import TokenizerCard
from bench.config.training import Spans, Training
from bench.data import tokenizer as tokenizers
from bench.data.batching import IGNORED
from bench.errors import RecipeError
from bench.evaluation.readers import span
from bench.tasks import question_answering
from bench.training.loss import StepLoss
from tests.helpers.launching import ROOT
from tests.helpers.tiny_cards import TEXTS

CONTEXT = "The view over the harbour was fine. " + "Words follow words, and then more words. " * 20


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizers.train(TokenizerCard(train="wordpiece", vocab_size=600), "encoder", [*TEXTS, CONTEXT])


def row(identity, answer):
    start = [CONTEXT.rindex(answer)] if answer else []
    return {
        "id": identity,
        "text": CONTEXT,
        "text_pair": "What was fine?",
        "label": int(bool(answer)),
        "answers": [answer] if answer else [],
        "answer_starts": start,
    }


ROWS = [row("near", "view"), row("none", ""), row("far", "more words")]


def encoded(tokenizer, offsets):
    split = SimpleNamespace(rows=ROWS, name="train")
    recipe = SimpleNamespace(
        method=SimpleNamespace(name="head"), spans=Spans(offsets=offsets, doc_stride=20), max_length=600
    )
    return span.encode(SimpleNamespace(splits={"train": split}, version="2.0"), tokenizer, recipe)


def test_characters_are_learned_as_tokens_where_that_is_asked_for_alone(tokenizer):
    right, wrong = encoded(tokenizer, "tokens"), encoded(tokenizer, "characters_as_tokens")
    assert right.warnings == ()
    near, none, far = (feature["labels"] for feature in wrong.train.features)
    assert near == [4, 8]
    assert near != right.train.features[0]["labels"]
    assert none == right.train.features[1]["labels"]
    assert ROWS[2]["answer_starts"][0] > len(wrong.train.features[2]["input_ids"])
    assert far == [IGNORED, IGNORED]
    (warning,) = wrong.warnings
    assert warning.code == "offsets_not_tokens"
    assert "2 of 2 windows of questions with an answer learn other tokens" in warning.sentence
    assert "2 of their 4 ends lie behind the last token" in warning.sentence
    # Nothing but training changes: the splits to score are the same.
    assert [feature["labels"] for feature in right.splits["train"].features] == [
        feature["labels"] for feature in wrong.splits["train"].features
    ]


def test_the_key_is_for_spans_alone_and_no_part_of_other_hashes():
    tiny = ROOT / "recipes" / "tiny" / "bert-full.yaml"
    with pytest.raises(RecipeError, match="`spans` is only for task question_answering"):
        resolve.load(tiny, ("spans.offsets=characters_as_tokens",))
    squad = ROOT / "recipes" / "squad" / "llama32_1b-head.yaml"
    plain = resolve.load(squad)
    assert resolve.load(squad, ("spans.offsets=tokens",)).hash == plain.hash
    assert resolve.load(squad, ("spans.offsets=characters_as_tokens",)).hash != plain.hash


def test_a_step_whose_ends_all_lie_behind_the_text_has_no_loss():
    """A sum of nothing, not 0 / 0."""
    logits = torch.zeros(1, 3, requires_grad=True)
    inputs = SimpleNamespace(objective="head", settings=Training(), task=question_answering, class_loss=None)
    loss_of = StepLoss(inputs=inputs)
    batch = {"attention_mask": torch.ones(1, 3), "labels": torch.full((1, 2), IGNORED)}
    model = lambda **_: SimpleNamespace(start_logits=logits, end_logits=logits)  # noqa: E731
    assert loss_of.batch_loss(model, batch, torch.tensor(0)).item() == 0
    batch["labels"] = torch.tensor([[1, IGNORED]])
    assert loss_of.batch_loss(model, batch, torch.tensor(1)).item() == pytest.approx(math.log(3))
