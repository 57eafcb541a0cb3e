"""evaluation/predict.py: one text or two, in any number: each with its own label, and whether it was cut."""

import pytest

from bench.data import batching
from bench.evaluation import predict
from tests.helpers import models as tiny


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    known = tiny.card("bert")
    return tiny.liven(tiny.build(known, tmp_path_factory.mktemp("bert"))).eval(), tiny.tokenizer(known)


def described(max_length, multi_label=False):
    return {
        "task": "text_classification", "labels": list(tiny.LABELS), "max_length": max_length,
        "multi_label": multi_label, "threshold": 0.5,
    }  # fmt: skip


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("second", [None, "Dirty.", tiny.TEXTS[2]])
def test_each_text_is_labelled_as_if_it_were_alone(second, multi_label, bert):
    model, tokens = bert
    texts = [f"{text} {copy}" for copy in range(30) for text in tiny.TEXTS]
    rows = [{"text": text, "text_pair": second} for text in texts]
    found = predict._predict_with_head(model, tokens, described(16, multi_label), rows)
    assert [answer["text"] for answer in found] == texts
    for row, answer in list(zip(rows, found, strict=True))[::17]:
        whole = tokens(row["text"], row["text_pair"])["input_ids"]
        # The second text counts, too.
        assert answer["cut"] == (len(whole) > 16)
        ids = tokens(row["text"], row["text_pair"], truncation=True, max_length=16)["input_ids"]
        logits = tiny.logits(model, batching.collate([{"input_ids": ids, "labels": 0}], tokens)).double()
        expected = (logits.sigmoid() if multi_label else logits.softmax(-1))[0].tolist()
        assert list(answer["scores"].values()) == pytest.approx(expected, abs=1e-6)
    assert {answer["cut"] for answer in found} == ({True} if second == tiny.TEXTS[2] else {True, False})


def test_a_text_is_cut_to_the_models_positions_where_the_recipe_allowed_more(bert, tmp_path, monkeypatch):
    model, tokens = bert
    (tmp_path / "model").mkdir()
    description = described(4096) | {"objective": "head"}
    monkeypatch.setattr(predict.saved_model, "find", lambda folder: folder)
    monkeypatch.setattr(predict.saved_model, "describe", lambda folder: description)
    monkeypatch.setattr(predict.saved_model, "load", lambda folder: (model, tokens, description))
    long, short = predict.predict(tmp_path, [{"text": text, "text_pair": None} for text in ("good " * 900, "good")])
    most = model.config.max_position_embeddings
    assert (long["cut"], short["cut"]) == (True, False)
    ids = tokens("good " * 900, truncation=True, max_length=most)["input_ids"]
    logits = tiny.logits(model, batching.collate([{"input_ids": ids, "labels": 0}], tokens)).double()
    assert list(long["scores"].values()) == pytest.approx(logits.softmax(-1)[0].tolist(), abs=1e-6)
