"""A checkpoint's own head: its outputs are those of the data's labels, by its names, or the record says so."""

import json

import pytest
import torch

from bench.errors import SetupError
from bench.models import checkpoint_head, heads
from tests.helpers import models as tiny
from tests.helpers.cases import together

GIVEN = ("bad", "good", "mixed")
HEADS = ["bert", "roberta", "distilbert", "t5", "llama", "albert"]


def checkpoint(folder, names, family="bert", multi_label=False, **changes):
    """A saved classifier whose outputs have these names, and what it says of the texts, by output."""
    known = tiny.card(family)
    labels = tuple(map(str, range(len(names))))
    model = tiny.liven(tiny.build(known, folder, labels=labels, multi_label=multi_label))
    model.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["id2label"] = {str(number): name for number, name in enumerate(names)}
    config["label2id"] = {name: number for number, name in enumerate(names)}
    config |= {"problem_type": None, **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return tiny.logits(model, tiny.batch(tiny.tokenizer(known)))


def built(folder, labels=GIVEN, family="bert", **changes):
    known = tiny.card(family, id=str(folder), weights="pretrained")
    model = tiny.build(known, folder, labels=labels, **changes)
    batch = tiny.batch(tiny.tokenizer(tiny.card(family)))
    return tiny.logits(model, batch), checkpoint_head.findings(model), model


@pytest.mark.parametrize("family", HEADS)
def test_rows_are_put_into_the_order_of_the_labels(family, tmp_path):
    expected = checkpoint(tmp_path, ["mixed", "bad", "good"], family)
    found, (finding,), model = built(tmp_path, family=family)
    torch.testing.assert_close(found, expected[:, [1, 2, 0]], atol=1e-6, rtol=0)
    assert finding.code is None
    assert finding.sentence == (
        "the outputs of the checkpoint's head (mixed, bad, good) were put in the order of the labels: bad, good, mixed"
    )
    assert model.config.id2label == dict(enumerate(GIVEN))


@together(
    "names, labels, order",
    [
        (["Good", "BAD", "mixed"], GIVEN, [1, 0, 2]),
        ([" good", "mixed ", "bad"], GIVEN, [2, 0, 1]),
        (["very good", "very bad"], ("very_bad", "very-good"), [1, 0]),
        (["bad", "good", "mixed"], GIVEN, [0, 1, 2]),
        (["BAD", "GOOD", "MIXED"], GIVEN, [0, 1, 2]),
        (["c", "b", "a", "d"], ("a", "b", "c", "d"), [2, 1, 0, 3]),
        (["Positive", "negative"], ("neg", "pos"), [1, 0]),
        (["entail", "neutral", "contra"], ("contradiction", "entailment", "Neutral"), [2, 0, 1]),
        (["neg", "pos"], ("negative", "positive"), [0, 1]),
    ],
)
def test_the_same_names(names, labels, order, tmp_path):
    folder = tmp_path / "-".join(names).replace(" ", "")
    expected = checkpoint(folder, names)
    found, findings, _ = built(folder, labels)
    torch.testing.assert_close(found, expected[:, order], atol=1e-6, rtol=0)
    assert [finding.code for finding in findings] == [None] * (order != sorted(order))


@together(
    "names, labels, code, sentence",
    [
        (["LABEL_0", "LABEL_1", "LABEL_2"], GIVEN, None, "does not name its outputs; they are taken as the labels"),
        (["0", "1", "2"], GIVEN, None, "does not name its outputs; they are taken as the labels in order: bad, good"),
        (
            ["joy", "anger", "fear"],
            GIVEN,
            "checkpoint_labels",
            "other labels (joy, anger, fear) than",
        ),
        (["Bad", "bad", "good"], GIVEN, "checkpoint_labels", "was trained for other labels (Bad, bad, good)"),
        (["ba", "good", "m"], GIVEN, "checkpoint_labels", "was trained for other labels (ba, good, m)"),
        (["not", "note"], ("no", "yes"), "checkpoint_labels", "was trained for other labels (not, note)"),
        (["good", "bad", "neutral"], GIVEN, "checkpoint_labels", "it is kept, each output for the label in its place"),
    ],
)
def test_other_names(names, labels, code, sentence, tmp_path):
    folder = tmp_path / "-".join(names)
    expected = checkpoint(folder, names)
    found, (finding,), _ = built(folder, labels)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert finding.code == code
    assert sentence in finding.sentence


def test_another_number_of_outputs_gives_a_new_head(tmp_path):
    checkpoint(tmp_path, ["bad", "good", "mixed", "none"])
    _, (finding,), model = built(tmp_path)
    assert finding.sentence == "the checkpoint's head has 4 outputs (bad, good, mixed, none), not 3: the head is new"
    assert "classifier.weight" in getattr(model, heads.MISSING)


def test_names_in_one_direction_only(tmp_path):
    expected = checkpoint(tmp_path, GIVEN, id2label=None, label2id={"mixed": 0, "good": 1, "bad": 2})
    found, (finding,), _ = built(tmp_path)
    torch.testing.assert_close(found, expected[:, [2, 1, 0]], atol=1e-6, rtol=0)
    assert "(mixed, good, bad) were put in the order" in finding.sentence


def test_names_that_contradict_each_other(tmp_path):
    checkpoint(tmp_path, GIVEN, label2id={"mixed": 0, "good": 1, "bad": 2})
    _, (finding,), _ = built(tmp_path)
    assert finding.code == "checkpoint_labels"
    assert "id2label and label2id contradict one another" in finding.sentence
    with pytest.raises(SetupError, match="contradicts itself: id2label and label2id differ"):
        built(tmp_path, keep_head=True)


@together(
    "kind, several, sentence",
    [
        ("regression", False, "was trained for regression, not for single label classification"),
        ("multi_label_classification", False, "was trained for multi label classification, not for"),
        ("single_label_classification", True, "for single label classification, not for multi label"),
    ],
)
def test_a_head_of_another_task(kind, several, sentence, tmp_path):
    checkpoint(tmp_path / kind, GIVEN, problem_type=kind)
    _, (finding,), _ = built(tmp_path / kind, multi_label=several)
    assert (finding.code, sentence in finding.sentence) == ("checkpoint_task", True)


def test_a_regressor_of_one_output(tmp_path):
    checkpoint(tmp_path, ["LABEL_0"], multi_label=True)
    _, findings, _ = built(tmp_path, labels=("flag",), multi_label=True)
    assert [finding.code for finding in findings] == ["checkpoint_task", None]
    assert "trained for regression" in findings[0].sentence


def test_weights_that_are_not_used_are_noted(tmp_path):
    tiny.text_build(tiny.card("llama"), tmp_path).save_pretrained(tmp_path)
    _, findings, _ = built(tmp_path, family="llama")
    assert [finding.sentence for finding in findings] == ["not used of the checkpoint: 1 weights (lm_head.weight)"]
    checkpoint(tmp_path / "own", GIVEN)
    assert built(tmp_path / "own")[1] == []
