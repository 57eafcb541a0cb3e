"""Multiple choice with a head: transformers' own loss, any number of choices, any batch; plain transformers load it."""

import numpy as np
import pytest
import torch
import transformers

from bench.config import registry
from bench.data import batching
from bench.data.rows import Split
from bench.errors import SetupError
from bench.evaluation import scoring
from bench.evaluation.metric_set import MetricSet
from bench.evaluation.reader import Scoring
from bench.evaluation.readers import choice_head
from bench.models import choice_head as heads
from bench.models.losses import choice_loss_sum
from tests.helpers import models as tiny
from tests.helpers.cases import together

CPU = torch.device("cpu")
WORDS = ("good", "bad", "far", "new")
ROWS = [
    {
        "id": str(number),
        "text": tiny.TEXTS[number % len(tiny.TEXTS)],
        "text_pair": None,
        "choices": [
            f"it was {word} " * (place + 1) for place, word in enumerate(("good", "bad", "far", "new")[:count])
        ],
        "label": number % count,
    }
    for number, count in enumerate((2, 4, 3, 2, 4, 3, 2, 2, 3, 4))
]
# With a class of transformers' own for multiple choice, and with one for classification only.
NATIVE, MADE = ["bert", "roberta", "distilbert"], ["llama", "gpt2", "gemma2"]
task = registry.load_task("multiple_choice")


def built(name, folder, **changes):
    model = tiny.build(tiny.card(name), folder, auto_class=heads.AUTO_CLASS, labels=("fit",), **changes)
    return tiny.liven(model), tiny.tokenizer(tiny.card(name))


def encoded(tokenizer, rows=ROWS, limit=96):
    return choice_head.encode_split(Split(name="test", rows=rows), tokenizer, limit)


def settings(tokenizer, budget=None):
    metrics = MetricSet(("accuracy", "loss"), multi_label=False, num_labels=4)
    return Scoring(
        tokenizer=tokenizer,
        metrics=metrics,
        threshold=0.5,
        device=CPU,
        precision="no",
        batch_tokens=budget,
        reader=choice_head.ChoiceHeadReader,
    )


@together("name", [*NATIVE, *MADE])
def test_scores_do_not_depend_on_the_batch_and_the_loss_is_of_the_same_logits(name, tmp_path):
    model, tokenizer = built(name, tmp_path)
    split = encoded(tokenizer)
    runs = [scoring.run(model, split, settings(tokenizer, budget), "test").predictions for budget in (None, 1, 200)]
    for other in runs[1:]:
        np.testing.assert_allclose(other.scores, runs[0].scores, atol=1e-5)
        assert (other.predictions == runs[0].predictions).all()
    for number, row in enumerate(ROWS):
        assert not runs[0].scores[number, len(row["choices"]) :].any()
    # One batch, in which rows of two choices are filled up: the sum of -log p of the right ones.
    batch = batching.collate(split.features, tokenizer)
    assert batch["input_ids"].shape[:2] == (10, 4)
    with torch.no_grad():
        outputs = model(**{key: value for key, value in batch.items() if key != "labels"})
        loss = task.loss(outputs, batch, label_smoothing=0.0)
    likelihoods = runs[0].scores[np.arange(10), [row["label"] for row in ROWS]]
    assert float(loss) == pytest.approx(-np.log(likelihoods).sum(), abs=1e-3)


@together("name", NATIVE)
def test_loss_and_gradients_are_those_of_transformers_own_class(name, tmp_path):
    """Where all rows have the same number of choices, which is all that transformers' class knows."""
    model, tokenizer = built(name, tmp_path)
    rows = [row for row in ROWS if len(row["choices"]) == 4]
    batch = batching.collate(encoded(tokenizer, rows).features, tokenizer)
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    kind = next(item for item in type(model).__mro__[2:] if item.__name__ == type(model).__name__)
    assert kind.__module__.startswith("transformers.models.")
    plain = kind(model.config)
    plain.load_state_dict(model.state_dict())
    expected = plain.eval()(**batch).loss
    ours = task.loss(model(**inputs), batch, label_smoothing=0.0) / len(rows)
    assert float(ours) == pytest.approx(float(expected), rel=1e-5)
    ours.backward()
    expected.backward()
    for (place, one), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        if other.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-3, msg=place)


@together("name", ["bert", "llama"])
def test_saved_it_is_loaded_by_plain_transformers(name, tmp_path):
    model, tokenizer = built(name, tmp_path / "base")
    model.save_pretrained(tmp_path / "saved")
    family = transformers.BertForMultipleChoice if name == "bert" else transformers.AutoModelForSequenceClassification
    again, found = family.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    pairs = encoded(tokenizer).features[1]["pairs"]
    batch = batching.collate([{**pair, "labels": 0} for pair in pairs], tokenizer)
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    given = {key: value[None] for key, value in inputs.items()} if name == "bert" else inputs
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(**given).logits.flatten(), model(**inputs).logits.flatten())


def test_smoothing_is_over_the_choices_that_there_are():
    logits = torch.tensor([[1.0, 2.0, 9.0], [0.5, -1.0, 0.0]])
    present = torch.tensor([[True, True, False], [True, True, True]])
    labels = torch.tensor([0, 2])
    expected = sum(
        torch.nn.functional.cross_entropy(row[keep][None], label[None], label_smoothing=0.2)
        for row, keep, label in zip(logits, present, labels, strict=True)
    )
    assert float(choice_loss_sum(logits, labels, present, 0.2)) == pytest.approx(float(expected))


def test_the_pair_leads_every_choice_and_long_contexts_are_cut():
    tokenizer = tiny.tokenizer(tiny.card("bert"))
    rows = [{**ROWS[0], "text_pair": "why?"}, {**ROWS[1], "text": "long " * 200}]
    split = encoded(tokenizer, rows, limit=40)
    alone = tokenizer(ROWS[0]["text"], f"why? {ROWS[0]['choices'][1]}")["input_ids"]
    assert split.features[0]["pairs"][1]["input_ids"] == alone
    assert split.truncated == 1
    assert max(len(pair["input_ids"]) for pair in split.features[1]["pairs"]) == 40
    assert [feature["cut"] for feature in split.features] == [False, True]


def test_what_a_head_cannot_take_is_refused():
    corpus = type("Corpus", (), {"splits": {"train": Split(name="train", rows=ROWS)}})()
    recipe = type("Recipe", (), {"max_length": 64})()
    recipe.model, recipe.method = tiny.card("t5"), type("Method", (), {"name": "full"})()
    with pytest.raises(SetupError, match="rows have 2 to 4 choices, and the head of an encoder-decoder needs as many"):
        choice_head.encode(corpus, None, recipe)
    recipe.method = type("Method", (), {"name": "probe"})()
    with pytest.raises(SetupError, match="probe learns one label of all texts"):
        choice_head.encode(corpus, None, recipe)
